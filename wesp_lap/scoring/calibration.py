"""Calibration: from scores and qualities of trials to log-likelihood ratios.

A linear map, trained on pairs of training utterances, whose features are those of
``wesp_lap.scoring.features``. The objective ``logistic`` is the one of the LAP paper's evaluation
code (liblinear, L2 penalty, no feature scaling); ``cllr`` minimises Cllr as WeSpeaker does, or the
same cost at another prior. See docs/methods.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike, read_json, write_json
from wesp_lap.scoring.features import FEATURES, FeatureSet, check_feature_set
from wesp_lap.scoring.logistic import fit_weighted
from wesp_lap.scoring.metrics import bayes_threshold

Objective = Literal["logistic", "cllr"]

PRIORS = (0.01, 0.05, 0.5)
_MAX_ITERATIONS = 1000
# scikit-learn's 1e-4 stops where a change in the last digit of a feature moves ratios by 0.01.
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Calibration:
    """A linear map from features to natural log-likelihood ratios.

    Attributes:
        coefficients: (F,) float64, in the order of the feature set.
        intercept: of the logit, before the training prior is taken out.
        targets: number of target pairs trained on.
        nontargets: number of non-target pairs trained on.
        feature_set: name of the features.
    """

    coefficients: np.ndarray
    intercept: float
    targets: int
    nontargets: int
    feature_set: FeatureSet = "qmf9"

    def llr(self, features: np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratios of (T, F) features, (T,) float64."""
        logit = features @ self.coefficients + self.intercept
        return logit - np.log(self.targets / self.nontargets)

    def save(
        self,
        path: PathLike,
        settings: Mapping[str, object] | None = None,
        p_targets: Sequence[float] = PRIORS,
    ) -> None:
        """Write JSON: the map, the Bayes thresholds at ``p_targets`` and ``settings``."""
        record = {
            "feature_set": self.feature_set,
            "features": list(FEATURES[self.feature_set]),
            "coefficients": self.coefficients.tolist(),
            "intercept": self.intercept,
            "training_pairs": {"target": self.targets, "nontarget": self.nontargets},
            "llr_thresholds": {f"{p:g}": bayes_threshold(p) for p in p_targets},
            "settings": dict(settings or {}),
        }
        write_json(path, record)

    @classmethod
    def load(cls, path: PathLike) -> Calibration:
        """Read what ``save`` wrote; anything else is a DataError that names the file."""
        record = read_json(path)
        try:
            features = tuple(record["features"])
            pairs = record["training_pairs"]
            coefficients = np.array(record["coefficients"], np.float64)
            intercept = float(record["intercept"])
            targets, nontargets = int(pairs["target"]), int(pairs["nontarget"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a calibration file ({error!r})") from error
        name = next((name for name, known in FEATURES.items() if known == features), None)
        if name is None or coefficients.shape != (len(features),):
            raise DataError(
                f"{path}: holds the features {', '.join(map(str, features))}; this version knows "
                f"the sets {', '.join(FEATURES)}. Run the calibration again."
            )
        if not np.isfinite([*coefficients, intercept]).all() or min(targets, nontargets) < 1:
            raise DataError(f"{path}: holds numbers that are not finite, or no training pairs")
        return cls(coefficients, intercept, targets, nontargets, name)  # type: ignore[arg-type]


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    seed: int = 7,
    feature_set: FeatureSet = "qmf9",
    objective: Objective = "logistic",
    prior: float = 0.5,
) -> Calibration:
    """Fit the calibration.

    Args:
        features: (T, F) as ``quality_features`` makes them.
        labels: (T,) 1 target, 0 non-target; both kinds must be there.
        seed: seed of the solver of "logistic".
        feature_set: name of the features.
        objective: "logistic" (liblinear, L2 penalty, C = 1, intercept penalised too) or "cllr",
            the expected logarithmic cost at ``prior``, which is Cllr at 0.5.
        prior: share of targets that "cllr" weighs the two kinds for; a low one makes the ratios
            best where few trials are targets.

    Raises:
        DataError: pairs of one kind only, or features that are not finite.
    """
    check_feature_set(feature_set)
    targets = int(np.sum(labels))
    if targets in (0, len(labels)):
        raise DataError("calibration needs target and non-target pairs")
    finite = np.isfinite(features).all(axis=0)
    if not finite.all():
        names = np.array(FEATURES[feature_set])[~finite]
        raise DataError(f"features of the training pairs are not finite: {', '.join(names)}")
    nontargets = len(labels) - targets
    if objective == "logistic":
        coefficients, intercept = _fit_logistic(features, labels, seed)
    elif objective == "cllr":
        coefficients, intercept = fit_weighted(features, labels, prior)
        intercept += float(np.log(targets / nontargets))
    else:
        raise ConfigError(f"unknown objective {objective!r}; known: logistic, cllr")
    return Calibration(coefficients, intercept, targets, nontargets, feature_set)


def _fit_logistic(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        solver="liblinear", C=1.0, tol=_TOLERANCE, random_state=seed, max_iter=_MAX_ITERATIONS
    )
    model.fit(features, labels)
    return model.coef_[0].astype(np.float64), model.intercept_.item()
