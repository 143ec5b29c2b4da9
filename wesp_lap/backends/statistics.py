"""Mean and standard deviation over frames, of whole rows or of their valid part."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """Return ``x`` with at least single precision, for sums over many frames."""
    return x if x.dtype == torch.float64 else x.float()


def zeroed(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return ``x`` with zeros, whatever it held there, where ``padding`` is true."""
    return x if padding is None else x.masked_fill(padding, 0)


def frame_mean(x: Tensor, padding: Tensor | None = None) -> Tensor:
    """Return the mean over the last axis of (..., T), at least in single precision.

    Args:
        x: The features, zero in the padding.
        padding: True where frames do not count; anything that broadcasts against ``x``.
    """
    x = widened(x)
    if padding is None:
        return x.mean(dim=-1)
    return x.sum(dim=-1) / (~padding).sum(dim=-1)


def frame_mean_std(
    x: Tensor, padding: Tensor | None = None, epsilon: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the last axis of (..., T), T >= 2.

    The deviation is sqrt(v + epsilon) with the unbiased variance v; both are at least in single
    precision.

    Args:
        x: The features, zero in the padding.
        padding: True where frames do not count; anything that broadcasts against ``x``.
        epsilon: What keeps the gradient of a constant channel finite.
    """
    x = widened(x)
    if padding is None:
        variance, mean = torch.var_mean(x, dim=-1)
        return mean, (variance + epsilon).sqrt()
    count = (~padding).sum(dim=-1)
    mean = x.sum(dim=-1) / count
    squares = zeroed(x - mean.unsqueeze(-1), padding).square().sum(dim=-1)
    return mean, (squares / (count - 1) + epsilon).sqrt()
