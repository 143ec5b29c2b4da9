"""Settings of self-pre-training, and everything that can be checked before time is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wesp_lap.coerce import Section, from_mapping
from wesp_lap.config import apply_overrides, build, check_section, load_phase
from wesp_lap.data.access import AccessSettings
from wesp_lap.data.settings import StreamSettings
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike
from wesp_lap.pretraining.encoders import ENCODERS
from wesp_lap.pretraining.masking import MaskSettings
from wesp_lap.pretraining.mixing import MixingSettings
from wesp_lap.pretraining.objective import ObjectiveSettings
from wesp_lap.training.lr_schedules import LR_SCHEDULES
from wesp_lap.training.optimizers import OPTIMIZERS
from wesp_lap.training.settings import CommonLoopSettings


@dataclass(frozen=True)
class PretrainDataSettings:
    """How batches of pre-training are made: clean speech, by length.

    Args:
        shards: The list of shards, or raw list, to train on.
        noise_bank: Directory written by make_noise_bank; needed for ``mixing.noise_prob``.
        num_workers: Loader processes per training process; 0 loads in the training process.
        sampling: The section of LengthSampling, see wesp_lap.data.length_sampling.
        access: How shards on slow disks or behind URLs are read; see AccessSettings.
        max_bad: Damaged utterances that each training process may leave out of its batches
            before it stops.
    """

    shards: str
    noise_bank: str | None = None
    num_workers: int = 4
    sampling: Section = field(default_factory=lambda: Section("lengths"))
    access: AccessSettings = field(default_factory=AccessSettings)
    max_bad: int = 0

    def __post_init__(self) -> None:
        if self.num_workers < 0 or self.max_bad < 0:
            raise ValueError("num_workers and max_bad must not be negative")
        if self.sampling.name != "lengths":
            raise ValueError(
                f"sampling: pre-training takes its batches by length, not '{self.sampling.name}'; "
                "give name: lengths"
            )

    @property
    def shortest_seconds(self) -> float:
        """Utterances that are shorter take no part."""
        return float(self.sampling.options.get("shortest_seconds", 2.0))

    @property
    def stream(self) -> StreamSettings:
        """The settings of the sample stream."""
        return StreamSettings(
            shards=self.shards,
            num_workers=self.num_workers,
            sampling=self.sampling,
            access=self.access,
            max_bad=self.max_bad,
        )


@dataclass(frozen=True)
class HeldOutSettings:
    """The utterances that are not trained on, but validated on with masks that stay the same.

    Args:
        share: Their share of the corpus; 0 for none.
        max_utterances: Most of them.
        seed: Seed of their choice, their crops and masks, apart from that of training.
        every: Epochs from one validation to the next. The last epoch always has one.
        at_start: Validate before the first step, too.
    """

    share: float = 0.01
    max_utterances: int = 1000
    seed: int = 0
    every: int = 1
    at_start: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(f"share must lie in [0, 0.5], got {self.share}")
        if self.max_utterances < 1 or self.every < 1:
            raise ValueError("max_utterances and every must be at least 1")


@dataclass(frozen=True)
class PretrainLoopSettings(CommonLoopSettings):
    """How an encoder is pre-trained.

    Args:
        grad_clip: Largest norm of the gradient per predicted frame; 0 switches clipping off.
        grad_mult: Factor on the gradient that enters the convolutions.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
    """

    grad_clip: float = 10.0
    grad_mult: float = 0.1
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.grad_mult <= 1:
            raise ValueError(f"grad_mult must be above 0 and at most 1, got {self.grad_mult}")


@dataclass(frozen=True)
class PretrainSettings:
    """All settings of an iteration of pre-training, as its YAML file holds them.

    Args:
        encoder: What is trained; see wesp_lap.pretraining.encoders.
        labels: Directory written by make_labels.
        optimizer: As in training.
        lr_schedule: As in training.
        data: See PretrainDataSettings.
        head: See ObjectiveSettings.
        masking: See MaskSettings.
        mixing: See MixingSettings; null for clean speech.
        training: See PretrainLoopSettings.
        validation: See HeldOutSettings.
        seed: Seed of everything random in training.
    """

    encoder: Section
    labels: str
    optimizer: Section
    lr_schedule: Section
    data: PretrainDataSettings
    head: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    masking: MaskSettings = field(default_factory=MaskSettings)
    mixing: MixingSettings | None = None
    training: PretrainLoopSettings = field(default_factory=PretrainLoopSettings)
    validation: HeldOutSettings = field(default_factory=HeldOutSettings)
    seed: int = 42

    def check(self) -> None:
        """Check the names and options of all sections."""
        build(ENCODERS, self.encoder, "encoder")
        check_section(OPTIMIZERS, self.optimizer, "optimizer", ("parameters", "lr"))
        check_section(LR_SCHEDULES, self.lr_schedule, "lr_schedule")
        if self.mixing is not None and self.mixing.noise_prob > 0 and self.data.noise_bank is None:
            raise ConfigError(
                "mixing.noise_prob is positive but there is no noise bank: give "
                "--data.noise_bank DIR, or set --mixing.noise_prob 0"
            )


def load_settings(
    path: PathLike, overrides: Mapping[str, str] | None = None, phase: str | None = None
) -> PretrainSettings:
    """Read, inherit, override and check the settings of an iteration.

    Args:
        path: YAML file.
        overrides: "section.key" to text, laid over the file.
        phase: One of the file's ``phases``; None for a file without such a section.
    """
    tree: dict[str, Any] = apply_overrides(load_phase(path, phase), overrides or {})
    settings = from_mapping(PretrainSettings, tree)
    settings.check()
    return settings
