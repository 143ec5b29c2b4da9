"""Processes of one training run: as torchrun starts them, or just this one."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from wesp_lap.errors import ConfigError, WespError
from wesp_lap.training.watch import Watch

# How much longer torch waits than the watch, which says more.
_GRACE_SECONDS = 30.0
# What messages of gloo and NCCL contain when another process is lost.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "pair closure")


@dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int
    world_size: int
    device: torch.device
    watch: Watch | None = None

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and log lines."""
        return self.rank == 0

    def at(self, doing: str) -> None:
        """Say what this process does from now on, for the error that names one that is stuck.

        All processes must say the same things in the same order.
        """
        if self.watch is not None:
            self.watch.at(doing)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return the tensors of all processes (processes, ...), which have the same shape."""
        if self.world_size == 1:
            return values.unsqueeze(0)
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def broadcast(self, values: Tensor) -> Tensor:
        """Overwrite a tensor with that of the first process, and return it."""
        if self.world_size > 1:
            dist.broadcast(values, 0)
        return values

    def all_true(self, condition: Tensor) -> bool:
        """Say whether a condition holds in every process."""
        return self.agree(condition, False)[0]

    def agree(self, good: Tensor, leave: bool) -> tuple[bool, bool]:
        """Ask two questions of all processes in one message.

        Returns:
            Whether all of them are ``good``, and whether any of them is to ``leave``.
        """
        good = good.to(self.device, torch.int32)
        if self.world_size == 1:
            return bool(good.item()), leave
        flags = torch.stack([good, good.new_full((), int(not leave))])
        dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        all_good, all_stay = flags.tolist()
        return bool(all_good), not all_stay


@contextmanager
def process_group(timeout_minutes: float = 10.0) -> Iterator[Process]:
    """Join the process group that torchrun's environment describes; leave it at the end.

    Without torchrun the run is this process alone. The device is a GPU of the local rank when
    there is one, else the CPU.

    Args:
        timeout_minutes: How long a process may keep the others waiting.

    Raises:
        WespError: another process is lost; it is named.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _device(int(os.environ.get("LOCAL_RANK", 0)))
    if world_size == 1:
        yield Process(0, 1, device)
        return
    watch = _join(device, rank, world_size, 60 * timeout_minutes)
    lost = False
    try:
        yield Process(rank, world_size, device, watch)
        dist.barrier()
        watch.stop()
        dist.barrier()  # nobody asks the store of the first process any more
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(w in str(error) for w in _LOST):
            raise
        lost = True
        raise WespError(f"{watch.diagnosis()} ({str(error).splitlines()[0]})") from error
    finally:
        if not lost:  # else it sees to it that leaving comes to an end
            watch.stop()
        # DistributedDataParallel holds the group, and the loader its processes, in reference
        # cycles; let go of here, all of them end in order.
        gc.collect()
        dist.destroy_process_group()
        watch.stop()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this node has no GPU: there are "
            f"{torch.cuda.device_count()}; start as many processes as GPUs"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _join(device: torch.device, rank: int, world_size: int, seconds: float) -> Watch:
    timeout = timedelta(seconds=seconds + _GRACE_SECONDS)
    try:
        store = next(dist.rendezvous("env://", timeout=timeout))[0]
        # Made before the group is: once the group stands, all processes have made theirs.
        watch = Watch(store.clone(), rank, world_size, seconds)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
        dist.barrier()
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise WespError(
            f"training process {rank} of {world_size} cannot meet the others at {where}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    watch.start()
    return watch
