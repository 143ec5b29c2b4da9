"""One step of training: forward, backward and update, on one device or one of many processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.data.crops import Batch
from wesp_lap.data.plan import EpochPlan
from wesp_lap.errors import ConfigError, WespError
from wesp_lap.log import get_logger
from wesp_lap.losses.output import LossOutput
from wesp_lap.seeding import generator
from wesp_lap.tensors import whole
from wesp_lap.training import memory, sharding
from wesp_lap.training.distributed import Process
from wesp_lap.training.groups import drop_early_gradients, set_learning_rates
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.phase import Phase
from wesp_lap.training.pull import Pull
from wesp_lap.training.settings import TrainSettings

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepPlan:
    """Where a step lies and what the schedules say about it.

    Args:
        epoch: Whole epochs done before.
        step: Steps done before in this epoch.
        progress: Epochs done before, with the part of the one that runs.
        lr: Learning rate before the factors of the groups.
        margin: Margin of the loss.
        penalty: Inter-TopK penalty of the loss.
    """

    epoch: int
    step: int
    progress: float
    lr: float
    margin: float
    penalty: float


@dataclass(frozen=True)
class StepResult:
    """What a step has shown.

    Args:
        loss: Mean cross-entropy of this process's utterances, scaled by the weight of the batch, so
            that the mean over the processes is the mean over all utterances; a scalar.
        correct: Share of utterances whose speaker has the highest score; scaled likewise.
        norm: Length of the gradient before clipping; a scalar.
        skipped: True when the update was left out because something was not finite.
        leave: True when a signal has asked any of the processes to save and leave.
    """

    loss: Tensor
    correct: Tensor
    norm: Tensor
    skipped: bool
    leave: bool


class TrainingStep(nn.Module):
    """Model and classifier as one module, so that DDP sees one forward call.

    Args:
        model: Waveforms to embeddings.
        classifier: Embeddings and labels to a LossOutput.
        compiled: Run ``model`` through torch.compile. The classifier, whose margin changes from
            step to step, is not; nor is the model where others call it, as validation does.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self._embed = torch.compile(model.forward) if compiled else model

    def forward(self, waves: Tensor, labels: Tensor, margin: float, penalty: float) -> LossOutput:
        """Return the loss of crops (B, S) with class labels (B,)."""
        return self.classifier(self._embed(waves), labels, margin, penalty)


class Engine:
    """Computes steps of a phase, the same update in every process.

    Args:
        settings: Checked settings.
        phase: What is trained; its modules and optimizer are changed in place.
        process: This process among all.
        pull: What draws the frontend back, if anything.
        batches: Sizes of the batches of this process.
        interruption: Says whether this process has been asked to leave.

    Raises:
        ConfigError: the batches are too small for the chunks of ``training.accumulate``.
        OutOfMemoryError: the largest batches do not fit into the memory of the GPU.
    """

    def __init__(
        self,
        settings: TrainSettings,
        phase: Phase,
        process: Process,
        pull: Pull | None,
        batches: EpochPlan,
        interruption: Interruption,
    ) -> None:
        chunks, smallest = settings.training.accumulate, batches.smallest_batch
        if smallest // chunks < 2:
            raise ConfigError(
                f"training.accumulate ({chunks}) must cut the {smallest} utterances that a "
                "process has in the smallest batch into chunks of at least 2, which batch norm "
                "needs; lower it, or raise data.batch_size (data.sampling.max_seconds by length)"
            )
        self._settings = settings
        self._phase = phase
        self._process = process
        self._pull = pull
        self._interruption = interruption
        self._chunks = chunks
        self._bad_steps = 0
        network = TrainingStep(phase.model, phase.classifier, settings.training.compile)
        self._network: nn.Module = network
        if memory.is_wanted(settings, process.device):
            shapes = batches.largest_batches()
            memory.probe(self._attempt, shapes, smallest, settings, phase, process)
        self._is_sharded = settings.training.sharding == "full"
        self._network = self._distribute(network)
        # What a forward pass changes; looking for it in every step would take longer than copying.
        self._statistics = [b for b in self._network.buffers() if b.is_floating_point()]

    @contextlib.contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside, the model may be called by each process as often as it likes, for evaluation."""
        with sharding.whole_weights(self._phase) if self._is_sharded else contextlib.nullcontext():
            yield

    def help_saving(self) -> None:
        """Take part in the saving of a checkpoint in a process that does not write it."""
        if self._is_sharded:
            sharding.take_part(self._phase)

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
            raise memory.shortage(error, batch, self._settings, self._phase, where) from error

    def _step(self, batch: Batch, plan: StepPlan, where: str) -> StepResult:
        optimizer, scaler = self._phase.optimizer, self._phase.scaler
        self._process.at(f"{where}, forward and backward")
        set_learning_rates(optimizer, plan.lr, plan.progress)
        seed_step(self._settings.seed, plan.epoch, plan.step, self._process.rank)
        optimizer.zero_grad(set_to_none=True)
        statistics = [buffer.clone() for buffer in self._statistics]
        loss, correct = self._accumulate(batch, plan.margin, plan.penalty)
        self._process.at(f"{where}, update")
        scaler.unscale_(optimizer)
        if self._pull is not None:
            self._pull.apply(self._process.mean(loss.clone()), self._trained)
        drop_early_gradients(optimizer, plan.progress)
        norm = self._clipped()
        finite, leave = self._process.agree(
            self._is_finite(loss, norm), self._interruption.requested
        )
        if finite:
            scaler.step(optimizer)
            scaler.update()
        else:
            for buffer, before in zip(self._statistics, statistics, strict=True):
                buffer.copy_(before)
            self._count_bad_step(batch, plan)
        self._process.at(f"{where} done, waiting for a batch")
        return StepResult(loss, correct, norm, skipped=not finite, leave=leave)

    def _accumulate(self, batch: Batch, margin: float, penalty: float) -> tuple[Tensor, Tensor]:
        """Forward and backward in chunks; return mean loss and margin-free accuracy.

        Both are scaled by the weight of the batch, so that their mean over the processes, and that
        of the gradients, is the mean over all utterances.
        """
        device = self._process.device
        waves = batch.waves.tensor_split(self._chunks)
        labels = batch.labels.tensor_split(self._chunks)
        dtype = _AUTOCAST.get(self._settings.training.precision)
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for index, (wave, label) in enumerate(zip(waves, labels, strict=True)):
            share = batch.weight * len(label) / len(batch.labels)
            with self._no_sync(index < len(waves) - 1):
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    output = self._network(wave, label, margin, penalty)
                self._phase.scaler.scale(output.loss * share).backward()
            total += output.loss.detach() * share
            hits = output.scores.detach().argmax(dim=1) == label
            correct += share * hits.float().mean()
        return total, correct

    def _attempt(self, batch: Batch, chunks: int) -> None:
        """Compute a batch for the sake of the memory that it takes."""
        self._chunks = chunks
        margin = self._settings.margin.final
        try:
            self._accumulate(batch, margin, self._settings.margin.penalty_for(margin))
        finally:
            self._chunks = self._settings.training.accumulate

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self._phase.optimizer.param_groups for p in group["params"]]

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
        return finite if self._phase.scaler.is_enabled() else finite & torch.isfinite(norm)

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

    def _distribute(self, network: TrainingStep) -> nn.Module:
        if self._is_sharded:
            sharding.check(self._settings, self._phase, self._process)
        if self._process.world_size == 1:
            return network
        ids = None
        if self._process.device.type == "cuda":
            ids = [self._process.device.index]
            if self._settings.training.sync_batchnorm:
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if self._is_sharded:
            sharding.shard(self._phase, self._process)
            return network
        unused = self._phase.model.frontend.has_random_depth
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
