"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


class WarmupCosine:
    """Linear warm-up from ``min_lr`` to ``max_lr``, then a cosine back to ``min_lr``.

    Source: LAP paper; docs/methods.md, section 4.3.

    Args:
        max_lr: Peak learning rate.
        min_lr: Learning rate at the first step and after the last.
        warmup_ratio: Part of all steps that the warm-up takes.
    """

    def __init__(self, max_lr: float, min_lr: float = 1e-5, warmup_ratio: float = 0.1) -> None:
        if not 0 <= min_lr <= max_lr or not 0 <= warmup_ratio < 1:
            raise ValueError("0 <= min_lr <= max_lr and 0 <= warmup_ratio < 1 are needed")
        self._max_lr = max_lr
        self._min_lr = min_lr
        self._warmup_ratio = warmup_ratio

    def lr(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step counted from 0."""
        warmup = int(self._warmup_ratio * total_steps)
        if step < warmup:
            part = step / warmup
        else:
            part = (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1))) / 2
        return self._min_lr + (self._max_lr - self._min_lr) * part


class Constant:
    """The same learning rate at every step.

    Args:
        lr: Learning rate.
    """

    def __init__(self, lr: float) -> None:
        if lr < 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        self._lr = lr

    def lr(self, step: int, total_steps: int) -> float:
        """Return the learning rate, whatever the step."""
        return self._lr


LR_SCHEDULES: Mapping[str, Callable[..., WarmupCosine | Constant]] = {
    "warmup_cosine": WarmupCosine,
    "constant": Constant,
}
