"""Trial lists in the form in which the code of the Universal Pooling paper publishes them."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.tables import read_lines
from wesp_lap.kaldi.trials import Trials

_COLUMNS = ("LABEL", "SAMPLE1", "SAMPLE2")


def read_published(path: PathLike, utt2spk: Mapping[str, str]) -> Trials:
    """Read a CSV file with the columns LABEL (1 or 0), SAMPLE1 and SAMPLE2; others are ignored.

    A sample is the path of a file, such as p329/p329_050.wav. Its key is the name without suffix,
    or the last three parts of the path: what ``utt2spk`` has.

    Args:
        path: the list.
        utt2spk: speaker of every utterance that may be in it.

    Raises:
        DataError: another form, unknown utterances, or labels that contradict the speakers; all of
            them are named with file and line.
    """
    rows = list(csv.reader(line.decode() for line in read_lines(path)))
    header = rows[0] if rows else []
    if not set(_COLUMNS) <= set(header):
        raise DataError(f"{path}:1: expected a header with {', '.join(_COLUMNS)}, found {header}")
    places = [header.index(name) for name in _COLUMNS]
    enroll, test, labels, faults = [], [], [], []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header) or row[places[0]] not in ("0", "1"):
            faults.append(f"{path}:{number}: not a row of {len(header)} fields with a label 0 or 1")
            continue
        one, other = (_key(row[place], utt2spk) for place in places[1:])
        label = int(row[places[0]])
        lost = [name for name in (one, other) if name not in utt2spk]
        if lost:
            faults.append(f"{path}:{number}: no utterance {', '.join(lost)}")
        elif (utt2spk[one] == utt2spk[other]) != label:
            faults.append(f"{path}:{number}: the label contradicts the speakers of {one}, {other}")
        enroll.append(one)
        test.append(other)
        labels.append(label)
    raise_problems(f"{path}: trials that cannot be taken", faults)
    return Trials(enroll, test, np.array(labels, np.int8))


def _key(sample: str, utterances: Collection[str]) -> str:
    path = PurePosixPath(sample)
    long = "/".join(path.parts[-3:])
    return long if long in utterances else path.stem
