"""Error rates and costs of verification scores: EER, minDCF, actDCF, Cllr.

Everything comes from one sort. Equal scores share one threshold, so that no result depends on the
order of the trials, and accepting all or rejecting all trials are always operating points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError

EerMethod = Literal["crossing", "convex_hull"]


@dataclass(frozen=True)
class ErrorCurve:
    """Counts of errors at every distinct threshold, from rejecting all to accepting all.

    Attributes:
        thresholds: (K,) falling; the first is +inf. Point i accepts scores >= thresholds[i].
        misses: (K,) int64, rejected targets.
        false_alarms: (K,) int64, accepted non-targets.
    """

    thresholds: np.ndarray
    misses: np.ndarray
    false_alarms: np.ndarray

    @property
    def targets(self) -> int:
        """Number of target trials."""
        return int(self.misses[0])

    @property
    def nontargets(self) -> int:
        """Number of non-target trials."""
        return int(self.false_alarms[-1])

    @property
    def fnr(self) -> np.ndarray:
        """Miss rate at every threshold, (K,)."""
        return self.misses / self.targets

    @property
    def fpr(self) -> np.ndarray:
        """False-alarm rate at every threshold, (K,)."""
        return self.false_alarms / self.nontargets


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


def error_curve(scores: np.ndarray, labels: np.ndarray | None) -> ErrorCurve:
    """Count misses and false alarms at every distinct score.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 for target and 0 for non-target trials.

    Raises:
        DataError: empty, blind, NaN, or trials of one kind only.
    """
    scores, targets = _checked(scores, labels)
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    accepted = np.cumsum(targets[order], dtype=np.int64)[ends]
    misses = np.concatenate(([0], accepted))
    return ErrorCurve(
        thresholds=np.concatenate(([np.inf], ranked[ends])),
        misses=accepted[-1] - misses,
        false_alarms=np.concatenate(([0], ends + 1 - accepted)),
    )


def eer(scores: np.ndarray, labels: np.ndarray | None, method: EerMethod = "crossing") -> float:
    """Return the equal error rate as a fraction.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 target, 0 non-target.
        method: "crossing" takes max(FPR, FNR) at the first point where they differ least, among
            the points that scikit-learn's ``roc_curve`` keeps: the figure of the VoxCeleb
            trainer's evaluation code and of papers that use it. "convex_hull" intersects the
            convex hull of the ROC with FPR = FNR (ROCCH-EER of the BOSARIS toolkit).
    """
    return curve_eer(error_curve(scores, labels), method)


def curve_eer(curve: ErrorCurve, method: EerMethod = "crossing") -> float:
    """Return the equal error rate of an error curve; see ``eer``."""
    if method == "crossing":
        point = crossing_point(curve)
        return float(max(curve.fnr[point], curve.fpr[point]))
    if method != "convex_hull":
        raise ConfigError(f"unknown EER method {method!r}; known: crossing, convex_hull")
    hull = _hull(curve)
    fnr, fpr = curve.fnr[hull], curve.fpr[hull]
    gap = fpr - fnr  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    return float(fpr[after] - share * (fpr[after] - fpr[after - 1]))


def crossing_point(curve: ErrorCurve) -> int:
    """Return the index of the curve's point that defines the "crossing" EER."""
    kept = _corners(curve)
    # Whole numbers, so that rounding never decides between two equal distances.
    gap = curve.misses[kept] * curve.nontargets - curve.false_alarms[kept] * curve.targets
    return int(kept[np.argmin(np.abs(gap))])


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
    return _curve_min_dcf(error_curve(scores, labels), p_target, c_miss, c_fa)


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
    llrs, targets = _checked(llrs, labels)
    miss_weight, fa_weight = _weights(p_target, c_miss, c_fa)
    accepted = llrs >= np.log(fa_weight / miss_weight)
    fnr, fpr = 1 - accepted[targets].mean(), accepted[~targets].mean()
    return float((miss_weight * fnr + fa_weight * fpr) / min(miss_weight, fa_weight))


def cllr(llrs: np.ndarray, labels: np.ndarray | None) -> float:
    """Return the cost of log-likelihood ratios in bits (Brümmer and du Preez, 2006).

    Args:
        llrs: (n,) natural log-likelihood ratios.
        labels: (n,) 1 target, 0 non-target.
    """
    llrs, targets = _checked(llrs, labels)
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
) -> Metrics:
    """Return EER and minDCF, and with ``llr`` the calibration costs too.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 target, 0 non-target.
        p_targets: target priors of the detection costs.
        llr: the scores are natural log-likelihood ratios.
    """
    curve = error_curve(scores, labels)
    base = Metrics(
        trials=curve.targets + curve.nontargets,
        targets=curve.targets,
        eer=curve_eer(curve),
        min_dcf={p: _curve_min_dcf(curve, p) for p in p_targets},
    )
    if not llr:
        return base
    return Metrics(
        base.trials,
        base.targets,
        base.eer,
        base.min_dcf,
        act_dcf={p: act_dcf(scores, labels, p) for p in p_targets},
        cllr=cllr(scores, labels),
        min_cllr=_curve_min_cllr(curve),
    )


def _checked(scores: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and, per trial, whether it is a target trial."""
    scores = np.asarray(scores)
    if labels is None:
        raise DataError("the trials have no labels: error rates need target/nontarget labels")
    labels = np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise DataError(f"{scores.shape} scores do not fit {labels.shape} labels")
    if not len(scores):
        raise DataError("no trials")
    if np.isnan(scores).any():
        raise DataError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    targets = labels == 1
    if not (targets | (labels == 0)).all():
        raise DataError("labels must be 1 (target) or 0 (non-target)")
    if targets.all() or not targets.any():
        kind = "non-target" if targets.all() else "target"
        raise DataError(f"no {kind} trials among {len(scores)}: error rates need both kinds")
    return scores, targets


def _corners(curve: ErrorCurve) -> np.ndarray:
    """Return the points that ``roc_curve`` keeps: reject-all, then all but equal steps."""
    bend = np.diff(curve.misses[1:], 2).astype(bool) | np.diff(curve.false_alarms[1:], 2).astype(
        bool
    )
    inner = np.flatnonzero(bend) + 2
    return np.unique(np.concatenate(([0, 1], inner, [len(curve.misses) - 1])))


def _hull(curve: ErrorCurve) -> np.ndarray:
    """Return the points on the convex hull of the ROC, by pooling adjacent violators."""
    from scipy.optimize import isotonic_regression

    targets, nontargets = -np.diff(curve.misses), np.diff(curve.false_alarms)
    counts = targets + nontargets
    return isotonic_regression(targets / counts, weights=counts, increasing=False).blocks


def _curve_min_dcf(
    curve: ErrorCurve, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    miss_weight, fa_weight = _weights(p_target, c_miss, c_fa)
    cost = miss_weight * curve.fnr + fa_weight * curve.fpr
    return float(cost.min() / min(miss_weight, fa_weight))


def _curve_min_cllr(curve: ErrorCurve) -> float:
    from scipy.special import rel_entr

    hull = _hull(curve)
    # Shares of targets and non-targets per pooled block; the block's LLR is ln(miss / false).
    miss, false = -np.diff(curve.fnr[hull]), np.diff(curve.fpr[hull])
    cost = -rel_entr(miss, miss + false).sum() - rel_entr(false, miss + false).sum()
    return float(cost / (2 * np.log(2)))


def _weights(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    if not 0 < p_target < 1:
        raise ConfigError(f"the target prior must lie between 0 and 1, got {p_target}")
    if c_miss <= 0 or c_fa <= 0:
        raise ConfigError(f"costs must be positive, got c_miss={c_miss}, c_fa={c_fa}")
    return c_miss * p_target, c_fa * (1 - p_target)
