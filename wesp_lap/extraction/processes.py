"""Embedders in this process or in several, on a CPU."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from wesp_lap.errors import WespError
from wesp_lap.extraction.embedder import Embedder, Result

Parts = Sequence[Sequence[int]]
CHUNK = 16  # utterances that a process is handed at a time


@contextlib.contextmanager
def embedding(make: Callable[[], Embedder], jobs: int, parts: Parts) -> Iterator[Iterator[Result]]:
    """Give the results of all rows of all parts in their order.

    Args:
        make: Makes an embedder; is sent to the processes.
        jobs: Processes of one thread each; with one, the work is done here.
        parts: Rows.
    """
    here = make()  # with several processes, too: a model that cannot be loaded is named once
    if jobs <= 1:
        yield here(parts)
        return
    del here
    pieces = [part[first : first + CHUNK] for part in parts for first in _firsts(part)]
    # Spawned, since a forked process may hang in libraries that had threads. One thread each:
    # threads that share small products wait for each other more than they compute.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (make,)) as pool:
        try:
            yield itertools.chain.from_iterable(pool.map(_work, pieces))
        except BrokenProcessPool as error:
            raise WespError(
                "an extraction process was killed, often for want of memory; run the same command "
                "again, with a smaller --nj or a smaller --chunk_seconds"
            ) from error


def _firsts(part: Sequence[int]) -> range:
    return range(0, len(part), CHUNK)


_worker: list[Embedder] = []


def _start_worker(make: Callable[[], Embedder]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.append(make())


def _end_with_parent() -> None:
    """End when the parent was killed: nobody else would tell this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(rows: Sequence[int]) -> list[Result]:
    return list(_worker[0]([rows]))
