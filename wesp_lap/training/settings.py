"""Settings of a training phase, and everything that can be checked before time is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wesp_lap.coerce import Section, from_mapping
from wesp_lap.config import apply_overrides, check_section, load_phase
from wesp_lap.data.settings import StreamSettings
from wesp_lap.files import PathLike
from wesp_lap.losses import LOSSES
from wesp_lap.losses.margin_schedule import MarginSettings
from wesp_lap.model import ModelSettings
from wesp_lap.training.groups import GroupSettings
from wesp_lap.training.held_out import ValidationSettings
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class CommonLoopSettings:
    """How anything is trained.

    Args:
        epochs: Passes over the data.
        precision: Autocast type; "fp16" only on a GPU.
        grad_clip: Largest norm of the gradient; 0 switches clipping off.
        accumulate: Chunks that a process's share of the batch is computed in.
        sync_batchnorm: Batch statistics over all GPUs (has no effect on CPU).
        log_every: Steps between log lines.
        tensorboard: Write the values of the log lines for TensorBoard, too.
        checkpoint_every: Steps between checkpoints inside an epoch; 0 saves at epoch ends only.
        keep_checkpoints: Epoch-end checkpoints that stay, counted from the newest; averaging can
            use as many.
        max_failed_saves: Checkpoints in a row that cannot be written until training stops.
        max_bad_steps: Steps with a loss that is not finite that are skipped before training stops.
        probe_memory: Try the largest batches before training on a GPU.
        timeout_minutes: How long one process may keep the others waiting before it is named and
            the run ends.
    """

    epochs: int = 10
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    grad_clip: float = 0.0
    accumulate: int = 1
    sync_batchnorm: bool = True
    log_every: int = 100
    tensorboard: bool = False
    checkpoint_every: int = 0
    keep_checkpoints: int = 5
    max_failed_saves: int = 3
    max_bad_steps: int = 10
    probe_memory: bool = True
    timeout_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.timeout_minutes <= 0:
            raise ValueError(f"timeout_minutes must be positive, got {self.timeout_minutes}")
        if self.epochs < 1 or self.accumulate < 1 or self.keep_checkpoints < 1:
            raise ValueError("epochs, accumulate and keep_checkpoints must be at least 1")
        if self.log_every < 1 or self.checkpoint_every < 0 or self.grad_clip < 0:
            raise ValueError("log_every >= 1, checkpoint_every >= 0 and grad_clip >= 0 are needed")
        if self.max_failed_saves < 1:
            raise ValueError(f"max_failed_saves must be at least 1, got {self.max_failed_saves}")


@dataclass(frozen=True)
class LoopSettings(CommonLoopSettings):
    """How one phase is trained on speakers.

    Args:
        freeze_frontend: Keep the frontend's weights, in evaluation mode (phase 1).
        classifier: What happens to the classes of perturbed speeds when a phase starts from an
            earlier one: keep them all, or keep those of the original speed.
        keep_best: Epoch-end checkpoints with the lowest validation EER that stay beside the newest.
        ema_decay: Weight of the old average in a moving average of the model's weights, which is
            kept beside them and which validation uses; 0 for none. See wesp_lap.training.ema.
        compile: Run the model through torch.compile, on a GPU with time for its first minutes.
        sharding: Cut weights, gradients and optimizer state among the processes ("full", FSDP2),
            for models whose training state does not fit into one GPU.
    """

    freeze_frontend: bool = False
    classifier: Literal["keep_3x", "slice_1x"] = "keep_3x"
    keep_best: int = 1
    ema_decay: float = 0.0
    compile: bool = False
    sharding: Literal["none", "full"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_best < 0:
            raise ValueError(f"keep_best must not be negative, got {self.keep_best}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")


@dataclass(frozen=True)
class PullSettings:
    """A pull of the frontend towards the weights that its training began with.

    Args:
        weight: Its share of the loss, relative to the cross-entropy; 0 for none.
    """

    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a phase, as its YAML file holds them.

    ``init_from`` is the experiment directory of the phase before, or one of its checkpoints. Of a
    directory ``init_checkpoint`` takes the last checkpoint, or that with the lowest EER in
    validation.
    """

    frontend: Section
    backend: Section
    loss: Section
    optimizer: Section
    lr_schedule: Section
    data: StreamSettings
    margin: MarginSettings = field(default_factory=MarginSettings)
    training: LoopSettings = field(default_factory=LoopSettings)
    groups: GroupSettings = field(default_factory=GroupSettings)
    pull: PullSettings = field(default_factory=PullSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    seed: int = 42
    init_from: str | None = None
    init_checkpoint: Literal["final", "best"] = "final"

    @property
    def model(self) -> ModelSettings:
        """The sections that the model is built from."""
        return ModelSettings(self.frontend, self.backend)

    def check(self) -> None:
        """Check the names and options of all sections."""
        self.model.check()
        check_section(LOSSES, self.loss, "loss", ("embed_dim", "num_classes"))
        check_section(OPTIMIZERS, self.optimizer, "optimizer", ("parameters", "lr"))
        check_section(LR_SCHEDULES, self.lr_schedule, "lr_schedule")


def load_settings(
    path: PathLike, overrides: Mapping[str, str] | None = None, phase: str | None = None
) -> TrainSettings:
    """Read, inherit, override and check the settings of a phase.

    Args:
        path: YAML file.
        overrides: "section.key" to text, laid over the file.
        phase: One of the file's ``phases``; None for a file without such a section.
    """
    tree: dict[str, Any] = apply_overrides(load_phase(path, phase), overrides or {})
    settings = from_mapping(TrainSettings, tree)
    settings.check()
    return settings
