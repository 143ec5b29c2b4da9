"""AS-norm and S-norm: scores measured against those of a cohort of other speakers.

s' = ((s - m_e) / d_e + (s - m_t) / d_t) / 2, where m and d are mean and standard deviation of the
cosines between one side of the trial and the cohort: of the ``top_n`` largest (AS-norm) or of all
(S-norm). See docs/methods.md, section 5, and Matějka et al., "Analysis of Score Normalization in
Multilingual Speaker Recognition", Interspeech 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import progress
from wesp_lap.scoring.cosine import Side, check_widths, trial_sides
from wesp_lap.scoring.embeddings import Embeddings

NormMethod = Literal["asnorm", "snorm"]

_BLOCK_BYTES = 64 << 20
# Cosines come out of float32 products: a spread below their resolution is rounding, not spread.
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class CohortStatistics:
    """What normalisation knew about every trial; each array is (T,).

    Attributes:
        enroll_norm: length of the centred embedding of the first column.
        test_norm: the same of the second column.
        enroll_mean: mean of its cohort cosines.
        test_mean: the same of the second column.
        enroll_std: standard deviation of its cohort cosines.
        test_std: the same of the second column.
    """

    enroll_norm: np.ndarray
    test_norm: np.ndarray
    enroll_mean: np.ndarray
    test_mean: np.ndarray
    enroll_std: np.ndarray
    test_std: np.ndarray


def score_norm(
    scores: np.ndarray,
    trials: Trials,
    enroll: Embeddings,
    test: Embeddings,
    cohort: Embeddings,
    mean: np.ndarray | None,
    top_n: int,
    method: NormMethod = "asnorm",
    std_ddof: int = 1,
) -> tuple[np.ndarray, CohortStatistics]:
    """Normalise the scores of a trial list against a cohort.

    Every distinct utterance meets the cohort once, in blocks of bounded memory.

    Args:
        scores: (T,) cosines of the trials.
        trials: T pairs of keys.
        enroll: embeddings of the first column.
        test: embeddings of the second column; may be the same object as ``enroll``.
        cohort: embeddings of other speakers, usually means of the training speakers.
        mean: (E,) subtracted from every embedding, or None; the one the scores were made with.
        top_n: how many of the largest cohort cosines count; S-norm takes all.
        method: "asnorm" or "snorm".
        std_ddof: 1 divides squared deviations by n - 1, 0 by n (as WeSpeaker does).

    Returns:
        Normalised scores, (T,) float64, and the statistics behind them.

    Raises:
        DataError: a cohort smaller than ``top_n`` or without spread, keys without an embedding,
            or widths that differ.
    """
    if method not in ("asnorm", "snorm"):
        raise ConfigError(f"unknown normalisation {method!r}; known: asnorm, snorm")
    if len(scores) != len(trials.test):
        raise DataError(f"{len(scores)} scores do not fit {len(trials.test)} trials")
    check_widths(enroll, cohort)
    size = len(cohort.keys)
    count = check_top_n(top_n if method == "asnorm" else max(2, size), size)
    cohort_unit, _ = cohort.unit(mean)
    left, right = trial_sides(trials, enroll, test, mean)
    left_mean, left_std = _side_statistics(left, cohort_unit, count, std_ddof)
    if right.unit is left.unit:
        right_mean, right_std = left_mean, left_std
    else:
        right_mean, right_std = _side_statistics(right, cohort_unit, count, std_ddof)
    statistics = CohortStatistics(
        enroll_norm=left.norms[left.rows],
        test_norm=right.norms[right.rows],
        enroll_mean=left_mean[left.rows],
        test_mean=right_mean[right.rows],
        enroll_std=left_std[left.rows],
        test_std=right_std[right.rows],
    )
    return symmetric_norm(scores, statistics), statistics


def symmetric_norm(scores: np.ndarray, statistics: CohortStatistics) -> np.ndarray:
    """Return the average of both sides' standardised scores, (T,) float64."""
    enroll = (scores - statistics.enroll_mean) / statistics.enroll_std
    test = (scores - statistics.test_mean) / statistics.test_std
    return (enroll + test) / 2


def cohort_statistics(
    unit: np.ndarray,
    cohort_unit: np.ndarray,
    top_n: int,
    std_ddof: int = 1,
    excluded: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the ``top_n`` largest cohort cosines per row.

    Args:
        unit: (n, E) of unit length.
        cohort_unit: (C, E) of unit length.
        top_n: how many cohort entries count, at most C less those excluded.
        std_ddof: 1 unbiased, 0 population.
        excluded: (n, x) cohort rows that must not count for row i, or None.

    Returns:
        Two arrays (n,) float64.
    """
    size = len(cohort_unit)
    means, stds = np.empty(len(unit)), np.empty(len(unit))
    height = max(1, _BLOCK_BYTES // (4 * size))
    starts = range(0, len(unit), height)
    for start in progress(starts, "cohort scores", unit="block"):
        rows = slice(start, min(start + height, len(unit)))
        cosines = unit[rows] @ cohort_unit.T
        if excluded is not None:
            np.put_along_axis(cosines, excluded[rows], -np.inf, axis=1)
        if top_n < size:
            cosines.partition(size - top_n, axis=1)
        top = cosines[:, size - top_n :].astype(np.float64)
        means[rows] = top.mean(axis=1)
        stds[rows] = top.std(axis=1, ddof=std_ddof)
    return means, stds


def check_top_n(top_n: int, available: int) -> int:
    """Return ``top_n``, or raise an error that says which value fits the cohort."""
    if top_n < 2:
        raise ConfigError(f"top_n must be at least 2 to have a spread, got {top_n}")
    if top_n > available:
        raise DataError(
            f"the cohort has {available} usable entries, fewer than top_n = {top_n}\n"
            f"Give --top_n {available} or less, or a larger cohort."
        )
    return top_n


def check_spread(stds: np.ndarray, keys: Sequence[str]) -> None:
    """Raise a DataError that names the utterances whose cohort scores are all equal."""
    flat = np.flatnonzero(~(stds > _LEAST_STD))
    if len(flat):
        names = ", ".join(keys[row] for row in flat[:5])
        raise DataError(
            f"the cohort scores of {len(flat)} utterances have no spread: {names}\n"
            "The cohort holds copies of one embedding, or too few entries: give a larger one."
        )


def _side_statistics(
    side: Side, cohort_unit: np.ndarray, top_n: int, std_ddof: int
) -> tuple[np.ndarray, np.ndarray]:
    means, stds = cohort_statistics(side.unit, cohort_unit, top_n, std_ddof)
    check_spread(stds, side.keys)
    return means, stds
