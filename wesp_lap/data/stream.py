"""The sample stream: batches of training crops, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch.utils.data import DataLoader

from wesp_lap.audio.distort import apply
from wesp_lap.config import build
from wesp_lap.data.crops import Batch, CropDataset, SpeakerTargets, Targets
from wesp_lap.data.index import Utterances
from wesp_lap.data.noise_bank import NoiseBank
from wesp_lap.data.plan import BatchPlan, EpochPlan
from wesp_lap.data.sampling import SAMPLINGS
from wesp_lap.data.settings import StreamSettings
from wesp_lap.data.workers import outlive_signals, why_worker_lost
from wesp_lap.errors import ConfigError, DataError, WespError, problem_list
from wesp_lap.log import get_logger


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
            worker_init_fn=outlive_signals,
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
        if len(batch.labels) < 2:  # batch norm takes no fewer
            mend = "Mend these shards: a batch is left without utterances."
            raise DataError(problem_list("damaged training data", problems, mend))
        for fault in batch.faults.values():
            get_logger().warning(
                "left out (%d of data.max_bad %d): %s", len(problems), self._max_bad, fault
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
    """Build the stream of one rank from checked settings, with speakers as classes."""
    targets = SpeakerTargets(utterances, classes)
    return open_stream(utterances, targets, settings, seed, rank, world_size)


def open_stream(
    utterances: Utterances,
    targets: Targets,
    settings: StreamSettings,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> SampleStream:
    """Build the stream of one rank from checked settings, with any targets."""
    _check_cache(utterances, settings)
    dataset = CropDataset(utterances, targets, settings, _noise_bank(settings), seed)
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
    windowed = settings.sampling.options.get("window_shards", 0) > 0
    # The files of a raw list are read in place.
    if utterances.is_raw or settings.access.cache_dir is None or windowed:
        return
    needed = int(utterances.size.sum()) / 1e9
    if needed > settings.access.cache_gb:
        raise ConfigError(
            f"data.access.cache_gb ({settings.access.cache_gb:g}) holds less than the corpus "
            f"({needed:.0f} GB), and an epoch draws from all of it at once: every few crops would "
            "fetch a whole shard. Give the cache more room, or set data.sampling.window_shards"
        )
    get_logger().warning(
        "an epoch draws from the whole corpus at once: the first batches wait until most shards "
        "(%.1f GB) are in data.access.cache_dir; data.sampling.window_shards starts sooner",
        needed,
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
