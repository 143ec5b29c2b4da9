"""Embeddings on disk: Kaldi vector archives (ark) with their index (scp).

A strict reader and writer of our own: the usual library returns a shortened vector for some cut
archives, unpickles ``PKL`` records and hands pipe entries to a shell. This one knows Kaldi's
float and double vectors, binary or text, and names key and file of everything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write, read_json, sha256, write_json
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.tables import read_table
from wesp_lap.log import get_logger

_HEADER = struct.Struct("<2s3sbi")  # "\0B", type, size of the number that follows, dimension
_NUMBERS: dict[bytes, np.dtype[np.floating]] = {
    b"FV ": np.dtype("<f4"),
    b"DV ": np.dtype("<f8"),
}
_NOTHING = np.zeros(0, dtype=np.float32)
_AGAIN = "The archive is not what was written: copy it again, or extract the embeddings again."


class _BadRecordError(Exception):
    """What is wrong with one record; the caller adds key and file."""


class VectorWriter:
    """Write ``PREFIX.ark``, ``PREFIX.scp`` and ``PREFIX.json``, readable by Kaldi and kaldiio.

    A context manager. The three files appear under their names only when the block ends without
    an exception. The JSON file holds count, dimension and the SHA-256 of the archive, which
    ``verify`` compares.
    """

    def __init__(self, prefix: PathLike) -> None:
        self._ark, self._scp, self._json = _files(prefix)
        self._where: dict[str, int] = {}
        self._dim = 0
        self._offset = 0
        self._digest = hashlib.sha256()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VectorWriter:
        self._stream = self._stack.enter_context(atomic_write(self._ark, "wb"))
        return self

    def write(self, key: str, vector: ArrayLike) -> None:
        """Append a vector of shape (E,), stored as float32.

        Raises:
            DataError: a key with white space or written before, a vector of another shape than
                the first one, or one that holds NaN or infinity.
        """
        values = np.asarray(vector, dtype="<f4")
        if len(key.split()) != 1 or key in self._where:
            fault = "written twice" if key in self._where else "not a key without white space"
            raise DataError(f"{self._ark}: {key!r}: {fault}")
        if values.ndim != 1 or not values.size or (self._where and len(values) != self._dim):
            wanted = f"({self._dim},)" if self._where else "(dim,)"
            raise DataError(f"{self._ark}: {key}: shape {values.shape}, expected {wanted}")
        if not np.isfinite(values).all():
            raise DataError(f"{self._ark}: {key}: the vector holds NaN or infinity")
        self._dim = len(values)
        name = f"{key} ".encode()
        record = name + _HEADER.pack(b"\0B", b"FV ", 4, self._dim) + values.tobytes()
        self._where[key] = self._offset + len(name)
        self._stream.write(record)
        self._digest.update(record)
        self._offset += len(record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            # An index of an earlier run must never point into this archive.
            self._scp.unlink(missing_ok=True)
            self._json.unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            record = {"count": len(self._where), "dim": self._dim}
            write_json(self._json, {**record, "sha256": self._digest.hexdigest()})
            target = os.path.abspath(self._ark)
            with atomic_write(self._scp) as stream:
                stream.writelines(f"{key} {target}:{at}\n" for key, at in self._where.items())


def read_vectors(path: PathLike) -> tuple[list[str], NDArray[np.float32]]:
    """Read the vectors that an scp file names, in its order.

    An archive path is looked up from the working directory, then from the scp's folder; an
    absolute path that no longer exists, as after moving a directory, is looked for beside the scp.

    Returns:
        Keys, and float32 vectors (n, E).

    Raises:
        DataError: every missing or damaged record, named by key and file; vectors of unequal
            dimension; a count other than the one recorded when the archive was written.
    """
    scp = Path(path)
    table = read_table(scp)
    if not table:
        raise DataError(f"{scp}: empty file; extract the embeddings again")
    places: dict[str, list[tuple[int, str, int]]] = {}
    problems = []
    for row, (key, entry) in enumerate(table.items()):
        if is_pipe(entry):
            problems.append(f"{key}: {scp}: '{entry}' is a command, which is never run")
            continue
        name, _, number = entry.rpartition(":")
        if not (name and number.isascii() and number.isdigit()):
            name, number = entry, "0"  # a file with one vector and no key
        places.setdefault(name, []).append((row, key, int(number)))
    keys = list(table)
    vectors: list[NDArray[np.floating]] = [_NOTHING] * len(keys)
    for name, records in places.items():
        problems += _read_archive(_find(name, scp.parent), scp, records, vectors)
    raise_problems(f"{scp}: cannot be read", problems, _AGAIN)
    return keys, _stack(scp, keys, vectors)


def _stack(
    scp: Path, keys: list[str], vectors: Sequence[NDArray[np.floating]]
) -> NDArray[np.float32]:
    usual = Counter(map(len, vectors)).most_common(1)[0][0]
    odd = [
        f"{key}: dimension {len(vector)}, others {usual}"
        for key, vector in zip(keys, vectors, strict=True)
        if len(vector) != usual
    ]
    raise_problems(f"{scp}: vectors of unequal dimension", odd, _AGAIN)
    matrix = np.empty((len(vectors), usual), dtype=np.float32)
    for row, vector in enumerate(vectors):
        matrix[row] = vector
    return matrix


def _read_archive(
    ark: Path, scp: Path, records: list[tuple[int, str, int]], vectors: list[NDArray[np.floating]]
) -> list[str]:
    """Read the records (row, key, offset) of one archive; return what is wrong."""
    try:
        size = ark.stat().st_size
        data = np.memmap(ark, np.uint8, "r").data if size else memoryview(b"")
    except OSError as error:
        return [f"{key}: {ark}: {error.strerror}" for _, key, _ in records]
    problems = []
    for row, key, offset in records:
        try:
            vectors[row] = _parse(data, offset)
        except _BadRecordError as fault:
            problems.append(f"{key}: {ark}: {fault}")
    return problems or _compare_with_json(ark, scp, records, vectors)


def _parse(data: memoryview, offset: int) -> NDArray[np.floating]:
    size = len(data)
    if offset >= size:
        raise _BadRecordError(f"the file ends at byte {size}, the record starts at {offset}")
    if data[offset] != 0:
        return _parse_text(data, offset)
    if size - offset < _HEADER.size:
        raise _BadRecordError(f"the file ends at byte {size}, inside the header of the record")
    magic, kind, width, dim = _HEADER.unpack_from(data, offset)
    if magic != b"\0B" or kind not in _NUMBERS or width != 4:
        matrix = kind[:2] in (b"FM", b"DM", b"CM")
        what = "a matrix" if matrix else f"a record that starts with {magic + kind!r}"
        raise _BadRecordError(f"expected a Kaldi vector, found {what}")
    number, start = _NUMBERS[kind], offset + _HEADER.size
    if dim <= 0:
        raise _BadRecordError(f"a vector of dimension {dim}")
    if dim * number.itemsize > size - start:
        raise _BadRecordError(
            f"the file ends at byte {size}, the vector of dimension {dim} "
            f"at {start + dim * number.itemsize}"
        )
    return np.frombuffer(data, number, dim, start)


def _parse_text(data: memoryview, offset: int) -> NDArray[np.floating]:
    start = bytes(data[offset : offset + 8])
    if start.strip(b" [") and not start.lstrip(b" ").startswith(b"["):
        raise _BadRecordError(f"expected a Kaldi vector, found a record that starts with {start!r}")
    line = _line(data, offset)
    words = line.split()
    if len(words) < 3 or words[0] != b"[" or words[-1] != b"]":
        raise _BadRecordError(f"expected a Kaldi vector, found {line[:40]!r}")
    try:
        return np.array(words[1:-1]).astype(np.float64)
    except ValueError as error:
        raise _BadRecordError(f"not a number in a text vector: {error}") from error


def _line(data: memoryview, offset: int) -> bytes:
    line = b""
    for start in range(offset, len(data), 1 << 16):
        head, newline, _ = bytes(data[start : start + (1 << 16)]).partition(b"\n")
        line += head
        if newline:
            return line
    raise _BadRecordError(f"the file ends at byte {len(data)}, inside a text record")


def _compare_with_json(
    ark: Path, scp: Path, records: list[tuple[int, str, int]], vectors: list[NDArray[np.floating]]
) -> list[str]:
    record = _record(ark)
    if record is None:
        return []
    problems = []
    count, found = record["count"], len(records)
    if found > count or (found < count and ark.stem == scp.stem):
        problems.append(f"{scp}: names {found} vectors of {ark}, which was written with {count}")
    elif found < count:
        get_logger().warning("%s: names %d of the %d vectors of %s", scp, found, count, ark)
    row, key, _ = records[0]
    if len(vectors[row]) != record["dim"]:
        problems.append(f"{key}: {ark}: dimension {len(vectors[row])}, written {record['dim']}")
    return problems


def _record(ark: Path) -> dict[str, int] | None:
    path = ark.with_suffix(".json")
    if ark.suffix != ".ark" or not path.exists():
        return None
    record = read_json(path)
    kinds = {"count": int, "dim": int, "sha256": str}
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    ):
        raise DataError(f"{path}: expected count, dim and sha256. {_AGAIN}")
    return record


def verify(prefix: PathLike) -> None:
    """Compare an archive with the digest, count and dimension recorded when it was written.

    Raises:
        DataError: the archive, its index or the record has changed by as much as one byte.
    """
    ark, scp, record_path = _files(prefix)
    record = _record(ark)
    if record is None:
        raise DataError(f"{record_path}: no such file, so {ark} cannot be verified")
    if not ark.exists() or sha256(ark) != record["sha256"]:
        raise DataError(f"{ark}: its content is not what {record_path} records. {_AGAIN}")
    if record["count"] == 0:
        return
    read_vectors(scp)
    data = ark.read_bytes()
    problems = []
    for key, entry in read_table(scp).items():
        offset = int(entry.rpartition(":")[2])
        name = f"{key} ".encode()
        if data[max(0, offset - len(name)) : offset] != name:
            problems.append(f"{key}: {scp}: no record of this key at byte {offset} of {ark}")
    raise_problems(f"{scp}: does not belong to its archive", problems, _AGAIN)


def _files(prefix: PathLike) -> tuple[Path, Path, Path]:
    return Path(f"{prefix}.ark"), Path(f"{prefix}.scp"), Path(f"{prefix}.json")


def _find(name: str, folder: Path) -> Path:
    places = (Path(name), folder / name, folder / Path(name).name)
    return next((place for place in places if place.exists()), places[0])
