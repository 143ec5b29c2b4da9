"""Which of the processes of a run is dead or stuck, when the others wait for it in vain.

Each process keeps a line about itself in the store that the processes met at: what it does, how
many things it has done before, whether it is inside of torch's communication, and a number that
grows as long as it lives. All do the same things in the same order, so the others wait for those
that have done fewest; of these, for those that are not waiting themselves.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wesp_lap.log import get_logger

_LONGEST_INTERVAL = 1.0
# Intervals without a sign of life after which a process passes for dead.
_SILENT = 3
_GOES_ON = "The last checkpoint is whole: the same command goes on from there"
# Code in which a process waits for others: collectives, the backward pass, and the numbers that a
# GPU owes.
_WAITING = (
    "torch/distributed/",
    "torch/nn/parallel/",
    "torch/autograd/graph.py",
    "wesp_lap/training/distributed.py",
)


class Store(Protocol):
    """What is used of torch.distributed's stores."""

    def set(self, key: str, value: str) -> None:
        """Set a value for all processes."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Return values of keys that have been set."""


@dataclass
class _Seen:
    """What this process has seen of another one, with the times of its own clock."""

    alive: float
    beat: int = -1
    done: int = -1
    waiting: bool = False
    text: str = "a training process"
    late: float | None = None  # since when the others wait for it


class Watch:
    """Tells the other processes what this one does, and knows what they do.

    A thread ends this process, with one error for the whole run, when for ``limit`` seconds a
    process has given no sign of life, or others have waited for it. It must: a process that waits
    for another one is inside of the communication library, where no exception reaches it.

    Args:
        store: A connection of its own; one that waits for a key would block the others.
        rank: Number of this process.
        world_size: Number of processes.
        limit: Seconds.
    """

    def __init__(self, store: Store, rank: int, world_size: int, limit: float) -> None:
        self._store = store
        self._rank = rank
        self._keys = [f"watch/{other}" for other in range(world_size)]
        self._limit = limit
        self._interval = min(_LONGEST_INTERVAL, limit / 10)
        self._name = f"training process {rank} (node {socket.gethostname()}, pid {os.getpid()})"
        self._now: tuple[int, str] = (0, "starting")
        self._main = threading.get_ident()
        self._beats = 0
        self._seen = [_Seen(time.monotonic()) for _ in self._keys]
        self._store_seen = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._tell()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; every process must have made its Watch by now."""
        self._thread.start()

    def at(self, doing: str) -> None:
        """Say what this process does from now on; all must say the same things in one order."""
        self._now = (self._now[0] + 1, doing)

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def diagnosis(self) -> str:
        """Return who is to blame for a communication that failed; takes a few seconds."""
        reached = self._look()  # what is new by now is no sign of life afterwards
        begun = time.monotonic()
        while reached and time.monotonic() - begun < _SILENT * self._interval:
            time.sleep(self._interval)
            reached = self._look()
        if not reached:
            return f"training process 0, which all others meet at, is gone. {_GOES_ON}"
        silent = [r for r, seen in enumerate(self._seen) if seen.alive <= begun]
        if silent:
            return f"{self._list(silent)} gave no sign of life any more. {_GOES_ON}"
        late = self._late()
        if late:
            return f"{self._list(late)} did not come along. {_GOES_ON}"
        return f"the processes lost each other; {self._list([0])}. {_GOES_ON}"

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self._look()
            fault = self._fault()
            if fault and not self._over.is_set():
                self._end(*fault)

    def _look(self) -> bool:
        """Exchange what is new; return False when the store is out of reach."""
        with self._lock:
            try:
                self._tell()
                lines = self._store.multi_get(self._keys)
            except RuntimeError:
                return False
            now = self._store_seen = time.monotonic()
            for seen, line in zip(self._seen, lines, strict=True):
                news = json.loads(line)
                if news["beat"] != seen.beat:
                    seen.beat, seen.alive = news["beat"], now
                if news["done"] != seen.done:
                    seen.done, seen.late = news["done"], None
                seen.waiting, seen.text = news["waiting"], news["text"]
            late = self._late()
            for rank, seen in enumerate(self._seen):
                seen.late = (seen.late or now) if rank in late else None
            return True

    def _tell(self) -> None:
        self._beats += 1
        done, doing = self._now
        place, waiting = _place(self._main)
        text = f"{self._name}, last at: {doing} ({place})"
        news: dict[str, Any] = {"beat": self._beats, "done": done, "waiting": waiting}
        self._store.set(self._keys[self._rank], json.dumps({**news, "text": text}))

    def _late(self) -> list[int]:
        """Return the processes that others wait for."""
        fewest = min(seen.done for seen in self._seen)
        last = [rank for rank, seen in enumerate(self._seen) if seen.done == fewest]
        busy = [rank for rank in last if not self._seen[rank].waiting]
        late = busy or last
        return late if len(late) < len(self._seen) else []

    def _fault(self) -> tuple[str, Sequence[int]] | None:
        """Return what is wrong for longer than the limit, and with which processes."""
        since = time.monotonic() - self._limit
        if self._store_seen < since:
            return "training process 0, which all others meet at, is gone", [0]
        silent = [r for r, seen in enumerate(self._seen) if seen.alive < since]
        if silent:
            return f"{self._list(silent)} gave no sign of life for {self._limit:g} s", silent
        stuck = [r for r, s in enumerate(self._seen) if s.late is not None and s.late < since]
        if stuck:
            return f"{self._list(stuck)} did not go on for {self._limit:g} s", stuck
        return None

    def _list(self, ranks: Sequence[int]) -> str:
        more = f", and {len(ranks) - 3} more" if len(ranks) > 3 else ""
        return ", ".join(self._seen[rank].text for rank in ranks[:3]) + more

    def _end(self, fault: str, ranks: Sequence[int]) -> None:
        """Say once in the run what is wrong, and end this process."""
        speaker = min((r for r in range(len(self._keys)) if r not in ranks), default=self._rank)
        if self._rank == speaker:
            get_logger().error(
                "error: %s while others waited (training.timeout_minutes). %s", fault, _GOES_ON
            )
        # The others must come to see the same: one that ends takes the rest of its node with it,
        # and the first process the store.
        time.sleep(2 * self._interval)
        os._exit(1)


def _place(thread: int) -> tuple[str, bool]:
    """Return where a thread of this process is, and whether that is inside of communication."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "ended", False
    path = frame.f_code.co_filename.replace(os.sep, "/")
    text = f"{Path(path).name}:{frame.f_lineno} {frame.f_code.co_name}"
    return text, any(part in path for part in _WAITING)
