"""A training run: settings and data are checked, the phase is opened, the loop runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.stream import SampleStream, make_stream
from wesp_lap.files import PathLike, sha256
from wesp_lap.log import get_logger
from wesp_lap.training.classification import SpeakerTask
from wesp_lap.training.distributed import Process, process_group
from wesp_lap.training.ema import open_average
from wesp_lap.training.held_out import VALIDATION_FILE, Split, split_utterances
from wesp_lap.training.interruption import Interruption
from wesp_lap.training.phase import (
    Phase,
    open_phase,
    open_pull,
    start_checkpoint,
    starting_point,
)
from wesp_lap.training.record import FREE_LOOP_SETTINGS, RunRecord
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.trainer import Trainer
from wesp_lap.training.validation import open_validator

# Of the paths, the content counts: it stands in origin.json.
_FREE_SETTINGS = (
    *FREE_LOOP_SETTINGS,
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
    ("training", "keep_best"),
)
_LOCAL_WEIGHTS = ("frontend", "weights")
_WEIGHT_FILES = (".json", ".safetensors", ".bin")


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
    record = RunRecord(folder, settings.training, process, settings.training.keep_best)
    checkpoints, reached = record.checkpoints, record.reached
    utterances = load_utterances(settings.data.shards, settings.data.access)
    before = start_checkpoint(settings).parent.parent if settings.init_from is not None else None
    split = split_utterances(settings.validation, utterances, settings.data.access, before)
    others = {VALIDATION_FILE: split.record}
    local = _local_weights(settings) is not None
    free = (*_FREE_SETTINGS, _LOCAL_WEIGHTS) if local else _FREE_SETTINGS
    record.keep(settings, _origin(settings, utterances, split), free, others)
    if record.is_finished():
        return True
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
    pull = open_pull(settings, phase, folder, process.is_main)
    average = open_average(settings.training.ema_decay, phase, checkpoints)
    task = SpeakerTask(settings, phase, process, pull)
    files = checkpoints, process, folder
    trainer = Trainer(settings, task, stream, *files, interruption, validator, average)
    try:
        return trainer.run()
    finally:
        checkpoints.settle()


def _origin(settings: TrainSettings, utterances: Utterances, split: Split) -> dict[str, str | None]:
    bank = settings.data.noise_bank if settings.data.augment.noise_prob > 0 else None
    # A later phase takes the frontend's weights from the one before it.
    weights = _local_weights(settings) if settings.init_from is None else None
    return {
        "shards": utterances.digest(),
        "noise_bank": NoiseBank(bank).digest() if bank is not None else None,
        "frontend.weights": _digest(weights) if weights is not None else None,
        "init_from": starting_point(settings),
        "validation": split.digest(),
    }


def _local_weights(settings: TrainSettings) -> Path | None:
    """Return the folder of the frontend's weights, None for those of the hub or none."""
    folder = Path(str(settings.frontend.options.get("weights")))
    return folder if folder.is_dir() else None


def _digest(weights: Path) -> str:
    """Return a digest of what a folder of weights holds, wherever it lies."""
    files = sorted(path for path in weights.iterdir() if path.suffix in _WEIGHT_FILES)
    contents = [(path.name, sha256(path)) for path in files]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


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
