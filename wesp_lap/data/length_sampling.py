"""Batches by length, as masked prediction is trained; see wesp_lap.data.sampling."""

from __future__ import annotations

import numpy as np

from wesp_lap.data.cuts import border, even_cuts, length_cuts
from wesp_lap.data.plan import Corpus, Order
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator

SAMPLE_RATE = 16000


class LengthSampling:
    """Every utterance once per epoch, in batches of similar length and limited total duration.

    All crops of a batch are as long as its shortest utterance, so nothing is padded; the defaults
    are those of HuBERT's pre-training. ``data.batch_size`` and ``data.crop_seconds`` do not apply.

    Args:
        corpus: The utterances.
        batch_size: Not used: ``max_seconds`` limits a batch.
        crop_samples: Not used: the utterances' lengths decide.
        world_size: Number of processes.
        max_seconds: Total duration of the crops of one process in one step.
        shortest_seconds: Shorter utterances are left out.
        longest_seconds: Longer utterances are cropped to this.
        bucket_size: Utterances of neighbouring length among which batches are drawn, at most.
        epoch_steps: Make an epoch so many steps, for schedules that are published in steps. One
            epoch goes on in the passes over the utterances where the epoch before it ended.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        crop_samples: int,
        world_size: int,
        *,
        max_seconds: float = 87.5,
        shortest_seconds: float = 2.0,
        longest_seconds: float = 15.625,
        bucket_size: int = 1000,
        epoch_steps: int | None = None,
    ) -> None:
        if epoch_steps is not None and epoch_steps < 1:
            raise ConfigError(
                f"data.sampling.epoch_steps must be at least 1, got {epoch_steps}; leave it out "
                "for epochs that take every utterance once"
            )
        if not 0 < shortest_seconds <= longest_seconds <= max_seconds or bucket_size < 1:
            raise ConfigError(
                "data.sampling: 0 < shortest_seconds <= longest_seconds <= max_seconds and "
                "bucket_size >= 1 are needed"
            )
        longest = round(longest_seconds * SAMPLE_RATE)
        self._lengths = np.minimum(corpus.samples, longest)
        by_length = np.argsort(-self._lengths, kind="stable")
        kept = int(np.count_nonzero(self._lengths >= round(shortest_seconds * SAMPLE_RATE)))
        if kept < len(by_length):
            get_logger().warning(
                "%d utterances shorter than %g s are left out",
                len(by_length) - kept,
                shortest_seconds,
            )
        if kept < world_size:
            raise DataError(
                f"{kept} utterances of at least {shortest_seconds} s for {world_size} processes; "
                "lower data.sampling.shortest_seconds or add data"
            )
        self._by_length = by_length[:kept]
        # Equal buckets: what is left over by full ones might be a single utterance.
        buckets = even_cuts(kept, -(-kept // bucket_size))
        self._bucket = np.repeat(np.arange(len(buckets) - 1), np.diff(buckets))
        limit = round(max_seconds * SAMPLE_RATE)
        self._cuts = length_cuts(self._lengths[self._by_length], buckets, limit, world_size)
        self._world = world_size
        self._pass = (len(self._cuts) - 1) // world_size
        self.steps = epoch_steps or self._pass
        self.smallest = int(np.diff(self._cuts).min())

    def order(self, seed: int, epoch: int) -> Order:
        """Return shuffled batches of neighbours in length; those of a step are neighbours too."""
        first, begin = divmod(epoch * self.steps, self._pass)
        last = ((epoch + 1) * self.steps - 1) // self._pass
        passes = [self._shuffled(seed, number) for number in range(first, last + 1)]
        chosen = slice(begin * self._world, (begin + self.steps) * self._world)
        sizes = np.concatenate([np.diff(one.cuts) for one in passes])
        before = int(sizes[: chosen.start].sum())
        cuts = border(sizes[chosen])
        rows = np.concatenate([one.rows for one in passes])[before : before + cuts[-1]]
        return Order(rows, cuts, np.concatenate([one.samples for one in passes])[chosen])

    def _shuffled(self, seed: int, number: int) -> Order:
        """Return all batches in the order of a pass over the utterances."""
        rng = generator(seed, number)
        rows = self._by_length[np.lexsort((rng.random(len(self._bucket)), self._bucket))]
        samples = np.minimum.reduceat(self._lengths[rows], self._cuts[:-1])
        step = rng.permutation(self._pass)
        batch = (step[:, None] * self._world + np.arange(self._world)).reshape(-1)
        sizes = np.diff(self._cuts)[batch]
        cuts = border(sizes)
        rows = rows[np.repeat(self._cuts[:-1][batch] - cuts[:-1], sizes) + np.arange(len(rows))]
        return Order(rows, cuts, samples[batch])
