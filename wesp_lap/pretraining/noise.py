"""Noise for utterance mixing, from a noise bank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wesp_lap.data.noise_bank import NoiseBank

_CATEGORIES = ("noise", "music")


class BankNoise:
    """Draws pieces of up to 5 s of noise and music, all with the same probability.

    Args:
        bank: Where they come from.

    Raises:
        DataError: the bank holds neither.
    """

    def __init__(self, bank: NoiseBank) -> None:
        there = [name for name in _CATEGORIES if len(bank.recordings(name))]
        bank.check(there or _CATEGORIES)
        self._bank = bank
        self._pieces = np.concatenate([bank.pieces(name) for name in there])

    def __call__(self, rng: np.random.Generator) -> Tensor:
        """Return a piece (n,), float32 in [-1, 1]."""
        first, length = self._pieces[rng.integers(len(self._pieces))].tolist()
        return torch.from_numpy(self._bank.read(first, length).astype(np.float32) / 2**15)
