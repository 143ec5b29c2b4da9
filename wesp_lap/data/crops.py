"""From a plan of a batch to its crops: read, speed, distort."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from wesp_lap.audio.augment import (
    DRAWS,
    SAMPLE_RATE,
    SPEED_FACTORS,
    Augmenter,
    change_speed_batch,
    speed_index,
)
from wesp_lap.audio.distort import Noises
from wesp_lap.audio.resample import resample
from wesp_lap.data.access import CropReader
from wesp_lap.data.index import Utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.plan import BatchPlan
from wesp_lap.data.settings import StreamSettings
from wesp_lap.data.workers import release_memory, share_tensors
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.seeding import uniforms

# Keys of the random tables: the order of an epoch is drawn from (seed, epoch).
_CROPS = 1
# Batches; more often, new memory would cost more time than it is worth.
_RELEASE_EVERY = 16


class Batch(NamedTuple):
    """Training crops of one process.

    Attributes:
        waves: Crops (B, S).
        labels: Class of each (B,), or of each frame of each (B, T).
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


class Targets(Protocol):
    """What is to be learnt from crops; sent to loader processes."""

    def labels(
        self, rows: np.ndarray, starts: np.ndarray, samples: int, speed: np.ndarray
    ) -> np.ndarray:
        """Return the classes of a batch, int64 (B,) or (B, T).

        Args:
            rows: Utterances (B,).
            starts: First sample of each crop (B,).
            samples: Length of the crops.
            speed: Index of the speed of each (B,) into SPEED_FACTORS.
        """


class SpeakerTargets:
    """The speaker of each utterance; each speed of a speaker is a class of its own.

    Args:
        utterances: The shards' contents.
        classes: Speaker to class index, for speed 1.

    Raises:
        DataError: speakers without a class.
    """

    def __init__(self, utterances: Utterances, classes: Mapping[str, int]) -> None:
        unknown = [name for name in utterances.speakers if name not in classes]
        raise_problems(
            "speakers of the shards that are not in the model's speaker map",
            unknown,
            "Train on the corpus the model was started with, or start a new model.",
        )
        self._speaker = utterances.speaker
        self._classes = np.array([classes[name] for name in utterances.speakers], dtype=np.int64)
        self._num_speakers = len(classes)

    def labels(
        self, rows: np.ndarray, starts: np.ndarray, samples: int, speed: np.ndarray
    ) -> np.ndarray:
        """See Targets."""
        return self._classes[self._speaker[rows]] + speed * self._num_speakers


class CropDataset(Dataset):
    """Reads, crops and augments the utterances of a BatchPlan.

    Args:
        utterances: The shards' contents.
        targets: What is to be learnt from them.
        settings: Crop and augmentation.
        noise: Where noises come from; needed when ``noise_prob`` is positive.
        seed: Everything random is drawn from (seed, epoch, place in the epoch).
    """

    def __init__(
        self,
        utterances: Utterances,
        targets: Targets,
        settings: StreamSettings,
        noise: NoiseBank | None,
        seed: int,
    ) -> None:
        check_rate(utterances)
        self._utterances = utterances
        self._targets = targets
        self._reader = CropReader(utterances, settings.access)
        self._settings = settings
        self._augmenter = Augmenter(settings.augment, noise)
        augment = settings.augment
        self._augments = max(augment.noise_prob, augment.volume_prob, augment.codec_prob) > 0
        self._seed = seed
        self._served = 0

    def __getitem__(self, plan: BatchPlan) -> Batch:
        # One thread, as in loader processes: products are rounded otherwise with several, and the
        # number of loader processes would change the crops.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._batch(plan)
        finally:
            torch.set_num_threads(threads)

    def _batch(self, plan: BatchPlan) -> Batch:
        if self._settings.access.cache_dir is not None:
            self._reader.ahead(dict.fromkeys(self._utterances.tar[plan.later].tolist()))
        draws = uniforms((self._seed, plan.epoch, _CROPS), plan.first, len(plan.rows), DRAWS)
        speed = np.zeros(len(plan.rows), dtype=np.int64)
        if self._settings.augment.speed_perturb:
            speed = speed_index(draws[:, 0], self._settings.augment.set)
        rows = plan.rows
        wanted = np.rint(plan.samples * np.array(SPEED_FACTORS)).astype(np.int64)[speed]
        taken = np.minimum(wanted, self._utterances.samples[rows])
        starts = (draws[:, 1] * (self._utterances.samples[rows] - taken + 1)).astype(np.int64)
        waves, damage = self._crops(plan, starts, taken, wanted, speed)
        labels = self._targets.labels(rows, starts, plan.samples, speed)
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
            self._served += 1
            if self._served % _RELEASE_EVERY == 0:
                release_memory()
        return batch

    def _crops(
        self,
        plan: BatchPlan,
        starts: np.ndarray,
        taken: np.ndarray,
        wanted: np.ndarray,
        speed: np.ndarray,
    ) -> tuple[Tensor, dict[int, DataError]]:
        """Decode only what becomes the crops: speed is changed on them, not on whole utterances."""
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


def check_rate(utterances: Utterances, rows: np.ndarray | None = None) -> None:
    """Raise a DataError when utterances, all or those in ``rows``, are not at 16 kHz."""
    chosen = np.arange(len(utterances)) if rows is None else rows
    other = chosen[utterances.rate[chosen] != SAMPLE_RATE]
    if len(other):
        raise DataError(
            f"{len(other)} utterances of the shards are not at {SAMPLE_RATE} Hz, such as "
            f"{utterances.key(other[0])} at {utterances.rate[other[0]]} Hz; make the shards again "
            f"with --sample_rate {SAMPLE_RATE}"
        )
