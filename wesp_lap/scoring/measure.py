"""Measure score files, whole and broken down, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.bootstrap import Intervals, Resampling, bootstrap, trial_speakers
from wesp_lap.scoring.breakdown import group_trials, read_values
from wesp_lap.scoring.curve import crossing_point, error_curve
from wesp_lap.scoring.labelled import Scored, trial_labels
from wesp_lap.scoring.metrics import EerMethod, Metrics, evaluate


@dataclass(frozen=True)
class Measures:
    """What is measured of every list.

    Attributes:
        p_targets: target priors of the detection costs.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        llr: the scores are log-likelihood ratios: actDCF, Cllr and minCllr too.
        eer_method: as in ``wesp_lap.scoring.metrics.eer``.
        resampling: how to make confidence intervals, or None for none.
    """

    p_targets: Sequence[float] = (0.01, 0.05)
    c_miss: float = 1.0
    c_fa: float = 1.0
    llr: bool = False
    eer_method: EerMethod = "crossing"
    resampling: Resampling | None = None


@dataclass(frozen=True)
class Maps:
    """Files that say more about the ids of the trials.

    Attributes:
        utt2spk: speaker of every id; needed for confidence intervals and maps by speaker.
        by: maps ``id value`` by which the trials are broken down.
        bins: edges for the maps whose values are numbers.
    """

    utt2spk: PathLike | None = None
    by: Sequence[PathLike] = ()
    bins: Sequence[float] = ()


@dataclass(frozen=True)
class Result:
    """What was measured of some trials of a list.

    Attributes:
        trials: number of trials.
        targets: number of target trials among them.
        metrics: None when ``note`` says why there are none.
        intervals: confidence intervals, when asked for.
        rates: miss and false-alarm rate at the EER threshold of the whole list, NaN without
            trials of that kind; None for the whole list.
        note: why there are no metrics or no intervals.
    """

    trials: int
    targets: int
    metrics: Metrics | None = None
    intervals: Intervals | None = None
    rates: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Results of one score file.

    Attributes:
        whole: of all trials.
        groups: by name of the map, then of the group.
        rows: the trials of every group, in the same order.
    """

    whole: Result
    groups: dict[str, dict[str, Result]] = field(default_factory=dict)
    rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def measure_systems(
    scored: Scored, measures: Measures, maps: Maps | None = None
) -> dict[str, Report]:
    """Measure score files, whole and broken down.

    Args:
        scored: trials and scores by name.
        measures: what to measure.
        maps: speakers and groups of the ids.

    Raises:
        DataError: a list that cannot be measured as a whole, or ids that a map does not have.
            Groups that cannot be measured get a note.
    """
    maps = maps or Maps()
    utt2spk = None if maps.utt2spk is None else read_table(maps.utt2spk)
    if measures.resampling is not None and utt2spk is None:
        raise ConfigError("confidence intervals need --utt2spk: whole speakers are resampled")
    by = {Path(path).name: (*read_values(path, maps.bins), str(path)) for path in maps.by}
    reports = {}
    for name, (trials, scores) in scored.items():
        with naming(name):
            rows = {
                key: group_trials(trials, values, order, utt2spk, source)
                for key, (values, order, source) in by.items()
            }
            reports[name] = _report(trials, scores, measures, utt2spk, rows)
    return reports


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a list before every error about its data."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _report(
    trials: Trials,
    scores: np.ndarray,
    measures: Measures,
    utt2spk: Mapping[str, str] | None,
    rows: dict[str, dict[str, np.ndarray]],
) -> Report:
    labels = trial_labels(trials)
    speakers = None
    if measures.resampling is not None and utt2spk is not None:
        speakers, _ = trial_speakers(trials, utt2spk)
    whole = _measure(scores, labels, speakers, measures)
    if not rows:
        return Report(whole)
    curve = error_curve(scores, labels)
    accepted = scores >= curve.thresholds[crossing_point(curve)]
    groups = {
        key: {
            name: _measure_group(
                scores[part],
                labels[part],
                None if speakers is None else speakers[part],
                measures,
                accepted[part],
            )
            for name, part in parts.items()
        }
        for key, parts in rows.items()
    }
    return Report(whole, groups, rows)


def _measure(
    scores: np.ndarray, labels: np.ndarray, speakers: np.ndarray | None, measures: Measures
) -> Result:
    options = (measures.p_targets, measures.c_miss, measures.c_fa, measures.eer_method)
    metrics = evaluate(scores, labels, options[0], measures.llr, *options[1:])
    intervals = None
    if speakers is not None and measures.resampling is not None:
        intervals = bootstrap(scores, labels, speakers, measures.resampling, *options)
    return Result(metrics.trials, metrics.targets, metrics, intervals)


def _measure_group(
    scores: np.ndarray,
    labels: np.ndarray,
    speakers: np.ndarray | None,
    measures: Measures,
    accepted: np.ndarray,
) -> Result:
    targets = labels == 1
    rates = (_share(~accepted[targets]), _share(accepted[~targets]))
    count = int(targets.sum())
    if count in (0, len(labels)):
        note = "no targets" if count == 0 else "only targets"
        return Result(len(labels), count, rates=rates, note=note)
    if speakers is not None:
        speakers = np.unique(speakers, return_inverse=True)[1].reshape(-1, 2).astype(np.int32)
    try:
        return replace(_measure(scores, labels, speakers, measures), rates=rates)
    except DataError as error:
        note = str(error).splitlines()[0]
    try:
        result = _measure(scores, labels, None, measures)
    except DataError:
        return Result(len(labels), count, rates=rates, note=note)
    return replace(result, rates=rates, note=note)


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
