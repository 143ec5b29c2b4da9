"""Signals that ask a training run to save its state and leave.

Schedulers send them some time before they kill a job (Slurm: ``--signal``). The run saves a
checkpoint at the end of the step under way and ends with REQUEUE_EXIT_CODE; the same command goes
on from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wesp_lap.log import get_logger

# EX_TEMPFAIL of sysexits.h: no fault of the run; start it again.
REQUEUE_EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Interruption:
    """Whether one of SIGNALS has come."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self._signal is not None

    @property
    def name(self) -> str:
        """The signal's name, or what stands for it when it has come to another process only."""
        return self._signal.name if self._signal is not None else "a signal to another process"

    def request(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal; a second SIGINT (Ctrl-C) stops the process without saving."""
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)

    @contextmanager
    def watch(self) -> Iterator[Interruption]:
        """Catch the signals inside the block, and leave them as they were after it.

        Outside of the main thread, where Python lets nobody catch signals, this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[signal.Signals, Any] = {s: signal.signal(s, self.request) for s in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def announce(self, checkpoint: str) -> None:
        """Say that the run leaves, and from where it will go on."""
        get_logger().warning(
            "%s: saved as %s; leaving with exit code %d. The same command goes on from there",
            self.name,
            checkpoint,
            REQUEUE_EXIT_CODE,
        )
