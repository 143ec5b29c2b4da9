"""One step of training: forward, backward and update, on one device or one of many processes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.data.crops import Batch
from wesp_lap.data.plan import EpochPlan
from wesp_lap.errors import ConfigError, WespError
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator
from wesp_lap.tensors import whole
from wesp_lap.training import memory
from wesp_lap.training.distributed import Process
from wesp_lap.training.groups import drop_early_gradients, set_learning_rates
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.task import RunSettings, StepPlan, Task

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What a step has shown.

    Args:
        figures: Means over this process's utterances (F,), see Task, scaled by the weight of the
            batch, so that the mean over the processes is the mean over all utterances.
        norm: Length of the gradient before clipping; a scalar.
        skipped: True when the update was left out because something was not finite.
        leave: True when a signal has asked any of the processes to save and leave.
    """

    figures: Tensor
    norm: Tensor
    skipped: bool
    leave: bool


class Engine:
    """Computes steps of a run, the same update in every process.

    Args:
        settings: Checked settings.
        task: What is trained; its modules and optimizer are changed in place.
        process: This process among all.
        batches: Sizes of the batches of this process.
        interruption: Says whether this process has been asked to leave.

    Raises:
        ConfigError: the batches are too small for the chunks of ``training.accumulate``.
        OutOfMemoryError: the largest batches do not fit into the memory of the GPU.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        process: Process,
        batches: EpochPlan,
        interruption: Interruption,
    ) -> None:
        chunks, smallest = settings.training.accumulate, batches.smallest_batch
        if smallest // chunks < task.fewest:
            reason = ", which batch norm needs" if task.fewest > 1 else ""
            raise ConfigError(
                f"training.accumulate ({chunks}) must cut the {smallest} utterances that a "
                f"process has in the smallest batch into chunks of at least {task.fewest}{reason}; "
                "lower it, or raise data.batch_size (data.sampling.max_seconds by length)"
            )
        self._settings = settings
        self._task = task
        self._state = task.state
        self._process = process
        self._interruption = interruption
        self._chunks = chunks
        self._bad_steps = 0
        self._network = task.network
        if memory.is_wanted(settings, task, process.device):
            shapes = batches.largest_batches()
            memory.probe(self._attempt, shapes, smallest, settings, task, process)
        self._network = self._distribute(task.network)
        # What a forward pass changes; looking for it in every step would take longer than copying.
        self._statistics = [b for b in self._network.buffers() if b.is_floating_point()]

    def train(self) -> None:
        """Put the network into training mode."""
        self._network.train()

    def step(self, batch: Batch, plan: StepPlan) -> StepResult:
        """Take one step; leave everything as it was when loss or gradient is not finite.

        Raises:
            WespError: more such steps than ``training.max_bad_steps``.
            OutOfMemoryError: there is too little memory for this batch.
        """
        where = f"epoch {plan.epoch + 1} step {plan.step + 1}"
        try:
            return self._step(batch, plan, where)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_shortage(error):
                raise
            raise memory.shortage(error, batch, self._settings, self._task, where) from error

    def _step(self, batch: Batch, plan: StepPlan, where: str) -> StepResult:
        optimizer, scaler = self._state.optimizer, self._state.scaler
        self._process.at(f"{where}, forward and backward")
        set_learning_rates(optimizer, plan.lr, plan.progress)
        seed_step(self._settings.seed, plan.epoch, plan.step, self._process.rank)
        optimizer.zero_grad(set_to_none=True)
        statistics = [buffer.clone() for buffer in self._statistics]
        loss, figures = self._accumulate(batch, plan)
        self._process.at(f"{where}, update")
        scaler.unscale_(optimizer)
        self._task.finish(loss, figures, self._process)
        drop_early_gradients(optimizer, plan.progress)
        norm = self._clipped()
        finite, leave = self._process.agree(
            self._is_finite(loss, norm), self._interruption.requested
        )
        if finite:
            scaler.step(optimizer)
        else:
            for buffer, before in zip(self._statistics, statistics, strict=True):
                buffer.copy_(before)
            self._count_bad_step(batch, plan)
        # Without it, the scaler would refuse the next gradient.
        scaler.update()
        self._process.at(f"{where} done, waiting for a batch")
        return StepResult(figures, norm, skipped=not finite, leave=leave)

    def _accumulate(self, batch: Batch, plan: StepPlan | None) -> tuple[Tensor, Tensor]:
        """Forward and backward in chunks; return the mean loss and the mean figures.

        Both are scaled by the weight of the batch, so that their mean over the processes, and that
        of the gradients, is the mean over all utterances.
        """
        device = self._process.device
        waves = batch.waves.tensor_split(self._chunks)
        labels = batch.labels.tensor_split(self._chunks)
        dtype = _AUTOCAST.get(self._settings.training.precision)
        total = torch.zeros((), device=device)
        figures = torch.zeros(self._task.figures, device=device)
        for index, (wave, label) in enumerate(zip(waves, labels, strict=True)):
            share = batch.weight * len(label) / len(batch.labels)
            with self._no_sync(index < len(waves) - 1):
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    outcome = self._task.compute(self._network, wave, label, plan)
                self._state.scaler.scale(outcome.loss * share).backward()
            total += outcome.loss.detach() * share
            figures += outcome.figures * share
        return total, figures

    def _attempt(self, batch: Batch, chunks: int) -> None:
        """Compute a batch for the sake of the memory that it takes."""
        self._chunks = chunks
        try:
            self._accumulate(batch, None)
        finally:
            self._chunks = self._settings.training.accumulate

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self._state.optimizer.param_groups for p in group["params"]]

    def _no_sync(self, inside: bool) -> contextlib.AbstractContextManager:
        if inside and isinstance(self._network, DistributedDataParallel):
            return self._network.no_sync()
        return contextlib.nullcontext()

    def _clipped(self) -> Tensor:
        """Clip the gradient, if the settings say so, and return the length that it had."""
        limit = self._settings.training.grad_clip
        if limit == 0:
            gradients = [p.grad for p in self._trained if p.grad is not None]
            return whole(nn.utils.get_total_norm(gradients))
        return whole(nn.utils.clip_grad_norm_(self._trained, limit))

    def _is_finite(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Say whether the update may be made.

        Under fp16 the scaler itself leaves out steps whose gradient overflows.
        """
        finite = torch.isfinite(loss)
        return finite if self._state.scaler.is_enabled() else finite & torch.isfinite(norm)

    def _count_bad_step(self, batch: Batch, plan: StepPlan) -> None:
        self._bad_steps += 1
        get_logger().warning(
            "epoch %d step %d: loss or gradient is not finite; step skipped. Utterances: %s",
            plan.epoch + 1,
            plan.step,
            " ".join(batch.keys[:8]),
        )
        if self._bad_steps > self._settings.training.max_bad_steps:
            raise WespError(
                f"{self._bad_steps} steps with a loss or gradient that is not finite; lower the "
                "learning rate, set training.grad_clip, or use precision fp32"
            )

    def _distribute(self, network: nn.Module) -> nn.Module:
        if self._process.world_size == 1:
            return network
        ids = None
        if self._process.device.type == "cuda":
            ids = [self._process.device.index]
            if self._settings.training.sync_batchnorm:
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if self._task.is_sharded:
            self._task.shard(self._process)
            return network
        unused = self._task.has_random_depth
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=unused)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed dropout, LayerDrop and SpecAugment by where they happen, so that a resume repeats them.

    transformers draws its masks from NumPy's global generator.
    """
    state = int(generator(seed, epoch, step, rank).integers(2**32))
    # torch.manual_seed asks every kind of device that there could be.
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(state)
    np.random.seed(state)
