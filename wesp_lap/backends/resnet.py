"""ResNet34 with temporal statistics pooling, for filterbank features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.layer_pool import build_layer_pool
from wesp_lap.backends.statistics import frame_mean_std, zeroed
from wesp_lap.coerce import Section
from wesp_lap.padding import padding_mask

_BLOCKS = (3, 4, 6, 3)
_REDUCTION = 2 ** (len(_BLOCKS) - 1)


class ResNet34(nn.Module):
    """ResNet34-TSTP of WeSpeaker: 2-D residual network over frequency and time.

    Stages of 3, 4, 6 and 3 basic blocks whose channels double and, from the second stage on, whose
    frequency and time axes halve; mean and standard deviation over time of every channel and
    frequency; one linear layer. Parameters start as torch makes them (Kaiming uniform), as in
    WeSpeaker, whose published results this model has. Source: He et al., CVPR 2016; Wang et al.,
    WeSpeaker, ICASSP 2023; docs/methods.md, section 2.6.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state, the frequency axis; 80 for filterbanks.
        channels: Channels of the first stage.
        embed_dim: Size E of the embedding.
        two_embed_layer: ReLU, batch norm without scale and offset, and a second linear layer
            behind the first; the embedding is the output of the second.
        layer_pool: How the layer states are joined; null takes SUPERB's weighted sum, or the
            state itself when there is one.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        channels: int = 32,
        embed_dim: int = 256,
        two_embed_layer: bool = False,
        layer_pool: Section | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, embed_dim=embed_dim)
        self.embed_dim = embed_dim
        # A deviation needs two frames after the last stage.
        self.min_frames = _REDUCTION + 1
        self.layer_pool = build_layer_pool(layer_pool, num_layers, input_dim)
        frame_dim = cast(int, self.layer_pool.output_dim)
        self.input = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.input_norm = nn.BatchNorm2d(channels)
        blocks = []
        width = channels
        for stage, count in enumerate(_BLOCKS):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(width, channels * 2**stage, stride))
                width = channels * 2**stage
        self.blocks = nn.ModuleList(blocks)
        heights = -(-frame_dim // _REDUCTION)
        self.embedding = nn.Linear(2 * width * heights, embed_dim)
        self.second: nn.Sequential | None = None
        if two_embed_layer:
            norm = nn.BatchNorm1d(embed_dim, affine=False)
            self.second = nn.Sequential(nn.ReLU(), norm, nn.Linear(embed_dim, embed_dim))

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D), T >= ``min_frames``, to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least ``min_frames``, when rows are padded; in
                evaluation mode only.
        """
        x = self.layer_pool(states).transpose(1, 2).unsqueeze(1)
        padding = None
        if frames is not None:
            padding = padding_mask(frames, x.shape[3], x.device)[:, None, None]
        x = F.relu(self.input_norm(self.input(zeroed(x, padding))), inplace=True)
        for block in self.blocks:
            x = block(x, padding)
            if padding is not None:
                padding = padding[..., :: block.stride]
        mean, std = frame_mean_std(zeroed(x, padding), padding)
        embeddings = self.embedding(torch.cat([mean.flatten(1), std.flatten(1)], dim=1))
        return embeddings if self.second is None else self.second(embeddings)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, plus the input or its projection."""

    def __init__(self, input_dim: int, output_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(input_dim, output_dim, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(output_dim)
        self.conv2 = nn.Conv2d(output_dim, output_dim, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(output_dim)
        self.shortcut: nn.Sequential | None = None
        if stride > 1 or input_dim != output_dim:
            projection = nn.Conv2d(input_dim, output_dim, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(output_dim))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, C, F, T) to (B, C', F', T'), F' = ceil(F / stride), T' = ceil(T / stride).

        Args:
            x: The features.
            padding: (B, 1, 1, T), true where frames do not count. A frame of the output counts
                when the frame in the middle of its window does, so every ``stride``-th entry is
                the padding of the output.
        """
        x = zeroed(x, padding)
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(
            self.conv2(zeroed(y, None if padding is None else padding[..., :: self.stride]))
        )
        return F.relu(y.add_(x if self.shortcut is None else self.shortcut(x)), inplace=True)
