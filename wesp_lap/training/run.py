"""A training run: settings and data are checked, the phase is opened, the loop runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from wesp_lap.config import load_yaml, save_yaml, to_plain
from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.stream import SampleStream, make_stream
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike, dates_digest, read_json, write_json
from wesp_lap.log import get_logger, set_up_logging
from wesp_lap.training.checkpoint import CheckpointFolder
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.phase import Phase, open_phase, starting_point
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.trainer import Trainer

# What may differ between a run and its resumption without changing the result.
# Of the paths, the content counts: it stands in origin.json.
_FREE_SETTINGS = (
    ("data", "num_workers"),
    ("data", "shards"),
    ("data", "noise_bank"),
    ("data", "access"),
    ("data", "max_bad"),
    ("init_from",),
    ("training", "log_every"),
    ("training", "checkpoint_every"),
    ("training", "keep_checkpoints"),
    ("training", "max_bad_steps"),
)


def train(settings: TrainSettings, exp_dir: PathLike) -> None:
    """Train one phase in ``exp_dir``, or go on with it where it stopped.

    Raises:
        WespError: settings, data or an earlier run do not fit; before any training time is spent.
    """
    with process_group() as process:
        _train(settings, Path(exp_dir), process)


def _train(settings: TrainSettings, folder: Path, process: Process) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointFolder(folder / "checkpoints", settings.training.keep_checkpoints)
    reached = checkpoints.newest()
    finished = reached is not None and reached.epoch >= settings.training.epochs
    if not finished:
        set_up_logging(_new_log(folder) if process.is_main else None, process.rank)
    utterances = load_utterances(settings.data.shards, settings.data.access)
    _keep_record(settings, utterances, folder, checkpoints, process)
    if reached is not None and finished:
        get_logger().info("%s: all %d epochs are done", folder, settings.training.epochs)
        if process.is_main:
            checkpoints.finish(reached)
        return
    if reached is not None:
        _compare_processes(folder, process)
    torch.manual_seed(settings.seed)
    phase = open_phase(settings, checkpoints, reached, utterances, process.device)
    stream = make_stream(
        utterances,
        phase.speakers,
        settings.data,
        settings.seed,
        process.rank,
        process.world_size,
    )
    _describe(phase, stream, utterances, process)
    Trainer(settings, phase, stream, checkpoints, process, folder).run()


def _new_log(folder: Path) -> Path:
    """Return a log file that no earlier run has written: train.log, train.2.log, ..."""
    number = 1
    while (path := folder / ("train.log" if number == 1 else f"train.{number}.log")).exists():
        number += 1
    return path


def _keep_record(
    settings: TrainSettings,
    utterances: Utterances,
    folder: Path,
    checkpoints: CheckpointFolder,
    process: Process,
) -> None:
    """Write settings and origin of a new run; one that goes on must have the same.

    The origin is the content of the shards and of the weights that the phase starts from: without
    it, a phase that is done would pass for one trained on data that have changed since.
    """
    plain = to_plain(settings)
    origin = _origin(settings, utterances, process)
    started = bool(checkpoints.moments())
    if started:
        _refuse_other_run(folder, plain, origin)
    process.barrier()
    if process.is_main and not started:
        save_yaml(folder / "config.yaml", plain)
        write_json(folder / "origin.json", origin)
        (folder / "metrics.jsonl").unlink(missing_ok=True)  # of a run that was removed


def _origin(
    settings: TrainSettings, utterances: Utterances, process: Process
) -> dict[str, str | int | None]:
    bank = settings.data.noise_bank if settings.data.augment.noise_prob > 0 else None
    weights = Path(str(settings.frontend.options.get("weights")))
    # A later phase takes the frontend's weights from the one before it.
    local = weights.is_dir() and settings.init_from is None
    return {
        "shards": utterances.digest(),
        "noise_bank": NoiseBank(bank).digest() if bank is not None else None,
        "frontend.weights": dates_digest(sorted(weights.iterdir())) if local else None,
        "init_from": starting_point(settings),
        "processes": process.world_size,
    }


def _refuse_other_run(
    folder: Path, plain: Mapping[str, Any], origin: Mapping[str, str | int | None]
) -> None:
    differences = list(_differences(load_yaml(folder / "config.yaml"), plain))
    before = read_json(folder / "origin.json")
    differences += [
        f"other content of {name}"
        for name in origin
        if name != "processes" and origin[name] != before[name]
    ]
    if differences:
        raise ConfigError(
            f"{folder} was started with other settings or data ({'; '.join(differences)}); give "
            "another --exp_dir, or remove this one to train again"
        )


def _compare_processes(folder: Path, process: Process) -> None:
    before = read_json(folder / "origin.json")["processes"]
    if before != process.world_size:
        get_logger().warning(
            "%s was started on %d processes and goes on with %d: a valid run, but not the one it "
            "would have been (dropout and, on a CPU, batch statistics differ)",
            folder,
            before,
            process.world_size,
        )


def _differences(old: Any, new: Any, where: tuple[str, ...] = ()) -> Iterator[str]:
    if where in _FREE_SETTINGS:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), (*where, key))
    elif old != new:
        yield f"{'.'.join(where)}: {json.dumps(old)} there, {json.dumps(new)} now"


def _describe(phase: Phase, stream: SampleStream, utterances: Utterances, process: Process) -> None:
    parameters = sum(p.numel() for p in phase.model.parameters())
    trained = sum(p.numel() for group in phase.optimizer.param_groups for p in group["params"])
    get_logger().info(
        "%d utterances, %.2f h, %d speakers; %s parameters, %s trained (with the classifier); "
        "%d steps per epoch on %d x %s",
        len(utterances),
        utterances.seconds / 3600,
        len(phase.speakers),
        f"{parameters:,}",
        f"{trained:,}",
        stream.plan.steps_per_epoch,
        process.world_size,
        process.device.type,
    )
