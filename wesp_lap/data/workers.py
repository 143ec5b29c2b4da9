"""Batches on their way out of loader processes, and what goes wrong with these, in words."""

from __future__ import annotations

import ctypes
import os
import signal
from threading import Thread

from torch import Tensor


def outlive_signals(worker: int = 0) -> None:
    """Have a loader process end with the training process, not by signals that are meant for that.

    Schedulers send them to all processes of a job. Training then goes on to the end of the step,
    for which it may need batches.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Whoever has sent a signal is known only to those who wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def release_memory() -> None:
    """Give what was freed back to the system.

    glibc keeps it on its heap, which the buffers of batches cut up: a loader process grew by tens
    of MB per epoch, to several hundred.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it, and only glibc needs it
        libc.malloc_trim(0)


def share_tensors(value: object) -> None:
    """Move the tensors of a batch to shared memory.

    The loader would do it in a thread of its own, whose failure for want of shared memory nobody
    hears of: the training process would wait for the batch for ever.
    """
    if isinstance(value, Tensor):
        if value.untyped_storage().nbytes():
            value.share_memory_()
    elif isinstance(value, (list, tuple)):
        for part in value:
            share_tensors(part)


def why_worker_lost(message: str) -> str:
    """Say why a loader process cannot go on; nothing when it met any other error."""
    # What the loader says, what share_memory_ says, and how it names its files.
    if any(sign in message for sign in ("shared memory", "Bus error", "</torch_")):
        return (
            "a loader process ran out of shared memory; enlarge /dev/shm (docker run --shm-size "
            "8g), or lower data.num_workers"
        )
    if "DataLoader worker (pid" not in message:
        return ""
    return (
        f"a loader process ended: {message.splitlines()[0]}; a kill signal often means that the "
        "machine ran out of memory: lower data.num_workers"
    )
