"""Kaldi tables: one ``key rest of the line`` per line, UTF-8, sorted as in the C locale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_table(path: PathLike) -> dict[str, str]:
    """Read a table into a dictionary in the order of the file.

    Raises:
        DataError: the file is missing or not UTF-8, or has blank, one-column or repeated lines;
            all of them are named with file and line.
    """
    table, problems = scan_table(path)
    raise_problems(f"{path}: not a table of 'key value' lines", problems)
    return table


def scan_table(path: PathLike, fields: int | None = None) -> tuple[dict[str, str], list[str]]:
    """Read what can be read of a table and say what is wrong with the rest.

    Args:
        path: table file.
        fields: exact number of fields of every line; by default at least two.

    Returns:
        The well-formed lines (the first one of a repeated key), and one ``file:line: ...``
        sentence for each other line.
    """
    table: dict[str, str] = {}
    problems = []
    wanted = f"{fields} fields" if fields else "'key value'"
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split(None, 1)
        if len(parts) < 2 or (fields and len(line.split()) != fields):
            shown = repr(line.strip().decode()) if parts else "a blank line"
            problems.append(f"{path}:{number}: expected {wanted}, found {shown}")
            continue
        key = parts[0].decode()
        if key in table:
            problems.append(f"{path}:{number}: key {key!r} stands in the file twice")
            continue
        table[key] = parts[1].rstrip().decode()
    return table, problems


def read_lines(path: PathLike) -> list[bytes]:
    """Return the lines of a UTF-8 text file as bytes, without line ends.

    Bytes, because only ASCII white space separates fields: ``str.split`` would also cut at the
    no-break spaces that occur in file names.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{number}: not UTF-8; convert the file: iconv -f LATIN1 -t UTF-8"
        ) from error
    lines = content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def write_table(path: PathLike, table: Mapping[str, str]) -> None:
    """Write a table sorted by the bytes of its keys, atomically.

    Raises:
        DataError: a key or value would not be read back (white space in a key, empty value).
    """
    bad = [
        f"key {key!r}, value {value!r}"
        for key, value in table.items()
        if len(key.split()) != 1 or not value.strip() or "\n" in value
    ]
    raise_problems(f"{path}: cannot be written as 'key value' lines", bad)
    with atomic_write(path) as stream:
        # Code points sort as their UTF-8 bytes do, which is the order of LC_ALL=C sort.
        stream.writelines(f"{key} {table[key]}\n" for key in sorted(table))


def invert(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the sorted utterances of each speaker, speakers sorted too."""
    speakers: dict[str, list[str]] = {}
    for utterance in sorted(utt2spk):
        speakers.setdefault(utt2spk[utterance], []).append(utterance)
    return {speaker: speakers[speaker] for speaker in sorted(speakers)}
