"""One vector of a Kaldi archive, parsed with suspicion: binary float or double, or text."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

HEADER = struct.Struct("<2s3sbi")  # "\0B", type, size of the number that follows, dimension
_NUMBERS: dict[bytes, np.dtype[np.floating]] = {
    b"FV ": np.dtype("<f4"),
    b"DV ": np.dtype("<f8"),
}


class BadRecordError(Exception):
    """What is wrong with one record; the caller adds key and file."""


def pack_header(dim: int) -> bytes:
    """Return what stands before the numbers of a float vector."""
    return HEADER.pack(b"\0B", b"FV ", 4, dim)


def unpack_header(header: bytes) -> tuple[np.dtype[np.floating], int] | None:
    """Return type and number of the numbers that follow, None for anything but a vector."""
    if len(header) < HEADER.size:
        return None
    magic, kind, width, dim = HEADER.unpack(header[: HEADER.size])
    if magic != b"\0B" or kind not in _NUMBERS or width != 4 or dim <= 0:
        return None
    return _NUMBERS[kind], dim


def parse_vector(data: memoryview, offset: int) -> NDArray[np.floating]:
    """Return the vector (E,) whose record starts at a byte of an archive.

    Raises:
        BadRecordError: the record is cut, or not a vector; pickled objects are not opened.
    """
    size = len(data)
    if offset >= size:
        raise BadRecordError(f"the file ends at byte {size}, the record starts at {offset}")
    if data[offset] != 0:
        return _parse_text(data, offset)
    if size - offset < HEADER.size:
        raise BadRecordError(f"the file ends at byte {size}, inside the header of the record")
    magic, kind, width, dim = HEADER.unpack_from(data, offset)
    if magic != b"\0B" or kind not in _NUMBERS or width != 4:
        matrix = kind[:2] in (b"FM", b"DM", b"CM")
        what = "a matrix" if matrix else f"a record that starts with {magic + kind!r}"
        raise BadRecordError(f"expected a Kaldi vector, found {what}")
    number, start = _NUMBERS[kind], offset + HEADER.size
    if dim <= 0:
        raise BadRecordError(f"a vector of dimension {dim}")
    if dim * number.itemsize > size - start:
        raise BadRecordError(
            f"the file ends at byte {size}, the vector of dimension {dim} "
            f"at {start + dim * number.itemsize}"
        )
    return np.frombuffer(data, number, dim, start)


def _parse_text(data: memoryview, offset: int) -> NDArray[np.floating]:
    start = bytes(data[offset : offset + 8])
    if start.strip(b" [") and not start.lstrip(b" ").startswith(b"["):
        raise BadRecordError(f"expected a Kaldi vector, found a record that starts with {start!r}")
    line = _line(data, offset)
    words = line.split()
    if len(words) < 3 or words[0] != b"[" or words[-1] != b"]":
        raise BadRecordError(f"expected a Kaldi vector, found {line[:40]!r}")
    try:
        return np.array(words[1:-1]).astype(np.float64)
    except ValueError as error:
        raise BadRecordError(f"not a number in a text vector: {error}") from error


def _line(data: memoryview, offset: int) -> bytes:
    line = b""
    for start in range(offset, len(data), 1 << 16):
        head, newline, _ = bytes(data[start : start + (1 << 16)]).partition(b"\n")
        line += head
        if newline:
            return line
    raise BadRecordError(f"the file ends at byte {len(data)}, inside a text record")
