"""The same work for many shards, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from wesp_lap.errors import WespError
from wesp_lap.log import set_up_logging

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    """Yield ``work(item)`` in the order of ``items``, made here or in ``jobs`` processes.

    Raises:
        WespError: a process was killed.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        yield from map(work, items)
        return
    # Spawned, since a forked process may hang in libraries that had threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=set_up_logging) as pool:
        try:
            yield from pool.map(work, items)
        except BrokenProcessPool as error:
            raise WespError(
                "a process was killed, often for want of memory; run the same command again, with "
                "a smaller --nj: finished shards are kept"
            ) from error
