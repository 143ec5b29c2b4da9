"""An scp file and the vectors it names, read block by block in one pass over each archive.

Archives that ``VectorWriter`` made have a JSON file beside them. What it says is compared on every
reading: count, dimension and SHA-256. The table of that name must also have the archive's keys.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, read_json
from wesp_lap.kaldi.ark_record import HEADER, BadRecordError, parse_vector, unpack_header
from wesp_lap.kaldi.mapped_file import Digest, let_go, mapped
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.tables import read_table
from wesp_lap.log import get_logger

AGAIN = (
    "Entries must name Kaldi vectors (float or double) in archives that are as they were written: "
    "copy the archive again, or extract the embeddings again."
)
_BLOCK_ROWS = 8192


class Block(NamedTuple):
    """Some vectors of a table: their m places in it, and float32 (m, E)."""

    rows: NDArray[np.intp]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class _Archive:
    """The records of one archive that a table names, in the order in which they lie there."""

    path: Path
    rows: NDArray[np.intp]
    offsets: NDArray[np.int64]
    record: dict | None

    def is_named_as(self, scp: Path) -> bool:
        """Return True for the table that was written together with the archive."""
        beside = self.path.resolve().parent == scp.resolve().parent
        return self.record is not None and self.path.stem == scp.stem and beside


class VectorTable:
    """The vectors that an scp file names.

    An archive path is looked up from the working directory, then from the scp's folder; an
    absolute path that no longer exists, as after moving a directory, is looked for beside the scp.

    Attributes:
        scp: the file.
        keys: n names, in the order of the file.

    Raises:
        DataError: lines that are not ``key archive:offset``, commands, missing archives, or
            another number of lines than was recorded when the archive was written.
    """

    def __init__(self, scp: PathLike) -> None:
        self.scp = Path(scp)
        table = read_table(scp)
        if not table:
            raise DataError(f"{scp}: empty file; extract the embeddings again")
        self.keys = list(table)
        self._archives, problems = _archives(self.scp, table)
        for archive in self._archives:
            problems += _count_problems(archive, self.scp)
        raise_problems(f"{self.scp}: cannot be read", problems, AGAIN)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        """Dimension E, which all vectors must have; without a readable one, ``blocks``' error."""
        if not self._usual_dim:
            for _ in self.blocks():
                pass
        return self._usual_dim

    @cached_property
    def _usual_dim(self) -> int:
        """The dimension of most of the first readable vectors; 0 when there is none."""
        found: list[int] = []
        for archive in self._archives:
            with mapped(archive.path) as data:
                for offset in archive.offsets.tolist():
                    with contextlib.suppress(BadRecordError):
                        found.append(len(parse_vector(data, offset)))
                    if len(found) == 3:
                        return Counter(found).most_common(1)[0][0]
        return Counter(found).most_common(1)[0][0] if found else 0

    def blocks(self) -> Iterator[Block]:
        """Yield all vectors, in blocks of bounded size; the error comes after the last one.

        Raises:
            DataError: every damaged record, named by key and file; vectors of unequal dimension;
                an archive that is not the one that was written.
        """
        problems: list[str] = []
        for archive in self._archives:
            yield from self._archive_blocks(archive, problems)
        raise_problems(f"{self.scp}: cannot be read", problems, AGAIN)

    def read(self) -> NDArray[np.float32]:
        """Return all vectors, float32 (n, E), in the order of ``keys``; errors as ``blocks``."""
        matrix = np.empty((len(self), self.dim), np.float32)
        for rows, vectors in self.blocks():
            matrix[rows] = vectors
        return matrix

    def _archive_blocks(self, archive: _Archive, problems: list[str]) -> Iterator[Block]:
        before = len(problems)
        with mapped(archive.path) as data:
            digest = Digest(data)
            for start in range(0, len(archive.rows), _BLOCK_ROWS):
                part = slice(start, start + _BLOCK_ROWS)
                offsets, rows = archive.offsets[part], archive.rows[part]
                if archive.record:
                    digest.go_to(int(offsets[-1]))
                vectors, faults = _vectors(data, offsets, self._usual_dim)
                if archive.is_named_as(self.scp):
                    faults = {**self._key_faults(data, rows, offsets), **faults}
                problems += [
                    f"{self.keys[rows[i]]}: {archive.path}: {faults[i]}" for i in sorted(faults)
                ]
                let_go(data)
                whole = np.delete(np.arange(len(rows)), list(faults))
                yield Block(rows, vectors) if not faults else Block(rows[whole], vectors[whole])
            if archive.record and len(problems) == before:
                problems += _record_problems(archive, self._usual_dim, digest.go_to(len(data)))

    def _key_faults(
        self, data: memoryview, rows: NDArray[np.intp], offsets: NDArray[np.int64]
    ) -> dict[int, str]:
        """Say which records do not follow their key, as they do in an archive."""
        names = [f"{self.keys[row]} ".encode() for row in rows.tolist()]
        return {
            i: f"no record of this key at byte {offset}"
            for i, (name, offset) in enumerate(zip(names, offsets.tolist(), strict=True))
            if bytes(data[max(0, offset - len(name)) : offset]) != name
        }


def _vectors(
    data: memoryview, offsets: NDArray[np.int64], dim: int
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return the vectors at some offsets, (m, dim), and what is wrong with those that have none.

    Records with the header of the first one are cut out together, all others one by one.
    """
    vectors = np.zeros((len(offsets), dim), np.float32)
    alike = np.zeros(len(offsets), bool)
    header = bytes(data[offsets[0] : offsets[0] + HEADER.size])
    form = unpack_header(header)
    if form is not None and form[1] == dim:
        width = dim * form[0].itemsize
        content = np.frombuffer(data, np.uint8)
        inside = np.flatnonzero(offsets + (HEADER.size + width) <= len(data))
        heads = _cut(content, offsets[inside], HEADER.size)
        alike[inside] = (heads == np.frombuffer(header, np.uint8)).all(axis=1)
        with np.errstate(over="ignore"):  # of a double: infinity, which callers refuse by name
            vectors[alike] = _cut(content, offsets[alike] + HEADER.size, width).view(form[0])
    faults = {}
    for i in np.flatnonzero(~alike).tolist():
        try:
            vector = parse_vector(data, int(offsets[i]))
        except BadRecordError as fault:
            faults[i] = str(fault)
            continue
        if len(vector) == dim:
            with np.errstate(over="ignore"):
                vectors[i] = vector
        else:
            faults[i] = f"dimension {len(vector)}, others {dim}"
    return vectors, faults


def _cut(content: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Return ``width`` bytes from each start, (m, width)."""
    if not len(starts):
        return np.zeros((0, width), np.uint8)
    return sliding_window_view(content, width)[starts]


def _archives(scp: Path, table: Mapping[str, str]) -> tuple[list[_Archive], list[str]]:
    """Group the lines of a table by archive; return the archives and what is wrong."""
    places: dict[str, tuple[list[int], list[int]]] = {}
    problems: list[str] = []
    for row, entry in enumerate(table.values()):
        name, _, number = entry.rpartition(":")
        if not (name and number.isdecimal() and len(number) < 19):
            name, number = entry, "0"  # a file with one vector and no key
        if name not in places:
            places[name] = ([], [])
        rows, offsets = places[name]
        rows.append(row)
        offsets.append(int(number))
    found: dict[Path, tuple[list[int], list[int]]] = {}
    keys = list(table)
    for name, (rows, offsets) in places.items():
        path = _find(name, scp.parent)
        fault = f"{scp}: '{name}' is a command, which is never run" if is_pipe(name) else None
        fault = fault or _opening_fault(path)
        if fault:
            problems += [f"{keys[row]}: {fault}" for row in rows]
            continue
        together = found.setdefault(path, ([], []))
        together[0].extend(rows)
        together[1].extend(offsets)
    archives = []
    for path, (rows, offsets) in found.items():
        order = np.argsort(offsets, kind="stable")
        archives.append(
            _Archive(path, np.array(rows)[order], np.array(offsets)[order], read_record(path))
        )
    return archives, problems


def _opening_fault(path: Path) -> str | None:
    try:
        with open(path, "rb"):
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"


def read_record(ark: Path) -> dict | None:
    """Return what was recorded when an archive was written; None for one without a record."""
    path = ark.with_suffix(".json")
    if ark.suffix != ".ark" or not path.exists():
        return None
    record = read_json(path)
    kinds = {"count": int, "dim": int, "sha256": str}
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    ):
        raise DataError(f"{path}: expected count, dim and sha256. {AGAIN}")
    return record


def _count_problems(archive: _Archive, scp: Path) -> list[str]:
    if archive.record is None:
        return []
    count, found = archive.record["count"], len(archive.rows)
    if found != count and archive.is_named_as(scp):
        return [f"{scp}: names {found} vectors of {archive.path}, which was written with {count}"]
    if found < count:
        get_logger().warning(
            "%s: names %d of the %d vectors of %s", scp, found, count, archive.path
        )
    return []


def _record_problems(archive: _Archive, dim: int, digest: str) -> list[str]:
    assert archive.record is not None
    source = archive.path.with_suffix(".json")
    if dim != archive.record["dim"]:
        return [f"{archive.path}: dimension {dim}, {source} says {archive.record['dim']}"]
    if digest != archive.record["sha256"]:
        return [f"{archive.path}: its content is not what {source} records (SHA-256)"]
    return []


def _find(name: str, folder: Path) -> Path:
    places = (Path(name), folder / name, folder / Path(name).name)
    return next((place for place in places if place.exists()), places[0])
