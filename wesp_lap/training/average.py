"""The mean of several checkpoints as one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import fit_module
from wesp_lap.training.checkpoint import CheckpointFolder, damage


def last_epochs(exp_dir: PathLike, num: int) -> list[Path]:
    """Return the last ``num`` epoch-end checkpoints of a phase, fewer when there are fewer.

    Raises:
        DataError: there is none, or one of them is damaged.
    """
    if num < 1:
        raise DataError(f"at least 1 checkpoint must be averaged, got {num}")
    folders = CheckpointFolder(Path(exp_dir) / "checkpoints").epoch_ends()[-num:]
    broken = [fault for folder in folders if (fault := damage(folder))]
    raise_problems(
        f"{exp_dir}: damaged checkpoints", broken, "Resume training from an earlier one."
    )
    if not folders:
        raise DataError(f"{exp_dir}: no epoch has been finished yet")
    return folders


def average_models(folders: Sequence[Path]) -> SpeakerModel:
    """Average the weights of SpeakerModel directories of one architecture.

    Floating-point tensors are averaged in float64; counters are taken from the last one. Adapters
    in the frontend are merged into its weights before: the mean of products is not the product of
    means.
    """
    if not folders:
        raise DataError("there is no checkpoint to average")
    parts = []
    for folder in folders:
        model = SpeakerModel.from_pretrained(folder)
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
