"""Layer adapters whose outputs are concatenated (multi-layer feature aggregation, MFA)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.padding import padding_mask

_MIN_VARIANCE = 1e-5


class AdapterMfa(nn.Module):
    """One small adapter per layer state, concatenation, attentive statistics, linear embedding.

    The speaker model put on w2v-BERT 2.0 (arXiv 2510.04213). Sizes, norms, floor of the variance
    and initial weights follow the published code; there is no norm on the concatenated features or
    the embedding. Source: docs/methods.md, section 2.10.

    Args:
        num_layers: Number N of layer states; all of them are used.
        input_dim: Width D of a layer state.
        adapter_dim: Width A of an adapter, and of the bottleneck of the attention.
        embed_dim: Size E of the embedding.
        dropout: Dropout before the embedding layer in training.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        adapter_dim: int = 128,
        embed_dim: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(adapter_dim=adapter_dim, embed_dim=embed_dim)
        self.embed_dim = embed_dim
        self.adapters = LayerAdapters(num_layers, input_dim, adapter_dim)
        width = num_layers * adapter_dim
        self.squeeze = nn.Linear(width, adapter_dim)
        self.squeeze_norm = nn.BatchNorm1d(adapter_dim)
        self.score = nn.Linear(adapter_dim, width)
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(2 * width, embed_dim)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row when rows are padded; in evaluation mode only.
        """
        x = self.adapters(states)
        padding = None
        if frames is not None:
            padding = padding_mask(frames, x.shape[1], x.device).unsqueeze(-1)
            x = x.masked_fill(padding, 0)  # a weight of zero would not take away NaN
        pooled = self._statistics(x, self._attention(x, padding)).to(x.dtype)
        return self.embedding(self.dropout(pooled))

    def _attention(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return the weight of each frame per channel; they sum to one over T."""
        hidden = F.relu(self.squeeze(x))
        hidden = self.squeeze_norm(hidden.flatten(0, 1)).view_as(hidden)
        scores = self.score(hidden)
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        return scores.softmax(dim=1, dtype=_at_least_float(x))

    @staticmethod
    def _statistics(x: Tensor, attention: Tensor) -> Tensor:
        x = x.to(attention.dtype)
        mean = (attention * x).sum(dim=1)
        variance = (attention * x.square()).sum(dim=1) - mean.square()
        return torch.cat([mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=-1)


class LayerAdapters(nn.Module):
    """For each layer state a linear map to A channels, layer norm, ReLU and a linear map.

    The maps down take the states one by one, which spares a copy of all of them; everything behind
    them is done for all layers at once.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        adapter_dim: Width A of an adapter.
    """

    def __init__(self, num_layers: int, input_dim: int, adapter_dim: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(input_dim, adapter_dim) for _ in range(num_layers)])
        self.norm_weight = nn.Parameter(torch.ones(num_layers, 1, adapter_dim))
        self.norm_bias = nn.Parameter(torch.zeros(num_layers, 1, adapter_dim))
        self.mix_weight = nn.Parameter(torch.empty(num_layers, adapter_dim, adapter_dim))
        self.mix_bias = nn.Parameter(torch.empty(num_layers, 1, adapter_dim))
        bound = 1 / math.sqrt(adapter_dim)  # as torch does in a Linear
        nn.init.uniform_(self.mix_weight, -bound, bound)
        nn.init.uniform_(self.mix_bias, -bound, bound)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Map N states (B, T, D) to their adapted channels, layer by layer, (B, T, N A)."""
        size, frames = states[0].shape[:2]
        narrow = [
            linear(state.flatten(0, 1)) for linear, state in zip(self.down, states, strict=True)
        ]
        x = torch.stack(narrow)
        x = F.layer_norm(x, x.shape[-1:]) * self.norm_weight + self.norm_bias
        x = torch.baddbmm(self.mix_bias, F.relu(x), self.mix_weight)
        return x.transpose(0, 1).reshape(size, frames, -1)


def _at_least_float(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
