"""The training loop: epochs and steps, resumable at every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wesp_lap.config import build
from wesp_lap.data.crops import Batch
from wesp_lap.data.stream import SampleStream
from wesp_lap.errors import WespError
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.ema import EMA, WeightAverage
from wesp_lap.training.engine import Engine
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.meter import Meter
from wesp_lap.training.task import RunSettings, StepPlan, Task


class Validates(Protocol):
    """What validates a run; see wesp_lap.training.validation.Validator."""

    def is_due(self, end: Moment, epochs: int) -> bool:
        """Say whether to validate at the end of an epoch, or at the start, of so many epochs."""

    def __call__(self, model: Any, average: WeightAverage | None = None) -> Any:
        """Return what is found, which has ``as_dict()``, or None."""

    def report(self, result: Any, end: Moment, checkpoints: CheckpointFolder) -> None:
        """Log it."""


class Trainer:
    """Runs a task from the moment it has reached to its end, or until a signal comes.

    Args:
        settings: Checked settings.
        task: What is trained.
        stream: Where batches come from.
        checkpoints: Where they are saved.
        process: This process among all.
        exp_dir: Experiment directory.
        interruption: Says whether this process has been asked to leave.
        validator: What validates, if anything.
        average: A moving average of what is trained, if there is to be one.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        stream: SampleStream,
        checkpoints: CheckpointFolder,
        process: Process,
        exp_dir: Path,
        interruption: Interruption,
        validator: Validates | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self._settings = settings
        self._task = task
        self._state = task.state
        self._stream = stream
        self._checkpoints = checkpoints
        self._process = process
        self._interruption = interruption
        self._validator = validator
        self._average = average
        self._lr_schedule = build(LR_SCHEDULES, settings.lr_schedule, "lr_schedule")
        self._steps_per_epoch = stream.plan.steps_per_epoch
        self._engine = Engine(settings, task, process, stream.plan, interruption)
        options, moment = settings.training, task.state.moment
        self._meter = Meter(exp_dir, process, options, task, self._steps_per_epoch, moment)

    def run(self) -> bool:
        """Train until the last epoch is done, saving as the settings say.

        Returns:
            False when a signal has ended it before; the state is saved.
        """
        moment = self._state.moment
        fixed = {name: t.clone() for name, t in self._task.fixed_state().items()}
        if not self._state.resumed:
            self._save(moment, self._validate(moment))
            if self._process.is_main:
                # The loader forks its processes next, which no thread should be busy in.
                self._checkpoints.wait()
        for epoch in range(moment.epoch, self._settings.training.epochs):
            if not self._run_steps(epoch, moment.step if epoch == moment.epoch else 0):
                return False
            end = Moment(epoch + 1)
            with self._meter.paused():
                self._save(end, self._validate(end))
        self._check_fixed(fixed)
        if self._process.is_main:
            self._checkpoints.finish(self._state.moment)
        return True

    def _run_steps(self, epoch: int, first: int) -> bool:
        """Run the steps of an epoch from number ``first`` to its end.

        Returns:
            False when a signal has come; the state is saved, if it may be the end of the last step.
        """
        every = self._settings.training.checkpoint_every
        batches = self._stream.epoch(epoch, first, self._process.device)
        self._engine.train()
        for step, batch in self._meter.timed(batches, epoch, first):
            leave = self._step(epoch, step, batch)
            due = every and (step + 1) % every == 0 and step + 1 < self._steps_per_epoch
            if due or leave:
                with self._meter.paused():
                    self._save(Moment(epoch, step + 1))
            if leave:
                self._leave()
                return False
            self._checkpoints.check()
        return True

    def _leave(self) -> None:
        """Wait until the last checkpoint is written; no process may end before that."""
        if self._process.is_main:
            written = self._checkpoints.wait()
            newest = self._state.moment if written else self._checkpoints.newest()
            self._interruption.announce(newest.name if newest else "nothing")
        self._process.barrier()

    def _step(self, epoch: int, step: int, batch: Batch) -> bool:
        """Take a step; return True when the run is to leave after it."""
        plan = self._plan(epoch, step)
        result = self._engine.step(batch, plan)
        self._meter.add(plan, result, batch)
        if self._average is not None and not result.skipped:
            self._average.update(epoch * self._steps_per_epoch + step)
        return result.leave

    def _plan(self, epoch: int, step: int) -> StepPlan:
        """Ask the schedules about a step."""
        total = self._settings.training.epochs * self._steps_per_epoch
        done = epoch * self._steps_per_epoch + step
        lr = self._lr_schedule.lr(done, total, self._steps_per_epoch)
        return StepPlan(epoch, step, self._steps_per_epoch, lr)

    def _validate(self, moment: Moment) -> Any:
        """Validate at the end of an epoch if the settings say so; all processes must come here."""
        validator = self._validator
        if validator is None or not validator.is_due(moment, self._settings.training.epochs):
            return None
        self._process.at(f"validation after epoch {moment.epoch}")
        with self._task.whole_weights():
            result = validator(self._task.evaluated, self._average)
        if self._process.is_main:
            validator.report(result, moment, self._checkpoints)
            self._meter.validated(moment.epoch, result.as_dict() if result else None)
        return result

    def _save(self, moment: Moment, validation: Any = None) -> None:
        self._state.moment = moment
        if self._process.is_main:
            self._checkpoints.save(
                moment,
                self._state.content(),
                self._state.optimizer,
                self._state.scaler,
                validation=validation.as_dict() if validation else None,
                extra={EMA: self._average.state()} if self._average is not None else None,
            )
        else:
            self._task.help_saving()

    def _check_fixed(self, before: Mapping[str, Tensor]) -> None:
        after = self._task.fixed_state()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if changed:
            raise WespError(f"what is frozen in the frontend has changed: {', '.join(changed[:5])}")
