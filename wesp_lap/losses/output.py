"""What every loss returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LossOutput(NamedTuple):
    """Loss of a batch and what accuracy is computed from."""

    loss: Tensor
    """Mean cross-entropy, scalar."""
    scores: Tensor
    """Score of each class without margin and penalty, (B, C); the highest is the guess."""
