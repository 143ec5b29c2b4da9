"""The error curve of a list of scores, which all detection costs are read from.

Everything comes from one sort. Equal scores share one threshold, so that no result depends on the
order of the trials, and accepting all or rejecting all trials are always operating points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import DataError


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

    def turns(self) -> ErrorCurve:
        """Return the points where a cost may be least or the convex hull may bend.

        Between two of them only targets or only non-targets are accepted one after another, so
        every weighted sum of misses and false alarms is largest or least at an end.
        """
        targets, nontargets = np.diff(self.misses), np.diff(self.false_alarms)
        pure = np.where(nontargets == 0, 1, np.where(targets == 0, 2, 0))
        same = (pure[1:] == pure[:-1]) & (pure[1:] > 0)
        kept = np.concatenate(([True], ~same, [True]))
        return ErrorCurve(self.thresholds[kept], self.misses[kept], self.false_alarms[kept])


def error_curve(scores: np.ndarray, labels: np.ndarray | None) -> ErrorCurve:
    """Count misses and false alarms at every distinct score.

    Args:
        scores: (n,) numbers, higher for the same speaker.
        labels: (n,) 1 for target and 0 for non-target trials.

    Raises:
        DataError: empty, blind, not finite, all equal, or trials of one kind only.
    """
    scores, targets = checked_trials(scores, labels)
    if scores.min() == scores.max():
        raise DataError(
            f"all {len(scores)} scores are {scores[0]:g}: no error rate is defined\n"
            "Look for an untrained or diverged model, or a wrong column in the score file."
        )
    # Both kinds are sorted alone and then merged: a stable sort joins two runs in one pass.
    runs = np.concatenate((np.sort(scores[targets]), np.sort(scores[~targets])))
    order = np.argsort(runs, kind="stable")[::-1]
    ranked = runs[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    accepted = np.cumsum(order < targets.sum(), dtype=np.int64)[ends]
    misses = np.concatenate(([0], accepted))
    return ErrorCurve(
        thresholds=np.concatenate(([np.inf], ranked[ends])),
        misses=accepted[-1] - misses,
        false_alarms=np.concatenate(([0], ends + 1 - accepted)),
    )


def checked_trials(scores: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and, per trial, whether it is a target trial.

    Raises:
        DataError: empty, blind, not finite, or trials of one kind only.
    """
    scores = np.asarray(scores)
    if labels is None:
        raise DataError("the trials have no labels: error rates need target/nontarget labels")
    labels = np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise DataError(f"{scores.shape} scores do not fit {labels.shape} labels")
    if not len(scores):
        raise DataError("no trials")
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        raise DataError(
            f"{len(scores) - finite.sum()} of {len(scores)} scores are NaN or infinite, first at "
            f"trial {first + 1}\nLook for NaN embeddings or a cohort without spread."
        )
    targets = labels == 1
    if not (targets | (labels == 0)).all():
        raise DataError("labels must be 1 (target) or 0 (non-target)")
    if targets.all() or not targets.any():
        kind = "non-target" if targets.all() else "target"
        raise DataError(f"no {kind} trials among {len(scores)}: error rates need both kinds")
    return scores, targets


def crossing_point(curve: ErrorCurve) -> int:
    """Return the index of the curve's point that defines the "crossing" EER.

    It is the first point where misses and false alarms differ least, among the points that
    scikit-learn's ``roc_curve`` keeps: reject-all, the first threshold, the last, and those where
    the steps of the curve change.
    """
    is_kept = np.zeros(len(curve.misses), bool)
    is_kept[[0, 1, -1]] = True
    is_kept[bends(curve.misses[1:], curve.false_alarms[1:]) + 1] = True
    kept = np.flatnonzero(is_kept)
    # Whole numbers, so that rounding never decides between two equal distances.
    gap = curve.misses[kept] * curve.nontargets - curve.false_alarms[kept] * curve.targets
    return int(kept[np.argmin(np.abs(gap))])


def bends(misses: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Return the inner points whose step before differs from the step after, as indexes."""
    changes = np.diff(misses, 2).astype(bool) | np.diff(false_alarms, 2).astype(bool)
    return np.flatnonzero(changes) + 1


def convex_hull(curve: ErrorCurve) -> ErrorCurve:
    """Return the points on the convex hull of the ROC, by pooling adjacent violators."""
    from scipy.optimize import isotonic_regression

    curve = curve.turns()
    targets, nontargets = -np.diff(curve.misses), np.diff(curve.false_alarms)
    counts = targets + nontargets
    kept = isotonic_regression(targets / counts, weights=counts, increasing=False).blocks
    return ErrorCurve(curve.thresholds[kept], curve.misses[kept], curve.false_alarms[kept])
