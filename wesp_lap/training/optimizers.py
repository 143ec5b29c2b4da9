"""Optimizers by name.

``fused`` computes an update in a single kernel: true or false as given, on GPUs when null. What
was chosen is saved with the optimizer's state, so that a resumed run computes as it did before.
"""

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
    fused: bool | None = None,
) -> Optimizer:
    """Adam with L2 weight decay in the gradient, as the LAP recipe uses it."""
    return torch.optim.Adam(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        betas=_pair(betas),
        eps=eps,
        fused=_fused(parameters, fused),
    )


def adamw(
    parameters: ParameterGroups,
    lr: float,
    weight_decay: float = 0.01,
    betas: tuple[float, ...] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        betas=_pair(betas),
        eps=eps,
        fused=_fused(parameters, fused),
    )


def sgd(
    parameters: ParameterGroups,
    lr: float,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
    fused: bool | None = None,
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        fused=_fused(parameters, fused),
    )


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas}")
    return betas[0], betas[1]


def _fused(groups: ParameterGroups, wanted: bool | None) -> bool | None:
    """Return what torch is told; False would rule out its other fast way, None does not."""
    if wanted is None:
        wanted = all(
            p.is_cuda and p.is_floating_point() for group in groups for p in group["params"]
        )
    return True if wanted else None


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
