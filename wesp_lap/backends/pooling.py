"""Attentive statistics pooling over time, with the embedding layer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.backends.checks import check_dropout, check_sizes
from wesp_lap.backends.first_order import first_order_only
from wesp_lap.padding import padding_mask

_MIN_VARIANCE = 1e-4


class AttentiveStatisticsPooling(nn.Module):
    """Attentive mean and standard deviation over frames, then a linear embedding.

    The scores see each frame together with the utterance's mean and standard deviation. In
    training, whole frames are left out of the softmax at random. Source: LAP paper, speaker
    network; docs/methods.md, section 2.2.

    Args:
        input_dim: Channels C of the input; must be even (the bottleneck is C/2).
        embed_dim: Size E of the embedding.
        frame_dropout: Probability of leaving a frame out of the softmax in training.
    """

    def __init__(self, input_dim: int, embed_dim: int = 192, frame_dropout: float = 0.1) -> None:
        super().__init__()
        if input_dim % 2:
            raise ValueError(f"attentive statistics pooling needs even channels, got {input_dim}")
        check_sizes(embed_dim=embed_dim)
        check_dropout(frame_dropout=frame_dropout)
        self.frame_dropout = frame_dropout
        self.squeeze = nn.Linear(3 * input_dim, input_dim // 2)
        self.squeeze_norm = nn.BatchNorm1d(input_dim // 2)
        self.score = nn.Linear(input_dim // 2, input_dim)
        self.statistics_norm = nn.BatchNorm1d(2 * input_dim)
        self.embedding = nn.Linear(2 * input_dim, embed_dim)
        self.embedding_norm = nn.BatchNorm1d(embed_dim)

    def forward(self, x: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """Pool features (B, T, C), T >= 2, to embeddings (B, E), not length-normalised.

        Args:
            x: The features.
            frames: Frames of each row, at least 2, when rows are padded.
        """
        padding = None
        if frames is not None:
            padding = padding_mask(frames, x.shape[1], x.device).unsqueeze(-1)
            x = x.masked_fill(padding, 0)  # a weight of zero would not take away NaN
        scores = self.scores(x, padding)
        statistics = self.statistics(_full(x), scores, self.kept(scores))
        return self.embedding_norm(self.embedding(self.statistics_norm(statistics)))

    def attention(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the weight of each frame per channel, (B, T, C); they sum to one over T.

        Args:
            x: Features (B, T, C), zero in the padding.
            padding: (B, T, 1), true where weights shall be zero.
        """
        scores = self.scores(x, padding)
        keep = self.kept(scores)
        weights = scores.softmax(dim=1)
        return weights if keep is None else weights * keep

    def kept(self, scores: Tensor) -> Tensor | None:
        """Return factors (B, T, C) on the weights, which a kind of pooling may draw in training."""
        return None

    def scores(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the weights of ``attention`` before the softmax over frames."""
        channels = x.shape[-1]
        context = torch.cat(_mean_std(_full(x), padding), dim=-1).to(x.dtype)
        # The context is the same for all frames: its part of the product is taken once.
        weight = self.squeeze.weight
        hidden = F.linear(x, weight[:, :channels], self.squeeze.bias)
        hidden = hidden + F.linear(context, weight[:, channels:]).unsqueeze(1)
        hidden = F.relu(hidden)
        hidden = self.squeeze_norm(hidden.flatten(0, 1)).view_as(hidden)
        scores = _full(self.score(hidden))
        if self.training and self.frame_dropout > 0:
            dropped = torch.rand(x.shape[:2], device=x.device) < self.frame_dropout
            scores = scores.masked_fill(dropped.unsqueeze(-1), torch.finfo(scores.dtype).min)
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        return scores

    @staticmethod
    def statistics(x: Tensor, scores: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return mean and deviation over time of (B, T, C), side by side, (B, 2C).

        They are weighted by the softmax over time of ``scores``, (B, T, C), times ``keep``.
        """
        mean, square = _WeightedMoments.apply(scores, x, keep)
        variance = square - mean.square()
        return torch.cat([mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=-1)


class _WeightedMoments(torch.autograd.Function):
    """First two moments of x over time under the weights k w, with w = softmax(scores).

    With gradients g of the mean m and h of the square q, and u = g + h x,

        dx = k w (u + h x),  dscores = w (k u x - (g m + h q))

    since the sum of k w u x is g m + h q: half as many passes over (B, T, C) as under autograd.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = scores.softmax(dim=1)
        weighted = weights * x
        if keep is not None:
            weighted *= keep
        mean = weighted.sum(dim=1)
        square = weighted.mul_(x).sum(dim=1)
        ctx.save_for_backward(weights, x, keep, mean, square)
        return mean, square

    @staticmethod
    @first_order_only
    def backward(ctx: Any, mean_grad: Tensor, square_grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, x, keep, mean, square = ctx.saved_tensors
        average = (mean_grad * mean + square_grad * square).unsqueeze(1)
        mean_grad, square_grad = mean_grad.unsqueeze(1), square_grad.unsqueeze(1)
        u = torch.addcmul(mean_grad, square_grad, x)
        x_grad = torch.addcmul(u, square_grad, x).mul_(weights)
        if keep is not None:
            x_grad *= keep
            u *= keep
        return u.mul_(x).sub_(average).mul_(weights), x_grad, None


def _mean_std(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased standard deviation over time of (B, T, C), zero in the padding.

    Several times faster on a CPU than torch.std_mean, and like it without a gradient of the
    deviation where that is zero.
    """
    count: Tensor | int = x.shape[1] if padding is None else (~padding).sum(dim=1)
    mean = x.sum(dim=1) / count
    centred = x - mean.unsqueeze(1)
    if padding is not None:
        centred = centred.masked_fill(padding, 0)
    variance = centred.square().sum(dim=1) / (count - 1)
    constant = variance == 0
    return mean, variance.masked_fill(constant, 1).sqrt().masked_fill(constant, 0)


def _full(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
