"""``metrics.jsonl``: what training has shown, for programs; the same values for TensorBoard.

A line is one JSON object: of the steps since the line before (see Meter), or of a validation,
``{"epoch": whole epochs done, "validation": {...}}``. A number that is not finite is null.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wesp_lap.errors import ConfigError
from wesp_lap.files import atomic_write
from wesp_lap.training.checkpoint import Moment

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
# Keys that say where a record lies, or follow from others.
_NO_SCALARS = ("epoch", "step", "steps_per_epoch", "steps", "seconds_left")


class Metrics:
    """Appends records; those behind the moment that a run resumes at are removed first.

    Args:
        folder: Experiment directory.
        reached: Where training goes on. At Moment(0) it starts anew, and so do the records.
        steps_per_epoch: Length of an epoch.
        tensorboard: Write the scalars to ``folder/tensorboard``, too.
    """

    def __init__(
        self, folder: Path, reached: Moment, steps_per_epoch: int, tensorboard: bool = False
    ) -> None:
        self._path = folder / METRICS_FILE
        self._steps_per_epoch = steps_per_epoch
        _rewind(self._path, reached)
        self._board: Any = None
        if tensorboard:
            done = reached.epoch * steps_per_epoch + reached.step
            self._board = _open_board(folder / TENSORBOARD_FOLDER, done)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append the record of some steps."""
        self._write(record)
        step = (record["epoch"] - 1) * self._steps_per_epoch + record["step"]
        names = [name for name in record if name not in _NO_SCALARS]
        self._show({f"train/{name}": record[name] for name in names}, step)

    def add_validation(self, epoch: int, values: Mapping[str, float] | None) -> None:
        """Append the results of a validation after ``epoch`` epochs; None if there were none."""
        self._write({"epoch": epoch, "validation": values})
        scalars = {f"validation/{name}": value for name, value in (values or {}).items()}
        self._show(scalars, epoch * self._steps_per_epoch)

    def _write(self, record: Mapping[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def _show(self, scalars: Mapping[str, float | None], step: int) -> None:
        if self._board is None:
            return
        for name, value in scalars.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        self._board.flush()


def check_tensorboard(wanted: bool) -> None:
    """Refuse ``training.tensorboard`` where the package is missing."""
    if wanted and find_spec("tensorboard") is None:
        raise ConfigError(
            "training.tensorboard needs the tensorboard package: "
            "pip install 'wesp_lap[tensorboard]'"
        )


def _open_board(folder: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    if done == 0:
        shutil.rmtree(folder, ignore_errors=True)
        return SummaryWriter(folder)
    # TensorBoard forgets what an earlier run has written from this step on.
    return SummaryWriter(folder, purge_step=done + 1)


def _rewind(path: Path, reached: Moment) -> None:
    """Remove the records of steps that will be repeated, and what a killed run left of a line."""
    if not path.is_file():
        return
    content = path.read_text(encoding="utf-8")
    kept = "".join(f"{line}\n" for line in _lines_until(content, reached))
    if kept != content:
        with atomic_write(path) as stream:
            stream.write(kept)


def _lines_until(content: str, reached: Moment) -> Iterator[str]:
    # What follows the last end of a line is a piece of a record.
    for line in content.split("\n")[:-1]:
        try:
            record = json.loads(line)
            epoch = int(record["epoch"])
            # A record of steps counts the epoch that runs, one of a validation those done.
            at = (epoch, 0) if "validation" in record else (epoch - 1, int(record["step"]))
        except (ValueError, KeyError, TypeError):
            continue
        if reached != Moment(0) and at <= (reached.epoch, reached.step):
            yield line


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
