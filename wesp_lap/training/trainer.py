"""The training loop of one phase: one process or many, resumable at every checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wesp_lap.config import build
from wesp_lap.data.crops import Batch
from wesp_lap.data.stream import SampleStream
from wesp_lap.errors import ConfigError, WespError
from wesp_lap.log import get_logger
from wesp_lap.losses.output import LossOutput
from wesp_lap.seeding import generator
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.groups import drop_early_gradients, set_learning_rates
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.meter import Meter
from wesp_lap.training.phase import Phase, open_pull
from wesp_lap.training.settings import TrainSettings

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStep(nn.Module):
    """Model and classifier as one module, so that DDP sees one forward call."""

    def __init__(self, model: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier

    def forward(self, waves: Tensor, labels: Tensor, margin: float, penalty: float) -> LossOutput:
        """Return the loss of crops (B, S) with class labels (B,)."""
        return self.classifier(self.model(waves), labels, margin, penalty)


class Trainer:
    """Runs a phase from the moment it has reached to its end."""

    def __init__(
        self,
        settings: TrainSettings,
        phase: Phase,
        stream: SampleStream,
        checkpoints: CheckpointFolder,
        process: Process,
        exp_dir: Path,
    ) -> None:
        self._settings = settings
        self._phase = phase
        self._stream = stream
        self._checkpoints = checkpoints
        self._process = process
        self._lr_schedule = build(LR_SCHEDULES, settings.lr_schedule, "lr_schedule")
        self._steps_per_epoch = stream.plan.steps_per_epoch
        share = stream.plan.smallest_batch
        chunks = settings.training.accumulate
        if share // chunks < 2:
            raise ConfigError(
                f"training.accumulate ({chunks}) must cut the {share} utterances that a process "
                "has in the smallest batch into chunks of at least 2, which batch norm needs; "
                "lower it, or raise data.batch_size (data.sampling.max_seconds by length)"
            )
        self._total_steps = settings.training.epochs * self._steps_per_epoch
        self._network = self._distribute(TrainingStep(phase.model, phase.classifier))
        self._pull = open_pull(settings, phase, exp_dir, process.is_main)
        self._bad_steps = 0
        self._meter = Meter(exp_dir / "metrics.jsonl", process, settings)

    def run(self) -> None:
        """Train until the last epoch is done, saving as the settings say."""
        settings, moment = self._settings.training, self._phase.moment
        fixed = {name: t.clone() for name, t in self._phase.model.frontend.fixed_state().items()}
        if moment == Moment(0):
            self._save(moment)
        for epoch in range(moment.epoch, settings.epochs):
            first = moment.step if epoch == moment.epoch else 0
            self._network.train()
            batches = self._stream.epoch(epoch, first, self._process.device)
            for step, batch in self._meter.timed(batches, first):
                self._step(epoch, step, batch)
                every = settings.checkpoint_every
                if every and (step + 1) % every == 0 and step + 1 < self._steps_per_epoch:
                    self._save(Moment(epoch, step + 1))
            self._save(Moment(epoch + 1))
        self._check_fixed(fixed)
        if self._process.is_main:
            self._checkpoints.finish(self._phase.moment)

    def _step(self, epoch: int, step: int, batch: Batch) -> None:
        settings = self._settings
        done = epoch * self._steps_per_epoch + step
        margin = settings.margin.margin(done, self._steps_per_epoch)
        penalty = settings.margin.penalty_for(margin)
        lr = self._lr_schedule.lr(done, self._total_steps, self._steps_per_epoch)
        optimizer = self._phase.optimizer
        set_learning_rates(optimizer, lr, done / self._steps_per_epoch)
        seed_step(settings.seed, epoch, step, self._process.rank)
        optimizer.zero_grad(set_to_none=True)
        statistics = [(b, b.clone()) for b in self._network.buffers() if b.is_floating_point()]
        loss, correct = self._accumulate(batch, margin, penalty)
        self._phase.scaler.unscale_(optimizer)
        if self._pull is not None:
            self._pull.apply(self._process.mean(loss.clone()), self._trained)
        drop_early_gradients(optimizer, done / self._steps_per_epoch)
        if self._process.all_true(torch.isfinite(loss) & self._gradient_is_finite()):
            self._phase.scaler.step(optimizer)
            self._phase.scaler.update()
        else:
            for buffer, before in statistics:  # the forward pass has changed them
                buffer.copy_(before)
            self._skip(epoch, step, batch)
        self._meter.add(epoch, step, self._steps_per_epoch, loss, correct, batch, lr, margin)

    def _accumulate(self, batch: Batch, margin: float, penalty: float) -> tuple[Tensor, Tensor]:
        """Forward and backward in chunks; return mean loss and margin-free accuracy.

        Both are scaled by the weight of the batch, so that their mean over the processes, and that
        of the gradients, is the mean over all utterances.
        """
        chunks = self._settings.training.accumulate
        device = self._process.device
        waves = batch.waves.tensor_split(chunks)
        labels = batch.labels.tensor_split(chunks)
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

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self._phase.optimizer.param_groups for p in group["params"]]

    def _no_sync(self, inside: bool) -> contextlib.AbstractContextManager:
        if inside and isinstance(self._network, DistributedDataParallel):
            return self._network.no_sync()
        return contextlib.nullcontext()

    def _gradient_is_finite(self) -> Tensor:
        """Clip the gradient and say whether its norm is finite.

        Under fp16 the scaler itself leaves out steps whose gradient overflows.
        """
        limit = self._settings.training.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self._trained, limit)
        enabled = self._phase.scaler.is_enabled()
        return torch.isfinite(norm) | torch.tensor(enabled, device=norm.device)

    def _skip(self, epoch: int, step: int, batch: Batch) -> None:
        """Leave everything as it was before a step that is not finite; stop when it goes on."""
        self._bad_steps += 1
        get_logger().warning(
            "epoch %d step %d: loss or gradient is not finite; step skipped. Utterances: %s",
            epoch + 1,
            step,
            " ".join(batch.keys[:8]),
        )
        if self._bad_steps > self._settings.training.max_bad_steps:
            raise WespError(
                f"{self._bad_steps} steps with a loss or gradient that is not finite; lower the "
                "learning rate, set training.grad_clip, or use precision fp32"
            )

    def _save(self, moment: Moment) -> None:
        self._phase.moment = moment
        if self._process.is_main:
            phase = self._phase
            self._checkpoints.save(
                moment,
                phase.model,
                phase.classifier,
                phase.speakers,
                phase.optimizer,
                phase.scaler,
            )
        self._process.barrier()

    def _distribute(self, network: TrainingStep) -> nn.Module:
        if self._process.world_size == 1:
            return network
        ids = None
        if self._process.device.type == "cuda":
            ids = [self._process.device.index]
            if self._settings.training.sync_batchnorm:
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        model = self._phase.model
        unused = model.frontend.has_random_depth
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=unused)

    def _check_fixed(self, before: Mapping[str, Tensor]) -> None:
        after = self._phase.model.frontend.fixed_state()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if changed:
            raise WespError(f"what is frozen in the frontend has changed: {', '.join(changed[:5])}")


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed dropout, LayerDrop and SpecAugment by where they happen, so that a resume repeats them.

    transformers draws its masks from NumPy's global generator.
    """
    state = int(generator(seed, epoch, step, rank).integers(2**32))
    torch.manual_seed(state)
    np.random.seed(state)
