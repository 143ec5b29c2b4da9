"""Score files: ``enroll test score [label]``, and further columns that readers may ignore."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wesp_lap.errors import DataError, problem_list, raise_problems
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.kaldi.trials import (
    LABELS,
    Trials,
    decode,
    label_column,
    label_names,
    read_trial_lines,
    split_columns,
)


def write_scores(
    path: PathLike,
    trials: Trials,
    scores: ArrayLike,
    extra: Mapping[str, ArrayLike] | ArrayLike | None = None,
) -> None:
    """Write one line per trial: ids, the score with five decimals, the label when it is known.

    Args:
        path: score file, written atomically.
        trials: the n trials.
        scores: (n,) finite scores.
        extra: further columns with four decimals, such as norms and cohort means: named columns
            (n,) in their order, or an array (n, k).

    Raises:
        DataError: numbers of trials and scores differ, or a score is NaN or infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(trials),):
        raise DataError(f"{path}: {len(trials)} trials, but scores of shape {values.shape}")
    columns: list[list] = [trials.enroll, trials.test, values.tolist()]
    form = "%s %s %.5f"
    if trials.labels is not None:
        columns.append(label_names(trials.labels))
        form += " %s"
    further = _further_columns(path, extra, len(trials))
    columns += further.T.tolist()
    form += " %.4f" * further.shape[1] + "\n"
    finite = np.isfinite(values) & np.isfinite(further).all(axis=1)
    bad = [f"{trials.enroll[i]} {trials.test[i]}: {values[i]}" for i in np.flatnonzero(~finite)]
    mend = "Look for NaN embeddings or a cohort without spread."
    raise_problems(f"{path}: scores that are not finite", bad, mend, limit=5)
    with atomic_write(path) as stream:
        stream.writelines(map(form.__mod__, zip(*columns, strict=True)))


def _further_columns(
    path: PathLike, extra: Mapping[str, ArrayLike] | ArrayLike | None, count: int
) -> NDArray[np.float64]:
    if isinstance(extra, Mapping):
        extra = np.column_stack(list(extra.values())) if extra else None
    if extra is None:
        return np.zeros((count, 0))
    block = np.asarray(extra, dtype=np.float64)
    if block.ndim != 2 or len(block) != count:
        raise DataError(f"{path}: {count} trials, but further columns of shape {block.shape}")
    return block


def read_scores(path: PathLike) -> tuple[Trials, NDArray[np.float64]]:
    """Read a score file of ours, WeSpeaker's or Kaldi's.

    The fourth column is the label when it says ``target`` or ``nontarget``; otherwise the list
    is blind. Later columns are not read.

    Returns:
        The trials and their scores (n,).

    Raises:
        DataError: a missing or empty file, lines without a finite score, or lines with and
            lines without label in one file; all of them are named with file and line.
    """
    lines = read_trial_lines(path)
    if any(len(line.split()) > 4 for line in lines):
        lines = [b" ".join(line.split(None, 4)[:4]) for line in lines]
    columns = split_columns(lines)
    if columns is None or len(columns) < 3:
        raise DataError(_bad_lines(path, lines))
    labels = None
    if len(columns) > 3 and not LABELS.keys().isdisjoint(columns[3]):
        if not set(columns[3]) <= LABELS.keys():
            raise DataError(_bad_lines(path, lines))
        labels = label_column(columns[3], LABELS)
    try:
        scores = np.array(list(map(float, columns[2])))
    except ValueError:
        raise DataError(_bad_lines(path, lines)) from None
    if not np.isfinite(scores).all():
        raise DataError(_bad_lines(path, lines))
    return Trials(decode(columns[0]), decode(columns[1]), labels), scores


def _bad_lines(path: PathLike, lines: list[bytes]) -> str:
    rows = [line.split() for line in lines]
    with_label = [len(row) > 3 and row[3] in LABELS for row in rows]
    labelled = 2 * sum(with_label) >= len(rows)
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    bad = [
        f"{path}:{number}: {b' '.join(row).decode()!r}"
        for number, (row, has_label) in enumerate(zip(rows, with_label, strict=True), 1)
        if len(row) < 3 or len(row) != width or has_label != labelled or not _is_finite(row[2])
    ]
    form = "enroll test score target|nontarget" if labelled else "enroll test score"
    return problem_list(f"{path}: expected lines '{form}'", bad, "Score the trials again.")


def _is_finite(word: bytes) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
