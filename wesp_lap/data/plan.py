"""Which utterance stands where in an epoch: a pure function of (seed, epoch).

The plan is one permutation of all utterances, cut into global batches; each rank takes its share of
every global batch. So the same utterances make up step k for any number of workers, and a resume
at step k starts there at once. The utterances left over at the end, fewer than one global batch,
are others in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wesp_lap.errors import DataError
from wesp_lap.seeding import generator


@dataclass(frozen=True)
class Item:
    """One place of an epoch; everything random about it follows from (seed, epoch, position)."""

    epoch: int
    position: int
    utterance: int


class EpochPlan:
    """Batches of one rank.

    Args:
        num_utterances: Utterances of the shard list.
        global_batch: Utterances per step over all ranks; a multiple of ``world_size``.
        rank: Rank of this process.
        world_size: Number of processes.
        seed: Seed of the permutations.
    """

    def __init__(
        self, num_utterances: int, global_batch: int, rank: int, world_size: int, seed: int
    ) -> None:
        if global_batch % world_size or global_batch < 2 * world_size:
            raise DataError(
                f"data.batch_size ({global_batch}) is the batch over all processes: it must be a "
                f"multiple of their number ({world_size}) and give each at least 2 utterances"
            )
        if num_utterances < global_batch:
            raise DataError(
                f"{num_utterances} utterances do not fill one batch of {global_batch}; lower "
                "data.batch_size or add data"
            )
        self.steps_per_epoch = num_utterances // global_batch
        self._num_utterances = num_utterances
        self._global_batch = global_batch
        self._share = global_batch // world_size
        self._rank = rank
        self._seed = seed

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Item]]:
        """Yield this rank's batches of an epoch from ``first_step`` on."""
        order = generator(self._seed, epoch).permutation(self._num_utterances)
        for step in range(first_step, self.steps_per_epoch):
            start = step * self._global_batch + self._rank * self._share
            yield [
                Item(epoch, position, int(order[position]))
                for position in range(start, start + self._share)
            ]
