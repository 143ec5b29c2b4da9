"""Ways to choose the utterances of an epoch.

All of them give every process the same number of steps, the same in every epoch, whatever the
number of shards, and depend on (seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from wesp_lap.data.cuts import (
    border,
    capped,
    check_cap,
    check_shares,
    count_within,
    even_cuts,
    fit_groups,
    shares,
    side_by_side,
)
from wesp_lap.data.length_sampling import LengthSampling
from wesp_lap.data.plan import Corpus, Order
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator


class UtteranceSampling:
    """Every utterance once per epoch.

    The utterances of an epoch are cut into steps as evenly as possible, so no batch is larger than
    ``batch_size`` and none is left over; with ``drop_last`` every batch is exactly that large and
    the remainder, other utterances in every epoch, is left out.

    Args:
        corpus: The utterances.
        batch_size: Utterances per step over all processes.
        crop_samples: Length of the crops.
        world_size: Number of processes.
        max_per_speaker: Take only so many utterances of a speaker, others in every epoch.
        window_shards: Shuffle within this many shards, which are read together, and the shards
            among themselves; 0 shuffles the whole corpus. For disks that want long reads.
        parts: Cut the epoch into this many parts that are read side by side: with as many parts
            as processes, or a multiple, no process reads what another one reads.
        drop_last: Leave out what does not fill a batch.
        epoch_steps: Make an epoch so many full batches, for schedules that are published in steps.
            One epoch goes on in the passes over the utterances where the epoch before it ended.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        crop_samples: int,
        world_size: int,
        *,
        max_per_speaker: int | None = None,
        window_shards: int = 0,
        parts: int = 1,
        drop_last: bool = False,
        epoch_steps: int | None = None,
    ) -> None:
        if window_shards < 0 or parts < 1:
            raise ConfigError("data.sampling: window_shards >= 0 and parts >= 1 are needed")
        if epoch_steps is not None and (epoch_steps < 1 or window_shards):
            raise ConfigError(
                "data.sampling: epoch_steps must be at least 1, and does not go together with "
                "window_shards"
            )
        check_cap(max_per_speaker)
        self._tar = corpus.tar
        self._speaker = corpus.speaker
        self._cap = max_per_speaker
        self._window = window_shards
        counts = np.bincount(corpus.speaker)
        total = int(np.minimum(counts, max_per_speaker or len(corpus.tar)).sum())
        if total < batch_size:
            raise DataError(
                f"{total} utterances do not fill one batch of {batch_size}; lower data.batch_size "
                "or add data"
            )
        self._pass = total
        self.steps = total // batch_size if drop_last else -(-total // batch_size)
        self.steps = epoch_steps or self.steps
        self._epoch_steps = epoch_steps
        total = self.steps * batch_size if drop_last or epoch_steps else total
        sizes = np.diff(even_cuts(total, self.steps))
        check_shares(sizes, 2, batch_size, world_size)
        self._shares = shares(sizes, parts)
        self._cuts = border(shares(sizes, world_size))
        self.smallest = int(np.diff(self._cuts).min())
        self._samples = np.full(self.steps * world_size, crop_samples)

    def order(self, seed: int, epoch: int) -> Order:
        """Return the shuffled utterances of an epoch."""
        if self._epoch_steps is None:
            rows = self._shuffled(seed, epoch)
        else:
            size = int(self._shares.sum())
            first, begin = divmod(epoch * size, self._pass)
            last = ((epoch + 1) * size - 1) // self._pass
            passes = [self._shuffled(seed, number) for number in range(first, last + 1)]
            rows = np.concatenate(passes)[begin : begin + size]
        rows = side_by_side(rows, self._shares)
        return Order(rows, self._cuts, self._samples)

    def _shuffled(self, seed: int, number: int) -> np.ndarray:
        """Return the utterances in the order of a pass over them."""
        rng = generator(seed, number)
        chosen = np.arange(len(self._tar))
        if self._cap is not None:
            chosen = capped(self._speaker, self._cap, rng)
        return self._windowed(chosen, rng) if self._window else rng.permutation(chosen)

    def _windowed(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shuffle the shards, then the utterances within each window of shards.

        A window ends where a part ends, so that no two parts share one.
        """
        place = rng.permutation(int(self._tar.max()) + 1)
        shard = place[self._tar[chosen]]
        by_shard = np.argsort(shard, kind="stable")
        ends = np.cumsum(self._shares.sum(axis=0))
        part = np.searchsorted(ends, np.arange(len(chosen)), side="right")
        window = shard[by_shard] // self._window
        return chosen[by_shard[np.lexsort((rng.random(len(chosen)), window, part))]]


class SpeakerSampling:
    """Batches of ``per_speaker`` utterances of each of ``batch_size / per_speaker`` speakers.

    An epoch takes every utterance at most once. What is left over of a speaker, fewer than
    ``per_speaker`` utterances, is left out, others in every epoch; so is what a speaker has beyond
    one group per step. No speaker comes twice in a batch.

    Args:
        corpus: The utterances.
        batch_size: Utterances per step over all processes.
        crop_samples: Length of the crops.
        world_size: Number of processes; the group of a speaker is never cut among them.
        per_speaker: Utterances of each speaker in a batch.
        max_per_speaker: Take at most so many utterances of a speaker per epoch.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        crop_samples: int,
        world_size: int,
        *,
        per_speaker: int = 2,
        max_per_speaker: int | None = None,
    ) -> None:
        if per_speaker < 2 or batch_size % (per_speaker * world_size):
            raise ConfigError(
                f"data.sampling: per_speaker ({per_speaker}) must be at least 2, and "
                f"data.batch_size ({batch_size}) a multiple of it times the number of processes "
                f"({world_size})"
            )
        check_cap(max_per_speaker)
        self._speaker = corpus.speaker
        self._size = per_speaker
        speakers = batch_size // per_speaker
        counts = np.bincount(corpus.speaker)
        groups = np.minimum(counts, max_per_speaker or len(corpus.speaker)) // per_speaker
        self._groups, self.steps = fit_groups(groups, speakers)
        alone = int(np.count_nonzero((groups == 0) & (counts > 0)))
        if alone:
            get_logger().warning(
                "%d speakers with fewer than %d utterances take no part", alone, per_speaker
            )
        self._world = world_size
        sizes = np.diff(even_cuts(int(self._groups.sum()), self.steps))
        check_shares(sizes, 1, batch_size, world_size)
        self.smallest = int(sizes.min()) // world_size * per_speaker
        self._samples = np.full(self.steps * world_size, crop_samples)

    def order(self, seed: int, epoch: int) -> Order:
        """Return the groups of an epoch, those of one batch next to each other."""
        rng = generator(seed, epoch)
        place = rng.permutation(len(self._groups))
        # The utterances of each speaker, shuffled, the speakers in a random order.
        rows = np.lexsort((rng.random(len(self._speaker)), place[self._speaker]))
        within = count_within(place[self._speaker[rows]])
        rows = rows[within < self._groups[self._speaker[rows]] * self._size]
        groups = rows.reshape(-1, self._size)
        # Dealt out like cards: the groups of a speaker go to different batches.
        step = rng.permutation(self.steps)[np.arange(len(groups)) % self.steps]
        sizes = np.bincount(step, minlength=self.steps)
        rows = groups[np.argsort(step, kind="stable")].reshape(-1)
        return Order(rows, border(shares(sizes, self._world)) * self._size, self._samples)


SAMPLINGS: Mapping[str, type] = MappingProxyType(
    {"utterances": UtteranceSampling, "speakers": SpeakerSampling, "lengths": LengthSampling}
)
"""Ways to choose utterances by the name they have in settings."""
