"""Which utterances make up which step of which process: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

# At 512 utterances per step this is a few dozen shards: minutes of training.
_STEPS_AHEAD = 64


@dataclass(frozen=True)
class Order:
    """The utterances of one epoch in order, cut into the batches of all processes.

    Attributes:
        rows: Utterances (n,), int64; the place in this array seeds what happens to one of them.
        cuts: Borders (steps * world_size + 1,) of the batches in ``rows``; batch
            ``step * world_size + rank`` belongs to ``rank``.
        samples: Crop length of each batch (steps * world_size,), in samples.
    """

    rows: np.ndarray
    cuts: np.ndarray
    samples: np.ndarray


class Corpus(Protocol):
    """What sampling must know of the utterances; see wesp_lap.data.index.Utterances."""

    @property
    def tar(self) -> np.ndarray:
        """Shard of each utterance (U,)."""

    @property
    def speaker(self) -> np.ndarray:
        """Number of the speaker of each utterance (U,)."""

    @property
    def samples(self) -> np.ndarray:
        """Length of each utterance in samples (U,)."""


class Sampling(Protocol):
    """A way to choose the utterances of an epoch; see wesp_lap.data.sampling."""

    @property
    def steps(self) -> int:
        """Steps per epoch, the same in every epoch and for every process."""

    @property
    def smallest(self) -> int:
        """Utterances of the smallest batch of any process."""

    def order(self, seed: int, epoch: int) -> Order:
        """Return what an epoch consists of."""


class BatchPlan(NamedTuple):
    """One batch of one process.

    Attributes:
        epoch: Epoch, from 0.
        first: Place of the first utterance in the epoch; the others follow it.
        rows: Utterances (B,), as numbers of their lines in the shards' indexes.
        samples: Length of the crops.
        weight: Utterances of this batch over the mean of all processes' batches in this step.
        later: Utterances of this process some steps later: their shards may be fetched now.
    """

    epoch: int
    first: int
    rows: np.ndarray
    samples: int
    weight: float
    later: np.ndarray


class EpochPlan:
    """The batches of one process.

    Args:
        sampling: What an epoch consists of.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Seed of the order.
    """

    def __init__(self, sampling: Sampling, rank: int, world_size: int, seed: int) -> None:
        self.steps_per_epoch = sampling.steps
        self.smallest_batch = sampling.smallest
        self._sampling = sampling
        self._rank = rank
        self._world_size = world_size
        self._seed = seed

    def largest_batches(self) -> list[tuple[int, int]]:
        """Return (utterances, samples per crop) of the batches that may take the most memory.

        Among the batches of all processes in the first epoch: that with most samples, that with
        the longest crops, and that with most utterances.
        """
        order = self._sampling.order(self._seed, 0)
        rows, samples = np.diff(order.cuts), order.samples
        keys = ((rows * samples,), (rows, samples), (samples, rows))
        chosen = {int(np.lexsort(key)[-1]) for key in keys}
        return sorted({(int(rows[index]), int(samples[index])) for index in chosen})

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """Yield this process's batches of an epoch from ``first_step`` on.

        No earlier batch is touched: a resume costs the same at every step.
        """
        order = self._sampling.order(self._seed, epoch)
        world = self._world_size
        for step in range(first_step, self.steps_per_epoch):
            batch = step * world + self._rank
            first, end = order.cuts[batch : batch + 2].tolist()
            of_all = int(order.cuts[(step + 1) * world] - order.cuts[step * world])
            rows, samples = order.rows[first:end], int(order.samples[batch])
            ahead = min(step + _STEPS_AHEAD, self.steps_per_epoch - 1) * world + self._rank
            later = order.rows[order.cuts[ahead] : order.cuts[ahead + 1]]
            yield BatchPlan(epoch, first, rows, samples, (end - first) * world / of_all, later)
