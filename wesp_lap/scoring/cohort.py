"""A cohort as blocks of unit vectors, however large it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from wesp_lap.scoring.embeddings import EmbeddingSource

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Cohort:
    """A cohort, block by block.

    Attributes:
        size: number C of entries.
        blocks: gives all entries anew at every call, (c, E) float32 of unit length; c is
            ``BLOCK_ROWS`` for all but the last.
    """

    size: int
    blocks: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def of_source(cls, source: EmbeddingSource, mean: np.ndarray | None) -> Cohort:
        """Take a set of embeddings less ``mean``; a file is read again at every call."""
        return cls(len(source.keys), lambda: _even(source.unit_blocks(mean)))

    @classmethod
    def of_array(cls, unit: np.ndarray) -> Cohort:
        """Take the rows of an array (C, E), of unit length, in their order."""
        return cls(len(unit), lambda: _even([unit]))


def _even(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cut and join blocks to ``BLOCK_ROWS`` rows; only the last one may have fewer."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= BLOCK_ROWS:
            whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            end = count - count % BLOCK_ROWS
            for start in range(0, end, BLOCK_ROWS):
                yield whole[start : start + BLOCK_ROWS]
            waiting, count = [whole[end:]], count - end
    if count:
        yield np.concatenate(waiting)
