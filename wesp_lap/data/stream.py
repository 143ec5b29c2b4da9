"""The sample stream: training crops with labels, the same for any number of workers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wesp_lap.audio.augment import (
    SAMPLE_RATE,
    SPEED_FACTORS,
    AugmentSettings,
    augment,
    change_speed,
    draw_speed,
    fit_length,
)
from wesp_lap.audio.io import decode
from wesp_lap.data.index import Utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.plan import EpochPlan, Item
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.seeding import generator

# Shards that a loader process keeps open: a corpus has more of them than a process may open files.
_MAX_OPEN = 64


@dataclass(frozen=True)
class StreamSettings:
    """How batches are made.

    Args:
        shards: The list of shards to train on.
        noise_bank: Directory written by make_noise_bank; needed for ``augment.noise_prob``.
        batch_size: Utterances per optimizer step over all processes.
        crop_seconds: Length of a training crop.
        num_workers: Loader processes per training process; 0 loads in the training process.
        augment: See AugmentSettings.
    """

    shards: str
    noise_bank: str | None = None
    batch_size: int = 512
    crop_seconds: float = 2.0
    num_workers: int = 4
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.crop_seconds <= 0 or self.num_workers < 0:
            raise ValueError("batch_size >= 2, crop_seconds > 0 and num_workers >= 0 are needed")

    @property
    def crop_samples(self) -> int:
        """Length of a crop in samples."""
        return round(self.crop_seconds * SAMPLE_RATE)


class Batch(NamedTuple):
    """Crops (B, S), class labels (B,), and the keys they come from."""

    waves: Tensor
    labels: Tensor
    keys: list[str]


class CropDataset(Dataset):
    """Reads, crops and augments the utterance of an Item.

    Args:
        utterances: The shards' contents.
        classes: Speaker to class index, for speed 1.
        settings: Crop and augmentation.
        noise: Where noises come from; needed when ``noise_prob`` is positive.
        seed: Everything random is drawn from (seed, epoch, position).
    """

    def __init__(
        self,
        utterances: Utterances,
        classes: Mapping[str, int],
        settings: StreamSettings,
        noise: NoiseBank | None,
        seed: int,
    ) -> None:
        if settings.augment.noise_prob > 0:
            if noise is None:
                raise DataError(
                    "data.augment.noise_prob is positive but there is no noise bank: give "
                    "--data.noise_bank DIR, or set --data.augment.noise_prob 0"
                )
            noise.check()
        unknown = sorted(set(utterances.speakers.tolist()) - set(classes))
        raise_problems(
            "speakers of the shards that are not in the model's speaker map",
            unknown,
            "Train on the corpus the model was started with, or start a new model.",
        )
        self._utterances = utterances
        self._labels = np.array([classes[name] for name in utterances.speakers], dtype=np.int64)
        self._num_speakers = len(classes)
        self._settings = settings
        self._noise = noise
        self._seed = seed
        self._open: dict[int, BinaryIO] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, item: Item) -> tuple[np.ndarray, int, str]:
        rng = generator(self._seed, item.epoch, item.position)
        settings = self._settings
        speed = draw_speed(rng) if settings.augment.speed_perturb else 0
        wave = self._crop(item.utterance, SPEED_FACTORS[speed], rng)
        if settings.augment.noise_prob > 0 and self._noise is not None:
            wave = augment(wave, self._noise, settings.augment.noise_prob, rng)
        label = int(self._labels[item.utterance]) + speed * self._num_speakers
        return wave, label, str(self._utterances.keys[item.utterance])

    def _crop(self, row: int, factor: float, rng: np.random.Generator) -> np.ndarray:
        """Decode only what becomes the crop: speed is changed on the crop, not the utterance."""
        wanted = self._settings.crop_samples
        before_speed = round(wanted * factor)
        available = int(self._utterances.samples[row])
        start = int(rng.integers(max(available - before_speed, 0) + 1))
        wave, rate = decode(
            self._audio(row), start, start + before_speed, str(self._utterances.keys[row])
        )
        if rate != SAMPLE_RATE:
            raise DataError(
                f"{self._utterances.keys[row]}: {rate} Hz in the shards, {SAMPLE_RATE} expected; "
                "make the shards again with --sample_rate"
            )
        return fit_length(change_speed(wave, factor), wanted, rng)

    def _audio(self, row: int) -> bytes:
        utterances = self._utterances
        tar = int(utterances.tar[row])
        stream = self._stream(tar)
        stream.seek(int(utterances.offset[row]))
        content = stream.read(int(utterances.size[row]))
        if zlib.crc32(content) != int(utterances.crc32[row]):
            raise DataError(
                f"{utterances.tars[tar]}: the audio of '{utterances.keys[row]}' does not match its "
                "checksum: the shard is damaged; make it again"
            )
        return content

    def _stream(self, tar: int) -> BinaryIO:
        """Return an open shard; of those used last, only so many stay open."""
        if tar in self._open:
            self._open[tar] = self._open.pop(tar)  # now the one used last
            return self._open[tar]
        if len(self._open) >= _MAX_OPEN:
            self._open.pop(next(iter(self._open))).close()
        try:
            self._open[tar] = open(self._utterances.tars[tar], "rb")  # noqa: SIM115 - kept open
        except OSError as error:
            raise DataError(f"{self._utterances.tars[tar]}: {error.strerror}") from error
        return self._open[tar]


def collate(samples: list[tuple[np.ndarray, int, str]]) -> Batch:
    """Stack samples into a batch."""
    waves = torch.from_numpy(np.stack([wave for wave, _, _ in samples]))
    labels = torch.tensor([label for _, label, _ in samples])
    return Batch(waves, labels, [key for _, _, key in samples])


class _Batches:
    """Batch sampler whose epoch and first step are set before each pass."""

    def __init__(self, plan: EpochPlan) -> None:
        self.plan = plan
        self.epoch = 0
        self.first_step = 0

    def __iter__(self) -> Iterator[list[Item]]:
        return self.plan.batches(self.epoch, self.first_step)

    def __len__(self) -> int:
        return self.plan.steps_per_epoch - self.first_step


class SampleStream:
    """Batches of one rank, epoch by epoch, from any step on.

    Args:
        dataset: Where samples come from.
        plan: Which samples make up which step.
        num_workers: Loader processes; they live as long as the stream.
    """

    def __init__(self, dataset: CropDataset, plan: EpochPlan, num_workers: int) -> None:
        self.plan = plan
        self._batches = _Batches(plan)
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=collate,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first_step`` on."""
        self._batches.epoch = epoch
        self._batches.first_step = first_step
        try:
            yield from self._loader
        except DataError as error:
            # A worker process wraps the message in its traceback.
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None


def speaker_classes(utterances: Utterances) -> dict[str, int]:
    """Number the speakers in C-locale order; the map is saved with the model."""
    names = sorted(set(utterances.speakers.tolist()), key=lambda name: name.encode())
    if len(names) < 2:
        raise DataError(f"training needs at least 2 speakers, the shards hold {len(names)}")
    return {name: number for number, name in enumerate(names)}


def make_stream(
    utterances: Utterances,
    classes: Mapping[str, int],
    settings: StreamSettings,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> SampleStream:
    """Build the stream of one rank from checked settings."""
    noise = None
    if settings.noise_bank is not None and settings.augment.noise_prob > 0:
        noise = NoiseBank(settings.noise_bank)
    dataset = CropDataset(utterances, classes, settings, noise, seed)
    plan = EpochPlan(len(utterances), settings.batch_size, rank, world_size, seed)
    return SampleStream(dataset, plan, settings.num_workers)
