"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

ParameterGroups = list[dict[str, Any]]


def adam(
    parameters: ParameterGroups,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, ...] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with L2 weight decay in the gradient, as the LAP recipe uses it."""
    return torch.optim.Adam(
        parameters, lr=lr, weight_decay=weight_decay, betas=_pair(betas), eps=eps
    )


def adamw(
    parameters: ParameterGroups,
    lr: float,
    weight_decay: float = 0.01,
    betas: tuple[float, ...] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(
        parameters, lr=lr, weight_decay=weight_decay, betas=_pair(betas), eps=eps
    )


def sgd(
    parameters: ParameterGroups,
    lr: float,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov
    )


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas}")
    return betas[0], betas[1]


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
