"""Error rates and costs of verification scores: EER, minDCF, actDCF, Cllr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError
from wesp_lap.scoring.curve import (
    ErrorCurve,
    checked_trials,
    convex_hull,
    crossing_point,
    error_curve,
)

EerMethod = Literal["crossing", "convex_hull"]


@dataclass(frozen=True)
class Metrics:
    """Results of one list of scores; rates are fractions, costs are normalised.

    ``min_dcf`` and ``act_dcf`` are keyed by the target prior; ``act_dcf``, ``cllr`` and
    ``min_cllr`` are only there when the scores were said to be log-likelihood ratios.
    """

    trials: int
    targets: int
    eer: float
    min_dcf: dict[float, float]
    act_dcf: dict[float, float] | None = None
    cllr: float | None = None
    min_cllr: float | None = None


def eer(scores: np.ndarray, labels: np.ndarray | None, method: EerMethod = "crossing") -> float:
    """Return the equal error rate as a fraction.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 target, 0 non-target.
        method: "crossing" takes max(FPR, FNR) at the first point where they differ least, among
            the points that scikit-learn's ``roc_curve`` keeps: the figure of the VoxCeleb
            trainer's evaluation code and of papers that use it. "convex_hull" intersects the
            convex hull of the ROC with FPR = FNR (ROCCH-EER of the BOSARIS toolkit).

    Raises:
        DataError: empty, blind, not finite, all equal, or trials of one kind only.
    """
    return curve_eer(error_curve(scores, labels), method)


def curve_eer(curve: ErrorCurve, method: EerMethod = "crossing") -> float:
    """Return the equal error rate of an error curve; see ``eer``."""
    if method == "crossing":
        point = crossing_point(curve)
        return float(max(curve.fnr[point], curve.fpr[point]))
    if method != "convex_hull":
        raise ConfigError(f"unknown EER method {method!r}; known: crossing, convex_hull")
    hull = convex_hull(curve)
    fpr = hull.fpr
    gap = fpr - hull.fnr  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    return float(fpr[after] - share * (fpr[after] - fpr[after - 1]))


def min_dcf(
    scores: np.ndarray,
    labels: np.ndarray | None,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Return the least detection cost over all thresholds, normalised.

    The cost p c_miss FNR + (1 - p) c_fa FPR is divided by that of the better of rejecting all and
    accepting all, min(p c_miss, (1 - p) c_fa); the result is at most 1.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 target, 0 non-target.
        p_target: prior probability of a target trial, between 0 and 1.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
    """
    return curve_min_dcf(error_curve(scores, labels), cost_weights(p_target, c_miss, c_fa))


def curve_min_dcf(curve: ErrorCurve, weights: tuple[float, float]) -> float:
    """Return the least normalised cost of a curve; weights of miss and false-alarm rate."""
    cost = weights[0] * curve.fnr + weights[1] * curve.fpr
    return float(cost.min() / min(weights))


def act_dcf(
    llrs: np.ndarray,
    labels: np.ndarray | None,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Return the normalised cost of deciding at the Bayes threshold; arguments as ``min_dcf``.

    ``llrs`` are natural log-likelihood ratios, accepted from ln(c_fa (1 - p) / (c_miss p)) on.
    """
    llrs, targets = checked_trials(llrs, labels)
    miss_weight, fa_weight = cost_weights(p_target, c_miss, c_fa)
    accepted = llrs >= bayes_threshold(p_target, c_miss, c_fa)
    fnr, fpr = 1 - accepted[targets].mean(), accepted[~targets].mean()
    return float((miss_weight * fnr + fa_weight * fpr) / min(miss_weight, fa_weight))


def cost_weights(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """Return the weights of miss and false-alarm rate in the detection cost."""
    if not 0 < p_target < 1:
        raise ConfigError(f"the target prior must lie between 0 and 1, got {p_target}")
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise ConfigError(f"costs must be positive, got c_miss={c_miss}, c_fa={c_fa}")
    return c_miss * p_target, c_fa * (1 - p_target)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Return the log-likelihood ratio from which accepting costs less than rejecting."""
    miss_weight, fa_weight = cost_weights(p_target, c_miss, c_fa)
    return float(np.log(fa_weight / miss_weight))


def cllr(llrs: np.ndarray, labels: np.ndarray | None) -> float:
    """Return the cost of log-likelihood ratios in bits (Brümmer and du Preez, 2006).

    Args:
        llrs: (n,) natural log-likelihood ratios.
        labels: (n,) 1 target, 0 non-target.
    """
    llrs, targets = checked_trials(llrs, labels)
    miss = np.logaddexp(0, -llrs[targets]).mean()
    false_alarm = np.logaddexp(0, llrs[~targets]).mean()
    return float((miss + false_alarm) / (2 * np.log(2)))


def min_cllr(scores: np.ndarray, labels: np.ndarray | None) -> float:
    """Return Cllr after the best monotone map of the scores (pool adjacent violators), in bits."""
    return _curve_min_cllr(error_curve(scores, labels))


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray | None,
    p_targets: Sequence[float] = (0.01, 0.05),
    llr: bool = False,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    eer_method: EerMethod = "crossing",
) -> Metrics:
    """Return EER and minDCF, and with ``llr`` the calibration costs too.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 target, 0 non-target.
        p_targets: target priors of the detection costs.
        llr: the scores are natural log-likelihood ratios.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        eer_method: see ``eer``.

    Raises:
        DataError: empty, blind, not finite, all equal, or trials of one kind only.
    """
    weights = {p: cost_weights(p, c_miss, c_fa) for p in p_targets}
    curve = error_curve(scores, labels)
    turns = curve.turns()
    base = Metrics(
        trials=curve.targets + curve.nontargets,
        targets=curve.targets,
        eer=curve_eer(curve, eer_method),
        min_dcf={p: curve_min_dcf(turns, pair) for p, pair in weights.items()},
    )
    if not llr:
        return base
    return replace(
        base,
        act_dcf={p: act_dcf(scores, labels, p, c_miss, c_fa) for p in p_targets},
        cllr=cllr(scores, labels),
        min_cllr=_curve_min_cllr(curve),
    )


def _curve_min_cllr(curve: ErrorCurve) -> float:
    from scipy.special import rel_entr

    hull = convex_hull(curve)
    # Shares of targets and non-targets per pooled block; the block's LLR is ln(miss / false).
    miss, false = -np.diff(hull.fnr), np.diff(hull.fpr)
    cost = -rel_entr(miss, miss + false).sum() - rel_entr(false, miss + false).sum()
    return float(cost / (2 * np.log(2)))
