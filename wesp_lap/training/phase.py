"""Where a phase starts from: fresh weights, an earlier phase, or its own newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.audio.augment import SPEED_FACTORS
from wesp_lap.coerce import Section
from wesp_lap.config import build, to_plain
from wesp_lap.data.index import Utterances
from wesp_lap.data.stream import speaker_classes
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import read_json
from wesp_lap.log import get_logger
from wesp_lap.losses import LOSSES
from wesp_lap.model import WEIGHTS_FILE, ModelSettings, SpeakerModel
from wesp_lap.tensors import fit_module, load_tensors
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import (
    CLASSIFIER_FILE,
    STATE_FILE,
    Content,
    read_speakers,
    restore,
    speaker_content,
)
from wesp_lap.training.groups import parameter_groups, warn_of_untrained
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.pull import Pull, begin_pull, resume_pull
from wesp_lap.training.settings import TrainSettings

# Parts of the names of a configuration's keys that do not change what trained weights compute.
_TRAINING_ONLY = ("drop", "mask_", "spec_augment", "init", "ctc_", "token_id", "vocab_size")


@dataclass
class Phase:
    """Everything that training changes, and the moment it has reached."""

    model: SpeakerModel
    classifier: nn.Module
    speakers: dict[str, int]
    optimizer: Optimizer
    scaler: GradScaler
    moment: Moment
    resumed: bool = False

    @property
    def modules(self) -> Sequence[nn.Module]:
        """What is trained."""
        return self.model, self.classifier

    def content(self) -> Content:
        """Return what a checkpoint holds."""
        return speaker_content(self.model, self.classifier, self.speakers)


def open_phase(
    settings: TrainSettings,
    checkpoints: CheckpointFolder,
    reached: Moment | None,
    utterances: Utterances,
    device: torch.device,
) -> Phase:
    """Build or restore a phase.

    Args:
        settings: Checked settings.
        checkpoints: Where this phase keeps its own.
        reached: The checkpoint to resume, if there is one.
        utterances: Training data; its speakers must be in the map of the start, if there is one.
        device: Where model, classifier and optimizer state go.
    """
    enabled = settings.training.precision == "fp16"
    if enabled and device.type == "cpu":
        raise ConfigError(
            "training.precision: fp16 on a CPU is many times slower than fp32; use bf16 or fp32"
        )
    scaler = GradScaler(device.type, enabled=enabled)
    if reached is not None:
        return _resume(settings, checkpoints, reached, scaler, device)
    if settings.init_from is not None:
        return _follow(settings, start_checkpoint(settings), scaler, device)
    speakers = speaker_classes(utterances)
    copies = len(SPEED_FACTORS) if settings.data.augment.speed_perturb else 1
    model = SpeakerModel(settings.model)
    classifier = _classifier(settings, model, copies * len(speakers))
    optimizer = _optimizer(settings, model, classifier, device)
    return Phase(model, classifier, speakers, optimizer, scaler, Moment(0))


def open_pull(settings: TrainSettings, phase: Phase, exp_dir: Path, writes: bool) -> Pull | None:
    """Return what pulls the frontend back, if the settings say so; see wesp_lap.training.pull.

    Args:
        settings: Checked settings.
        phase: Where training is: at the first step, theta_0 is written into ``exp_dir``.
        exp_dir: Experiment directory.
        writes: True in the one process that writes files.
    """
    weight, frontend = settings.pull.weight, phase.model.frontend
    if phase.moment != Moment(0):
        return resume_pull(weight, frontend, exp_dir)
    before = None
    if settings.init_from is not None:
        before = start_checkpoint(settings).parent.parent
    return begin_pull(weight, frontend, exp_dir, before, writes)


def starting_point(settings: TrainSettings) -> str | None:
    """Return the digest of the weights that ``init_from`` names; None for a fresh start."""
    if settings.init_from is None:
        return None
    state = read_json(start_checkpoint(settings) / STATE_FILE)
    return state["files"][WEIGHTS_FILE]


def start_checkpoint(settings: TrainSettings) -> Path:
    """Return the checkpoint that ``init_from`` and ``init_checkpoint`` name.

    Raises:
        DataError: there is none.
    """
    assert settings.init_from is not None
    path = Path(settings.init_from)
    if (path / "checkpoints").is_dir() and settings.init_checkpoint == "best":
        if (path / "best").exists():
            return (path / "best").resolve()
        raise DataError(
            f"init_checkpoint: {path} has no best checkpoint, since it was trained without "
            "validation; set validation in that phase, or init_checkpoint final"
        )
    if (path / "final").exists():
        return (path / "final").resolve()
    if (path / "checkpoints").is_dir():
        folder = CheckpointFolder(path / "checkpoints")
        moment = folder.newest()
        if moment is not None:
            get_logger().warning("%s is not finished; taking %s", path, moment.name)
            return folder.path(moment)
    if (path / CLASSIFIER_FILE).is_file():
        return path
    raise DataError(f"init_from {path}: neither an experiment directory nor a checkpoint")


def _resume(
    settings: TrainSettings,
    checkpoints: CheckpointFolder,
    moment: Moment,
    scaler: GradScaler,
    device: torch.device,
) -> Phase:
    source = checkpoints.path(moment)
    get_logger().info("resuming from %s", source)
    model = _saved_model(settings, source)
    classifier = _classifier(settings, model, _classes_of(source))
    optimizer = _optimizer(settings, model, classifier, device)
    modules = {WEIGHTS_FILE: model, CLASSIFIER_FILE: classifier}
    restore(source, modules, optimizer, scaler)
    return Phase(model, classifier, read_speakers(source), optimizer, scaler, moment, True)


def _follow(
    settings: TrainSettings, source: Path, scaler: GradScaler, device: torch.device
) -> Phase:
    """Start a phase from the end of an earlier one, with a fresh optimizer."""
    get_logger().info("starting from %s", source)
    model = _saved_model(settings, source)
    speakers = read_speakers(source)
    tensors = load_tensors(source / CLASSIFIER_FILE)
    if settings.training.classifier == "slice_1x":
        tensors = {name: _first_classes(t, len(speakers)) for name, t in tensors.items()}
    classes = tensors["weight"].shape[-1]
    if settings.data.augment.speed_perturb and classes < len(SPEED_FACTORS) * len(speakers):
        raise ConfigError(
            f"data.augment.speed_perturb: the classifier of {source} has {classes} classes for "
            f"{len(speakers)} speakers, none for perturbed speeds; switch it off in this phase"
        )
    classifier = _classifier(settings, model, classes)
    fit_module(classifier, tensors, str(source / CLASSIFIER_FILE))
    optimizer = _optimizer(settings, model, classifier, device)
    return Phase(model, classifier, speakers, optimizer, scaler, Moment(0))


def _saved_model(settings: TrainSettings, source: Path) -> SpeakerModel:
    """Load the model of a checkpoint into one of this phase's settings, which must agree."""
    saved = SpeakerModel.from_pretrained(source)
    if saved.backend_section != settings.backend:
        raise ConfigError(
            f"backend: these settings say {settings.backend.as_mapping()}, but {source} was "
            f"trained with {saved.backend_section.as_mapping()}"
        )
    given = settings.frontend.options
    frontend = settings.frontend
    if given.get("weights") is not None:
        # The weights come from the checkpoint; the options for training from this phase's settings.
        kept = {name: v for name, v in saved.frontend.options().items() if name != "lora"}
        changes = {name: v for name, v in given.items() if name not in ("weights", "config")}
        frontend = Section(settings.frontend.name, {**kept, **changes})
    model = SpeakerModel(ModelSettings(frontend, settings.backend))
    _agree_on_adapters(model, saved, source)
    _agree_on_features(model, saved, source)
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    theirs = {name: tuple(t.shape) for name, t in saved.state_dict().items()}
    if ours != theirs:
        raise ConfigError(f"frontend: these settings build another model than {source} holds")
    model.load_state_dict(saved.state_dict())
    return model


def _agree_on_features(model: SpeakerModel, saved: SpeakerModel, source: Path) -> None:
    """Refuse options that change what the weights compute, such as the window of a filterbank."""
    ours, theirs = _features(model), _features(saved)
    faults = [
        f"frontend.{name}: {ours.get(name)} here, {theirs.get(name)} in {source}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if faults:
        raise ConfigError("; ".join(faults))


def _features(model: SpeakerModel) -> dict[str, Any]:
    """Return the frontend's options by dotted name, without those that act in training only."""
    options = to_plain(model.frontend.options())
    config = options.pop("config", {})
    options.pop("lora", None)
    return options | {
        f"config.{name}": value
        for name, value in config.items()
        if not any(part in name for part in _TRAINING_ONLY)
    }


def _agree_on_adapters(model: SpeakerModel, saved: SpeakerModel, source: Path) -> None:
    """Merge adapters that the phase before has trained, or add those that this one wants."""
    frontend: Any = saved.frontend
    wanted, trained = getattr(model.frontend, "lora", None), getattr(frontend, "lora", None)
    if wanted is None and trained is None:
        return
    if wanted is None:
        get_logger().info("adapters of %s are merged into its weights", source)
        saved.merge_lora()
    elif trained is None:
        frontend.add_lora(wanted)
    elif replace(wanted, dropout=trained.dropout) != trained:
        raise ConfigError(
            f"frontend.lora: these settings say {to_plain(wanted)}, but {source} was trained with "
            f"{to_plain(trained)}; without lora they are merged into the weights"
        )


def _classes_of(source: Path) -> int:
    return int(load_tensors(source / CLASSIFIER_FILE)["weight"].shape[-1])


def _first_classes(tensor: Tensor, classes: int) -> Tensor:
    return tensor[..., :classes]


def _classifier(settings: TrainSettings, model: SpeakerModel, classes: int) -> nn.Module:
    return build(LOSSES, settings.loss, "loss", embed_dim=model.embed_dim, num_classes=classes)


def _optimizer(
    settings: TrainSettings, model: SpeakerModel, classifier: nn.Module, device: torch.device
) -> Optimizer:
    """Make the optimizer over the parameter groups of the settings.

    Moves both modules to ``device`` first: an optimizer's restored state goes where they are.
    """
    model.to(device)
    classifier.to(device)
    model.frontend.freeze(settings.training.freeze_frontend)
    groups = parameter_groups(settings.groups, model, classifier)
    optimizer = build(OPTIMIZERS, settings.optimizer, "optimizer", parameters=groups, lr=0.0)
    warn_of_untrained(optimizer, settings.training.epochs)
    return optimizer
