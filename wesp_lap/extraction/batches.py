"""Batches of similar length, loaded ahead of the device.

Utterances are taken in the order of their source, for as long as a window of them stays within a
bound; a window is sorted by length and cut into batches, so that little of them is padding. A
window never reaches into the next part of the work: the batches of a part are the same when the
parts before it were done by an earlier run.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from wesp_lap.extraction.loading import Loaded

Item = TypeVar("Item")
WINDOW_BATCHES = 32
_OVERLAP = 0.1  # of a chunk, at least


class Batch(NamedTuple):
    """Waveforms that go through the model together."""

    owners: list[int]
    """Place of each row's utterance in its window."""
    waves: np.ndarray
    """(B, S) float32, zero beyond the lengths."""
    lengths: list[int]

    def halves(self) -> tuple[Batch, Batch]:
        """Return the first and the second half of the rows."""
        middle = len(self.owners) // 2
        return (
            Batch(self.owners[:middle], self.waves[:middle], self.lengths[:middle]),
            Batch(self.owners[middle:], self.waves[middle:], self.lengths[middle:]),
        )


class Window(NamedTuple):
    """Some utterances and their batches; utterances with a problem have none."""

    items: list[Loaded]
    batches: list[Batch]


def windows(
    load: Callable[[int], Loaded],
    parts: Sequence[Sequence[int]],
    batch_samples: int,
    chunk_samples: int,
    threads: int,
) -> Iterator[Window]:
    """Yield the rows of all parts in their order, loaded and in batches.

    Args:
        load: Loads an utterance; may be called by several threads at once.
        parts: Rows.
        batch_samples: Most padded samples of a batch of several waveforms; 0 puts every waveform
            into a batch of its own.
        chunk_samples: Longer utterances are cut into chunks, see ``chunks``; 0 never cuts.
        threads: Threads that load ahead; 0 loads when it is asked for.
    """
    rows = (row for part in parts for row in part)
    loaded = _loaded_ahead(load, rows, threads)
    for part in parts:
        items: list[Loaded] = []
        samples = 0
        for _ in part:
            items.append(next(loaded))
            samples += 0 if items[-1].wave is None else len(items[-1].wave)
            if samples >= WINDOW_BATCHES * batch_samples:
                yield _window(items, batch_samples, chunk_samples)
                items, samples = [], 0
        if items:
            yield _window(items, batch_samples, chunk_samples)


def _window(items: list[Loaded], batch_samples: int, chunk_samples: int) -> Window:
    pieces = [
        (owner, piece)
        for owner, item in enumerate(items)
        if item.wave is not None
        for piece in chunks(item.wave, chunk_samples)
    ]
    pieces.sort(key=lambda piece: -len(piece[1]))  # stable: the same batches on every run
    batches = []
    while pieces:
        longest = len(pieces[0][1])
        count = max(1, batch_samples // longest)
        batches.append(_padded(pieces[:count]))
        pieces = pieces[count:]
    # The samples are in the batches now.
    return Window([Loaded(item.row, None, item.problem) for item in items], batches)


def _padded(pieces: Sequence[tuple[int, np.ndarray]]) -> Batch:
    lengths = [len(piece) for _, piece in pieces]
    owners = [owner for owner, _ in pieces]
    if len(pieces) == 1:
        return Batch(owners, pieces[0][1][np.newaxis], lengths)
    waves = np.zeros((len(pieces), max(lengths)), np.float32)
    for row, (_, piece) in zip(waves, pieces, strict=True):
        row[: len(piece)] = piece
    return Batch(owners, waves, lengths)


def chunks(wave: np.ndarray, samples: int) -> list[np.ndarray]:
    """Cut (S,) into the fewest chunks of ``samples`` that overlap by a tenth or more.

    All have the same length and they begin at equal distances, so that the plain mean over chunks
    is the mean weighted by length. What is not longer than a chunk, or any length when ``samples``
    is 0, stays whole.
    """
    if samples == 0 or len(wave) <= samples:
        return [wave]
    rest = len(wave) - samples
    count = 1 + -(-rest // round((1 - _OVERLAP) * samples))
    starts = [rest * number // (count - 1) for number in range(count)]
    return [wave[start : start + samples] for start in starts]


def _loaded_ahead(
    load: Callable[[int], Loaded], rows: Iterable[int], threads: int
) -> Iterator[Loaded]:
    """Yield ``load(row)`` in the order of ``rows``, a few of them computed in threads ahead."""
    if threads == 0:
        yield from map(load, rows)
        return
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(load, row))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_background(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """Yield what an iterator gives, computed by a thread that is one item ahead."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: Item | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items():
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
