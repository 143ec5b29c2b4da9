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
from wesp_lap.training.ema import EMA, open_average
from wesp_lap.training.engine import Engine, StepPlan
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.meter import Meter
from wesp_lap.training.mfu import open_utilisation
from wesp_lap.training.phase import Phase, open_pull
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.validation import Validation, Validator


class Trainer:
    """Runs a phase from the moment it has reached to its end, or until a signal comes."""

    def __init__(
        self,
        settings: TrainSettings,
        phase: Phase,
        stream: SampleStream,
        checkpoints: CheckpointFolder,
        process: Process,
        exp_dir: Path,
        interruption: Interruption,
        validator: Validator | None = None,
    ) -> None:
        self._settings = settings
        self._phase = phase
        self._stream = stream
        self._checkpoints = checkpoints
        self._process = process
        self._interruption = interruption
        self._validator = validator
        self._lr_schedule = build(LR_SCHEDULES, settings.lr_schedule, "lr_schedule")
        self._steps_per_epoch = stream.plan.steps_per_epoch
        pull = open_pull(settings, phase, exp_dir, process.is_main)
        self._engine = Engine(settings, phase, process, pull, stream.plan, interruption)
        self._average = open_average(settings.training.ema_decay, phase, checkpoints)
        use = open_utilisation(
            phase.model,
            phase.classifier,
            process.device,
            settings.training.precision,
            settings.data.crop_samples,
        )
        self._meter = Meter(exp_dir, process, settings, self._steps_per_epoch, phase.moment, use)

    def run(self) -> bool:
        """Train until the last epoch is done, saving as the settings say.

        Returns:
            False when a signal has ended it before; the state is saved.
        """
        moment = self._phase.moment
        fixed = {name: t.clone() for name, t in self._phase.model.frontend.fixed_state().items()}
        if not self._phase.resumed:
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
            self._checkpoints.finish(self._phase.moment)
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
            newest = self._phase.moment if written else self._checkpoints.newest()
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

    def _validate(self, moment: Moment) -> Validation | None:
        """Validate at the end of an epoch if the settings say so; all processes must come here."""
        validator = self._validator
        if validator is None or not validator.is_due(moment, self._settings.training.epochs):
            return None
        self._process.at(f"validation after epoch {moment.epoch}")
        with self._engine.whole_weights():
            result = validator(self._phase.model, self._average)
        if self._process.is_main:
            validator.report(result, moment, self._checkpoints)
            self._meter.validated(moment.epoch, result.as_dict() if result else None)
        return result

    def _save(self, moment: Moment, validation: Validation | None = None) -> None:
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
                validation=validation.as_dict() if validation else None,
                extra={EMA: self._average.state()} if self._average is not None else None,
            )
        else:
            self._engine.help_saving()

    def _check_fixed(self, before: Mapping[str, Tensor]) -> None:
        after = self._phase.model.frontend.fixed_state()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        if changed:
            raise WespError(f"what is frozen in the frontend has changed: {', '.join(changed[:5])}")
