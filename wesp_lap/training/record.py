"""What a run leaves about itself in its directory, and what it finds there when it goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from wesp_lap.coerce import from_mapping
from wesp_lap.config import load_yaml, save_yaml, to_plain
from wesp_lap.errors import ConfigError
from wesp_lap.files import read_json, write_json
from wesp_lap.log import get_logger, set_up_logging
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.metrics import METRICS_FILE
from wesp_lap.training.settings import CommonLoopSettings

Names = tuple[str, ...]
# What may differ between a run and its resumption without changing the result.
FREE_LOOP_SETTINGS: tuple[Names, ...] = (
    ("training", "log_every"),
    ("training", "tensorboard"),
    ("training", "checkpoint_every"),
    ("training", "keep_checkpoints"),
    ("training", "max_failed_saves"),
    ("training", "max_bad_steps"),
    ("training", "probe_memory"),
    ("training", "timeout_minutes"),
)


class RunRecord:
    """The directory of a run: its log, its checkpoints, its settings and where it comes from.

    Args:
        folder: Experiment directory; made if need be.
        options: How checkpoints are kept, and when the run is finished.
        process: All processes must come here.
        keep_best: See CheckpointFolder.
    """

    def __init__(
        self, folder: Path, options: CommonLoopSettings, process: Process, keep_best: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._process = process
        self._epochs = options.epochs
        self.checkpoints = CheckpointFolder(
            folder / "checkpoints", options.keep_checkpoints, keep_best, options.max_failed_saves
        )
        self.reached = _newest(self.checkpoints, process)
        if not self._all_done():
            set_up_logging(_new_log(folder) if process.is_main else None, process.rank)

    def keep(
        self,
        settings: Any,
        origin: Mapping[str, str | None],
        free: Collection[Names],
        others: Mapping[str, Any],
    ) -> None:
        """Write settings and origin of a new run; one that goes on must have the same.

        The origin is the content of the data and of the weights that the run starts from: without
        it, a run that is done would pass for one on data that have changed since.

        Args:
            settings: A dataclass.
            origin: Digests by name.
            free: Settings that may differ.
            others: JSON files by name; those without content are removed.

        Raises:
            ConfigError: the directory holds another run; all differences are named.
        """
        folder, process = self._folder, self._process
        started = bool(self.checkpoints.moments())
        if started:
            _refuse_other_run(folder, settings, origin, free)
        process.barrier()
        if process.is_main and not started:
            save_yaml(folder / "config.yaml", to_plain(settings))
            write_json(folder / "origin.json", {**origin, "processes": process.world_size})
            for name, content in others.items():
                (folder / name).unlink(missing_ok=True)
                if content is not None:
                    write_json(folder / name, content)
            (folder / METRICS_FILE).unlink(missing_ok=True)  # of a run that was removed
        if started and not self._all_done():
            self._compare_processes()

    def is_finished(self) -> bool:
        """Say whether all epochs are done; if so, have ``final`` point at the last checkpoint."""
        if not self._all_done():
            return False
        assert self.reached is not None
        get_logger().info("%s: all %d epochs are done", self._folder, self._epochs)
        if self._process.is_main:
            self.checkpoints.finish(self.reached)
        return True

    def _all_done(self) -> bool:
        return self.reached is not None and self.reached.epoch >= self._epochs

    def _compare_processes(self) -> None:
        before, now = read_json(self._folder / "origin.json")["processes"], self._process.world_size
        if before != now:
            get_logger().warning(
                "%s was started on %d processes and goes on with %d: a valid run, but not the one "
                "it would have been (dropout and, on a CPU, batch statistics differ)",
                self._folder,
                before,
                now,
            )


def _newest(checkpoints: CheckpointFolder, process: Process) -> Moment | None:
    """Return the moment to go on from: that which the first process finds, in all of them."""
    moment = checkpoints.newest() if process.is_main else None
    numbers = [moment.epoch, moment.step] if moment is not None else [-1, -1]
    epoch, step = process.broadcast(torch.tensor(numbers, device=process.device)).tolist()
    return Moment(epoch, step) if epoch >= 0 else None


def _new_log(folder: Path) -> Path:
    """Return a log file that no earlier run has written: train.log, train.2.log, ..."""
    number = 1
    while (path := folder / ("train.log" if number == 1 else f"train.{number}.log")).exists():
        number += 1
    return path


def _refuse_other_run(
    folder: Path, settings: Any, origin: Mapping[str, str | None], free: Collection[Names]
) -> None:
    written = load_yaml(folder / "config.yaml")
    with contextlib.suppress(ConfigError):  # of an earlier version; its own words are compared
        # Settings that have come since then had their defaults.
        written = to_plain(from_mapping(type(settings), written))
    differences = list(_differences(written, to_plain(settings), free))
    before = read_json(folder / "origin.json")
    differences += [
        f"other content of {name}" for name in origin if origin[name] != before.get(name)
    ]
    if differences:
        raise ConfigError(
            f"{folder} was started with other settings or data ({'; '.join(differences)}); give "
            "another --exp_dir, or remove this one to train again"
        )


def _differences(old: Any, new: Any, free: Collection[Names], where: Names = ()) -> Iterator[str]:
    if where in free:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), free, (*where, key))
    elif old != new:
        yield f"{'.'.join(where)}: {json.dumps(old)} there, {json.dumps(new)} now"
