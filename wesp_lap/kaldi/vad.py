"""Speech pieces of utterances: the ``vad`` table of a data directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wesp_lap.errors import raise_problems
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.kaldi.tables import read_lines

Pieces = list[tuple[float, float]]
VAD_FORM = "'utterance start end' or 'segment utterance start end', in seconds"


def read_vad(path: PathLike) -> dict[str, Pieces]:
    """Read the speech pieces of utterances, in seconds from the utterance's start.

    A line is ``utterance start end``, as WeSpeaker writes it, or ``segment utterance start end``,
    as in a Kaldi segments file; an utterance may have several lines.

    Returns:
        By utterance, its (start, end) pairs: sorted, and those that overlap or touch joined.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or has lines of another form or without
            0 <= start < end; all of them are named with file and line.
    """
    pieces, problems = scan_vad(path)
    if not pieces and not problems:
        problems = [f"{path}: empty file"]
    raise_problems(f"{path}: not a table of speech pieces", problems, f"Write {VAD_FORM}.")
    return pieces


def scan_vad(path: PathLike) -> tuple[dict[str, Pieces], list[str]]:
    """Read what can be read of a vad table, and say in one sentence each what cannot."""
    pieces: dict[str, Pieces] = {}
    problems = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        start, end = _times(words)
        if not 0 <= start < end < math.inf:
            shown = repr(line.strip().decode()) if words else "a blank line"
            wanted = "0 <= start < end" if len(words) in (3, 4) else VAD_FORM
            problems.append(f"{path}:{number}: expected {wanted}, found {shown}")
            continue
        pieces.setdefault(words[-3].decode(), []).append((start, end))
    for utterance, found in pieces.items():
        if len(found) > 1:
            pieces[utterance] = _joined(found)
    return pieces, problems


def write_vad(path: PathLike, vad: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Write ``utterance start end`` lines in the order of the C locale, atomically."""
    with atomic_write(path) as stream:
        stream.writelines(
            f"{key} {start} {end}\n" for key in sorted(vad) for start, end in vad[key]
        )


def _times(words: Sequence[bytes]) -> tuple[float, float]:
    try:
        return (float(words[-2]), float(words[-1])) if len(words) in (3, 4) else (math.nan, 0.0)
    except ValueError:
        return math.nan, 0.0


def _joined(pieces: Pieces) -> Pieces:
    joined: Pieces = []
    for start, end in sorted(pieces):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
