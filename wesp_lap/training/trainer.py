"""The training loop of one phase: epochs and steps, resumable at every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wesp_lap.config import build
from wesp_lap.data.crops import Batch
from wesp_lap.data.stream import SampleStream
from wesp_lap.errors import WespError
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.engine import Engine, StepPlan
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.meter import Meter
from wesp_lap.training.phase import Phase, open_pull
from wesp_lap.training.settings import TrainSettings


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
        pull = open_pull(settings, phase, exp_dir, process.is_main)
        self._engine = Engine(settings, phase, process, pull, stream.plan.smallest_batch)
        self._meter = Meter(exp_dir / "metrics.jsonl", process, settings)

    def run(self) -> None:
        """Train until the last epoch is done, saving as the settings say."""
        moment = self._phase.moment
        fixed = {name: t.clone() for name, t in self._phase.model.frontend.fixed_state().items()}
        if moment == Moment(0):
            self._save(moment)
        for epoch in range(moment.epoch, self._settings.training.epochs):
            self._run_steps(epoch, moment.step if epoch == moment.epoch else 0)
            self._save(Moment(epoch + 1))
        self._check_fixed(fixed)
        if self._process.is_main:
            self._checkpoints.finish(self._phase.moment)

    def _run_steps(self, epoch: int, first: int) -> None:
        """Run the steps of an epoch from number ``first`` to its end."""
        every = self._settings.training.checkpoint_every
        batches = self._stream.epoch(epoch, first, self._process.device)
        self._engine.train()
        for step, batch in self._meter.timed(batches, first):
            self._step(epoch, step, batch)
            if every and (step + 1) % every == 0 and step + 1 < self._steps_per_epoch:
                self._save(Moment(epoch, step + 1))

    def _step(self, epoch: int, step: int, batch: Batch) -> None:
        plan = self._plan(epoch, step)
        result = self._engine.step(batch, plan)
        self._meter.add(
            epoch,
            step,
            self._steps_per_epoch,
            result.loss,
            result.correct,
            batch,
            plan.lr,
            plan.margin,
        )

    def _plan(self, epoch: int, step: int) -> StepPlan:
        """Ask the schedules about a step."""
        done = epoch * self._steps_per_epoch + step
        total = self._settings.training.epochs * self._steps_per_epoch
        margin = self._settings.margin.margin(done, self._steps_per_epoch)
        return StepPlan(
            epoch=epoch,
            step=step,
            progress=done / self._steps_per_epoch,
            lr=self._lr_schedule.lr(done, total, self._steps_per_epoch),
            margin=margin,
            penalty=self._settings.margin.penalty_for(margin),
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

    def _check_fixed(self, before: Mapping[str, Tensor]) -> None:
        after = self._phase.model.frontend.fixed_state()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if changed:
            raise WespError(f"what is frozen in the frontend has changed: {', '.join(changed[:5])}")
