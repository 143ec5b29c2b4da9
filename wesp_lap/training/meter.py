"""What a training run tells: log lines for people, records for programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wesp_lap.audio.augment import SAMPLE_RATE
from wesp_lap.data.crops import Batch
from wesp_lap.log import get_logger
from wesp_lap.training.checkpoint import Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.engine import StepResult
from wesp_lap.training.metrics import Metrics, check_tensorboard
from wesp_lap.training.progress import step_bar
from wesp_lap.training.settings import CommonLoopSettings
from wesp_lap.training.task import StepPlan, Task


class Meter:
    """Sums up the steps between two log lines.

    A step costs no synchronisation with a GPU: what it has shown stays there until a line is due,
    after every ``training.log_every`` steps of an epoch, at its end, and before a checkpoint, so
    that a run that goes on from there has no gap in its records.

    Args:
        exp_dir: Experiment directory; see Metrics for what is written there.
        process: Values are averaged over all processes.
        options: Number of epochs, logging interval, TensorBoard.
        task: Says what its figures mean, and computes the MFU where that is known.
        steps_per_epoch: Length of an epoch.
        reached: Where training begins or goes on.
    """

    def __init__(
        self,
        exp_dir: Path,
        process: Process,
        options: CommonLoopSettings,
        task: Task,
        steps_per_epoch: int,
        reached: Moment,
    ) -> None:
        check_tensorboard(options.tensorboard)
        self._process = process
        self._epochs = options.epochs
        self._every = options.log_every
        self._steps_per_epoch = steps_per_epoch
        self._task = task
        self._use = task.utilisation(process.device)
        self._metrics: Metrics | None = None
        if process.is_main:
            self._metrics = Metrics(exp_dir, reached, steps_per_epoch, options.tensorboard)
        if process.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(process.device)
        # Of the task's figures and the gradient's norm, and how many of each were finite.
        self._sums = torch.zeros(2 * (task.figures + 1), device=process.device)
        self._plan: StepPlan | None = None
        self._since = time.monotonic()
        self._paused = 0.0
        self._start: tuple[float, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._sums.zero_()
        self._steps = self._skipped = self._utterances = 0
        self._audio_seconds = self._waited = self._flops = 0.0

    def timed(
        self, batches: Iterator[Batch], epoch: int, first: int
    ) -> Iterator[tuple[int, Batch]]:
        """Number the batches of an epoch from ``first``; measure how long each is waited for."""
        step = first
        title = f"epoch {epoch + 1}/{self._epochs}"
        self._since = time.monotonic()
        with step_bar(title, first, self._steps_per_epoch, self._process.is_main) as done:
            while True:
                start = time.monotonic()
                batch = next(batches, None)
                self._waited += time.monotonic() - start
                if batch is None:
                    return
                yield step, batch
                done()
                step += 1

    def add(self, plan: StepPlan, result: StepResult, batch: Batch) -> None:
        """Take in a step; log when a line is due."""
        values = torch.cat([result.figures, result.norm.to(result.figures.dtype).reshape(1)])
        finite = values.isfinite()
        self._sums += torch.cat([values.where(finite, 0), finite.to(values.dtype)])
        self._plan = plan
        self._steps += 1
        self._skipped += result.skipped
        self._utterances += len(batch.waves)
        self._audio_seconds += batch.waves.numel() / SAMPLE_RATE
        if self._use is not None:
            self._flops += self._use.flops(*batch.waves.shape)
        if (plan.step + 1) % self._every == 0 or plan.step + 1 == self._steps_per_epoch:
            self.flush()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Log the steps so far; what is done inside, such as saving, is no time of training."""
        self.flush()
        start = time.monotonic()
        yield
        self._paused += time.monotonic() - start
        self._since = time.monotonic()

    def flush(self) -> None:
        """Log the steps since the last line, if there are any; all processes must come here."""
        if self._plan is None or self._steps == 0:
            return
        # The numbers of the other processes; of this one, means times world size.
        mine = [self._utterances, self._audio_seconds, self._flops]
        numbers = self._process.mean(torch.cat([self._sums, self._sums.new_tensor(mine)])).tolist()
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        utterances, audio, flops = (self._process.world_size * n for n in numbers[-3:])
        values = self._task.figures + 1
        sums, counts = numbers[:values], numbers[values : 2 * values]
        record = {
            "epoch": self._plan.epoch + 1,
            "step": self._plan.step + 1,
            "steps_per_epoch": self._steps_per_epoch,
            "steps": self._steps,
            "skipped": self._skipped,
            "lr": self._plan.lr,
            **self._task.record(self._plan, sums[:-1], counts[:-1]),
            **means(("grad_norm",), sums[-1:], counts[-1:]),
            "utterances_per_second": round(utterances / seconds, 2),
            "audio_seconds_per_second": round(audio / seconds, 2),
            "data_wait": round(self._waited / seconds, 4),
            "mfu": self._mfu(flops, seconds),
            "memory_gib": self._memory(),
            "seconds": round(seconds, 3),
            "paused_seconds": round(self._paused, 3),
            "seconds_left": self._seconds_left(now, seconds),
        }
        if self._metrics is not None:
            self._metrics.add(record)
            get_logger().info("%s", self._line(record))
        self._forget()
        self._since, self._paused = time.monotonic(), 0.0

    def validated(self, epoch: int, values: Mapping[str, float] | None) -> None:
        """Note what a validation has shown.

        Args:
            epoch: Epochs done.
            values: The results; None when there were none.
        """
        if self._metrics is not None:
            self._metrics.add_validation(epoch, values)

    def _mfu(self, flops: float, seconds: float) -> float | None:
        if self._use is None:
            return None
        return round(self._use.share(flops, seconds, self._process.world_size), 4)

    def _memory(self) -> float | None:
        """Return the most memory that tensors have taken on this process's GPU, in GiB."""
        if self._process.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated(self._process.device) / 2**30, 2)

    def _line(self, record: Mapping[str, Any]) -> str:
        parts = [
            f"epoch {record['epoch']}/{self._epochs} "
            f"step {record['step']}/{record['steps_per_epoch']}",
            f"lr {record['lr']:.2e}",
            *self._task.describe(record),
            f"gradient {number(record['grad_norm'], '.3g')}",
            f"{record['utterances_per_second']:.0f} utt/s",
            f"{record['audio_seconds_per_second']:.0f} s audio/s",
            f"data wait {100 * record['data_wait']:.0f} %",
        ]
        if record["mfu"] is not None:
            parts.append(f"MFU {100 * record['mfu']:.1f} %")
        if record["memory_gib"] is not None:
            parts.append(f"{record['memory_gib']:.1f} GiB")
        if record["skipped"]:
            parts.append(f"{record['skipped']} skipped")
        return " | ".join([*parts, f"{_clock(record['seconds_left'])} left"])

    def _seconds_left(self, now: float, seconds: float) -> float:
        """Estimate the time to the end of the phase, with the pauses that there have been."""
        assert self._plan is not None
        done = self._plan.epoch * self._steps_per_epoch + self._plan.step + 1
        per_step = seconds / self._steps
        if self._start is None:
            self._start = now, done
        elif done > self._start[1]:
            per_step = (now - self._start[0]) / (done - self._start[1])
        return round((self._epochs * self._steps_per_epoch - done) * per_step)


def means(names: Sequence[str], sums: list[float], counts: list[float]) -> dict[str, Any]:
    """Return means by name; None where no step had a finite value."""
    return {
        name: round(total / count, 6) if count else None
        for name, total, count in zip(names, sums, counts, strict=True)
    }


def number(value: float | None, form: str) -> str:
    """Format a value for a log line, a dash where there is none."""
    return "-" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
