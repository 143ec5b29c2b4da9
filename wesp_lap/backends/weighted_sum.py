"""Weighted sums over layer states that never make a stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def weighted_sums(weights: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Return K sums of N states (B, T, D) as one tensor (K, B, T, D), in the states' type.

    ``torch.stack`` followed by a product copies all N states, keeps the copy for the backward pass
    and, when the states need gradients, makes another one there. This does neither: the states are
    read in place, forward once for all K sums, and the only large tensor is the result. States
    that need no gradient cost nothing in the backward pass but the N dot products of the weights.
    Sums and dot products are in float32 where the states are float16 or bfloat16.

    Args:
        weights: The weights, (K, N), of any floating type.
        states: N tensors of one shape and type. Contiguous ones are read without a copy.
    """
    if len(states) != weights.shape[1]:
        raise ValueError(f"there are {weights.shape[1]} weights for {len(states)} layer states")
    result: Tensor = _WeightedSums.apply(weights, *states)
    return result


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *states: Tensor) -> Tensor:
        # What the states are for in the backward pass is the gradient of the weights.
        ctx.save_for_backward(weights, *(states if ctx.needs_input_grad[0] else ()))
        columns = weights.to(_sum_type(states[0])).T[..., None, None, None]
        sums = states[0] * columns[0]
        for state, column in zip(states[1:], columns[1:], strict=True):
            sums.addcmul_(state, column)
        return sums.to(states[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, *states = ctx.saved_tensors
        weight_grad = None
        if ctx.needs_input_grad[0]:
            rows = grad.to(_sum_type(grad)).flatten(1)
            products = [torch.dot(row, s.reshape(-1).to(row.dtype)) for row in rows for s in states]
            weight_grad = torch.stack(products).view_as(weights).to(weights.dtype)
        state_grads = [
            _weighted(grad, column) if needed else None
            for needed, column in zip(
                ctx.needs_input_grad[1:], weights.to(_sum_type(grad)).T, strict=True
            )
        ]
        return weight_grad, *state_grads


def _weighted(grad: Tensor, column: Tensor) -> Tensor:
    """Sum gradients (K, B, T, D) with one weight each to the gradient of a state, (B, T, D)."""
    total = grad[0] * column[0]
    for part, weight in zip(grad[1:], column[1:], strict=True):
        total.addcmul_(part, weight)
    return total


def _sum_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
