"""The sample stream: batches of training crops, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wesp_lap.audio.augment import (
    DRAWS,
    SAMPLE_RATE,
    SPEED_FACTORS,
    Augmenter,
    AugmentSettings,
    change_speed_batch,
    speed_index,
)
from wesp_lap.audio.distort import Noises, apply
from wesp_lap.audio.resample import resample
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.data.access import AccessSettings, CropReader
from wesp_lap.data.index import Utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.plan import BatchPlan, EpochPlan
from wesp_lap.data.sampling import SAMPLINGS
from wesp_lap.data.workers import share_tensors, why_worker_lost
from wesp_lap.errors import ConfigError, DataError, WespError, problem_list, raise_problems
from wesp_lap.log import get_logger
from wesp_lap.seeding import uniforms

# Keys of the random tables: the order of an epoch is drawn from (seed, epoch).
_CROPS = 1


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


class Batch(NamedTuple):
    """Training crops of one process.

    Attributes:
        waves: Crops (B, S).
        labels: Class of each (B,).
        keys: Utterance of each.
        weight: What a mean over this batch counts in the mean over all processes, about 1.
        noises: What is still to be added on the device; None when nothing is.
        faults: Utterances that were left out because they are damaged, each with a sentence.
    """

    waves: Tensor
    labels: Tensor
    keys: list[str]
    weight: float
    noises: Noises | None
    faults: dict[str, str]


class CropDataset(Dataset):
    """Reads, crops and augments the utterances of a BatchPlan.

    Args:
        utterances: The shards' contents.
        classes: Speaker to class index, for speed 1.
        settings: Crop and augmentation.
        noise: Where noises come from; needed when ``noise_prob`` is positive.
        seed: Everything random is drawn from (seed, epoch, place in the epoch).
    """

    def __init__(
        self,
        utterances: Utterances,
        classes: Mapping[str, int],
        settings: StreamSettings,
        noise: NoiseBank | None,
        seed: int,
    ) -> None:
        unknown = [name for name in utterances.speakers if name not in classes]
        raise_problems(
            "speakers of the shards that are not in the model's speaker map",
            unknown,
            "Train on the corpus the model was started with, or start a new model.",
        )
        _check_rate(utterances)
        self._utterances = utterances
        self._classes = np.array([classes[name] for name in utterances.speakers], dtype=np.int64)
        self._num_speakers = len(classes)
        self._reader = CropReader(utterances, settings.access)
        self._settings = settings
        self._augmenter = Augmenter(settings.augment, noise)
        augment = settings.augment
        self._augments = max(augment.noise_prob, augment.volume_prob, augment.codec_prob) > 0
        self._seed = seed

    def __getitem__(self, plan: BatchPlan) -> Batch:
        if self._settings.access.cache_dir is not None:
            self._reader.ahead(np.unique(self._utterances.tar[plan.later]).tolist())
        draws = uniforms((self._seed, plan.epoch, _CROPS), plan.first, len(plan.rows), DRAWS)
        speed = np.zeros(len(plan.rows), dtype=np.int64)
        if self._settings.augment.speed_perturb:
            speed = speed_index(draws[:, 0], self._settings.augment.set)
        waves, damage = self._crops(plan, draws[:, 1], speed)
        labels = self._classes[self._utterances.speaker[plan.rows]] + speed * self._num_speakers
        rows = plan.rows
        faults = {self._utterances.key(rows[place]): str(fault) for place, fault in damage.items()}
        if faults:
            kept = np.setdiff1d(np.arange(len(rows)), list(damage))
            waves, labels, rows, draws = waves[kept], labels[kept], rows[kept], draws[kept]
        noises = None
        if self._augments and self._settings.augment_on == "device":
            noises = self._augmenter.gather(draws, plan.samples)
        elif self._augments:
            waves = self._augmenter.augment(waves, draws)
        keys = [key.decode() for key in self._utterances.keys[rows].tolist()]
        batch = Batch(waves, torch.from_numpy(labels), keys, plan.weight, noises, faults)
        if get_worker_info() is not None:
            share_tensors(batch)
        return batch

    def _crops(
        self, plan: BatchPlan, places: np.ndarray, speed: np.ndarray
    ) -> tuple[Tensor, dict[int, DataError]]:
        """Decode only what becomes the crops: speed is changed on them, not on whole utterances."""
        wanted = np.rint(plan.samples * np.array(SPEED_FACTORS)).astype(np.int64)[speed]
        available = self._utterances.samples[plan.rows]
        taken = np.minimum(wanted, available)
        starts = (places * (available - taken + 1)).astype(np.int64)
        buffer = torch.empty(len(plan.rows), int(wanted.max()))
        faults = self._read(plan.rows, starts, taken, buffer.numpy())
        waves = change_speed_batch(buffer, speed, plan.samples) if speed.any() else buffer
        for place in np.flatnonzero(taken < wanted).tolist():
            if place not in faults:  # too short: repeated, after its speed was changed
                length = int(taken[place])
                rate = round(SPEED_FACTORS[speed[place]] * SAMPLE_RATE)
                short = resample(buffer[place, :length].numpy(), rate, SAMPLE_RATE)
                waves[place] = torch.from_numpy(np.resize(short, plan.samples))
        return waves, faults

    def _read(
        self, rows: np.ndarray, starts: np.ndarray, taken: np.ndarray, out: np.ndarray
    ) -> dict[int, DataError]:
        """Fill the rows of ``out`` (B, S); return what is wrong with some of them by place."""
        faults = {}
        read = self._reader.read
        places = zip(rows.tolist(), starts.tolist(), taken.tolist(), out, strict=True)
        for place, (row, start, samples, crop) in enumerate(places):
            try:
                read(row, start, samples, crop)
            except DataError as error:
                faults[place] = error
        return faults


class _Batches:
    """Sampler of BatchPlans whose epoch and first step are set before each pass."""

    def __init__(self, plan: EpochPlan) -> None:
        self.plan = plan
        self.epoch = 0
        self.first_step = 0

    def __iter__(self) -> Iterator[BatchPlan]:
        return self.plan.batches(self.epoch, self.first_step)

    def __len__(self) -> int:
        return self.plan.steps_per_epoch - self.first_step


class SampleStream:
    """Batches of one process, epoch by epoch, from any step on.

    Args:
        dataset: Where batches come from.
        plan: Which utterances make up which step.
        settings: Number of loader processes, budget of damaged utterances.
    """

    def __init__(self, dataset: CropDataset, plan: EpochPlan, settings: StreamSettings) -> None:
        self.plan = plan
        self._max_bad = settings.max_bad
        self._list = settings.shards
        self._bad: dict[str, str] = {}
        self._batches = _Batches(plan)
        # Without a batch size the loader hands each BatchPlan to a worker as it is.
        self._loader: DataLoader = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._batches,
            num_workers=settings.num_workers,
            persistent_workers=settings.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def epoch(
        self, epoch: int, first_step: int = 0, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first_step`` on, on ``device``.

        Raises:
            DataError: damaged utterances beyond ``max_bad``.
            WespError: a loader process was killed.
        """
        self._batches.epoch = epoch
        self._batches.first_step = first_step
        try:
            for batch in self._loader:
                self._count(batch)
                yield self._on_device(batch, torch.device(device))
        except DataError as error:
            # A worker process wraps the message in its traceback.
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
        except RuntimeError as error:
            reason = why_worker_lost(str(error))
            if not reason:
                raise
            raise WespError(reason) from error

    def _on_device(self, batch: Batch, device: torch.device) -> Batch:
        waves = batch.waves.to(device, non_blocking=True)
        if batch.noises is not None:
            waves = apply(waves, batch.noises.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        return batch._replace(waves=waves, labels=labels, noises=None)

    def _count(self, batch: Batch) -> None:
        if not batch.faults:
            return
        # By utterance: what is wrong differs from crop to crop of the same one.
        self._bad.update(batch.faults)
        problems = list(self._bad.values())
        if len(problems) > self._max_bad:
            mend = (
                f"Find all with python -m wesp_lap.bin.check_shards --list {self._list} and make "
                "these shards again; to go on without such utterances, set data.max_bad to "
                f"{len(problems)} or more."
            )
            raise DataError(problem_list("damaged training data", problems, mend))
        if not len(batch.labels):
            raise DataError(problem_list("a batch of damaged utterances only", problems, ""))
        for fault in batch.faults.values():
            get_logger().warning(
                "left out (%d of data.max_bad %d): %s", len(problems), self._max_bad, fault
            )


def _check_rate(utterances: Utterances) -> None:
    other = np.flatnonzero(utterances.rate != SAMPLE_RATE)
    if len(other):
        raise DataError(
            f"{len(other)} utterances of the shards are not at {SAMPLE_RATE} Hz, such as "
            f"{utterances.key(other[0])} at {utterances.rate[other[0]]} Hz; make the shards again "
            f"with --sample_rate {SAMPLE_RATE}"
        )


def speaker_classes(utterances: Utterances) -> dict[str, int]:
    """Number the speakers in C-locale order; the map is saved with the model."""
    names = utterances.speakers
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
    _check_cache(utterances, settings)
    dataset = CropDataset(utterances, classes, settings, _noise_bank(settings), seed)
    sampling = build(
        SAMPLINGS,
        settings.sampling,
        "data.sampling",
        corpus=utterances,
        batch_size=settings.batch_size,
        crop_samples=settings.crop_samples,
        world_size=world_size,
    )
    return SampleStream(dataset, EpochPlan(sampling, rank, world_size, seed), settings)


def _check_cache(utterances: Utterances, settings: StreamSettings) -> None:
    """Refuse a cache that a crop from anywhere in the corpus would fill anew."""
    if utterances.is_raw:
        return  # its files are read in place
    needed = int(utterances.size.sum()) / 1e9
    windowed = settings.sampling.options.get("window_shards", 0) > 0
    if settings.access.cache_dir is not None and needed > settings.access.cache_gb and not windowed:
        raise ConfigError(
            f"data.access.cache_gb ({settings.access.cache_gb:g}) holds less than the corpus "
            f"({needed:.0f} GB), and an epoch draws from all of it at once: every few crops would "
            "fetch a whole shard. Give the cache more room, or set data.sampling.window_shards"
        )


def _noise_bank(settings: StreamSettings) -> NoiseBank | None:
    if settings.augment.noise_prob == 0:
        return None
    if settings.noise_bank is None:
        raise DataError(
            "data.augment.noise_prob is positive but there is no noise bank: give "
            "--data.noise_bank DIR, or set --data.augment.noise_prob 0"
        )
    bank = NoiseBank(settings.noise_bank)
    bank.check(settings.augment.categories)
    return bank
