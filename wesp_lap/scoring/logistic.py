"""Logistic regression that is weighted for a target prior: least expected cost of the ratios.

At prior 0.5 the objective is Cllr (Brümmer and du Preez, "Application-independent evaluation of
speaker detection", 2006).
"""

from __future__ import annotations

import numpy as np

from wesp_lap.errors import ConfigError
from wesp_lap.log import get_logger

_MAX_ITERATIONS = 100
# Of the squared weights of standardised features: trials that can be told apart without an error
# would ask for infinite weights. Too little to be seen otherwise.
_PENALTY = 1e-6


def fit_weighted(
    features: np.ndarray, labels: np.ndarray, prior: float = 0.5
) -> tuple[np.ndarray, float]:
    """Return the weights and the offset of the log-likelihood ratio of least expected cost.

    The cost is prior times the mean of ln(1 + exp(-(s + logit prior))) over targets plus (1 -
    prior) times that of ln(1 + exp(s + logit prior)) over non-targets, s being the ratio. The
    share of targets in the list does not matter. Solved by Newton's method on standardised
    features; a feature that never varies gets no weight.

    Args:
        features: (T, F) finite.
        labels: (T,) 1 target, 0 non-target, both kinds.
        prior: share of targets that the cost is weighed for.
    """
    if not 0 < prior < 1:
        raise ConfigError(f"the prior must lie between 0 and 1, got {prior}")
    target = np.asarray(labels) == 1
    centre, scale = features.mean(axis=0), features.std(axis=0)
    varies = scale > 1e-12 * np.abs(centre)
    inputs = np.where(varies, features - centre, 0) / np.where(varies, scale, 1)
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    shares = np.where(target, prior / target.sum(), (1 - prior) / (~target).sum())
    point = _minimum(inputs, np.where(target, 1.0, -1.0), shares, np.log(prior / (1 - prior)))
    weights = np.where(varies, point[:-1] / np.where(varies, scale, 1), 0)
    return weights, float(point[-1] - weights @ centre)


def _minimum(
    inputs: np.ndarray, signs: np.ndarray, shares: np.ndarray, offset: float
) -> np.ndarray:
    """Minimise the convex cost; a step that does not lower it is halved."""
    penalty = _PENALTY * np.append(np.ones(inputs.shape[1] - 1), 0.0)

    def cost(point: np.ndarray) -> float:
        margins = signs * (inputs @ point + offset)
        return float(shares @ np.logaddexp(0, -margins) + penalty @ point**2 / 2)

    point = np.zeros(inputs.shape[1])
    for _ in range(_MAX_ITERATIONS):
        margins = signs * (inputs @ point + offset)
        wrong = np.exp(-np.logaddexp(0, margins))  # probability of the other label
        gradient = penalty * point - inputs.T @ (shares * signs * wrong)
        curvature = (inputs.T * (shares * wrong * (1 - wrong))) @ inputs + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        before, size = cost(point), 1.0
        while cost(point - size * step) > before and size > 1e-6:
            size /= 2
        point = point - size * step
        if np.abs(size * step).max() < 1e-9 * (1 + np.abs(point).max()):
            break
    else:
        get_logger().warning("the calibration did not converge in %d steps", _MAX_ITERATIONS)
    if (signs * (inputs @ point + offset) > 0).all():
        get_logger().warning(
            "the training pairs are told apart without an error: the scale of the log-likelihood "
            "ratios is arbitrary; fit on more or harder pairs"
        )
    return point
