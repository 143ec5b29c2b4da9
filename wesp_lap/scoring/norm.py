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
from wesp_lap.log import get_logger
from wesp_lap.scoring.cohort import Cohort
from wesp_lap.scoring.cosine import Side, check_widths, trial_sides
from wesp_lap.scoring.embeddings import Embeddings, EmbeddingSource

NormMethod = Literal["asnorm", "snorm"]

_LARGEST_BYTES = 128 << 20  # largest cosines so far, of the rows that meet the cohort together
_AVERAGED_ROWS = 4096
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
    cohort: EmbeddingSource,
    mean: np.ndarray | None,
    top_n: int,
    method: NormMethod = "asnorm",
    std_ddof: int = 1,
    device: str = "cpu",
) -> tuple[np.ndarray, CohortStatistics]:
    """Normalise the scores of a trial list against a cohort.

    Every distinct utterance meets the cohort once, in blocks of bounded memory. All entries of the
    cohort take part, also one that bears the name of a side of the trial: a cohort should hold
    other speakers, and a warning says when it does not.

    Args:
        scores: (T,) cosines of the trials.
        trials: T pairs of keys.
        enroll: embeddings of the first column.
        test: embeddings of the second column; may be the same object as ``enroll``.
        cohort: embeddings of other speakers, usually means of the training speakers; those of an
            ``EmbeddingFile`` are read block by block.
        mean: (E,) subtracted from every embedding, or None; the one the scores were made with.
        top_n: how many of the largest cohort cosines count; S-norm takes all.
        method: "asnorm" or "snorm".
        std_ddof: 1 divides squared deviations by n - 1, 0 by n (as WeSpeaker does).
        device: "cpu", or the torch device that meets the cohort.

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
    entries = Cohort.of_source(cohort, mean)
    left, right = trial_sides(trials, enroll, test, mean)
    _warn_of_trials_in_cohort({*left.keys, *right.keys}, cohort)
    left_mean, left_std = _side_statistics(left, entries, count, std_ddof, device)
    if right.unit is left.unit:
        right_mean, right_std = left_mean, left_std
    else:
        right_mean, right_std = _side_statistics(right, entries, count, std_ddof, device)
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
    cohort: Cohort | np.ndarray,
    top_n: int,
    std_ddof: int = 1,
    excluded: np.ndarray | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the ``top_n`` largest cohort cosines per row.

    Of the cosines of a row only the largest so far are kept, or their mean and sum of squares when
    all count. Products are float32, averages float64; block sizes and threads change the result by
    no more than rounding (1e-6).

    Args:
        unit: (n, E) float32 of unit length.
        cohort: C entries; an array is (C, E), of unit length.
        top_n: how many cohort entries count, at most C less those excluded.
        std_ddof: 1 unbiased, 0 population.
        excluded: (n, x) rows of a cohort array that must not count for row i, or None.
        device: "cpu" for numpy with as many threads as its BLAS has, else a torch device.

    Returns:
        Two arrays (n,) float64.
    """
    if isinstance(cohort, np.ndarray):
        cohort = Cohort.of_array(cohort)
    means, stds = np.empty(len(unit)), np.empty(len(unit))
    kept = 2 if top_n == cohort.size and excluded is None else top_n  # numbers per row
    height = max(1, _LARGEST_BYTES // (4 * kept))
    for start in range(0, len(unit), height):
        rows = slice(start, start + height)
        barred = None if excluded is None else excluded[rows]
        means[rows], stds[rows] = _statistics(unit[rows], cohort, top_n, std_ddof, barred, device)
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


def _statistics(
    unit: np.ndarray,
    cohort: Cohort,
    top_n: int,
    std_ddof: int,
    excluded: np.ndarray | None,
    device: str,
) -> tuple[np.ndarray, np.ndarray]:
    if device == "cpu":
        from wesp_lap.scoring.cohort_numpy import largest, moments
    else:
        from wesp_lap.scoring.cohort_torch import largest, moments
    if top_n == cohort.size and excluded is None:
        mean, squares = moments(unit, cohort, device)
        return mean, np.sqrt(squares / (top_n - std_ddof))
    found = largest(unit, cohort, top_n, excluded, device)
    means, stds = np.empty(len(unit)), np.empty(len(unit))
    for start in range(0, len(unit), _AVERAGED_ROWS):
        rows = slice(start, start + _AVERAGED_ROWS)
        cosines = found[rows].astype(np.float64)
        means[rows], stds[rows] = cosines.mean(axis=1), cosines.std(axis=1, ddof=std_ddof)
    return means, stds


def _side_statistics(
    side: Side, cohort: Cohort, top_n: int, std_ddof: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    means, stds = cohort_statistics(side.unit, cohort, top_n, std_ddof, device=device)
    check_spread(stds, side.keys)
    return means, stds


def _warn_of_trials_in_cohort(keys: set[str], cohort: EmbeddingSource) -> None:
    both = keys.intersection(cohort.keys)
    if both:
        get_logger().warning(
            "%s: %d of the names in the trials are in the cohort too, as %s; normalised scores "
            "assume a cohort of other speakers",
            cohort.source,
            len(both),
            min(both),
        )
