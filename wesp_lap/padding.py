"""Rows of unequal length in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padding_mask(lengths: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Return (B, ``size``), true at and beyond the length of each row."""
    ends = torch.tensor(lengths).to(device, non_blocking=True)
    return torch.arange(size, device=device) >= ends.unsqueeze(1)
