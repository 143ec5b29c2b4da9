"""Cosine scores of whole trial lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.embeddings import Embeddings, EmbeddingSource

_BLOCK_TRIALS = 1024  # whose embeddings fit the cache


@dataclass(frozen=True)
class Side:
    """One column of a trial list: the distinct utterances in it and where each trial finds its own.

    Attributes:
        keys: U distinct names.
        unit: (U, E) float32, centred and of unit length.
        norms: (U,) float32, lengths of the centred embeddings.
        rows: (T,) integers; trial i uses row ``rows[i]`` of ``unit``.
    """

    keys: list[str]
    unit: np.ndarray
    norms: np.ndarray
    rows: np.ndarray


def score_trials(
    trials: Trials, enroll: Embeddings, test: Embeddings, mean: np.ndarray | None = None
) -> np.ndarray:
    """Return cos(e - mean, t - mean) of every trial, (T,) float64.

    Args:
        trials: T pairs of keys.
        enroll: embeddings of the first column.
        test: embeddings of the second column; may be the same object as ``enroll``.
        mean: (E,) subtracted from both sides, or None.

    Raises:
        DataError: keys without an embedding, widths that differ, or an embedding that equals
            the mean.
    """
    return pair_cosines(*trial_sides(trials, enroll, test, mean))


def trial_sides(
    trials: Trials, enroll: Embeddings, test: Embeddings, mean: np.ndarray | None
) -> tuple[Side, Side]:
    """Centre and length-normalise every distinct embedding of a list once.

    Arguments and errors as in ``score_trials``. When ``enroll`` is ``test``, both sides share
    their keys and matrices.
    """
    check_widths(enroll, test)
    if enroll is not test:
        return (
            _side(enroll, enroll.rows(trials.enroll), mean),
            _side(test, test.rows(trials.test), mean),
        )
    rows = test.rows([*trials.enroll, *trials.test])
    both = _side(test, rows, mean)
    count = len(trials.enroll)
    return (
        Side(both.keys, both.unit, both.norms, both.rows[:count]),
        Side(both.keys, both.unit, both.norms, both.rows[count:]),
    )


def pair_cosines(enroll: Side, test: Side) -> np.ndarray:
    """Return the inner product of every trial's two unit vectors, (T,) float64.

    Works through the trials in blocks: memory does not grow with T times E.
    """
    scores = np.empty(len(enroll.rows))
    for start in range(0, len(scores), _BLOCK_TRIALS):
        block = slice(start, start + _BLOCK_TRIALS)
        scores[block] = np.einsum(
            "ij,ij->i", enroll.unit[enroll.rows[block]], test.unit[test.rows[block]]
        )
    return scores


def check_widths(one: EmbeddingSource, other: EmbeddingSource) -> None:
    """Raise a DataError that names both sets when their embeddings differ in width."""
    if one.dim != other.dim:
        raise DataError(
            f"{one.source}: embeddings have {one.dim} dimensions, {other.source} has "
            f"{other.dim}; both must come from the same model"
        )


def _side(embeddings: Embeddings, rows: np.ndarray, mean: np.ndarray | None) -> Side:
    used = np.zeros(len(embeddings.keys), bool)
    used[rows] = True
    kept = np.flatnonzero(used)
    position = np.cumsum(used) - 1
    unit, norms = embeddings.unit(mean, kept)
    return Side([embeddings.keys[row] for row in kept], unit, norms, position[rows])
