"""Random generators that depend on what is drawn, never on who draws it."""

from __future__ import annotations

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """Return a generator for a key such as (seed, epoch, position); equal keys, equal draws."""
    # The length is part of the key: NumPy takes (42,) and (42, 0) for the same seed.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((len(key), *key))))
