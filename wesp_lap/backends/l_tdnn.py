"""Layer-aware TDNN: two-dimensional TDNNs over layers and frames, then pooling over both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.layer_grid import (
    GridConv,
    GridLayerPool,
    GridTimePool,
    grid_mean,
    grid_norm,
    grid_padding,
    without_padding,
)

_SE_CHANNELS = 128


class LayerTdnn(nn.Module):
    """What the two L-TDNNs share: blocks whose outputs are concatenated, fused and pooled.

    Args:
        num_layers: Number N of layer states; all of them are used.
        input_dim: Width D of a layer state.
        kernel: Sizes over layers and frames of the first convolution.
        blocks: Modules called with the grid (B, N, T, C) and its padding, one after another.
        channels: Channels C of the blocks.
        heads: Heads of the pooling over layers.
        pooled_dim: Width R between the two poolings.
        embed_dim: Size E of the embedding.
        score_dropout: Dropout on the layer scores in training.
        attention_dropout: Dropout on the frame weights in training.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        kernel: tuple[int, int],
        blocks: Sequence[nn.Module],
        channels: int,
        heads: int,
        pooled_dim: int,
        embed_dim: int,
        score_dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"L-TDNN needs at least 2 layer states, got {num_layers}")
        self.embed_dim = embed_dim
        self.input_norm = nn.BatchNorm1d(input_dim)
        self.input = ConvReluNorm(input_dim, channels, kernel)
        self.blocks = nn.ModuleList(blocks)
        width = len(blocks) * channels
        self.fusion = nn.Linear(width, width)
        xavier_init(self)  # the poolings below start in their own way
        self.layer_pool = GridLayerPool(num_layers, width, pooled_dim, heads, score_dropout)
        self.time_pool = GridTimePool(pooled_dim, embed_dim, attention_dropout)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least 2, when rows are padded; in evaluation mode only.
        """
        x = torch.stack(tuple(states), dim=1)
        padding = grid_padding(frames, x)
        x = grid_norm(self.input_norm, without_padding(x, padding))
        x = self.input(x, padding)
        outputs = []
        for block in self.blocks:
            x = block(x, padding)
            outputs.append(x)
        x = F.relu(self.fusion(torch.cat(outputs, dim=-1)))
        return self.time_pool(self.layer_pool(x), frames)


class LTdnnD3(LayerTdnn):
    """L-TDNN with dense dilated blocks (arXiv 2409.07770, version 2).

    Source: docs/methods.md, section 2.9.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        channels: Channels of a block; a multiple of ``depth``.
        num_blocks: Number of blocks.
        depth: Convolutions of a block, with dilations 1, 2, 4 and so on.
        heads: Heads of the pooling over layers.
        pooled_dim: Width between the two poolings.
        embed_dim: Size E of the embedding.
        score_dropout: Dropout on the layer scores in training.
        attention_dropout: Dropout on the frame weights in training.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        channels: int = 256,
        num_blocks: int = 3,
        depth: int = 4,
        heads: int = 8,
        pooled_dim: int = 512,
        embed_dim: int = 192,
        score_dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        check_sizes(channels=channels, num_blocks=num_blocks)
        if depth < 1 or channels % depth:
            raise ValueError(f"depth ({depth}) must divide the channels ({channels})")
        super().__init__(
            num_layers,
            input_dim,
            (1, 5),
            [TaperedBlock(channels, depth) for _ in range(num_blocks)],
            channels,
            heads,
            pooled_dim,
            embed_dim,
            score_dropout,
            attention_dropout,
        )


class LTdnnEcapa(LayerTdnn):
    """L-TDNN with the blocks of ECAPA-TDNN over layers and frames (arXiv 2409.07770, version 2).

    Source: docs/methods.md, section 2.9.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        channels: Channels of a block; a multiple of ``scale``.
        scale: Parts that the channels of a block are split into.
        heads: Heads of the pooling over layers.
        pooled_dim: Width between the two poolings.
        embed_dim: Size E of the embedding.
        score_dropout: Dropout on the layer scores in training.
        attention_dropout: Dropout on the frame weights in training.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        channels: int = 256,
        scale: int = 8,
        heads: int = 8,
        pooled_dim: int = 512,
        embed_dim: int = 192,
        score_dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        check_sizes(channels=channels)
        if scale < 2 or channels % scale:
            raise ValueError(f"scale ({scale}) must be 2 or more and divide channels ({channels})")
        super().__init__(
            num_layers,
            input_dim,
            (5, 3),
            [Res2Block(channels, scale, dilation) for dilation in (2, 3, 4)],
            channels,
            heads,
            pooled_dim,
            embed_dim,
            score_dropout,
            attention_dropout,
        )


class ConvReluNorm(nn.Module):
    """Convolution over layers and frames, ReLU and batch norm.

    Args:
        input_dim: Input channels.
        output_dim: Output channels.
        kernel: Sizes over layers and frames.
        dilation: Spacing of the kernel.
    """

    def __init__(
        self, input_dim: int, output_dim: int, kernel: tuple[int, int] = (3, 3), dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = GridConv(input_dim, output_dim, kernel, dilation)
        self.norm = nn.BatchNorm1d(output_dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to (B, N, T, C')."""
        return grid_norm(self.norm, F.relu(self.conv(x, padding)))


class LinearReluNorm(nn.Module):
    """1x1 convolution, ReLU and batch norm.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        return grid_norm(self.norm, F.relu(self.linear(x)))


class SqueezeExcitation(nn.Module):
    """Scale of each channel from its mean over the grid.

    Args:
        channels: Channels of the grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, _SE_CHANNELS)
        self.excite = nn.Linear(_SE_CHANNELS, channels)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        scale = self.excite(F.relu(self.squeeze(grid_mean(x, padding)))).sigmoid()
        return x * scale[:, None, None]


class TaperedBlock(nn.Module):
    """Residual convolutions of growing dilation; each leaves a share of the channels behind.

    Args:
        channels: Channels of input and output; a multiple of ``depth``.
        depth: Number of convolutions; number i has dilation 2^i.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.share = channels // depth
        self.steps = nn.ModuleList(
            [
                ConvReluNorm(width, width, dilation=2**i)
                for i, width in enumerate(range(channels, 0, -self.share))
            ]
        )
        self.scale = SqueezeExcitation(channels)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        done = []
        for step in self.steps:
            x = x + step(x, padding)
            done.append(x[..., -self.share :])
            x = x[..., : -self.share]
        return self.scale(torch.cat(done, dim=-1), padding)


class Res2Block(nn.Module):
    """Res2Net block with squeeze-excitation over layers and frames.

    Args:
        channels: Channels of input and output; a multiple of ``scale``.
        scale: Parts that the channels are split into; the last one passes as it is.
        dilation: Spacing of the 3x3 kernels.
    """

    def __init__(self, channels: int, scale: int, dilation: int) -> None:
        super().__init__()
        self.width = channels // scale
        self.before = LinearReluNorm(channels)
        self.parts = nn.ModuleList(
            [ConvReluNorm(self.width, self.width, dilation=dilation) for _ in range(scale - 1)]
        )
        self.after = LinearReluNorm(channels)
        self.scale = SqueezeExcitation(channels)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        *inputs, last = self.before(x).split(self.width, dim=-1)
        outputs: list[Tensor] = []
        for part, piece in zip(self.parts, inputs, strict=True):
            outputs.append(part(piece + outputs[-1] if outputs else piece, padding))
        change = self.after(torch.cat([*outputs, last], dim=-1))
        return x + self.scale(change, padding)
