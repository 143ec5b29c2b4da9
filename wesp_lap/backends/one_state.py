"""Backends without parameters: one layer state is the embedding, as its mean or its first frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wesp_lap.backends.layer_pool import SingleLayer
from wesp_lap.backends.statistics import widened
from wesp_lap.padding import padding_mask


class LayerMean(nn.Module):
    """Mean over time of one layer state.

    With layer 1, the output of the first Transformer layer, it is the speaker model of Fan et al.,
    "Exploring wav2vec 2.0 on speaker verification and language identification" (Interspeech 2021).
    Source: docs/methods.md, section 2.8.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state, the size of the embedding.
        layer: Which state, 0 to N - 1; negative ones count from the last, -1.
    """

    def __init__(self, num_layers: int, input_dim: int, layer: int = 1) -> None:
        super().__init__()
        self.embed_dim = input_dim
        self.state = SingleLayer(num_layers, input_dim, layer)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, D).

        Args:
            states: The layer states.
            frames: Frames of each row, when rows are padded.
        """
        x = widened(self.state(states))
        if frames is None:
            return x.mean(dim=1)
        padding = padding_mask(frames, x.shape[1], x.device).unsqueeze(-1)
        return x.masked_fill(padding, 0).sum(dim=1) / (~padding).sum(dim=1)


class FirstFrame(nn.Module):
    """First frame of one layer state.

    For a frontend that puts a frame of its own before the utterance; then it is the speaker model
    of Vaessen and van Leeuwen, "Fine-tuning wav2vec2 for speaker recognition" (ICASSP 2022).
    Source: docs/methods.md, section 2.8.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state, the size of the embedding.
        layer: Which state, 0 to N - 1; negative ones count from the last, -1.
    """

    def __init__(self, num_layers: int, input_dim: int, layer: int = -1) -> None:
        super().__init__()
        self.embed_dim = input_dim
        self.state = SingleLayer(num_layers, input_dim, layer)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, D).

        Args:
            states: The layer states.
            frames: Frames of each row; padding lies behind the first frame and does not matter.
        """
        return widened(self.state(states)[:, 0])
