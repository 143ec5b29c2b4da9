"""What a training run tells: log lines for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from wesp_lap.audio.augment import SAMPLE_RATE
from wesp_lap.data.crops import Batch
from wesp_lap.log import get_logger
from wesp_lap.training.distributed import Process
from wesp_lap.training.settings import TrainSettings


class Meter:
    """Sums up the steps between two log lines.

    Args:
        path: ``metrics.jsonl``; lines are appended, one per log line.
        process: Values are averaged over all processes.
        settings: Number of epochs and logging interval.
    """

    def __init__(self, path: Path, process: Process, settings: TrainSettings) -> None:
        self._path = path
        self._process = process
        self._settings = settings
        self._sums = torch.zeros(2, device=process.device)
        self._steps = 0
        self._utterances = 0
        self._audio_seconds = 0.0
        self._waited = 0.0
        self._since = time.monotonic()
        if process.is_main:
            _drop_partial_line(path)

    def timed(self, batches: Iterator[Batch], first: int) -> Iterator[tuple[int, Batch]]:
        """Number the batches from ``first`` and measure how long each one is waited for."""
        step = first
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - start
            if batch is None:
                return
            yield step, batch
            step += 1

    def add(
        self,
        epoch: int,
        step: int,
        steps_per_epoch: int,
        loss: Tensor,
        accuracy: Tensor,
        batch: Batch,
        lr: float,
        margin: float,
    ) -> None:
        """Take in a step; log when the interval is full or the epoch ends."""
        self._sums += torch.stack([loss, accuracy])
        self._steps += 1
        self._utterances += len(batch.waves)
        self._audio_seconds += batch.waves.numel() / SAMPLE_RATE
        last = step + 1 == steps_per_epoch
        if self._steps < self._settings.training.log_every and not last:
            return
        seen = self._sums.new_tensor([self._utterances, self._audio_seconds])
        means = self._process.mean(torch.cat([self._sums, seen]))
        loss_mean, accuracy_mean = (means[:2] / self._steps).tolist()
        utterances, audio_seconds = (means[2:] * self._process.world_size).tolist()
        seconds = time.monotonic() - self._since
        record = {
            "epoch": epoch + 1,
            "step": step + 1,
            "steps_per_epoch": steps_per_epoch,
            "lr": lr,
            "margin": round(margin, 6),
            "loss": round(loss_mean, 6),
            "accuracy": round(accuracy_mean, 6),
            "utterances_per_second": round(utterances / seconds, 2),
            "audio_seconds_per_second": round(audio_seconds / seconds, 2),
            "data_wait": round(self._waited / seconds, 4),
            "seconds": round(seconds, 3),
        }
        if self._process.is_main:
            self._write(record)
        self._sums.zero_()
        self._steps, self._utterances, self._audio_seconds = 0, 0, 0.0
        self._waited, self._since = 0.0, time.monotonic()

    def _write(self, record: dict) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        get_logger().info(
            "epoch %d/%d step %d/%d | lr %.2e | margin %.3f | loss %.3f | accuracy %.1f %% | "
            "%.0f utt/s | %.0f s audio/s | data wait %.0f %%",
            record["epoch"],
            self._settings.training.epochs,
            record["step"],
            record["steps_per_epoch"],
            record["lr"],
            record["margin"],
            record["loss"],
            100 * record["accuracy"],
            record["utterances_per_second"],
            record["audio_seconds_per_second"],
            100 * record["data_wait"],
        )


def _drop_partial_line(path: Path) -> None:
    """Remove what a killed run left of a line, so that the next one does not run into it."""
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
