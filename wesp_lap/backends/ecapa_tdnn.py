"""ECAPA-TDNN: dilated Res2 blocks with squeeze-excitation, attentive statistics pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.layer_pool import build_layer_pool
from wesp_lap.backends.statistics import frame_mean, frame_mean_std, widened, zeroed
from wesp_lap.backends.tdnn import ConvReluNorm
from wesp_lap.coerce import Section
from wesp_lap.padding import padding_mask

_SCALE = 8
_SQUEEZED = 128
_DILATIONS = (2, 3, 4)
_WIDE = 1536
_MIN_VARIANCE = 1e-7


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN in the topology of WeSpeaker, on one sequence or on pooled layer states.

    Each block feeds the next one only, the three outputs are concatenated, every convolution has a
    bias. Source: Desplanques et al., Interspeech 2020; docs/methods.md, section 2.5.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        channels: Channels C of the blocks, a multiple of 8; 512 and 1024 are usual.
        embed_dim: Size E of the embedding.
        global_context: Let the attention over frames see the utterance's mean and deviation.
        embedding_norm: Batch-normalise the embedding.
        layer_pool: How the layer states are joined; null takes SUPERB's weighted sum, or the
            state itself when there is one.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        channels: int = 512,
        embed_dim: int = 192,
        global_context: bool = True,
        embedding_norm: bool = False,
        layer_pool: Section | None = None,
    ) -> None:
        super().__init__()
        if channels < _SCALE or channels % _SCALE:
            raise ValueError(f"channels ({channels}) must be a multiple of {_SCALE}")
        check_sizes(embed_dim=embed_dim)
        self.embed_dim = embed_dim
        self.layer_pool = build_layer_pool(layer_pool, num_layers, input_dim)
        frame_dim = cast(int, self.layer_pool.output_dim)
        self.input = ConvReluNorm(frame_dim, channels, 5, padding=2)
        self.blocks = nn.ModuleList(SeRes2Block(channels, dilation) for dilation in _DILATIONS)
        self.output = nn.Conv1d(len(_DILATIONS) * channels, _WIDE, 1)
        self.time_pool = ContextStatisticsPooling(_WIDE, global_context)
        self.statistics_norm = nn.BatchNorm1d(2 * _WIDE)
        self.embedding = nn.Linear(2 * _WIDE, embed_dim)
        self.embedding_norm = nn.BatchNorm1d(embed_dim) if embedding_norm else None
        xavier_init(self)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D), T >= 2, to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least 2, when rows are padded; in evaluation mode only.
        """
        x = self.layer_pool(states).transpose(1, 2)
        padding = None
        if frames is not None:
            padding = padding_mask(frames, x.shape[2], x.device).unsqueeze(1)
        x = self.input(zeroed(x, padding))
        outputs = []
        for block in self.blocks:
            x = block(x, padding)
            outputs.append(x)
        x = F.relu(self.output(torch.cat(outputs, dim=1)), inplace=True)
        embeddings = self.embedding(self.statistics_norm(self.time_pool(x, padding)))
        return embeddings if self.embedding_norm is None else self.embedding_norm(embeddings)


class SeRes2Block(nn.Module):
    """1x1 convolution, Res2 convolutions, 1x1 convolution, squeeze-excitation; plus the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.enter = ConvReluNorm(channels, channels)
        self.res2 = Res2(channels, dilation)
        self.leave = ConvReluNorm(channels, channels)
        self.squeeze = nn.Linear(channels, _SQUEEZED)
        self.excite = nn.Linear(_SQUEEZED, channels)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map features (B, C, T) to the same shape; ``padding`` is (B, 1, T)."""
        y = self.leave(self.res2(self.enter(x), padding))
        mean = frame_mean(zeroed(y, padding), padding).to(y.dtype)
        scale = self.excite(F.relu(self.squeeze(mean))).sigmoid()
        return x + y * scale.unsqueeze(-1)


class Res2(nn.Module):
    """Convolutions over eighths of the channels, each seeing the result of the one before.

    The first seven eighths are convolved, the last one passes through.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // _SCALE
        self.convs = nn.ModuleList(
            ConvReluNorm(width, width, 3, dilation=dilation, padding=dilation)
            for _ in range(_SCALE - 1)
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map features (B, C, T) to the same shape; ``padding`` is (B, 1, T)."""
        *parts, last = x.chunk(_SCALE, dim=1)
        outputs: list[Tensor] = []
        for part, conv in zip(parts, self.convs, strict=True):
            total = outputs[-1] + part if outputs else part
            outputs.append(conv(zeroed(total, padding)))
        return torch.cat([*outputs, last], dim=1)


class ContextStatisticsPooling(nn.Module):
    """Mean and deviation over frames, weighted per channel by a small network with tanh.

    Args:
        input_dim: Channels C.
        global_context: Let the network see mean and deviation of the utterance, too.
    """

    def __init__(self, input_dim: int, global_context: bool = True) -> None:
        super().__init__()
        self.global_context = global_context
        self.squeeze = nn.Conv1d(3 * input_dim if global_context else input_dim, _SQUEEZED, 1)
        self.score = nn.Conv1d(_SQUEEZED, input_dim, 1)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Pool features (B, C, T) to (B, 2C); ``padding`` is (B, 1, T), the result not half."""
        x = zeroed(x, padding)
        attention = self.attention(x, padding)
        x = widened(x)
        mean = (attention * x).sum(dim=-1)
        variance = (attention * (x - mean.unsqueeze(-1)).square()).sum(dim=-1)
        return torch.cat([mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=1)

    def attention(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the weight of each frame per channel, (B, C, T); they sum to one over T."""
        weight = self.squeeze.weight
        hidden = F.conv1d(x, weight[:, : x.shape[1]], self.squeeze.bias)
        if self.global_context:
            # The context is the same for all frames: its part of the product is taken once.
            context = torch.cat(frame_mean_std(x, padding), dim=1).to(x.dtype)
            hidden = hidden + F.linear(context, weight[:, x.shape[1] :, 0]).unsqueeze(-1)
        scores = widened(self.score(hidden.tanh()))
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        return scores.softmax(dim=-1)
