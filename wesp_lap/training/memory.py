"""Whether the largest batch of a phase fits into the GPU's memory, tried before training begins.

A run that ends for want of memory after hours, in the first batch of long crops, has cost those
hours. The largest batches are computed forward and backward once, on noise; everything they change
is put back. When one does not fit, smaller chunks are tried, so that the error says what would.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wesp_lap.audio.augment import SAMPLE_RATE
from wesp_lap.data.crops import Batch
from wesp_lap.errors import WespError
from wesp_lap.log import get_logger
from wesp_lap.training.distributed import Process
from wesp_lap.training.task import RunSettings, State, Task

_GIB = 2**30
# Tensors of the size of the weights that an optimizer makes in its first step.
_OPTIMIZER_TENSORS = {"adam": 2, "adamw": 2, "sgd": 1}

# Computes a batch forward and backward in so many chunks.
Attempt = Callable[[Batch, int], object]
# Utterances of a batch and samples of its crops.
Shape = tuple[int, int]


class OutOfMemoryError(WespError):
    """A training step needs more memory than there is; the message says what would need less."""


def is_shortage(error: BaseException) -> bool:
    """Say whether an error of torch means that memory is used up."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


def is_wanted(settings: RunSettings, task: Task, device: torch.device) -> bool:
    """Say whether memory is to be tried; a CPU's is shared with all other programs.

    A model that is to be sharded may not fit before it is.
    """
    return settings.training.probe_memory and not task.is_sharded and device.type == "cuda"


def probe(
    attempt: Attempt,
    shapes: Sequence[Shape],
    smallest: int,
    settings: RunSettings,
    task: Task,
    process: Process,
) -> None:
    """Try the largest batches, and log how much memory they take.

    Args:
        attempt: Computes a batch; of this process alone, without waiting for others.
        shapes: The largest batches.
        smallest: Utterances of the smallest batch, which must be enough for the chunks advised.
        settings: Of the run.
        task: What is trained; it is afterwards as it was.
        process: All processes must come here.

    Raises:
        OutOfMemoryError: one of the batches does not fit, in any of the processes.
    """
    needed = torch.zeros(len(shapes), device=process.device, dtype=torch.int64)
    with unchanged(task.state):
        reserved = _reserve(settings, task, process)
        for index, (rows, samples) in enumerate(shapes):
            batch = task.noise(rows, samples, process.device)
            needed[index] = _chunks_that_fit(attempt, batch, smallest, settings, task)
        del reserved
    peak = _peak(process.device)
    # One that runs out of memory must not leave the others waiting: all say the same.
    worst = process.gather(needed).max(dim=0).values.tolist()
    for (rows, samples), chunks in zip(shapes, worst, strict=True):
        if chunks != settings.training.accumulate:
            fits = None if chunks > rows else chunks
            raise OutOfMemoryError(
                f"the largest batches of this phase do not fit into the memory of "
                f"{process.device}: {_describe(rows, samples)} per process, computed in "
                f"{settings.training.accumulate} chunks. {_advice(settings, task, fits)}"
            )
    text = ", ".join(_describe(rows, samples) for rows, samples in shapes)
    get_logger().info("memory for the largest batches (%s per process): %s", text, peak)


def shortage(
    error: BaseException, batch: Batch, settings: RunSettings, task: Task, where: str
) -> OutOfMemoryError:
    """Return the error for a step that has run out of memory although the largest batch fitted."""
    return OutOfMemoryError(
        f"out of memory on {batch.waves.device} in {where}, with {_describe(*batch.waves.shape)}: "
        f"{str(error).splitlines()[0]} The last checkpoint is whole: when the memory was needed by "
        "other programs, the same command goes on from there (as it does with the environment "
        "variable PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, or with "
        f"{task.checkpointing_name}). A new run needs less: "
        f"{_advice(settings, task, 2 * settings.training.accumulate)}"
    )


@contextlib.contextmanager
def unchanged(state: State) -> Iterator[None]:
    """Put back what computing a batch changes: generators, statistics, gradients, modes."""
    modules = [m for part in state.modules for m in part.modules()]
    modes = [module.training for module in modules]
    buffers = [(b, b.clone()) for module in modules for b in module.buffers(recurse=False)]
    devices = {b.device for b, _ in buffers}
    devices |= {p.device for part in state.modules for p in part.parameters()}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with (
        torch.random.fork_rng([d for d in devices if d.type == "cuda"]),
        _all_layers(modules),
    ):
        try:
            for part in state.modules:
                part.train()
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for buffer, before in buffers:
                buffer.copy_(before)
            state.optimizer.zero_grad(set_to_none=True)
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextlib.contextmanager
def _all_layers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Leave out LayerDrop, with which a batch takes less memory."""
    holders: list[Any] = [*modules, *(getattr(module, "config", None) for module in modules)]
    before = []
    for holder in holders:
        for name in ("layerdrop", "encoder_layerdrop"):
            value = getattr(holder, name, None)
            if isinstance(value, float):
                before.append((holder, name, value))
                setattr(holder, name, 0.0)
    try:
        yield
    finally:
        for holder, name, value in reversed(before):
            setattr(holder, name, value)


def _reserve(settings: RunSettings, task: Task, process: Process) -> list[Tensor]:
    """Take the memory that the first steps take for good: optimizer and buckets of DDP."""
    optimizer = task.state.optimizer
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    copies = 0 if optimizer.state else _OPTIMIZER_TENSORS[settings.optimizer.name]
    copies += int(process.world_size > 1)
    return [torch.empty_like(p) for p in trained for _ in range(copies)]


def _chunks_that_fit(
    attempt: Attempt, batch: Batch, smallest: int, settings: RunSettings, task: Task
) -> int:
    """Return how many chunks the batch must be cut into; more than it has rows for none."""
    chunks = settings.training.accumulate
    while smallest // chunks >= task.fewest:
        try:
            attempt(batch, chunks)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
        else:
            return chunks
        finally:
            task.state.optimizer.zero_grad(set_to_none=True)
        # Outside of the handler, whose error holds the tensors of the pass.
        if batch.waves.is_cuda:
            torch.cuda.empty_cache()
        chunks *= 2
    return len(batch.labels) + 1


def _advice(settings: RunSettings, task: Task, chunks: int | None) -> str:
    """Return what would need less memory, with numbers."""
    ways = []
    if chunks is not None:
        ways.append(f"raise training.accumulate to {chunks}")
        ways.append(task.smaller_batches(settings.training.accumulate / chunks))
    if task.can_checkpoint:
        ways.append(f"set {task.checkpointing_name} to true")
    if settings.training.precision == "fp32":
        ways.append("set training.precision to bf16")
    if chunks is None:
        ways.append("lower data.crop_seconds (data.sampling.longest_seconds by length)")
    text = "; or ".join(ways)
    return f"{text[0].upper()}{text[1:]}; or train on more GPUs"


def _describe(rows: int, samples: int) -> str:
    return f"{rows} crops of {samples / SAMPLE_RATE:.2f} s"


def _peak(device: torch.device) -> str:
    """Return how much memory was taken, and let go of it."""
    if device.type != "cuda":
        return "unknown"
    peak = torch.cuda.max_memory_allocated(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return f"{peak / _GIB:.1f} of {total / _GIB:.1f} GiB"
