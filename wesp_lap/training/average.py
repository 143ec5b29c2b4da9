"""The mean of several checkpoints as one model.

With ``ema`` the checkpoints' moving averages take the place of their weights; see
wesp_lap.training.ema. The published code of LAP has another average, switched off there: 0.1 of the
old and 0.9 of the new weights, over the last epochs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wesp_lap.data.index import load_utterances
from wesp_lap.data.stream import make_stream
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import fit_module
from wesp_lap.training.batch_statistics import estimate_statistics
from wesp_lap.training.checkpoint import CheckpointFolder
from wesp_lap.training.checkpoint_files import damage, read_extra, read_speakers
from wesp_lap.training.ema import EMA
from wesp_lap.training.settings import load_settings


def last_epochs(exp_dir: PathLike, num: int) -> list[Path]:
    """Return the last ``num`` epoch-end checkpoints of a phase, fewer when there are fewer.

    Raises:
        DataError: there is none, or one of them is damaged.
    """
    _check_number(num)
    folders = CheckpointFolder(Path(exp_dir) / "checkpoints").epoch_ends()[-num:]
    if not folders:
        raise DataError(f"{exp_dir}: no epoch has been finished yet")
    return _undamaged(exp_dir, folders)


def best_epochs(exp_dir: PathLike, num: int) -> list[Path]:
    """Return the ``num`` epoch-end checkpoints with the lowest EER in validation, oldest first.

    Raises:
        DataError: fewer are kept that have been validated, or one of them is damaged.
    """
    _check_number(num)
    checkpoints = CheckpointFolder(Path(exp_dir) / "checkpoints")
    moments = checkpoints.best(num)
    if len(moments) < num:
        raise DataError(
            f"{exp_dir}: {len(moments)} of the kept checkpoints have a validation result, {num} "
            "are asked for; train with validation (validation.speakers) and with "
            f"training.keep_best {num} or more, or average the last ones instead"
        )
    return _undamaged(exp_dir, [checkpoints.path(moment) for moment in sorted(moments)])


def _check_number(num: int) -> None:
    if num < 1:
        raise DataError(f"at least 1 checkpoint must be averaged, got {num}")


def _undamaged(exp_dir: PathLike, folders: list[Path]) -> list[Path]:
    broken = [fault for folder in folders if (fault := damage(folder))]
    raise_problems(
        f"{exp_dir}: damaged checkpoints", broken, "Resume training from an earlier one."
    )
    return folders


def average_models(folders: Sequence[Path], ema: bool = False) -> SpeakerModel:
    """Average the weights of SpeakerModel directories of one architecture.

    Floating-point tensors are averaged in float64; counters are taken from the last one. Adapters
    in the frontend are merged into its weights before: the mean of products is not the product of
    means.

    Args:
        folders: The directories.
        ema: Take the moving averages that training has kept, instead of the weights.

    Raises:
        DataError: architectures differ, or there are no moving averages.
    """
    if not folders:
        raise DataError("there is no checkpoint to average")
    parts = []
    for folder in folders:
        model = SpeakerModel.from_pretrained(folder)
        if ema:
            fit_module(model, {**model.state_dict(), **_moving_average(folder)}, str(folder))
        model.merge_lora()
        parts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for part, folder in zip(parts, folders, strict=True):
        fit_module(model, part, str(folder))
    mean = {
        name: torch.stack([part[name].double() for part in parts]).mean(dim=0).to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in parts[-1].items()
    }
    fit_module(model, mean, "average")
    return model


def _moving_average(folder: Path) -> dict[str, Tensor]:
    tensors = read_extra(folder, EMA)
    if tensors is None:
        raise DataError(
            f"{folder}: no moving averages of the weights; train with training.ema_decay"
        )
    return tensors


def renew_statistics(
    model: SpeakerModel, exp_dir: PathLike, shards: PathLike | None, batches: int
) -> int:
    """Estimate the batch norm statistics of a mean of checkpoints on crops as in training.

    The crops are those that the phase would have met in its next epoch, of the speakers that it
    was trained on. Statistics of a frontend that the phase kept fixed stay.

    Args:
        model: The mean; changed in place.
        exp_dir: Experiment directory of the phase; its settings make the crops.
        shards: List of shards, or raw list; None for that of the phase.
        batches: How many batches, at most an epoch.

    Returns:
        How many there were.
    """
    settings = load_settings(Path(exp_dir) / "config.yaml")
    data = settings.data if shards is None else replace(settings.data, shards=str(shards))
    classes = read_speakers(last_epochs(exp_dir, 1)[0])
    utterances = load_utterances(data.shards, data.access)
    known = np.array([name in classes for name in utterances.speakers])[utterances.speaker]
    if not known.any():
        raise DataError(f"{data.shards}: none of its speakers was trained on in {exp_dir}")
    stream = make_stream(utterances.take(np.flatnonzero(known)), classes, data, settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    waves = (
        chunk
        for batch in itertools.islice(stream.epoch(settings.training.epochs, 0, device), batches)
        for chunk in batch.waves.tensor_split(settings.training.accumulate)
    )
    model.to(device)
    parts = model.backend if settings.training.freeze_frontend else model
    estimate_statistics(model, parts, waves)
    model.cpu()
    return min(batches, stream.plan.steps_per_epoch)
