"""SUPERB's weighted sum over layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.pooling import AttentiveStatisticsPooling
from wesp_lap.backends.weighted_sum import weighted_sums


class WeightedSum(nn.Module):
    """One softmax weight per layer, the same for all frames and channels.

    Source: SUPERB benchmark; docs/methods.md, section 2.3.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
    """

    def __init__(self, num_layers: int, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim
        self.logits = nn.Parameter(torch.full((num_layers,), 1 / num_layers))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Sum N states (B, T, D) to (B, T, D)."""
        return weighted_sums(self.logits.softmax(dim=0).unsqueeze(0), states)[0]


class SuperbAstp(nn.Module):
    """SUPERB weighted sum + attentive statistics pooling.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        embed_dim: Size E of the embedding.
        frame_dropout: See AttentiveStatisticsPooling.
    """

    def __init__(
        self, num_layers: int, input_dim: int, embed_dim: int = 192, frame_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.layer_pool = WeightedSum(num_layers, input_dim)
        self.time_pool = AttentiveStatisticsPooling(input_dim, embed_dim, frame_dropout)
        xavier_init(self)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least 2, when rows are padded; in evaluation mode only.
        """
        return self.time_pool(self.layer_pool(states), frames)
