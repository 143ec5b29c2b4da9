"""How batches are made: the section ``data`` of a training phase."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wesp_lap.audio.augment import SAMPLE_RATE, AugmentSettings
from wesp_lap.coerce import Section
from wesp_lap.data.access import AccessSettings


@dataclass(frozen=True)
class StreamSettings:
    """How batches are made.

    Args:
        shards: The list of shards, or raw list, to train on.
        noise_bank: Directory written by make_noise_bank; needed for ``augment.noise_prob``.
        batch_size: Utterances per optimizer step over all processes.
        crop_seconds: Length of a training crop.
        num_workers: Loader processes per training process; 0 loads in the training process.
        sampling: Which utterances an epoch takes; see wesp_lap.data.sampling.
        augment: See AugmentSettings.
        augment_on: Where noise and reverberation are added: in the loader processes, or on the
            device that trains.
        access: How shards on slow disks or behind URLs are read; see AccessSettings.
        max_bad: Damaged utterances that each training process may leave out of its batches
            before it stops.
    """

    shards: str
    noise_bank: str | None = None
    batch_size: int = 512
    crop_seconds: float = 2.0
    num_workers: int = 4
    sampling: Section = field(default_factory=lambda: Section("utterances"))
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    augment_on: Literal["workers", "device"] = "workers"
    access: AccessSettings = field(default_factory=AccessSettings)
    max_bad: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.crop_seconds <= 0 or self.num_workers < 0:
            raise ValueError("batch_size >= 2, crop_seconds > 0 and num_workers >= 0 are needed")

    @property
    def crop_samples(self) -> int:
        """Length of a crop in samples."""
        return round(self.crop_seconds * SAMPLE_RATE)
