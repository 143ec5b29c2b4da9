"""Labelled score files, of ours and of other toolkits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.kaldi.trials import LABELS, Trials, label_column, read_trial_lines

Systems = dict[str, tuple[np.ndarray, np.ndarray]]
Scored = dict[str, tuple[Trials, np.ndarray]]
# Words for (non-target, target) besides our own that other toolkits write.
_WORDS = ((b"imp", b"tgt"), (b"non", b"tar"), (b"nontgt", b"tgt"), (b"0", b"1"))
KNOWN_WORDS = "target|nontarget, tgt|imp, tgt|nontgt, tar|non or 1|0"


def read_labelled_scores(path: PathLike) -> tuple[Trials, np.ndarray]:
    """Read a score file whose fourth column is the label.

    Known words are target and nontarget, tgt and imp, tgt and nontgt, tar and non, 1 and 0; a
    file keeps to one pair of them.

    Returns:
        The trials with labels, and their scores (T,).

    Raises:
        DataError: no label column, words of no or of several pairs (named with file and line), or
            what ``read_scores`` refuses.
    """
    trials, scores = read_scores(path)
    if trials.labels is not None:
        return trials, scores
    words = [line.split(None, 4)[3:4] for line in read_trial_lines(path)]
    # A number there is the first further column of a blind list, unless all are 1 or 0.
    numbers = all(_is_number(word) for (word,) in words) if all(words) else True
    column = [word[0] for word in words if word]
    for pair in _WORDS:
        if len(column) == len(words) and set(column) <= set(pair):
            labels = label_column(column, dict(zip(pair, (0, 1), strict=True)))
            return replace(trials, labels=labels), scores
    if numbers:
        raise DataError(
            f"{path}: blind scores: error rates need a target/nontarget column\n"
            "Score a labelled trial list."
        )
    raise_problems(
        f"{path}: the fourth column is no label",
        _strangers(path, column),
        f"Write one pair of {KNOWN_WORDS} in all lines.",
    )
    raise AssertionError("words of no pair are always named")


def read_scored(files: Sequence[PathLike]) -> Scored:
    """Read labelled score files: trials and scores (T,) by name.

    The name is the file name without ``.score``, or the path where two file names are equal.

    Raises:
        DataError: a file without labels, or one that cannot be read.
    """
    if not files:
        raise ConfigError("no score file given")
    short = [Path(path).name.removesuffix(".score") for path in files]
    return {
        name if short.count(name) == 1 else str(path): read_labelled_scores(path)
        for path, name in zip(files, short, strict=True)
    }


def as_systems(scored: Scored) -> Systems:
    """Return scores (T,) and labels (T,) by name."""
    return {name: (scores, trial_labels(trials)) for name, (trials, scores) in scored.items()}


def read_systems(files: Sequence[PathLike]) -> Systems:
    """Read labelled score files as ``read_scored`` does: scores (T,) and labels (T,) by name."""
    return as_systems(read_scored(files))


def trial_labels(trials: Trials) -> np.ndarray:
    """Return the labels of trials that were read with them, (T,)."""
    if trials.labels is None:
        raise DataError("blind trials: error rates need labels")
    return trials.labels


def _strangers(path: PathLike, column: Sequence[bytes]) -> list[str]:
    """Name the lines whose word is not of the pair that most lines keep to."""
    pairs = [*_WORDS, tuple(LABELS)]
    fitting = max(pairs, key=lambda pair: sum(map(column.count, pair)))
    return [
        f"{path}:{number}: {word.decode()!r}"
        for number, word in enumerate(column, 1)
        if word not in fitting
    ]


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
