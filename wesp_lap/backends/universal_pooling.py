"""Universal pooling: a dense dilated network over layers and frames, then pooling over both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

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


class UniversalPooling(nn.Module):
    """Universal pooling for frozen frontends (arXiv 2409.07770, version 1).

    Source: docs/methods.md, section 2.7. State 0, the input of the first Transformer layer, is not
    used.

    Args:
        num_layers: Number of layer states, one more than the layers that are used.
        input_dim: Width D of a layer state.
        conv_dim: Channels of a 3x3 convolution; the network is four times as wide.
        num_blocks: Number of blocks one after another.
        embed_dim: Size E of the embedding.
        heads: Heads of the pooling over layers.
        score_dropout: Dropout on the layer scores in training.
        attention_dropout: Dropout on the frame weights in training.
        double_residual: Add the input of a block to its output twice, as the published code does
            (very likely unintended), instead of once.
        span_out: Probability that an utterance loses spans of frames in training (published: 0.3).
        span_start: Probability that a frame starts a span.
        span_length: Frames of a span.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        conv_dim: int = 128,
        num_blocks: int = 1,
        embed_dim: int = 192,
        heads: int = 4,
        score_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        double_residual: bool = True,
        span_out: float = 0.0,
        span_start: float = 0.05,
        span_length: int = 3,
    ) -> None:
        super().__init__()
        if num_layers < 3:
            raise ValueError(f"universal pooling needs at least 3 layer states, got {num_layers}")
        check_sizes(conv_dim=conv_dim, num_blocks=num_blocks)
        if not 0 <= span_out <= 1 or not 0 <= span_start <= 1 or span_length < 1:
            raise ValueError(
                "span_out and span_start must lie in [0, 1] and span_length be at least 1, got "
                f"{span_out}, {span_start} and {span_length}"
            )
        self.embed_dim = embed_dim
        self.span_out = span_out
        self.span_start = span_start
        self.span_length = span_length
        layers, width = num_layers - 1, 4 * conv_dim
        self.projection = nn.Linear(input_dim, width)
        self.projection_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(
            [Block(layers, conv_dim, double_residual) for _ in range(num_blocks)]
        )
        self.layer_pool = GridLayerPool(layers, num_blocks * width, width, heads, score_dropout)
        self.time_pool = GridTimePool(width, embed_dim, attention_dropout)
        xavier_init(self.projection)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least 2, when rows are padded; in evaluation mode only.
        """
        x = torch.stack([self.projection(state) for state in states[1:]], dim=1)
        if self.training and self.span_out > 0:
            x, frames = self._drop_spans(x)
        padding = grid_padding(frames, x)
        x = grid_norm(self.projection_norm, without_padding(x, padding))
        outputs = []
        for block in self.blocks:
            x = block(x, padding)
            outputs.append(x)
        return self.time_pool(self.layer_pool(torch.cat(outputs, dim=-1)), frames)

    def _drop_spans(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Delete random spans of frames of (B, N, T, C); the rest of a row moves to its front."""
        size, _, frames, _ = x.shape
        starts = torch.rand(size, 1, frames, device=x.device) < self.span_start
        covered = F.max_pool1d(
            F.pad(starts.float(), (self.span_length - 1, 0)), self.span_length, stride=1
        )
        dropped = covered.squeeze(1).bool()
        dropped &= torch.rand(size, 1, device=x.device) < self.span_out
        dropped &= (~dropped).sum(dim=1, keepdim=True) >= 2  # deviations need two frames
        kept = (~dropped).sum(dim=1).tolist()
        order = dropped.to(torch.uint8).argsort(dim=1, stable=True)[:, : max(kept)]
        return x.take_along_dim(order[:, None, :, None], dim=2), kept


class Block(nn.Module):
    """Attentive VAD, dense dilated convolutions and channel attention around a residual.

    Args:
        num_layers: Number N of layers of the grid.
        conv_dim: Channels of a 3x3 convolution; the grid has C = 4 ``conv_dim``.
        double_residual: Add the output of the VAD twice.
    """

    def __init__(self, num_layers: int, conv_dim: int, double_residual: bool = True) -> None:
        super().__init__()
        self.double_residual = double_residual
        self.vad = AttentiveVad(num_layers, 4 * conv_dim)
        self.dense = DenseDilated(4 * conv_dim, conv_dim)
        self.attention = ChannelAttention(4 * conv_dim, conv_dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        x = self.vad(x, padding)
        change = self.attention(self.dense(x, padding), padding)
        return torch.add(change, x, alpha=2 if self.double_residual else 1)


class AttentiveVad(nn.Module):
    """N mixtures of the layers, each scaled frame by frame between zero and one.

    Args:
        num_layers: Number N of layers of the grid.
        input_dim: Channels C of the grid.
    """

    def __init__(self, num_layers: int, input_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(num_layers))
        self.weight = nn.Parameter(torch.empty(num_layers, input_dim))
        self.bias = nn.Parameter(torch.zeros(num_layers))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape, zero in the padding."""
        mixtures = self.logits.softmax(dim=1).to(x.dtype)
        x = torch.matmul(mixtures, x.flatten(2)).view(x.shape)
        scores = torch.matmul(x, self.weight.unsqueeze(-1)) + self.bias.view(-1, 1, 1)
        return x * without_padding(scores.sigmoid(), padding)


class DenseDilated(nn.Module):
    """D2 block of D3Net: every feature goes to all later ones; its dilation is its own.

    Args:
        input_dim: Channels of the grid.
        conv_dim: Channels of each feature; there are ``depth + 1`` of them in the output.
        depth: Number of features behind the first; feature j is read with dilation 2^j.
    """

    def __init__(self, input_dim: int, conv_dim: int, depth: int = 3) -> None:
        super().__init__()
        self.squeeze = nn.Linear(input_dim, conv_dim)
        self.steps = nn.ModuleList(
            [
                nn.ModuleList([NormReluConv(conv_dim, 2**j) for j in range(i + 1)])
                for i in range(depth)
            ]
        )
        _kaiming_init(self.squeeze)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to (B, N, T, (depth + 1) conv_dim)."""
        features = [self.squeeze(x)]
        for step in self.steps:
            pairs = zip(step.children(), features, strict=True)
            features.append(reduce(torch.add, [conv(source, padding) for conv, source in pairs]))
        return torch.cat(features, dim=-1)


class NormReluConv(nn.Module):
    """Batch norm, ReLU and a dilated 3x3 convolution.

    Args:
        channels: Channels of input and output.
        dilation: Spacing of the kernel.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.conv = GridConv(channels, channels, dilation=dilation)
        _kaiming_init(self.conv)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        return self.conv(F.relu(grid_norm(self.norm, x)), padding)


class ChannelAttention(nn.Module):
    """Scale of each channel from its mean and its maximum over the grid.

    Args:
        input_dim: Channels C of the grid.
        hidden_dim: Channels of the bottleneck of either branch.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.mean_branch = _bottleneck(input_dim, hidden_dim)
        self.max_branch = _bottleneck(input_dim, hidden_dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, N, T, C) to the same shape."""
        valid = x if padding is None else x.masked_fill(padding, -torch.inf)
        peak = valid.flatten(1, 2).max(dim=1).values
        scores = self.mean_branch(grid_mean(x, padding)) + self.max_branch(peak)
        return x * scores.sigmoid()[:, None, None]


def _bottleneck(input_dim: int, hidden_dim: int) -> nn.Sequential:
    squeeze, excite = nn.Linear(input_dim, hidden_dim), nn.Linear(hidden_dim, input_dim)
    _kaiming_init(squeeze)
    xavier_init(excite)
    return nn.Sequential(squeeze, nn.ReLU(), nn.BatchNorm1d(hidden_dim), excite)


def _kaiming_init(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        if parameter.dim() >= 2:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
