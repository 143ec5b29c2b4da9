"""Masked prediction of utterances that are not trained on, with the same masks every time."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.data.crops import Batch, CropDataset, Targets
from wesp_lap.data.index import Utterances
from wesp_lap.data.plan import EpochPlan
from wesp_lap.data.sampling import SAMPLINGS
from wesp_lap.errors import DataError
from wesp_lap.log import get_logger
from wesp_lap.pretraining.features import SAMPLE_RATE
from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.pretraining.settings import PretrainSettings
from wesp_lap.pretraining.task import FIGURES, figures_of, rates
from wesp_lap.seeding import generator
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.distributed import Process
from wesp_lap.training.validation import same_buffers


class Split(NamedTuple):
    """The utterances of a run, divided.

    Attributes:
        training: What is trained on.
        held_out: What is validated on, if anything.
    """

    training: Utterances
    held_out: Utterances | None


def split_utterances(settings: PretrainSettings, utterances: Utterances) -> Split:
    """Divide a corpus; the same utterances are held out whatever the order of the shards.

    Raises:
        DataError: nothing is left to train on.
    """
    options = settings.validation
    if options.share == 0:
        return Split(utterances, None)
    by_key = np.argsort(utterances.keys, kind="stable")
    shortest = round(settings.data.shortest_seconds * SAMPLE_RATE)
    able = by_key[utterances.samples[by_key] >= shortest]
    count = min(max(1, round(options.share * len(able))), options.max_utterances)
    if count >= len(able):
        raise DataError(
            f"validation.share: of {len(utterances)} utterances {len(able)} last "
            f"{settings.data.shortest_seconds:g} s (data.sampling.shortest_seconds), and none of "
            "them would be left to train on; add data, or set validation.share 0"
        )
    chosen = np.zeros(len(utterances), dtype=bool)
    chosen[generator(options.seed).permutation(able)[:count]] = True
    return Split(utterances.take(np.flatnonzero(~chosen)), utterances.take(np.flatnonzero(chosen)))


class HeldOut(NamedTuple):
    """What a validation has shown.

    Attributes:
        loss: Bits per masked frame.
        accuracy: Share of masked frames that are predicted right.
        unmasked_accuracy: The same of other frames.
        frames: Masked frames.
    """

    loss: float
    accuracy: float
    unmasked_accuracy: float
    frames: int

    def as_dict(self) -> dict[str, float]:
        """Return the values as checkpoints and metrics.jsonl hold them."""
        return self._asdict()


class HeldOutValidator:
    """Predicts masked frames of held-out utterances, without mixing or dropout.

    Crops and masks depend on the seed of the settings alone, not on the number of processes.

    Args:
        settings: Checked settings.
        utterances: What was held out.
        targets: Their labels.
        process: The batches are dealt over all processes, and all get the same result.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        utterances: Utterances,
        targets: Targets,
        process: Process,
    ) -> None:
        self._settings = settings.validation
        self._process = process
        # A cache is for what is read again and again from the same shards.
        access = dataclasses.replace(settings.data.access, cache_dir=None)
        stream = dataclasses.replace(settings.data.stream, access=access)
        self._dataset = CropDataset(utterances, targets, stream, None, self._settings.seed)
        options = {n: v for n, v in stream.sampling.options.items() if n != "epoch_steps"}
        section = Section(stream.sampling.name, options)
        sizes = {"batch_size": stream.batch_size, "crop_samples": stream.crop_samples}
        sampling = build(
            SAMPLINGS, section, "data.sampling", corpus=utterances, world_size=1, **sizes
        )
        self._plan = EpochPlan(sampling, 0, 1, self._settings.seed)

    def is_due(self, end: Moment, epochs: int) -> bool:
        """Say whether to validate at the end of an epoch, or at the start, of so many epochs."""
        if end == Moment(0):
            return self._settings.at_start
        return end.epoch == epochs or end.epoch % self._settings.every == 0

    def __call__(self, model: PretrainNetwork, average: Any = None) -> HeldOut | None:
        """Validate; weights, statistics and random number generators end as they were.

        Returns:
            The result; None, with a warning, when the loss is not finite.

        Raises:
            DataError: an utterance cannot be read.
        """
        training = model.training
        devices = [self._process.device] if self._process.device.type == "cuda" else []
        model.eval()
        with torch.random.fork_rng(devices), torch.no_grad(), same_buffers(model, self._process):
            sums = self._sums(model)
        model.train(training)
        total = (self._process.mean(sums) * self._process.world_size).tolist()
        found = rates(total)
        loss, accuracy, unmasked = (found[n] for n in ("loss", "accuracy", "unmasked_accuracy"))
        if loss is None or accuracy is None or not np.isfinite(total).all():
            get_logger().warning("validation: the loss is not finite")
            return None
        return HeldOut(loss, accuracy, unmasked or 0.0, round(total[FIGURES.index("masked")]))

    def report(self, result: HeldOut | None, end: Moment, checkpoints: CheckpointFolder) -> None:
        """Log a result."""
        if result is not None:
            get_logger().info(
                "validation: loss %.3f bits | masked %.1f %% | unmasked %.1f %% "
                "(%d masked frames)%s",
                result.loss,
                100 * result.accuracy,
                100 * result.unmasked_accuracy,
                result.frames,
                "" if end.epoch else ", before training",
            )

    def _sums(self, model: PretrainNetwork) -> Tensor:
        process = self._process
        sums = torch.zeros(len(FIGURES), dtype=torch.float64, device=process.device)
        every = itertools.islice(
            enumerate(self._plan.batches(0)), process.rank, None, process.world_size
        )
        for index, plan in every:
            batch = self._whole(self._dataset[plan])
            waves, labels = batch.waves.to(process.device), batch.labels.to(process.device)
            rng = generator(self._settings.seed, 1, index)
            sums += figures_of(model(waves, labels, rng, count_unmasked=True))
        return sums

    def _whole(self, batch: Batch) -> Batch:
        if batch.faults:
            raise DataError(next(iter(batch.faults.values())))
        return batch
