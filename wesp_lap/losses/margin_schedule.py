"""Margin and Inter-TopK penalty as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Below this margin the penalty is off (published code of LAP).
_MIN_MARGIN_FOR_PENALTY = 1e-3

# Rise from 0 to 1 as u goes from 0 to 1. Source: docs/methods.md, section 3.2.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: u,
    "log": lambda u: 1 - math.log(0.005 + 0.995 * u) / math.log(0.005),
    "exp": lambda u: (math.exp(0.1 + 4.9 * u) - math.exp(0.1)) / (math.exp(5) - math.exp(0.1)),
    "cos": lambda u: (1 - math.cos(math.pi * u)) / 2,
    "wespeaker": lambda u: 1 - math.exp(u * math.log(1e-3)),
}


@dataclass(frozen=True)
class MarginSettings:
    """How margin and penalty grow over training.

    Args:
        final: Margin at the end of the ramp: radians in AAM-Softmax, a difference of cosines in
            AM-Softmax, without effect in plain softmax.
        initial: Margin before the ramp.
        ramp_epochs: Length of the ramp; 0 holds ``final`` from the first step.
        start_epoch: Epochs before the ramp begins.
        shape: Form of the ramp. It reaches ``final`` in its last step; "wespeaker" in the step
            after that, from 99.9 % of the way.
        penalty: Inter-TopK penalty m' in radians that belongs to ``penalty_ref``.
        penalty_ref: The margin at which ``penalty`` is reached; ``final`` when null (LAP),
            0.2 in WeSpeaker.
    """

    final: float = 0.3
    initial: float = 0.0
    ramp_epochs: float = 20.0
    start_epoch: float = 0.0
    shape: Literal["log", "exp", "cos", "linear", "wespeaker"] = "log"
    penalty: float = 0.06
    penalty_ref: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.final, self.initial, self.penalty, self.ramp_epochs, self.start_epoch)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("margins, penalty and epochs must be finite numbers")
        if max(self.final, self.initial) >= math.pi or self.penalty < 0:
            raise ValueError("margins are radians below pi, and the penalty is not negative")
        if self.final < 0 or self.initial < 0 or self.ramp_epochs < 0 or self.start_epoch < 0:
            raise ValueError("margins and epochs of the margin schedule must not be negative")
        if self.final == 0 and self.penalty > 0 and self.penalty_ref is None:
            raise ValueError("with a final margin of 0 the penalty needs a penalty_ref")
        if self.penalty_ref is not None and self.penalty_ref <= 0:
            raise ValueError(f"penalty_ref must be positive, got {self.penalty_ref}")

    def margin(self, step: int, steps_per_epoch: int) -> float:
        """Return the margin at a step counted from 0 over the whole phase."""
        steps = round(self.ramp_epochs * steps_per_epoch)
        last = steps if self.shape == "wespeaker" else steps - 1
        done = step - round(self.start_epoch * steps_per_epoch)
        if done < 0:
            return self.initial
        if done >= last:
            return self.final
        return self.initial + (self.final - self.initial) * _SHAPES[self.shape](done / last)

    def penalty_for(self, margin: float) -> float:
        """Return the Inter-TopK penalty in radians that goes with a margin."""
        reference = self.final if self.penalty_ref is None else self.penalty_ref
        if self.penalty == 0 or margin <= _MIN_MARGIN_FOR_PENALTY:
            return 0.0
        return self.penalty * margin / reference
