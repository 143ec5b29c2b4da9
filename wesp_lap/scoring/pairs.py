"""Training pairs for calibration, drawn from the utterances of a training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator

# Draws per round at least, so that the last missing pairs of a small set do not take long.
_LEAST_DRAWS = 4096


def make_pairs(
    utterances: Sequence[str], utt2spk: Mapping[str, str], num_pairs: int, seed: int
) -> Trials:
    """Draw labelled pairs: the first half targets, the rest non-targets.

    Target: a speaker drawn evenly among those with two utterances or more, then two of its
    utterances. Non-target: two different speakers, one utterance of each. No utterance meets
    itself, and no pair comes twice, in either direction, while the set has another one to give.
    The pairs depend on the seed and the set, not on the order in which it is given.

    Args:
        utterances: the keys to draw from.
        utt2spk: speaker of every utterance.
        num_pairs: how many pairs, 2 or more.
        seed: seed of the draw.

    Raises:
        DataError: fewer than two speakers, or none with two utterances.
    """
    if num_pairs < 2:
        raise ConfigError(f"num_pairs must be at least 2, got {num_pairs}")
    pool = _Pool(utterances, utt2spk)
    random = generator(seed)
    targets, nontargets = num_pairs // 2, num_pairs - num_pairs // 2
    pairs = np.concatenate(
        [
            _distinct(lambda n: pool.draw_targets(random, n), targets, pool.target_pairs, "target"),
            _distinct(
                lambda n: pool.draw_nontargets(random, n),
                nontargets,
                pool.nontarget_pairs,
                "non-target",
            ),
        ]
    )
    return Trials(
        enroll=[pool.keys[row] for row in pairs[:, 0]],
        test=[pool.keys[row] for row in pairs[:, 1]],
        labels=np.repeat(np.array([1, 0], np.int8), [targets, nontargets]),
    )


class _Pool:
    """Utterances sorted by speaker, so that a draw is an offset within the speaker's rows."""

    def __init__(self, utterances: Sequence[str], utt2spk: Mapping[str, str]) -> None:
        self.keys = sorted(utterances, key=lambda key: (utt2spk[key], key))
        _, self._first, self._count = np.unique(
            [utt2spk[key] for key in self.keys], return_index=True, return_counts=True
        )
        if len(self._count) < 2:
            raise DataError(
                f"calibration needs non-target pairs: {len(self._count)} speaker in the training "
                "set\nGive a set with at least two speakers."
            )
        self._paired = np.flatnonzero(self._count >= 2)
        if not len(self._paired):
            raise DataError(
                f"calibration needs target pairs: none of the {len(self._count)} training "
                "speakers has two utterances\nGive a set with several utterances per speaker."
            )
        total = len(self.keys)
        self.target_pairs = int((self._count * (self._count - 1) // 2).sum())
        self.nontarget_pairs = total * (total - 1) // 2 - self.target_pairs

    def draw_targets(self, random: np.random.Generator, count: int) -> np.ndarray:
        speaker = random.choice(self._paired, count)
        one = random.integers(self._count[speaker])
        # A step of 1 .. n-1 round the speaker's utterances never comes back to the first.
        other = (one + random.integers(1, self._count[speaker])) % self._count[speaker]
        return np.stack([one, other], axis=1) + self._first[speaker][:, None]

    def draw_nontargets(self, random: np.random.Generator, count: int) -> np.ndarray:
        speakers = len(self._count)
        one = random.integers(speakers, size=count)
        other = (one + random.integers(1, speakers, size=count)) % speakers
        both = np.stack([one, other], axis=1)
        return self._first[both] + random.integers(self._count[both])


def _distinct(
    draw: Callable[[int], np.ndarray], wanted: int, available: int, kind: str
) -> np.ndarray:
    """Draw ``wanted`` pairs, (wanted, 2); repeat some only when fewer are ``available``."""
    unique = min(wanted, available)
    found = np.empty((0, 2), np.int64)
    while len(found) < unique:
        found = np.concatenate([found, draw(max(unique - len(found), _LEAST_DRAWS))])
        _, first = np.unique(np.sort(found, axis=1), axis=0, return_index=True)
        found = found[np.sort(first)]
    found = found[:unique]
    if unique < wanted:
        get_logger().warning(
            "the training set has %d %s pairs, %d were asked for: some come twice",
            available,
            kind,
            wanted,
        )
        found = np.concatenate([found, draw(wanted - unique)])
    return found
