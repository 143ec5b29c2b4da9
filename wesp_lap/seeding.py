"""Random numbers that depend on what is drawn, never on who draws it."""

from __future__ import annotations

import numpy as np

_DOUBLES_PER_COUNT = 4  # what one step of Philox's counter gives


def generator(*key: int) -> np.random.Generator:
    """Return a generator for a key such as (seed, epoch, position); equal keys, equal draws."""
    return np.random.Generator(np.random.PCG64(_entropy(key)))


def uniforms(key: tuple[int, ...], first: int, rows: int, columns: int) -> np.ndarray:
    """Return rows ``first`` to ``first + rows`` of an endless table of numbers in [0, 1).

    Philox is a function of a counter, so a row costs the same wherever it stands, and the table
    of a key is the same however it is cut into calls.

    Args:
        key: Names the table, such as (seed, epoch).
        first: Number of the first row.
        rows: How many rows.
        columns: Numbers per row, a multiple of 4.

    Returns:
        float64 (rows, columns).
    """
    steps, rest = divmod(columns, _DOUBLES_PER_COUNT)
    if rest:
        raise ValueError(f"columns must be a multiple of {_DOUBLES_PER_COUNT}, got {columns}")
    bits = np.random.Philox(_entropy(key))
    bits.advance(first * steps)
    return np.random.Generator(bits).random((rows, columns))


def _entropy(key: tuple[int, ...]) -> np.random.SeedSequence:
    # The length is part of the key: NumPy takes (42,) and (42, 0) for the same seed.
    return np.random.SeedSequence((len(key), *key))
