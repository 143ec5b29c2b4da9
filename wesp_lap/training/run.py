"""A training run: settings and data are checked, the phase is opened, the loop runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from wesp_lap.coerce import from_mapping
from wesp_lap.config import load_yaml, save_yaml, to_plain
from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.stream import SampleStream, make_stream
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike, dates_digest, read_json, write_json
from wesp_lap.log import get_logger, set_up_logging
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.held_out import VALIDATION_FILE, Split, split_utterances
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.phase import Phase, open_phase, start_checkpoint, starting_point
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.trainer import Trainer
from wesp_lap.training.validation import open_validator

# What may differ between a run and its resumption without changing the result.
# Of the paths, the content counts: it stands in origin.json.
_FREE_SETTINGS = (
    ("data", "num_workers"),
    ("data", "shards"),
    ("data", "noise_bank"),
    ("data", "access"),
    ("data", "max_bad"),
    ("frontend", "gradient_checkpointing"),
    ("init_from",),
    ("init_checkpoint",),
    ("validation", "shards"),
    ("validation", "trials_list"),
    ("training", "log_every"),
    ("training", "tensorboard"),
    ("training", "checkpoint_every"),
    ("training", "keep_checkpoints"),
    ("training", "keep_best"),
    ("training", "max_failed_saves"),
    ("training", "max_bad_steps"),
    ("training", "probe_memory"),
    ("training", "timeout_minutes"),
)


def train(settings: TrainSettings, exp_dir: PathLike) -> bool:
    """Train one phase in ``exp_dir``, or go on with it where it stopped.

    Returns:
        False when a signal has ended the run before the phase was done; its state is saved, and
        the same call goes on from there. See wesp_lap.training.interruption.

    Raises:
        WespError: settings, data or an earlier run do not fit; before any training time is spent.
    """
    minutes = settings.training.timeout_minutes
    with Interruption().watch() as interruption, process_group(minutes) as process:
        return _train(settings, Path(exp_dir), process, interruption)


def _train(
    settings: TrainSettings, folder: Path, process: Process, interruption: Interruption
) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    options = settings.training
    checkpoints = CheckpointFolder(
        folder / "checkpoints",
        options.keep_checkpoints,
        options.keep_best,
        options.max_failed_saves,
    )
    reached = _newest(checkpoints, process)
    finished = reached is not None and reached.epoch >= settings.training.epochs
    if not finished:
        set_up_logging(_new_log(folder) if process.is_main else None, process.rank)
    utterances = load_utterances(settings.data.shards, settings.data.access)
    before = start_checkpoint(settings).parent.parent if settings.init_from is not None else None
    split = split_utterances(settings.validation, utterances, settings.data.access, before)
    _keep_record(settings, utterances, split, folder, checkpoints, process)
    if reached is not None and finished:
        get_logger().info("%s: all %d epochs are done", folder, settings.training.epochs)
        if process.is_main:
            checkpoints.finish(reached)
        return True
    if reached is not None:
        _compare_processes(folder, process)
    torch.manual_seed(settings.seed)
    phase = open_phase(settings, checkpoints, reached, split.training, process.device)
    stream = make_stream(
        split.training,
        phase.speakers,
        settings.data,
        settings.seed,
        process.rank,
        process.world_size,
    )
    _describe(phase, stream, split, process)
    validator = open_validator(settings.validation, split.validation, settings.data.access, process)
    trainer = Trainer(
        settings, phase, stream, checkpoints, process, folder, interruption, validator
    )
    try:
        return trainer.run()
    finally:
        checkpoints.settle()


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


def _keep_record(
    settings: TrainSettings,
    utterances: Utterances,
    split: Split,
    folder: Path,
    checkpoints: CheckpointFolder,
    process: Process,
) -> None:
    """Write settings and origin of a new run; one that goes on must have the same.

    The origin is the content of the shards and of the weights that the phase starts from: without
    it, a phase that is done would pass for one trained on data that have changed since.
    """
    plain = to_plain(settings)
    origin = _origin(settings, utterances, split, process)
    started = bool(checkpoints.moments())
    if started:
        _refuse_other_run(folder, plain, origin)
    process.barrier()
    if process.is_main and not started:
        save_yaml(folder / "config.yaml", plain)
        write_json(folder / "origin.json", origin)
        (folder / VALIDATION_FILE).unlink(missing_ok=True)
        if split.record is not None:
            write_json(folder / VALIDATION_FILE, split.record)
        (folder / "metrics.jsonl").unlink(missing_ok=True)  # of a run that was removed


def _origin(
    settings: TrainSettings, utterances: Utterances, split: Split, process: Process
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
        "validation": split.digest(),
        "processes": process.world_size,
    }


def _refuse_other_run(
    folder: Path, plain: Mapping[str, Any], origin: Mapping[str, str | int | None]
) -> None:
    written = load_yaml(folder / "config.yaml")
    with contextlib.suppress(ConfigError):  # of an earlier version; its own words are compared
        # Settings that have come since then had their defaults.
        written = to_plain(from_mapping(TrainSettings, written))
    differences = list(_differences(written, plain))
    before = read_json(folder / "origin.json")
    differences += [
        f"other content of {name}"
        for name in origin
        if name != "processes" and origin[name] != before.get(name)
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


def _describe(phase: Phase, stream: SampleStream, split: Split, process: Process) -> None:
    parameters = sum(p.numel() for p in phase.model.parameters())
    trained = sum(p.numel() for group in phase.optimizer.param_groups for p in group["params"])
    get_logger().info(
        "%d utterances, %.2f h, %d speakers; %s parameters, %s trained (with the classifier); "
        "%d steps per epoch on %d x %s",
        len(split.training),
        split.training.seconds / 3600,
        len(phase.speakers),
        f"{parameters:,}",
        f"{trained:,}",
        stream.plan.steps_per_epoch,
        process.world_size,
        process.device.type,
    )
