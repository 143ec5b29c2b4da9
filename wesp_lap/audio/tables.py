"""Constant tensors of feature extraction, made once for each device and type."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def table(make: Callable[..., Tensor], arguments: tuple, like: Tensor) -> Tensor:
    """Return ``make(*arguments)`` on the device and in the type of a tensor, from a cache.

    Args:
        make: Makes a tensor on the CPU.
        arguments: Hashable.
        like: A tensor that the result will be used with.
    """
    return _made(make, arguments, like.device, like.dtype)


@functools.lru_cache(maxsize=64)
def _made(
    make: Callable[..., Tensor], arguments: tuple, device: torch.device, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False):  # it outlives the call, which may be followed by training
        return make(*arguments).to(device, dtype)


def counted(count: int) -> Tensor:
    """Return 0, 1, ..., ``count`` - 1 in float64, on the CPU whatever the default device is."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
