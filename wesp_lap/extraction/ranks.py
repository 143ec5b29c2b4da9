"""The processes of an extraction that torchrun has started, or just this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from wesp_lap.errors import ConfigError, WespError

# For the process that is done first: it waits for the others, and torchrun ends it with them.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    size: int

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _lost_process_named():
            dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the group that torchrun's environment describes; leave it at the end.

    The group only says who is done: waiting for it costs no GPU and needs no NCCL.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _lost_process_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise WespError("another process of the extraction has ended; see its message") from error


def choose_device(device: str | None) -> str:
    """Return the device to use, a GPU when there is one by default; refuse what torch lacks.

    Raises:
        ConfigError: torch cannot use it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and local:
        device = f"cuda:{local}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        mend = "Give cpu, or cuda with a GPU"
        if local:
            mend += " for each process"
        raise ConfigError(f"--device {device}: {reason}. {mend}") from error
    return device


def cores() -> int:
    """Return how many cores there are for each process that torchrun has started here."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
