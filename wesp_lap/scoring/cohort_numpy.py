"""Cohort cosines with numpy, on as many threads as its BLAS has.

Each thread multiplies, selects and adds up blocks of its own, small enough for the cache. The
selection takes about as long as the product, and numpy does it on one thread.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wesp_lap.log import progress
from wesp_lap.scoring.cohort import BLOCK_ROWS, Cohort

_BUFFER_BYTES = 8 << 20  # cosines of one thread at a time

# Takes rows, their cosines (h, room + c), and how many cohort entries came before.
_Fold = Callable[[slice, np.ndarray, int], None]


def largest(
    unit: np.ndarray,
    cohort: Cohort,
    top_n: int,
    excluded: np.ndarray | None,
    device: str,
) -> np.ndarray:
    """Return the ``top_n`` largest cosines of every row, in any order, (n, top_n) float32.

    Args:
        unit: (n, E) of unit length.
        cohort: what they meet.
        top_n: how many are wanted.
        excluded: (n, x) places in the cohort that do not count for row i, or None.
        device: "cpu"; there for the signature of ``cohort_torch``.
    """
    found = np.full((len(unit), top_n), -np.inf, np.float32)

    def fold(rows: slice, cosines: np.ndarray, before: int) -> None:
        new = cosines[:, top_n:]
        if excluded is not None:
            places = excluded[rows] - before
            row, column = np.nonzero((places >= 0) & (places < new.shape[1]))
            new[row, places[row, column]] = -np.inf
        if before or new.shape[1] < top_n:
            cosines[:, :top_n] = found[rows]
        else:
            cosines = new
        first = cosines.shape[1] - top_n
        cosines.partition(first, axis=1)
        found[rows] = cosines[:, first:]

    _meet(unit, cohort, top_n, fold)
    return found


def moments(unit: np.ndarray, cohort: Cohort, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sum of squared deviations of all cosines of every row, (n,) float64."""
    total, squares = np.zeros(len(unit)), np.zeros(len(unit))

    def fold(rows: slice, cosines: np.ndarray, before: int) -> None:
        # Cosines are at most 1: in float64, sums of squares lose nothing that counts. Both sums
        # convert little by little; an array of deviations would be new memory for every block.
        total[rows] += cosines.sum(axis=1, dtype=np.float64)
        squares[rows] += np.einsum("ij,ij->i", cosines, cosines, dtype=np.float64)

    _meet(unit, cohort, 0, fold)
    mean = total / cohort.size
    return mean, np.maximum(0, squares - total * mean)


def _meet(unit: np.ndarray, cohort: Cohort, room: int, fold: _Fold) -> None:
    """Give the cosines of all rows with all blocks to ``fold``, after ``room`` free columns."""
    from threadpoolctl import threadpool_limits

    threads = _blas_threads()
    width = room + min(cohort.size, BLOCK_ROWS)
    height = max(1, min(_BUFFER_BYTES // (4 * width), -(-len(unit) // threads)))
    every = [slice(first, min(first + height, len(unit))) for first in range(0, len(unit), height)]
    own = threading.local()

    def work(block: np.ndarray, before: int, rows: slice) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = np.empty(height * width, np.float32)
        shape = (rows.stop - rows.start, room + len(block))
        cosines = own.buffer[: shape[0] * shape[1]].reshape(shape)
        np.matmul(unit[rows], block.T, out=cosines[:, room:])
        fold(rows, cosines, before)

    def steps(pool: ThreadPoolExecutor) -> Iterator[None]:
        before = 0
        for block in cohort.blocks():
            yield from pool.map(functools.partial(work, block, before), every)
            before += len(block)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        total = len(every) * -(-cohort.size // BLOCK_ROWS)
        for _ in progress(steps(pool), "cohort scores", total, unit="block"):
            pass


def _blas_threads() -> int:
    """Return the number of threads that numpy's BLAS would use, as OMP_NUM_THREADS may say."""
    from threadpoolctl import threadpool_info

    return max([i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"], default=1)
