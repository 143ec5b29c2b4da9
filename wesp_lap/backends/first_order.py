"""Backward passes written by hand that cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the ``backward`` of an autograd function refuse ``create_graph``.

    torch's once_differentiable would let second derivatives be zero, without a word, where the
    incoming gradient needs none itself.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(f"{type(ctx).__name__} has no second derivative (create_graph=True)")
        return backward(ctx, *grads)

    return checked
