"""Feature sets of the calibration: what is known of a trial besides its score.

``qmf9`` is that of the LAP paper's evaluation code, enrolment and test not sorted; ``wespeaker13``
that of WeSpeaker (score_calibration.py), where min, max, difference and ratio of two sides make a
trial the same in both directions. ``qmf7`` and ``wespeaker9`` are the same without durations, and
``score`` has the score alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.embeddings import Embeddings

FeatureSet = Literal["qmf9", "qmf7", "wespeaker13", "wespeaker9", "score"]

_QMF_DURATIONS = ("log_duration_enroll", "log_duration_test")
_QMF_NORMS = ("l1_enroll", "l2_enroll", "l1_test", "l2_test", "std_enroll", "std_test")
_FOUR = ("min", "max", "difference", "ratio")
FEATURES: Mapping[str, tuple[str, ...]] = {
    "qmf9": ("score", *_QMF_DURATIONS, *_QMF_NORMS),
    "qmf7": ("score", *_QMF_NORMS),
    "wespeaker13": (
        "score",
        *(f"duration_{name}" for name in _FOUR),
        *(f"norm_{name}" for name in _FOUR),
        *(f"cohort_mean_{name}" for name in _FOUR),
    ),
    "wespeaker9": (
        "score",
        *(f"norm_{name}" for name in _FOUR),
        *(f"cohort_mean_{name}" for name in _FOUR),
    ),
    "score": ("score",),
}
# Longer utterances count as this long in WeSpeaker's features.
MAX_DURATION = 20.0
# A mean cohort cosine may be zero or negative, where a ratio jumps: smaller ones count as this
# in the divisor. From here up the ratio is WeSpeaker's.
LEAST_COHORT_MEAN = 0.01
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class NormColumns:
    """What AS-norm found out about both sides of every trial.

    Attributes:
        norms: (T, 2), lengths of the centred embeddings.
        cohort_means: (T, 2), means of the largest cohort cosines.
    """

    norms: np.ndarray
    cohort_means: np.ndarray


def needs_durations(feature_set: FeatureSet) -> bool:
    """Return True when the features of a set say something about durations."""
    return feature_set in ("qmf9", "wespeaker13")


def needs_norm_columns(feature_set: FeatureSet) -> bool:
    """Return True when the features of a set need what AS-norm found out."""
    return feature_set in ("wespeaker13", "wespeaker9")


def check_feature_set(name: str) -> None:
    """Raise a ConfigError that lists the known sets unless ``name`` is one."""
    if name not in FEATURES:
        raise ConfigError(f"unknown features {name!r}; known: {', '.join(FEATURES)}")


def quality_features(
    scores: np.ndarray,
    trials: Trials,
    enroll: Embeddings,
    test: Embeddings,
    enroll_durations: Mapping[str, float] | None = None,
    test_durations: Mapping[str, float] | None = None,
    feature_set: FeatureSet = "qmf9",
    columns: NormColumns | None = None,
) -> np.ndarray:
    """Return the features of every trial, (T, F) float64, in the order of ``FEATURES``.

    Norms and standard deviation of the QMF sets are those of the raw embeddings, without mean
    subtraction; the standard deviation is the population's, over the E components.

    Args:
        scores: (T,) scores, usually normalised.
        trials: T pairs of keys.
        enroll: embeddings of the first column.
        test: embeddings of the second column.
        enroll_durations: seconds by key of the first column; for sets with durations.
        test_durations: seconds by key of the second column; for sets with durations.
        feature_set: which features.
        columns: for WeSpeaker's sets.

    Raises:
        DataError: keys without an embedding or a positive duration, or scores that do not fit.
    """
    check_feature_set(feature_set)
    if len(scores) != len(trials.test):
        raise DataError(f"{len(scores)} scores do not fit {len(trials.test)} trials")
    parts = [np.asarray(scores, np.float64)[:, None]]
    if needs_durations(feature_set):
        sides = (trials.enroll, enroll_durations or {}), (trials.test, test_durations or {})
        seconds = np.column_stack([_durations(*side) for side in sides])
        if feature_set == "qmf9":
            parts.append(np.log(seconds))
        else:
            parts.append(_four(np.minimum(seconds, MAX_DURATION)))
    if needs_norm_columns(feature_set):
        if columns is None:
            raise ConfigError(f"the features {feature_set} need AS-normalised scores")
        parts += [_four(columns.norms), _four(columns.cohort_means, LEAST_COHORT_MEAN)]
    elif feature_set != "score":
        left = _qualities(enroll, enroll.rows(trials.enroll))
        right = _qualities(test, test.rows(trials.test))
        parts += [left[:, :2], right[:, :2], left[:, 2:], right[:, 2:]]
    return np.column_stack(parts)


def _four(pairs: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Return min, max, max - min and max / min of every row of (T, 2)."""
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    return np.column_stack([low, high, high - low, high / np.maximum(low, floor)])


def _qualities(embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Return L1 norm, L2 norm and standard deviation of the given rows, (len(rows), 3)."""
    used, inverse = np.unique(rows, return_inverse=True)
    qualities = np.empty((len(used), 3))
    for start in range(0, len(used), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        vectors = embeddings.matrix[used[block]].astype(np.float64)
        qualities[block, 0] = np.abs(vectors).sum(axis=1)
        qualities[block, 1] = np.linalg.norm(vectors, axis=1)
        qualities[block, 2] = vectors.std(axis=1)
    return qualities[inverse]


def _durations(keys: Sequence[str], durations: Mapping[str, float]) -> np.ndarray:
    bad = [key for key in dict.fromkeys(keys) if not 0 < durations.get(key, 0) < np.inf]
    raise_problems(
        "utterances without a positive duration",
        bad,
        "Give the utt2dur (seconds) of the set the trials are made of, or features without "
        "durations: --features qmf7.",
    )
    return np.fromiter(map(durations.__getitem__, keys), np.float64, len(keys))
