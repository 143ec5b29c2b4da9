"""Locks between processes and threads, and waiting that does not stay silent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wesp_lap.log import get_logger

_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.1
_SAY_SECONDS = 30.0


class Lock:
    """A lock between processes and threads, which ends with the process that holds it."""

    def __init__(self, file: int) -> None:
        self._file = file

    def take(self) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def open_lock(path: Path) -> Iterator[Lock]:
    """Open a lock, and let go of it at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield Lock(file)
    finally:
        # Said, since a process forked meanwhile has the file open, too.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


@contextlib.contextmanager
def locked(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock, for which this waits."""
    with open_lock(path) as lock:
        wait(lock.take, holder)
        yield


def wait(attempt: Callable[[], bool], what: str) -> None:
    """Repeat ``attempt`` until it succeeds; say every half minute what this waits for."""
    pause, said = _POLL_SECONDS, time.monotonic()
    while not attempt():
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL_SECONDS)
        if time.monotonic() - said >= _SAY_SECONDS:
            said = time.monotonic()
            get_logger().warning("still waiting for %s", what)
