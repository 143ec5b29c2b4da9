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

from wesp_lap.errors import ConfigError

# A rank that waits longer than this for another one has lost it.
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and log lines."""
        return self.rank == 0

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

    def all_true(self, condition: Tensor) -> bool:
        """Say whether a condition holds in every process."""
        flag = condition.to(self.device, torch.int32)
        if self.world_size > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())


@contextmanager
def process_group() -> Iterator[Process]:
    """Join the process group that torchrun's environment describes; leave it at the end.

    Without torchrun the run is this process alone. The device is a GPU of the local rank when
    there is one, else the CPU.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank} of this node has no GPU: there are "
                f"{torch.cuda.device_count()}; start as many processes as GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Process(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Process(rank, world_size, device)
    finally:
        # DistributedDataParallel holds the group, and the loader its processes, in reference
        # cycles; let go of here, all of them end in order.
        gc.collect()
        dist.destroy_process_group()
