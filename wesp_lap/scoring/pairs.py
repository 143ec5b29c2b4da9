"""Training pairs for calibration, drawn from the utterances of a training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import get_logger
from wesp_lap.seeding import generator

PairKind = Literal["random", "duration_balanced"]

# Draws per round at least, so that the last missing pairs of a small set do not take long.
_LEAST_DRAWS = 4096
# From here up an utterance is short, from there up long: the bounds of WeSpeaker's
# generate_calibration_trial.py.
DURATION_BOUNDS = (2.0, 6.0)


def make_pairs(
    utterances: Sequence[str],
    utt2spk: Mapping[str, str],
    num_pairs: int,
    seed: int,
    utt2session: Mapping[str, str] | None = None,
) -> Trials:
    """Draw labelled pairs: the first half targets, the rest non-targets.

    Target: a speaker drawn evenly among those with two utterances or more, then two of its
    utterances. Non-target: two different speakers, one utterance of each. No utterance meets
    itself, and no pair comes twice, in either direction: a small set gives fewer pairs, with a
    warning. The pairs depend on the seed and the set, not on the order in which it is given.

    Args:
        utterances: the keys to draw from.
        utt2spk: speaker of every utterance.
        num_pairs: how many pairs, 2 or more.
        seed: seed of the draw.
        utt2session: recording or session of every utterance; pairs of one session are left out.

    Raises:
        DataError: fewer than two speakers, or none with two utterances.
    """
    if num_pairs < 2:
        raise ConfigError(f"num_pairs must be at least 2, got {num_pairs}")
    utterance_set = _Utterances(utterances, utt2spk, utt2session)
    utterance_set.check()
    everything = utterance_set.part(np.ones(len(utterance_set.keys), bool))
    cell = _Cell(utterance_set, everything, everything, "")
    random = generator(seed)
    targets = _drawn(cell.draw_targets, random, num_pairs // 2, cell.target_pairs, "target")
    others = _drawn(
        cell.draw_nontargets, random, num_pairs - num_pairs // 2, cell.nontarget_pairs, "non-target"
    )
    return _as_trials(utterance_set.keys, targets, others)


def make_balanced_pairs(
    utterances: Sequence[str],
    utt2spk: Mapping[str, str],
    durations: Mapping[str, float],
    num_pairs: int,
    seed: int,
    bounds: tuple[float, float] = DURATION_BOUNDS,
    utt2session: Mapping[str, str] | None = None,
) -> Trials:
    """Draw pairs of short-short, short-long and long-long utterances, as many of each.

    Half of each are targets, and half of the short-long pairs have the long utterance first.
    Otherwise as ``make_pairs``. See Thienpondt, Desplanques and Demuynck, "The IDLab VoxSRC-20
    submission: large margin fine-tuning and quality-aware score calibration", ICASSP 2021.

    Args:
        utterances: the keys to draw from.
        utt2spk: speaker of every utterance.
        durations: seconds of every utterance.
        num_pairs: how many pairs, 6 or more.
        seed: seed of the draw.
        bounds: seconds from which an utterance is short, and from which it is long; those below
            the first are not drawn.
        utt2session: as in ``make_pairs``.

    Raises:
        DataError: utterances without a duration, or a kind of pair that the set does not have.
    """
    if num_pairs < 6:
        raise ConfigError(f"num_pairs must be at least 6 for balanced pairs, got {num_pairs}")
    utterance_set = _Utterances(utterances, utt2spk, utt2session)
    utterance_set.check()
    cells = _balanced_cells(utterance_set, durations, bounds)
    random = generator(seed)
    targets, nontargets = [], []
    for number, cell in enumerate(cells):
        # The parts of a number that 6 does not divide differ by one.
        wanted, others = ((num_pairs + 5 - 2 * number - kind) // 6 for kind in (0, 1))
        one, other = f"{cell.name}target", f"{cell.name}non-target"
        targets.append(_drawn(cell.draw_targets, random, wanted, cell.target_pairs, one))
        nontargets.append(_drawn(cell.draw_nontargets, random, others, cell.nontarget_pairs, other))
        for pairs in (targets[-1], nontargets[-1]) if cell.mixed else ():
            turned = random.random(len(pairs)) < 0.5
            pairs[turned] = pairs[turned, ::-1]
    return _as_trials(utterance_set.keys, np.concatenate(targets), np.concatenate(nontargets))


def _balanced_cells(
    utterance_set: _Utterances, durations: Mapping[str, float], bounds: tuple[float, float]
) -> list[_Cell]:
    """Return the short-short, short-long and long-long pairs; all of them must exist."""
    low, high = bounds
    if not 0 <= low < high:
        raise ConfigError(f"duration bounds must rise, got {low:g}, {high:g}")
    unknown = [key for key in utterance_set.keys if key not in durations]
    if unknown:
        raise DataError(f"no duration for {len(unknown)} utterances: {', '.join(unknown[:5])}")
    seconds = np.array([durations[key] for key in utterance_set.keys])
    short = utterance_set.part((seconds >= low) & (seconds < high))
    long = utterance_set.part(seconds >= high)
    cells = [
        _Cell(utterance_set, short, short, "short-short "),
        _Cell(utterance_set, short, long, "short-long "),
        _Cell(utterance_set, long, long, "long-long "),
    ]
    missing = [
        cell.name.strip() for cell in cells if not (cell.target_pairs and cell.nontarget_pairs)
    ]
    if missing:
        raise DataError(
            f"the training set lacks target or non-target pairs: {', '.join(missing)} "
            f"({len(short.rows)} utterances of {low:g} to {high:g} s, {len(long.rows)} longer)\n"
            "Give other --pair_durations, add shorter cuts of the utterances to the set, or take "
            "--pairs random."
        )
    return cells


@dataclass(frozen=True)
class _Part:
    """Some utterances of a set: their rows, and by speaker where they begin and how many."""

    rows: np.ndarray
    first: np.ndarray
    count: np.ndarray

    def of_speaker(self, speaker: np.ndarray, number: np.ndarray) -> np.ndarray:
        return self.rows[self.first[speaker] + number]


class _Utterances:
    """Utterances sorted by speaker."""

    def __init__(
        self,
        utterances: Sequence[str],
        utt2spk: Mapping[str, str],
        utt2session: Mapping[str, str] | None,
    ) -> None:
        self.keys = sorted(utterances, key=lambda key: (utt2spk[key], key))
        names, self.speakers = np.unique([utt2spk[key] for key in self.keys], return_inverse=True)
        self.count = len(names)
        self.sessions: np.ndarray | None = None
        if utt2session is not None:
            unknown = [key for key in self.keys if key not in utt2session]
            if unknown:
                raise DataError(
                    f"no session for {len(unknown)} utterances: {', '.join(unknown[:5])}"
                )
            self.sessions = np.unique([utt2session[key] for key in self.keys], return_inverse=True)[
                1
            ]

    def check(self) -> None:
        """Raise unless there can be target and non-target pairs."""
        if self.count < 2:
            raise DataError(
                f"calibration needs non-target pairs: {self.count} speaker in the training "
                "set\nGive a set with at least two speakers."
            )
        if np.bincount(self.speakers).max() < 2:
            raise DataError(
                f"calibration needs target pairs: none of the {self.count} training "
                "speakers has two utterances\nGive a set with several utterances per speaker."
            )

    def part(self, kept: np.ndarray) -> _Part:
        rows = np.flatnonzero(kept)
        count = np.bincount(self.speakers[rows], minlength=self.count)
        return _Part(rows, np.cumsum(count) - count, count)


class _Cell:
    """Pairs of one utterance of ``one`` and one of ``other``, which are the same or disjoint."""

    def __init__(self, utterance_set: _Utterances, one: _Part, other: _Part, name: str) -> None:
        self.name = name
        self.mixed = one is not other
        self._one, self._other = one, other
        self._sessions = utterance_set.sessions
        least = 1 if self.mixed else 2
        self._paired = np.flatnonzero(np.minimum(one.count, other.count) >= least)
        self._left, self._right = np.flatnonzero(one.count), np.flatnonzero(other.count)
        speakers = utterance_set.speakers
        # A speaker's utterances in one session are the pairs that do not count.
        within = self._joint(speakers)
        everything = self._joint(np.zeros_like(speakers))
        shared = shared_within = 0
        if self._sessions is not None:
            shared = self._joint(self._sessions)
            shared_within = self._joint(self._sessions * utterance_set.count + speakers)
        self.target_pairs = within - shared_within
        self.nontarget_pairs = everything - within - (shared - shared_within)

    def _joint(self, groups: np.ndarray) -> int:
        """Return how many pairs have both utterances in one group."""
        size = int(groups.max()) + 1
        one = np.bincount(groups[self._one.rows], minlength=size)
        if not self.mixed:
            return int((one * (one - 1) // 2).sum())
        return int((one * np.bincount(groups[self._other.rows], minlength=size)).sum())

    def draw_targets(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Draw about ``count`` pairs of a speaker's utterances, (about count, 2)."""
        speaker = random.choice(self._paired, count)
        one = random.integers(self._one.count[speaker])
        if self.mixed:
            other = random.integers(self._other.count[speaker])
        else:
            # A step of 1 .. n-1 round the speaker's utterances never comes back to the first.
            other = one + random.integers(1, self._one.count[speaker])
            other %= self._one.count[speaker]
        return self._rows(speaker, one, speaker, other)

    def draw_nontargets(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Draw about ``count`` pairs of utterances of two speakers, (about count, 2)."""
        left = random.integers(len(self._left), size=count)
        if self.mixed:
            right = random.integers(len(self._right), size=count)
        else:
            right = (left + random.integers(1, len(self._left), size=count)) % len(self._left)
        speakers = np.stack([self._left[left], self._right[right]], axis=1)
        speakers = speakers[speakers[:, 0] != speakers[:, 1]]
        counts = np.stack([self._one.count, self._other.count], axis=1)
        numbers = random.integers(np.take_along_axis(counts, speakers, axis=0))
        return self._rows(speakers[:, 0], numbers[:, 0], speakers[:, 1], numbers[:, 1])

    def _rows(
        self, one: np.ndarray, first: np.ndarray, other: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        pairs = np.stack(
            [self._one.of_speaker(one, first), self._other.of_speaker(other, second)], axis=1
        )
        if self._sessions is None:
            return pairs
        return pairs[self._sessions[pairs[:, 0]] != self._sessions[pairs[:, 1]]]


def _drawn(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    random: np.random.Generator,
    wanted: int,
    available: int,
    kind: str,
) -> np.ndarray:
    """Draw ``wanted`` different pairs, (wanted, 2), or all when fewer are ``available``."""
    if available < wanted:
        get_logger().warning(
            "the training set has %d %s pairs, %d were asked for: taking those",
            available,
            kind,
            wanted,
        )
    wanted = min(wanted, available)
    found = np.empty((0, 2), np.int64)
    while len(found) < wanted:
        found = np.concatenate([found, draw(random, max(wanted - len(found), _LEAST_DRAWS))])
        _, first = np.unique(np.sort(found, axis=1), axis=0, return_index=True)
        found = found[np.sort(first)]
    return found[:wanted]


def _as_trials(keys: Sequence[str], targets: np.ndarray, nontargets: np.ndarray) -> Trials:
    if not (len(targets) and len(nontargets)):
        kind = "non-target" if len(targets) else "target"
        raise DataError(
            f"calibration needs {kind} pairs of different sessions: the training set has none"
        )
    pairs = np.concatenate([targets, nontargets])
    return Trials(
        enroll=[keys[row] for row in pairs[:, 0]],
        test=[keys[row] for row in pairs[:, 1]],
        labels=np.repeat(np.array([1, 0], np.int8), [len(targets), len(nontargets)]),
    )
