"""Checkpoints: a directory per moment, written whole, verified when read.

``checkpoints/epoch_003`` is the state after 3 epochs, ``epoch_003_step_00040`` one 40 steps later;
``epoch_000`` is the state before the first step. Each holds a SpeakerModel directory
(config.json, model.safetensors, README.md), ``classifier.safetensors``, ``speakers.txt`` (class
index by speaker), ``optimizer.safetensors`` and, written last, ``state.json`` with the digests.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.errors import DataError, WespError
from wesp_lap.files import PathLike, read_json, sha256, write_json
from wesp_lap.kaldi.tables import read_table, write_table
from wesp_lap.log import get_logger
from wesp_lap.model import SpeakerModel
from wesp_lap.tensors import load_module, load_tensors, save_tensors

_NAME = re.compile(r"epoch_(\d{3,})(?:_step_(\d{5,}))?$")
CLASSIFIER_FILE = "classifier.safetensors"
SPEAKERS_FILE = "speakers.txt"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Moment:
    """How far training is: whole epochs done, and steps into the next one."""

    epoch: int
    step: int = 0

    @property
    def name(self) -> str:
        """Directory name; names sort as moments do."""
        return f"epoch_{self.epoch:03d}" + (f"_step_{self.step:05d}" if self.step else "")


class CheckpointFolder:
    """The checkpoints of one phase.

    Args:
        folder: ``EXP_DIR/checkpoints``.
        keep: Epoch-end checkpoints to keep, beside epoch_000.
    """

    def __init__(self, folder: PathLike, keep: int = 5) -> None:
        self.folder = Path(folder)
        self._keep = keep

    def save(
        self,
        moment: Moment,
        model: SpeakerModel,
        classifier: nn.Module,
        speakers: Mapping[str, int],
        optimizer: Optimizer,
        scaler: GradScaler,
    ) -> Path:
        """Write a checkpoint and remove those that are no longer needed."""
        _refuse_not_finite(model)
        _refuse_not_finite(classifier)
        partial = self.folder / f".{moment.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        save_tensors(partial / CLASSIFIER_FILE, classifier.state_dict())
        write_table(partial / SPEAKERS_FILE, {name: str(i) for name, i in speakers.items()})
        tensors, plain = _split_optimizer(optimizer)
        save_tensors(partial / OPTIMIZER_FILE, tensors)
        digests = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        state = {
            "epoch": moment.epoch,
            "step": moment.step,
            "optimizer": plain,
            "scaler": scaler.state_dict(),
            "files": digests,
        }
        write_json(partial / STATE_FILE, state)
        target = self.folder / moment.name
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        self._prune(moment)
        return target

    def finish(self, moment: Moment) -> None:
        """Point ``EXP_DIR/final`` at the checkpoint of the end of training."""
        link, partial = self.folder.parent / "final", self.folder.parent / ".final.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(self.path(moment).relative_to(self.folder.parent))
        os.replace(partial, link)

    def moments(self) -> list[Moment]:
        """Return the moments that are saved, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / STATE_FILE).is_file():
                found.append(Moment(int(match[1]), int(match[2] or 0)))
        return sorted(found, key=lambda moment: (moment.epoch, moment.step))

    def path(self, moment: Moment) -> Path:
        """Return the directory of a saved moment."""
        return self.folder / moment.name

    def newest(self) -> Moment | None:
        """Return the newest moment whose files are undamaged; warn about any that are not."""
        for moment in reversed(self.moments()):
            problem = damage(self.path(moment))
            if problem is None:
                return moment
            get_logger().warning("%s; falling back to the checkpoint before it", problem)
        return None

    def epoch_ends(self) -> list[Path]:
        """Return the directories of whole epochs, oldest first, without epoch_000."""
        return [self.path(m) for m in self.moments() if m.step == 0 and m.epoch > 0]

    def _prune(self, newest: Moment) -> None:
        ends = [m for m in self.moments() if m.step == 0 and m.epoch > 0]
        inside = [m for m in self.moments() if m.step > 0 and m != newest]
        for moment in ends[: -self._keep] + inside:
            shutil.rmtree(self.path(moment), ignore_errors=True)


def _refuse_not_finite(module: nn.Module) -> None:
    bad = [
        name
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise WespError(
            f"{len(bad)} tensors hold NaN or infinite numbers ({', '.join(bad[:3])}, ...); nothing "
            "was saved. Lower the learning rate or use precision fp32; the same command goes on "
            "from the checkpoint before"
        )


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    try:
        files = read_json(checkpoint / STATE_FILE)["files"]
    except (DataError, KeyError, TypeError) as error:
        return f"{checkpoint / STATE_FILE} is damaged ({error})"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        if sha256(path) != digest:
            return f"{path} does not match its digest"
    return None


def read_speakers(checkpoint: Path) -> dict[str, int]:
    """Return the class index of each speaker that a checkpoint was trained on."""
    return {name: int(index) for name, index in read_table(checkpoint / SPEAKERS_FILE).items()}


def restore(
    checkpoint: Path,
    model: SpeakerModel,
    classifier: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
) -> None:
    """Load everything a run needs to go on exactly as if it had not stopped."""
    load_module(model, checkpoint / "model.safetensors")
    load_module(classifier, checkpoint / CLASSIFIER_FILE)
    _join_optimizer(optimizer, checkpoint)
    scaler.load_state_dict(read_json(checkpoint / STATE_FILE)["scaler"])


def _split_optimizer(optimizer: Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by name and plain values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state["state"].items()
        for key, value in entry.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _join_optimizer(optimizer: Optimizer, checkpoint: Path) -> None:
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in load_tensors(checkpoint / OPTIMIZER_FILE).items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    plain = read_json(checkpoint / STATE_FILE)["optimizer"]
    try:
        optimizer.load_state_dict({"state": entries, **plain})
    except ValueError as error:
        raise DataError(f"{checkpoint}: its optimizer state does not fit: {error}") from error
