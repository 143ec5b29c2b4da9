"""Pieces of networks over the grid of layers and frames.

Universal pooling and L-TDNN stack the layer states of a frontend and convolve over layer and frame
at once. Their features are (B, N, T, C): channel-last, so that a 1x1 convolution is a matrix
product and a larger one gets its input in memory order "channels last". Where rows are padded,
``padding`` is (B, 1, T, 1), true behind the last frame of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.pooling import AttentiveStatisticsPooling
from wesp_lap.padding import padding_mask


def grid_padding(frames: Sequence[int] | None, x: Tensor) -> Tensor | None:
    """Return the padding (B, 1, T, 1) of a grid (B, N, T, C), or None when no row is padded."""
    if frames is None:
        return None
    return padding_mask(frames, x.shape[2], x.device)[:, None, :, None]


def without_padding(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return (B, N, T, C) with zeros in the padding."""
    return x if padding is None else x.masked_fill(padding, 0)


def grid_mean(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the mean of (B, N, T, C) over layers and frames, (B, C)."""
    if padding is None:
        return x.mean(dim=(1, 2))
    frames = (~padding).sum(dim=2).flatten(1)
    total = without_padding(x, padding).sum(dim=(1, 2), dtype=torch.float32)
    return (total / (frames * x.shape[1])).to(x.dtype)


def grid_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch-normalise (B, N, T, C) with statistics shared by layers and frames."""
    return norm(x.flatten(0, -2)).view(x.shape)


class GridConv(nn.Module):
    """Convolution over layers and frames that keeps the size of the grid.

    Args:
        input_dim: Input channels.
        output_dim: Output channels.
        kernel: Odd sizes over layers and over frames.
        dilation: Spacing of the kernel on both axes.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel: tuple[int, int] = (3, 3),
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
        self.conv = nn.Conv2d(input_dim, output_dim, kernel, padding=padding, dilation=dilation)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to (B, N, T, C'); beyond the last frame of a row there are zeros."""
        x = without_padding(x, padding)
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GridLayerPool(nn.Module):
    """Attentive pooling of the grid over layers, the ancestor of layer attentive pooling.

    It differs from LayerAttentivePooling in its projections, which have no biases and set the
    width before the scores, and in its initial weights. Source: docs/methods.md, section 2.7.

    Args:
        num_layers: Number N of layers of the grid.
        input_dim: Channels C of the grid.
        output_dim: Width R of the result; a multiple of ``heads``.
        heads: Number of heads.
        score_dropout: Dropout on the scores in training.
    """

    def __init__(
        self, num_layers: int, input_dim: int, output_dim: int, heads: int, score_dropout: float
    ) -> None:
        super().__init__()
        check_sizes(**{"pooled width": output_dim})
        if heads < 1 or output_dim % heads:
            raise ValueError(f"heads ({heads}) must divide the pooled width ({output_dim})")
        self.heads = heads
        self.dropout = nn.Dropout(score_dropout)
        squeezed = num_layers // 2
        self.input_norm = nn.BatchNorm1d(input_dim)
        self.input = nn.Linear(input_dim, output_dim, bias=False)
        self.squeeze_weight = nn.Parameter(torch.empty(heads, num_layers, squeezed))
        self.squeeze_bias = nn.Parameter(torch.zeros(heads, 1, squeezed))
        self.excite_weight = nn.Parameter(torch.empty(heads, squeezed, num_layers))
        self.excite_bias = nn.Parameter(torch.zeros(heads, 1, num_layers))
        self.output = nn.Linear(output_dim, output_dim, bias=False)
        self.output_norm = nn.BatchNorm1d(output_dim)
        nn.init.kaiming_uniform_(self.squeeze_weight, nonlinearity="relu")
        for weight in (self.input.weight, self.excite_weight, self.output.weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a grid (B, N, T, C) to a sequence (B, T, R)."""
        latent = self.input(grid_norm(self.input_norm, x)).unflatten(-1, (self.heads, -1))
        weights = self.dropout(self._scores(latent).sigmoid())
        # max() rather than amax(): on ties one layer gets the gradient, not all of them a part.
        pooled = (latent * weights.unsqueeze(-1)).max(dim=1).values.flatten(-2)
        pooled = self.output(pooled)
        return self.output_norm(pooled.flatten(0, 1)).view_as(pooled)

    def _scores(self, latent: Tensor) -> Tensor:
        """Squeeze and excite the layers of (B, N, T, h, d), per head; scores (B, N, T, h)."""
        size, layers, frames, heads, _ = latent.shape
        z = torch.stack([latent.mean(dim=-1), latent.amax(dim=-1)])
        z = z.permute(4, 0, 1, 3, 2).reshape(heads, -1, layers)
        z = F.relu(torch.baddbmm(self.squeeze_bias, z, self.squeeze_weight))
        z = torch.baddbmm(self.excite_bias, z, self.excite_weight)
        return z.view(heads, 2, size, frames, layers).sum(dim=1).permute(1, 3, 2, 0)


class GridTimePool(AttentiveStatisticsPooling):
    """Attentive statistics pooling with dropout on the weights instead of whole frames.

    The weights are not scaled back to a sum of one. The published code takes the biased deviation
    as context in training and the unbiased one in evaluation; here it is unbiased in both.

    Args:
        input_dim: Channels C of the input; must be even.
        embed_dim: Size E of the embedding.
        attention_dropout: Dropout on the weights in training.
    """

    def __init__(self, input_dim: int, embed_dim: int, attention_dropout: float) -> None:
        super().__init__(input_dim, embed_dim, frame_dropout=0.0)
        self.dropout = nn.Dropout(attention_dropout)

    def kept(self, scores: Tensor) -> Tensor | None:
        """Draw which weights stay; see AttentiveStatisticsPooling."""
        if not self.training or self.dropout.p == 0:
            return None
        return self.dropout(torch.ones_like(scores))
