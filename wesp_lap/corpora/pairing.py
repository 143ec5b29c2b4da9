"""Which utterances can be paired, how many pairs there are, and some of them at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import DataError
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.trials import Trials


def spread(
    count: int, capacity: np.ndarray, random: np.random.Generator, start: np.ndarray | None = None
) -> np.ndarray:
    """Divide ``count`` over groups, as evenly as what they can take allows.

    Args:
        count: what to divide; at most the sum of ``capacity``.
        capacity: the most that each group can take, integers (g,).
        random: decides which groups take one more than others.
        start: what each group has already, which counts towards evenness (g,).

    Returns:
        Share of each group (g,).
    """
    if not 0 <= count <= capacity.sum():
        raise ValueError(f"{count} cannot be divided over groups for {capacity.sum()}")
    have = np.zeros_like(capacity) if start is None else start
    low, high = 0, int((have + capacity).max(initial=0)) + 1
    # The highest common level to which all groups can be filled.
    while high - low > 1:
        level = (low + high) // 2
        if np.clip(level - have, 0, capacity).sum() <= count:
            low = level
        else:
            high = level
    shares = np.clip(low - have, 0, capacity)
    more = np.flatnonzero((have + shares == low) & (shares < capacity))
    shares[random.permutation(more)[: count - int(shares.sum())]] += 1
    return shares


class People:
    """Utterances in the order of speaker, session and key.

    In this order the utterances that one can be paired with are a range of those after it.
    """

    def __init__(self, utt2spk: Mapping[str, str], utt2session: Mapping[str, str] | None) -> None:
        sessions = {} if utt2session is None else utt2session
        lost = sorted(utt2spk.keys() - sessions.keys()) if utt2session is not None else []
        if lost:
            raise DataError(f"no session for {len(lost)} utterances: {some(lost)}")
        self.keys = sorted(utt2spk, key=lambda key: (utt2spk[key], sessions.get(key, ""), key))
        self.names = sorted(set(utt2spk.values()))
        numbers = {name: number for number, name in enumerate(self.names)}
        self.speaker = np.array([numbers[utt2spk[key]] for key in self.keys], np.int64)
        self.count = np.bincount(self.speaker, minlength=len(self.names))
        self.first = np.cumsum(self.count) - self.count
        self.rows = np.arange(len(self.keys))
        self.end = (self.first + self.count)[self.speaker]
        places = [(utt2spk[key], sessions.get(key, "")) for key in self.keys]
        changes = [i for i in range(1, len(places)) if places[i] != places[i - 1]]
        bounds = np.array([*changes, len(places)], np.int64)
        self.session_end = bounds[np.searchsorted(bounds, self.rows, side="right")]

    def trials(self, targets: np.ndarray, nontargets: np.ndarray) -> Trials:
        """Turn pairs of rows, each (n, 2), into a list."""
        rows = np.concatenate([targets, nontargets])
        labels = np.repeat(np.array([1, 0], np.int8), [len(targets), len(nontargets)])
        enroll, test = ([self.keys[row] for row in rows[:, side].tolist()] for side in (0, 1))
        return Trials(enroll, test, labels)


@dataclass(frozen=True)
class Partners:
    """With what each utterance makes a pair: the rows from ``low`` to below ``high``."""

    name: str
    low: np.ndarray
    high: np.ndarray

    def capacity(self, people: People) -> np.ndarray:
        """Return the number of pairs of each speaker."""
        sums = np.concatenate([[0], np.cumsum(self.high - self.low)])
        return sums[people.first + people.count] - sums[people.first]

    def draw(
        self, people: People, speaker: int, count: int, random: np.random.Generator
    ) -> list[tuple[int, int]]:
        """Draw different pairs of rows of a speaker."""
        own = slice(people.first[speaker], people.first[speaker] + people.count[speaker])
        ends = np.cumsum(self.high[own] - self.low[own])
        chosen = random.choice(int(ends[-1]), count, replace=False)
        one = np.searchsorted(ends, chosen, side="right")
        # Counted back from the end of the range: where it starts depends on the ones before.
        other = self.high[own][one] - (ends[one] - chosen)
        return list(zip((one + people.first[speaker]).tolist(), other.tolist(), strict=True))
