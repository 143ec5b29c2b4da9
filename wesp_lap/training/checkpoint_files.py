"""The files of a checkpoint: their names, whether they are whole, and how a run is restored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.errors import DataError
from wesp_lap.files import atomic_write, read_json, sha256, write_json
from wesp_lap.kaldi.tables import read_table, write_table
from wesp_lap.model import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, SpeakerModel
from wesp_lap.tensors import load_module, load_tensors

CLASSIFIER_FILE = "classifier.safetensors"
SPEAKERS_FILE = "speakers.txt"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


class Content(NamedTuple):
    """What a checkpoint holds beside the state of the optimizer.

    Attributes:
        weights: Tensors by name, of each ``.safetensors`` file.
        others: What writes each other file, given its path.
    """

    weights: Mapping[str, Mapping[str, Tensor]]
    others: Mapping[str, Callable[[Path], None]]


def speaker_content(
    model: SpeakerModel, classifier: nn.Module, speakers: Mapping[str, int]
) -> Content:
    """Return the files of a checkpoint: a SpeakerModel directory and the classifier.

    Args:
        model: The model.
        classifier: Its loss.
        speakers: Class index of each speaker.
    """
    table = {name: str(index) for name, index in speakers.items()}
    return Content(
        weights={WEIGHTS_FILE: model.state_dict(), CLASSIFIER_FILE: classifier.state_dict()},
        others={
            CONFIG_FILE: partial(write_json, value=model.describe()),
            CARD_FILE: partial(_write_text, text=model.model_card()),
            SPEAKERS_FILE: partial(write_table, table=table),
        },
    )


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    try:
        state = read_json(checkpoint / STATE_FILE)
        files, digest = state["files"], state["digest"]
    except (DataError, KeyError, TypeError) as error:
        return f"{checkpoint / STATE_FILE} is damaged ({error})"
    if state_digest(state) != digest:
        return f"{checkpoint / STATE_FILE} does not match its digest"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        if sha256(path) != digest:
            return f"{path} does not match its digest"
    return None


def state_digest(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what ``state.json`` says, without its own ``digest``."""
    content = {key: value for key, value in state.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_speakers(checkpoint: Path) -> dict[str, int]:
    """Return the class index of each speaker that a checkpoint was trained on."""
    return {name: int(index) for name, index in read_table(checkpoint / SPEAKERS_FILE).items()}


def read_extra(checkpoint: Path, name: str) -> dict[str, Tensor] | None:
    """Return tensors that were saved under ``extra``; None when there were none of this name."""
    path = checkpoint / f"{name}.safetensors"
    return load_tensors(path) if path.is_file() else None


def read_validation(checkpoint: Path) -> dict[str, float]:
    """Return the validation results of a checkpoint; nothing when there are none to be read."""
    try:
        return read_json(checkpoint / STATE_FILE)["validation"] or {}
    except (DataError, KeyError, TypeError):
        return {}


def read_notes(checkpoint: Path) -> dict[str, Any]:
    """Return the plain values that were saved under ``notes``."""
    return read_json(checkpoint / STATE_FILE)["notes"]


def restore(
    checkpoint: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer, scaler: GradScaler
) -> None:
    """Load everything a run needs to go on exactly as if it had not stopped.

    Args:
        checkpoint: Its directory.
        modules: By the names of the files of their weights.
        optimizer: Of these modules.
        scaler: Of the loss.
    """
    for name, module in modules.items():
        load_module(module, checkpoint / name)
    _join_optimizer(optimizer, checkpoint)
    scaler.load_state_dict(read_json(checkpoint / STATE_FILE)["scaler"])


def split_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by name and plain values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state["state"].items()
        for key, value in entry.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _join_optimizer(optimizer: Optimizer, checkpoint: Path) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(checkpoint / OPTIMIZER_FILE).items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    plain = read_json(checkpoint / STATE_FILE)["optimizer"]
    try:
        optimizer.load_state_dict({"state": entries, **plain})
    except ValueError as error:
        raise DataError(f"{checkpoint}: its optimizer state does not fit: {error}") from error


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text)
