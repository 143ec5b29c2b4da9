"""Error rates on held-out speakers while a phase is trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wesp_lap.data.access import AccessSettings, CropReader
from wesp_lap.errors import DataError
from wesp_lap.log import get_logger
from wesp_lap.model import SAMPLE_RATE, SpeakerModel
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.metrics import evaluate
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import read_validation
from wesp_lap.training.distributed import Process
from wesp_lap.training.ema import WeightAverage
from wesp_lap.training.held_out import ValidationSet, ValidationSettings

# What a process computes at a time: little beside a training batch, whose activations are kept.
_BATCH_SECONDS = 64
_PRIORS = (0.01, 0.05)


class Validation(NamedTuple):
    """What one validation has shown.

    Attributes:
        eer: Equal error rate in per cent.
        min_dcf_001: Normalised minDCF at a target prior of 0.01.
        min_dcf_005: The same at 0.05.
        trials: Number of trials.
    """

    eer: float
    min_dcf_001: float
    min_dcf_005: float
    trials: int

    def as_dict(self) -> dict[str, float]:
        """Return the values as checkpoints and metrics.jsonl hold them."""
        return {
            "eer": self.eer,
            "min_dcf_0.01": self.min_dcf_001,
            "min_dcf_0.05": self.min_dcf_005,
            "trials": self.trials,
        }


def open_validator(
    settings: ValidationSettings,
    validation: ValidationSet | None,
    access: AccessSettings,
    process: Process,
) -> Validator | None:
    """Return what validates a phase, if there is anything to validate on; see Validator."""
    if validation is None:
        return None
    get_logger().info(
        "validation: %d utterances of %d speakers, %d trials",
        len(validation.rows),
        validation.speakers,
        len(validation.trials),
    )
    return Validator(settings, validation, access, process)


class Validator:
    """Embeds the utterances of a validation set with a model in training, and scores its trials.

    The scores are cosines, as docs/methods.md, section 5.2, has them, but the mean that is
    subtracted is that of the validation embeddings, which needs no pass over training data.
    Embeddings are computed in float32 and evaluation mode, by the plain module and without
    DistributedDataParallel; weights, statistics and random number generators end as they were.

    Args:
        settings: Crops and mean.
        validation: The utterances and trials.
        access: How shards are read; the cache of the training shards is not used, since only a few
            blocks of many shards are read.
        process: The utterances are dealt over all processes, and all get the same result.
    """

    def __init__(
        self,
        settings: ValidationSettings,
        validation: ValidationSet,
        access: AccessSettings,
        process: Process,
    ) -> None:
        self._settings = settings
        self._set = validation
        self._reader = CropReader(validation.corpus, replace(access, cache_dir=None))
        self._process = process

    def __call__(
        self, model: SpeakerModel, average: WeightAverage | None = None
    ) -> Validation | None:
        """Validate a model.

        Args:
            model: The model, on the device of the process.
            average: Weights to use instead of the model's own.

        Returns:
            The error rates; None, with a warning, when they cannot be told: embeddings that are
            not finite, or all alike.

        Raises:
            DataError: an utterance cannot be read.
        """
        swapped = average.applied() if average is not None else contextlib.nullcontext()
        devices = [self._process.device] if self._process.device.type == "cuda" else []
        numpy_state = np.random.get_state()
        training = model.training
        # Without inference_mode: what models keep for their next call must serve training, too.
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            swapped,
            same_buffers(model, self._process),
        ):
            model.eval()
            embeddings = self._embed(model)
        model.train(training)
        np.random.set_state(numpy_state)
        rates = torch.full((1 + len(_PRIORS),), math.nan, dtype=torch.float64)
        if self._process.is_main:
            rates = self._measure(embeddings.cpu().numpy())
        rates = self._process.broadcast(rates.to(self._process.device))
        eer, low, high = rates.tolist()
        return None if math.isnan(eer) else Validation(eer, low, high, len(self._set.trials))

    def is_due(self, end: Moment, epochs: int) -> bool:
        """Say whether to validate at the end of an epoch, or at the start, of so many epochs."""
        if end == Moment(0):
            return self._settings.at_start
        return end.epoch == epochs or end.epoch % self._settings.every == 0

    def report(self, result: Validation | None, end: Moment, checkpoints: CheckpointFolder) -> None:
        """Log a result, and which epoch has the lowest EER so far; see CheckpointFolder.best."""
        if result is None:
            return
        best = end
        checkpoints.wait()  # the one before may still be on its way to the disk
        for saved in checkpoints.best():
            before = read_validation(checkpoints.path(saved))
            if (before["eer"], before.get("min_dcf_0.01", 0.0)) <= (result.eer, result.min_dcf_001):
                best = saved
        get_logger().info(
            "validation: EER %.2f %% | minDCF(0.01) %.3f | minDCF(0.05) %.3f (%d trials, "
            "%d speakers)%s",
            result.eer,
            result.min_dcf_001,
            result.min_dcf_005,
            result.trials,
            self._set.speakers,
            f", best so far epoch {best.epoch}" if end.epoch else ", before training",
        )

    def _embed(self, model: SpeakerModel) -> Tensor:
        """Return the embeddings of all utterances (n, E) in every process."""
        process, total = self._process, len(self._set.rows)
        # Every process computes as many, the last ones twice if need be: where weights are spread
        # over processes, none may compute alone.
        count = -(-total // process.world_size)
        places = np.minimum(np.arange(count) * process.world_size + process.rank, total - 1)
        seconds = self._settings.seconds
        size = max(1, int(_BATCH_SECONDS / seconds)) if seconds else 1
        parts = []
        for start in range(0, count, size):
            rows = self._set.rows[places[start : start + size]].tolist()
            waves = np.stack([self._wave(row, model.min_samples) for row in rows])
            parts.append(model(torch.from_numpy(waves).to(process.device)).float())
        return process.gather(torch.cat(parts)).transpose(0, 1).flatten(0, 1)[:total]

    def _wave(self, row: int, least: int) -> np.ndarray:
        """Return an utterance or its middle, repeated if it is too short: float32 (S,)."""
        available = self._set.corpus.samples.item(row)
        wanted = round(self._settings.seconds * SAMPLE_RATE) or available
        taken = min(wanted, available)
        wave = np.empty(taken, np.float32)
        self._reader.read(row, (available - taken) // 2, taken, wave)
        return np.resize(wave, max(wanted, least))

    def _measure(self, matrix: np.ndarray) -> Tensor:
        """Return EER in per cent and the minDCFs, NaN when the embeddings have none."""
        nothing = torch.full((1 + len(_PRIORS),), math.nan, dtype=torch.float64)
        if not np.isfinite(matrix).all():
            get_logger().warning("validation: embeddings hold NaN or infinite numbers")
            return nothing
        keys = [self._set.corpus.key(row) for row in self._set.rows.tolist()]
        embeddings = Embeddings(keys, matrix, "validation")
        mean = embeddings.mean() if self._settings.mean else None
        try:
            scores = score_trials(self._set.trials, embeddings, embeddings, mean)
            metrics = evaluate(scores, self._set.trials.labels, _PRIORS)
        except DataError as error:  # embeddings that are all alike
            get_logger().warning("validation: %s", error)
            return nothing
        costs = [metrics.min_dcf[prior] for prior in _PRIORS]
        return torch.tensor([100 * metrics.eer, *costs], dtype=torch.float64)


@contextlib.contextmanager
def same_buffers(model: nn.Module, process: Process) -> Iterator[None]:
    """Give all processes the statistics of the first one, which are those that are saved."""
    if process.world_size == 1:
        yield
        return
    own = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for buffer, _ in own:
        process.broadcast(buffer)
    try:
        yield
    finally:
        for buffer, before in own:
            buffer.copy_(before)
