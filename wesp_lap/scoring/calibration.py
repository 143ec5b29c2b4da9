"""Quality-aware calibration: from normalised scores to log-likelihood ratios.

Logistic regression over the score and quality measures of both utterances, trained on pairs of
training utterances. Features, solver and the absence of feature scaling follow the evaluation code
of the LAP paper (docs/methods.md, section 5); the ratio that comes out is the logit less the prior
log-odds of the training pairs. Enrolment and test side are not sorted: swapping them changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, read_json, write_json
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.cosine import pair_cosines, trial_sides
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.norm import check_spread, check_top_n, cohort_statistics
from wesp_lap.scoring.pairs import make_pairs

FEATURES = (
    "score",
    "log_duration_enroll",
    "log_duration_test",
    "l1_enroll",
    "l2_enroll",
    "l1_test",
    "l2_test",
    "std_enroll",
    "std_test",
)
PRIORS = (0.01, 0.05, 0.5)
_MAX_ITERATIONS = 1000
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Calibration:
    """A linear map from features to natural log-likelihood ratios.

    Attributes:
        coefficients: (9,) float64, in the order of ``FEATURES``.
        intercept: of the logit, before the training prior is taken out.
        targets: number of target pairs trained on.
        nontargets: number of non-target pairs trained on.
    """

    coefficients: np.ndarray
    intercept: float
    targets: int
    nontargets: int

    def llr(self, features: np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratios of (T, 9) features, (T,) float64."""
        logit = features @ self.coefficients + self.intercept
        return logit - np.log(self.targets / self.nontargets)

    def save(self, path: PathLike, settings: Mapping[str, object] | None = None) -> None:
        """Write JSON: the map, the Bayes thresholds at ``PRIORS`` and ``settings`` to remember."""
        record = {
            "features": list(FEATURES),
            "coefficients": self.coefficients.tolist(),
            "intercept": self.intercept,
            "training_pairs": {"target": self.targets, "nontarget": self.nontargets},
            "llr_thresholds": {str(p): float(np.log((1 - p) / p)) for p in PRIORS},
            "settings": dict(settings or {}),
        }
        write_json(path, record)

    @classmethod
    def load(cls, path: PathLike) -> Calibration:
        """Read what ``save`` wrote; anything else is a DataError that names the file."""
        record = read_json(path)
        try:
            features = tuple(record["features"])
            coefficients = np.array(record["coefficients"], np.float64)
            pairs = record["training_pairs"]
            loaded = cls(
                coefficients,
                float(record["intercept"]),
                int(pairs["target"]),
                int(pairs["nontarget"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a calibration file ({error!r})") from error
        if features != FEATURES or coefficients.shape != (len(FEATURES),):
            raise DataError(
                f"{path}: holds the features {', '.join(map(str, features))}; this version uses "
                f"{', '.join(FEATURES)}. Run the calibration again."
            )
        numbers = [*coefficients, loaded.intercept]
        if not np.isfinite(numbers).all() or min(loaded.targets, loaded.nontargets) < 1:
            raise DataError(f"{path}: holds numbers that are not finite, or no training pairs")
        return loaded


def fit(features: np.ndarray, labels: np.ndarray, seed: int = 7) -> Calibration:
    """Fit the calibration (liblinear, L2 penalty, C = 1, intercept penalised too).

    Args:
        features: (T, 9) as ``quality_features`` makes them.
        labels: (T,) 1 target, 0 non-target; both kinds must be there.
        seed: seed of the solver.
    """
    from sklearn.linear_model import LogisticRegression

    targets = int(np.sum(labels))
    if targets in (0, len(labels)):
        raise DataError("calibration needs target and non-target pairs")
    model = LogisticRegression(
        solver="liblinear", C=1.0, random_state=seed, max_iter=_MAX_ITERATIONS
    )
    model.fit(features, labels)
    return Calibration(
        coefficients=model.coef_[0].astype(np.float64),
        intercept=model.intercept_.item(),
        targets=targets,
        nontargets=len(labels) - targets,
    )


def quality_features(
    scores: np.ndarray,
    trials: Trials,
    enroll: Embeddings,
    test: Embeddings,
    enroll_durations: Mapping[str, float],
    test_durations: Mapping[str, float],
) -> np.ndarray:
    """Return the features of every trial, (T, 9) float64, in the order of ``FEATURES``.

    Norms and standard deviation are those of the raw embeddings, without mean subtraction; the
    standard deviation is the population's, over the E components.

    Args:
        scores: (T,) normalised scores.
        trials: T pairs of keys.
        enroll: embeddings of the first column.
        test: embeddings of the second column.
        enroll_durations: seconds by key of the first column.
        test_durations: seconds by key of the second column.

    Raises:
        DataError: keys without an embedding or a positive duration, or scores that do not fit.
    """
    if len(scores) != len(trials.test):
        raise DataError(f"{len(scores)} scores do not fit {len(trials.test)} trials")
    left = _qualities(enroll, enroll.rows(trials.enroll))
    right = _qualities(test, test.rows(trials.test))
    return np.column_stack(
        [
            scores,
            _log_durations(trials.enroll, enroll_durations),
            _log_durations(trials.test, test_durations),
            left[:, :2],
            right[:, :2],
            left[:, 2],
            right[:, 2],
        ]
    )


def training_features(
    embeddings: Embeddings,
    utt2spk: Mapping[str, str],
    durations: Mapping[str, float],
    mean: np.ndarray | None,
    top_n: int,
    num_pairs: int = 30_000,
    seed: int = 7,
    std_ddof: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs from the training set and return their features and labels.

    Scores are AS-normalised against the means of the training speakers, without the speakers of
    the pair itself: trials to come will have no speaker in the cohort either.

    Args:
        embeddings: training utterances.
        utt2spk: speaker of every utterance.
        durations: seconds by utterance.
        mean: (E,) subtracted before cosines, or None.
        top_n: cohort entries that count; at most the number of speakers less two.
        num_pairs: pairs to draw, half of them targets.
        seed: seed of the draw.
        std_ddof: 1 unbiased, 0 population standard deviation of the cohort cosines.

    Returns:
        Features (num_pairs, 9) float64 and labels (num_pairs,) int8.
    """
    cohort = embeddings.speaker_means(utt2spk)
    check_top_n(top_n, len(cohort.keys) - 2)
    pairs = make_pairs(embeddings.keys, utt2spk, num_pairs, seed)
    assert pairs.labels is not None
    sides = trial_sides(pairs, embeddings, embeddings, mean)
    cohort_unit, _ = cohort.unit(mean)
    own = np.stack(
        [cohort.rows([utt2spk[key] for key in column]) for column in (pairs.enroll, pairs.test)],
        axis=1,
    )
    normalised = np.zeros(num_pairs)
    cosines = pair_cosines(*sides)
    for side in sides:
        means, stds = cohort_statistics(side.unit[side.rows], cohort_unit, top_n, std_ddof, own)
        check_spread(stds, [side.keys[row] for row in side.rows])
        normalised += (cosines - means) / stds / 2
    return (
        quality_features(normalised, pairs, embeddings, embeddings, durations, durations),
        pairs.labels,
    )


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


def _log_durations(keys: Sequence[str], durations: Mapping[str, float]) -> np.ndarray:
    bad = [key for key in dict.fromkeys(keys) if not durations.get(key, 0) > 0]
    raise_problems(
        "utterances without a positive duration",
        bad,
        "Give the utt2dur (seconds) of the set the trials are made of.",
    )
    return np.log(np.fromiter(map(durations.__getitem__, keys), np.float64, len(keys)))
