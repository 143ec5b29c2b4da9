"""Learning rates as pure functions of the step.

Steps are counted from 0 over the whole phase. Source: docs/methods.md, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol


class LrSchedule(Protocol):
    """What the training loop asks of a schedule."""

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step in a phase of ``total_steps``."""


class Constant:
    """The same learning rate at every step.

    Args:
        lr: Learning rate.
    """

    def __init__(self, lr: float) -> None:
        if lr < 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        self._lr = lr

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        return self._lr


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from ``min_lr`` to ``max_lr``, then a cosine back to ``min_lr`` (LAP).

    Args:
        max_lr: Peak learning rate.
        min_lr: Learning rate at the first step and after the last.
        warmup_ratio: Part of all steps that the warm-up takes.
        hold_ratio: Part of all steps, the last ones, that stay at ``min_lr`` (w2v-BERT's recipe).
    """

    max_lr: float
    min_lr: float = 1e-5
    warmup_ratio: float = 0.1
    hold_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.max_lr:
            raise ValueError("0 <= min_lr <= max_lr is needed")
        if min(self.warmup_ratio, self.hold_ratio) < 0 or self.warmup_ratio + self.hold_ratio >= 1:
            raise ValueError("warmup_ratio and hold_ratio must not be negative, nor add up to 1")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        warmup = int(self.warmup_ratio * total_steps)
        if step < warmup:
            return _line(self.min_lr, self.max_lr, step / warmup)
        end = total_steps - int(self.hold_ratio * total_steps)
        return _cosine(self.max_lr, self.min_lr, min((step - warmup) / max(end - warmup, 1), 1))


@dataclass(frozen=True)
class Step:
    """A factor every few epochs, after a linear warm-up if there is one.

    Args:
        initial_lr: Learning rate of the first epochs behind the warm-up.
        gamma: Factor.
        every: Epochs between two factors.
        warmup_epochs: Length of the warm-up; the factors are counted from its end (WeSpeaker's
            WarmupLR_withStepDecay).
    """

    initial_lr: float
    gamma: float = 0.9
    every: int = 1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.initial_lr < 0 or self.gamma <= 0 or self.every < 1 or self.warmup_epochs < 0:
            raise ValueError(
                "initial_lr >= 0, gamma > 0, every >= 1 and warmup_epochs >= 0 are needed"
            )

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.initial_lr * (step + 1) / (warmup + 1)
        return self.initial_lr * self.gamma ** ((step - warmup) // (self.every * steps_per_epoch))


@dataclass(frozen=True)
class Exponential:
    """Exponential decrease over the whole phase, with WeSpeaker's warm-up on top of it.

    Args:
        initial_lr: Where the decrease starts.
        final_lr: Where it ends.
        warmup_epochs: Length of the warm-up.
        warmup_from_zero: Rise from 0; otherwise from a factor of 1 to ``scale`` if that is larger.
        scale: Factor on everything. WeSpeaker takes the size of the global batch over 64.
    """

    initial_lr: float
    final_lr: float
    warmup_epochs: float = 6.0
    warmup_from_zero: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.initial_lr <= 0 or self.final_lr <= 0:
            raise ValueError("initial_lr and final_lr must be positive")
        if self.warmup_epochs < 0 or self.scale <= 0:
            raise ValueError("warmup_epochs >= 0 and scale > 0 are needed")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        factor = self.scale
        if step < warmup and (self.warmup_from_zero or self.scale > 1):
            factor = _line(0 if self.warmup_from_zero else 1, self.scale, step / warmup)
        return factor * _geometric(self.initial_lr, self.final_lr, step / total_steps)


@dataclass(frozen=True)
class Polynomial:
    """Linear warm-up from 0, then a power of what is left of the steps (HuBERT's pre-training).

    Args:
        max_lr: Peak learning rate.
        final_lr: Learning rate after the last step.
        power: Exponent; 1 is a straight line.
        warmup_ratio: Part of all steps that the warm-up takes.
        warmup_steps: Length of the warm-up in steps, instead of a part of all.
    """

    max_lr: float
    final_lr: float = 0.0
    power: float = 1.0
    warmup_ratio: float = 0.08
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.final_lr <= self.max_lr or self.power <= 0:
            raise ValueError("0 <= final_lr <= max_lr and power > 0 are needed")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"0 <= warmup_ratio < 1 is needed, got {self.warmup_ratio}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        warmup = self.warmup_steps
        if warmup is None:
            warmup = int(self.warmup_ratio * total_steps)
        if step < warmup:
            return self.max_lr * step / warmup
        left = max(total_steps - step, 0) / max(total_steps - warmup, 1)
        return _line(self.final_lr, self.max_lr, left**self.power)


@dataclass(frozen=True)
class TriStage:
    """Linear rise, constant, exponential fall (fine-tuning of wav2vec 2.0).

    Args:
        max_lr: Learning rate in the middle.
        initial_lr: Learning rate of the first step.
        final_lr: Learning rate after the last step.
        warmup_ratio: Part of all steps in which it rises.
        hold_ratio: Part of all steps in which it stays.
    """

    max_lr: float
    initial_lr: float = 5e-6
    final_lr: float = 5e-6
    warmup_ratio: float = 0.1
    hold_ratio: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.initial_lr <= self.max_lr or not 0 < self.final_lr <= self.max_lr:
            raise ValueError("0 <= initial_lr <= max_lr and 0 < final_lr <= max_lr are needed")
        if min(self.warmup_ratio, self.hold_ratio) < 0 or self.warmup_ratio + self.hold_ratio > 1:
            raise ValueError("warmup_ratio and hold_ratio must not be negative, nor exceed 1")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        warmup = int(self.warmup_ratio * total_steps)
        fall = warmup + int(self.hold_ratio * total_steps)
        if step < warmup:
            return _line(self.initial_lr, self.max_lr, step / warmup)
        if step < fall:
            return self.max_lr
        part = min((step - fall) / max(total_steps - fall, 1), 1)
        return _geometric(self.max_lr, self.final_lr, part)


@dataclass(frozen=True)
class OneCycle:
    """Up to ``max_lr`` and down again, as torch's OneCycleLR.

    That one also moves Adam's first beta or SGD's momentum unless told otherwise; here they stay
    what the optimizer's settings say.

    Args:
        max_lr: Peak learning rate.
        warmup_ratio: Part of all steps that the way up takes.
        anneal: Form of both ways.
        div_factor: ``max_lr`` over the learning rate of the first step.
        final_div_factor: The learning rate of the first step over that of the last.
    """

    max_lr: float
    warmup_ratio: float = 0.3
    anneal: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        if self.max_lr < 0 or not 0 <= self.warmup_ratio < 1:
            raise ValueError("max_lr >= 0 and 0 <= warmup_ratio < 1 are needed")
        if self.div_factor <= 0 or self.final_div_factor <= 0:
            raise ValueError("div_factor and final_div_factor must be positive")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        between = _cosine if self.anneal == "cos" else _line
        first = self.max_lr / self.div_factor
        top, end = self.warmup_ratio * total_steps - 1, total_steps - 1
        if top > 0 and step <= top:
            return between(first, self.max_lr, step / top)
        part = min((step - top) / (end - top), 1)
        return between(self.max_lr, first / self.final_div_factor, part)


@dataclass(frozen=True)
class Triangular:
    """Up and down in several cycles, each half as high as the one before ("triangular2").

    Args:
        max_lr: Peak of the first cycle.
        min_lr: Learning rate between the cycles.
        cycles: Number of cycles in the phase.
    """

    max_lr: float
    min_lr: float = 1e-8
    cycles: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.max_lr or self.cycles < 1:
            raise ValueError("0 <= min_lr <= max_lr and cycles >= 1 are needed")

    def lr(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """See LrSchedule."""
        cycle, steps = divmod(step * self.cycles, total_steps)
        height = 1 - abs(2 * steps / total_steps - 1)
        return _line(self.min_lr, self.max_lr, height / 2**cycle)


def _line(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _geometric(start: float, end: float, part: float) -> float:
    return start * (end / start) ** part


LR_SCHEDULES: Mapping[str, Callable[..., LrSchedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "one_cycle": OneCycle,
    "polynomial": Polynomial,
    "step": Step,
    "tri_stage": TriStage,
    "triangular": Triangular,
    "warmup_cosine": WarmupCosine,
}
