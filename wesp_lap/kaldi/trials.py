"""Trial lists: which enrolment is compared with which test utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.kaldi.tables import read_lines

LABEL_NAMES = ("nontarget", "target")
LABELS: Mapping[bytes, int] = {b"nontarget": 0, b"target": 1}
_DIGITS: Mapping[bytes, int] = {b"0": 0, b"1": 1}


@dataclass
class Trials:
    """A trial list of n pairs.

    ``labels`` is int8 (n,), 1 for target and 0 for nontarget; None for a blind list.
    """

    enroll: list[str]
    test: list[str]
    labels: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.enroll), len(self.test)}
        if self.labels is not None:
            self.labels = np.asarray(self.labels, dtype=np.int8)
            lengths.add(len(self.labels))
        if len(lengths) != 1:
            raise DataError(f"trials: enroll, test and labels differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.enroll)


@dataclass(frozen=True)
class _Form:
    """Which column of a trial list is what."""

    text: str
    columns: int
    enroll: int
    test: int
    label: int | None
    labels: Mapping[bytes, int]

    def fits(self, columns: Sequence[Sequence[bytes]]) -> bool:
        if len(columns) != self.columns:
            return False
        return self.label is None or set(columns[self.label]) <= self.labels.keys()

    def fits_row(self, row: Sequence[bytes]) -> bool:
        return self.fits([[word] for word in row])


_FORMS = (
    _Form("enroll test target|nontarget", 3, 0, 1, 2, LABELS),
    _Form("1|0 enroll test", 3, 1, 2, 0, _DIGITS),
    _Form("enroll test 1|0", 3, 0, 1, 2, _DIGITS),
    _Form("enroll test", 2, 0, 1, None, {}),
)


def read_trials(path: PathLike) -> Trials:
    """Read a trial list in the form of Kaldi, VoxCeleb or CN-Celeb, or without labels.

    Raises:
        DataError: a missing or empty file, or lines that do not have the form of the others;
            all of them are named with file and line.
    """
    lines = read_trial_lines(path)
    columns = split_columns(lines)
    for form in _FORMS:
        if columns is not None and form.fits(columns):
            words = None if form.label is None else columns[form.label]
            labels = None if words is None else label_column(words, form.labels)
            return Trials(decode(columns[form.enroll]), decode(columns[form.test]), labels)
    raise DataError(_bad_lines(path, lines))


def _bad_lines(path: PathLike, lines: list[bytes]) -> str:
    rows = [line.split() for line in lines]
    fitting = [sum(map(form.fits_row, rows)) for form in _FORMS]
    form = _FORMS[int(np.argmax(fitting))]
    bad = [
        f"{path}:{number}: {b' '.join(row).decode()!r}"
        for number, row in enumerate(rows, 1)
        if not form.fits_row(row)
    ]
    if any(fitting):
        title = f"{path}: {max(fitting)} lines have the form '{form.text}', these do not"
    else:
        title = f"{path}: no line has the form of a trial"
    forms = ", ".join(f"'{one.text}'" for one in _FORMS)
    return problem_list(title, bad, f"Write all lines in one of the forms {forms}.")


def write_trials(path: PathLike, trials: Trials) -> None:
    """Write ``enroll test target|nontarget`` lines, or two columns for a blind list."""
    columns = [trials.enroll, trials.test]
    if trials.labels is not None:
        columns.append(label_names(trials.labels))
    with atomic_write(path) as stream:
        stream.writelines(f"{' '.join(row)}\n" for row in zip(*columns, strict=True))


def read_trial_lines(path: PathLike) -> list[bytes]:
    """Return the lines of a list that must not be empty."""
    lines = read_lines(path)
    if not lines:
        raise DataError(f"{path}: empty file, expected one trial per line")
    return lines


def split_columns(lines: Sequence[bytes]) -> list[list[bytes]] | None:
    """Return the columns of lines with equal numbers of fields, None when they differ."""
    widths = {len(line.split()) for line in lines}
    if len(widths) != 1:
        return None
    # One flat list: a list per line would keep the garbage collector busy for a second.
    fields, width = b"\n".join(lines).split(), widths.pop()
    return [fields[index::width] for index in range(width)]


def decode(words: Sequence[bytes]) -> list[str]:
    """Return UTF-8 words as text."""
    return [word.decode() for word in words]


def label_column(words: Sequence[bytes], labels: Mapping[bytes, int]) -> NDArray[np.int8]:
    """Return the labels that the words stand for."""
    return np.fromiter(map(labels.__getitem__, words), np.int8, len(words))


def label_names(labels: NDArray[np.int8]) -> list[str]:
    """Return ``target`` for 1 and ``nontarget`` for 0."""
    return [LABEL_NAMES[label] for label in labels.tolist()]
