"""X-vectors: a time-delay network with statistics pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_sizes
from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.layer_pool import build_layer_pool
from wesp_lap.backends.statistics import frame_mean_std, zeroed
from wesp_lap.backends.tdnn import ConvReluNorm
from wesp_lap.coerce import Section
from wesp_lap.padding import padding_mask


class XVector(nn.Module):
    """X-vector network on one sequence or on pooled layer states.

    Five convolutions, mean and standard deviation over frames, and two linear layers with a ReLU
    between. As published, training takes the output of the second linear layer and evaluation that
    of the first, so the two modes give different vectors. Source: Snyder et al., ICASSP 2018;
    docs/methods.md, section 2.6.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        channels: Channels of the first four convolutions.
        pooled_dim: Channels of the fifth convolution; the pooling gives twice as many numbers.
        embed_dim: Size E of the embedding, and the width of both linear layers.
        eval_layer: The linear layer whose output is the embedding in evaluation mode.
        padded: Pad the first three convolutions by 2, 1 and 1 frames, so that 6 frames are lost;
            without padding (as in Kaldi and WeSpeaker) 14 are.
        hidden_norm: Batch norm without scale and offset between the linear layers, as in Kaldi
            and WeSpeaker.
        layer_pool: How the layer states are joined; null takes SUPERB's weighted sum, or the
            state itself when there is one.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        channels: int = 512,
        pooled_dim: int = 1500,
        embed_dim: int = 512,
        eval_layer: Literal["lin1", "lin2"] = "lin1",
        padded: bool = True,
        hidden_norm: bool = False,
        layer_pool: Section | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, pooled_dim=pooled_dim, embed_dim=embed_dim)
        self.embed_dim = embed_dim
        self.eval_layer = eval_layer
        self.layer_pool = build_layer_pool(layer_pool, num_layers, input_dim)
        frame_dim = cast(int, self.layer_pool.output_dim)
        first, second, third = (2, 1, 1) if padded else (0, 0, 0)
        layers = [
            ConvReluNorm(frame_dim, channels, 5, padding=first),
            ConvReluNorm(channels, channels, 3, dilation=2, padding=second),
            ConvReluNorm(channels, channels, 3, dilation=3, padding=third),
            ConvReluNorm(channels, channels),
            ConvReluNorm(channels, pooled_dim),
        ]
        self.layers = nn.ModuleList(layers)
        # A deviation needs two frames.
        self.min_frames = 2 + sum(layer.shrinkage for layer in layers)
        self.lin1 = nn.Linear(2 * pooled_dim, embed_dim)
        self.hidden_norm = nn.BatchNorm1d(embed_dim, affine=False) if hidden_norm else None
        self.lin2 = nn.Linear(embed_dim, embed_dim)
        xavier_init(self)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D), T >= ``min_frames``, to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least ``min_frames``, when rows are padded; in
                evaluation mode only.
        """
        x = self.layer_pool(states).transpose(1, 2)
        padding = None
        if frames is not None:
            padding = padding_mask(frames, x.shape[2], x.device).unsqueeze(1)
        for layer in self.layers:
            x = layer(zeroed(x, padding))
            if padding is not None:
                padding = padding[..., layer.shrinkage :]
        statistics = torch.cat(frame_mean_std(zeroed(x, padding), padding), dim=1)
        embeddings = self.lin1(statistics)
        if self.eval_layer == "lin1" and not self.training:
            return embeddings
        hidden = F.relu(embeddings)
        return self.lin2(hidden if self.hidden_norm is None else self.hidden_norm(hidden))
