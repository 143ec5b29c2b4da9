"""Confidence intervals of error rates by resampling the speakers of a trial list.

The trials of a list are not independent: those of one speaker, on either side, share the voice.
So whole speakers are drawn with replacement, as many as there are. A target trial then counts as
often as its speaker was drawn, a non-target trial as often as the product of both speakers' draws:
the vertex bootstrap of Snijders and Borgatti (Connections, 1999), here with the trials within a
speaker kept together; the product weights are those of Owen, "The pigeonhole bootstrap" (Annals
of Applied Statistics, 2007), who shows that they do not understate the variance of a mean. The
interval is that of the percentiles. Where there are hardly any errors it is too short: with none,
it is [0, 0] (Fogliato et al., "Confidence intervals for error rates in 1:1 matching tasks", 2024).

The scores are sorted once. A resample changes only how often each trial counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import get_logger
from wesp_lap.scoring.curve import ErrorCurve, bends, checked_trials, error_curve
from wesp_lap.scoring.metrics import EerMethod, cost_weights, curve_eer, curve_min_dcf
from wesp_lap.seeding import generator

_WINDOW = 64


@dataclass(frozen=True)
class Resampling:
    """How to make confidence intervals.

    Attributes:
        count: number of resamples.
        confidence: share of resamples that an interval covers.
        seed: seed of the draws.
    """

    count: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"a bootstrap needs at least 2 resamples, got {self.count}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"the confidence must lie between 0 and 1, got {self.confidence}")


@dataclass(frozen=True)
class Intervals:
    """Lower and upper ends; EER as a fraction, minDCF normalised and by target prior.

    ``resamples`` is how many draws they come from, ``speakers`` how many were drawn from.
    """

    eer: tuple[float, float]
    min_dcf: dict[float, tuple[float, float]]
    resamples: int
    speakers: int


def trial_speakers(trials: Trials, utt2spk: Mapping[str, str]) -> tuple[np.ndarray, int]:
    """Return the speakers of both columns as numbers, (T, 2), and how many there are.

    An id that is no utterance of ``utt2spk`` may be one of its speakers, as an enrolment model
    often is.

    Raises:
        DataError: ids of neither kind; the message counts them and names five.
    """
    speakers = {name: number for number, name in enumerate(sorted(set(utt2spk.values())))}
    known = {**speakers, **{key: speakers[name] for key, name in utt2spk.items()}}
    try:
        columns = [
            np.fromiter(map(known.__getitem__, column), np.int32, len(column))
            for column in (trials.enroll, trials.test)
        ]
    except KeyError:
        missing = list(dict.fromkeys(k for k in (*trials.enroll, *trials.test) if k not in known))
        raise DataError(
            f"no speaker known for {len(missing)} ids of the trials: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}\n"
            "Give an utt2spk that has them; enrolment models need lines 'model speaker'."
        ) from None
    used, numbers = np.unique(np.stack(columns, axis=1), return_inverse=True)
    return numbers.reshape(-1, 2).astype(np.int32), len(used)


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray | None,
    speakers: np.ndarray,
    resampling: Resampling,
    p_targets: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    eer_method: EerMethod = "crossing",
) -> Intervals:
    """Return the intervals of EER and minDCF.

    Args:
        scores: (T,) numbers, higher for the same speaker.
        labels: (T,) 1 target, 0 non-target.
        speakers: (T, 2) speaker numbers 0 .. S-1 of both columns, each of them used.
        resampling: how often, how wide, and the seed.
        p_targets: target priors of the detection costs.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        eer_method: as in ``wesp_lap.scoring.metrics.eer``.

    Raises:
        DataError: unusable trials, a label that contradicts the speakers, or speakers so few that
            most draws leave trials of one kind only.
    """
    sorted_trials = _SortedTrials(scores, labels, speakers)
    weights = [cost_weights(p, c_miss, c_fa) for p in p_targets]
    size = int(speakers.max()) + 1
    random = generator(resampling.seed)
    values = []
    for _ in range(resampling.count):
        draws = np.bincount(random.integers(size, size=size), minlength=size)
        curve = sorted_trials.draw(draws.astype(np.int32))
        if curve is None:
            continue
        values.append([curve.eer(eer_method), *(curve_min_dcf(curve.turns, w) for w in weights)])
    if 2 * len(values) < resampling.count:
        raise DataError(
            f"{resampling.count - len(values)} of {resampling.count} draws from {size} speakers "
            "have no target or no non-target trial: too few speakers for an interval"
        )
    if len(values) < resampling.count:
        get_logger().warning(
            "%d of %d draws from %d speakers left out: trials of one kind only",
            resampling.count - len(values),
            resampling.count,
            size,
        )
    tail = (1 - resampling.confidence) / 2
    ends = np.quantile(np.array(values), [tail, 1 - tail], axis=0).T.tolist()
    eer_ends, *dcf_ends = [(low, high) for low, high in ends]
    return Intervals(eer_ends, dict(zip(p_targets, dcf_ends, strict=True)), len(values), size)


class _SortedTrials:
    """Trials by falling score, targets and non-targets apart, and where the thresholds cut them."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray | None, speakers: np.ndarray) -> None:
        curve = error_curve(scores, labels)
        scores, targets = checked_trials(scores, labels)
        contradictions = int((targets != (speakers[:, 0] == speakers[:, 1])).sum())
        if contradictions:
            raise DataError(
                f"the labels of {contradictions} of {len(scores)} trials contradict the speakers\n"
                "Give the utt2spk of this list: a target trial has one speaker on both sides."
            )
        order = np.argsort(-scores, kind="stable")
        one, other = speakers[order].T
        is_target = targets[order]
        self._target = one[is_target].astype(np.intp)
        self._enroll = one[~is_target].astype(np.intp)
        self._test = other[~is_target].astype(np.intp)
        self.cuts = _Cuts(curve.targets - curve.misses, curve.false_alarms)
        turns = curve.turns()
        self.turn_cuts = _Cuts(turns.targets - turns.misses, turns.false_alarms)

    def draw(self, draws: np.ndarray) -> _DrawnCurve | None:
        """Return the curve when speaker i counts ``draws[i]`` times; None without both kinds."""
        targets = _running_sum(draws[self._target])
        nontargets = _running_sum(draws[self._enroll] * draws[self._test])
        if targets[-1] == 0 or nontargets[-1] == 0:
            return None
        return _DrawnCurve(self, targets, nontargets)


@dataclass(frozen=True)
class _Cuts:
    """How many sorted targets and non-targets every threshold accepts, each (K,)."""

    targets: np.ndarray
    nontargets: np.ndarray


class _DrawnCurve:
    """The error curve of one resample, looked at only where it is needed."""

    def __init__(self, trials: _SortedTrials, targets: np.ndarray, nontargets: np.ndarray) -> None:
        self._cuts = trials.cuts
        self._targets, self._nontargets = targets, nontargets
        cuts = trials.turn_cuts
        misses = targets[-1] - targets[cuts.targets]
        false_alarms = nontargets[cuts.nontargets]
        moved = _moves(misses, false_alarms)
        self.turns = ErrorCurve(np.zeros(moved.sum()), misses[moved], false_alarms[moved])

    def eer(self, method: EerMethod) -> float:
        """Return the EER; the one of ``crossing_point`` from the points around the crossing."""
        if method != "crossing":
            return curve_eer(self.turns, method)
        size = len(self._cuts.targets)
        middle = bisect_left(range(size), 0, key=lambda point: -self._gap(point))
        reach = _WINDOW
        while True:
            first, last = max(0, middle - reach), min(size, middle + reach)
            found = self._crossing(first, last)
            if found is not None:
                return found
            reach *= 4

    def _gap(self, point: int) -> int:
        """Return misses less false alarms, both as shares of the same whole; falls."""
        misses = self._targets[-1] - self._targets[self._cuts.targets[point]]
        false_alarms = self._nontargets[self._cuts.nontargets[point]]
        return int(misses * self._nontargets[-1] - false_alarms * self._targets[-1])

    def _crossing(self, first: int, last: int) -> float | None:
        """Return the EER from points ``first`` to ``last``, None when they do not decide it."""
        misses = self._targets[-1] - self._targets[self._cuts.targets[first:last]]
        false_alarms = self._nontargets[self._cuts.nontargets[first:last]]
        total, others = int(self._targets[-1]), int(self._nontargets[-1])
        # A score that no drawn trial has is no threshold.
        moved = _moves(misses, false_alarms)
        misses, false_alarms = misses[moved], false_alarms[moved]
        kept = bends(misses, false_alarms)
        if first == 0:
            kept = np.union1d([0, 1], kept)
        if last == len(self._cuts.targets):
            kept = np.union1d(kept, [len(misses) - 1])
        gaps = misses[kept] * others - false_alarms[kept] * total
        if not len(gaps) or gaps[0] < 0 or gaps[-1] > 0:
            return None
        point = kept[np.argmin(np.abs(gaps))]
        return float(max(misses[point] / total, false_alarms[point] / others))


def _moves(misses: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Return, per point, whether it differs from the one before; the first one does."""
    return np.concatenate(([True], (np.diff(misses) != 0) | (np.diff(false_alarms) != 0)))


def _running_sum(weights: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, ... weights, int64."""
    sums = np.empty(len(weights) + 1, np.int64)
    sums[0] = 0
    np.cumsum(weights, out=sums[1:])
    return sums
