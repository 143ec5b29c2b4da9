"""The two files beside each shard: NAME.index and NAME.sums for NAME.tar.

The index says which utterance lies where: a comment line, then tab-separated lines
``key speaker offset size samples crc32 rate pcm``. The sums are one little-endian uint64 for each
4096 bytes of the tar, so that what is read of a tar can be checked at memory speed. A shard is
whole once its index is there: it is written last. Format: docs/formats.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike, atomic_write

BLOCK = 4096
# Digest of a shard that lacks utterances which could not be used: the next run tries again.
INCOMPLETE = "incomplete"
HEADER = "# wesp_lap shard index"
COLUMNS = "key speaker offset size samples crc32 rate pcm"
_WIDTH = len(COLUMNS.split())
_SEPARATORS = b"\t" * (_WIDTH - 1) + b"\n"
_NO_SEPARATORS = bytes(set(range(256)) - set(_SEPARATORS))


class Entry(NamedTuple):
    """One utterance of a shard.

    Attributes:
        key: Utterance.
        speaker: Speaker.
        offset: First byte of the audio in the tar.
        size: Bytes of the audio.
        samples: Samples per channel of the decoded audio.
        crc32: CRC-32 of these bytes.
        rate: Sampling rate in Hz.
        pcm: First byte, counted from ``offset``, of the samples of a mono 16-bit PCM WAV; -1 for
            audio that must be decoded.
    """

    key: str
    speaker: str
    offset: int
    size: int
    samples: int
    crc32: int
    rate: int
    pcm: int


class Columns(NamedTuple):
    """An index as columns: names (n,) as UTF-8 bytes, numbers (6, n) in the order of Entry."""

    keys: np.ndarray
    speakers: np.ndarray
    numbers: np.ndarray


def index_path(tar: PathLike) -> str:
    """Return the path or URL of the index that belongs to a tar."""
    return _beside(tar, ".index")


def sums_path(tar: PathLike) -> str:
    """Return the path or URL of the block sums that belong to a tar."""
    return _beside(tar, ".sums")


def _beside(tar: PathLike, suffix: str) -> str:
    name = os.fspath(tar)
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return f"{folder}{slash}{stem}{suffix}"


def block_sums(content: bytes | bytearray | memoryview | np.ndarray) -> np.ndarray:
    """Return the sums (blocks,) of each 4096 bytes, the last block filled up with zeros.

    A sum is that of the block's 512 little-endian uint64 words, modulo 2**64.
    """
    data = np.frombuffer(content, dtype=np.uint8)
    whole = len(data) // BLOCK * BLOCK
    sums = data[:whole].view("<u8").reshape(-1, BLOCK // 8).sum(axis=1, dtype=np.uint64)
    if whole == len(data):
        return sums
    last = np.zeros(BLOCK, dtype=np.uint8)
    last[: len(data) - whole] = data[whole:]
    return np.append(sums, last.view("<u8").sum(dtype=np.uint64))


def write_index(tar: PathLike, digest: str, entries: Sequence[Entry]) -> None:
    """Write the index of ``tar``; ``digest`` says what the shard was made from."""
    write_index_file(index_path(tar), digest, entries)


def write_index_file(path: PathLike, digest: str, entries: Sequence[Entry]) -> None:
    """Write ``entries`` as an index, atomically."""
    with atomic_write(path) as stream:
        stream.write(f"{HEADER}, made from {digest}\n")
        stream.writelines(
            f"{e.key}\t{e.speaker}\t{e.offset}\t{e.size}\t{e.samples}\t{e.crc32:08x}\t{e.rate}\t"
            f"{'-' if e.pcm < 0 else e.pcm}\n"
            for e in entries
        )


def write_sums(tar: PathLike, sums: np.ndarray) -> None:
    """Write the block sums of ``tar``."""
    with atomic_write(sums_path(tar), "wb") as stream:
        stream.write(sums.astype("<u8").tobytes())


def index_digest(tar: PathLike) -> str:
    """Return the digest a shard's index was written with; empty when there is no whole shard."""
    if not all(map(os.path.isfile, (tar, index_path(tar), sums_path(tar)))):
        return ""
    with open(index_path(tar), encoding="utf-8", errors="replace") as stream:
        return header_digest(stream.readline())


def header_digest(line: str) -> str:
    """Return what an index's first line says it was made from; empty when it is no such line."""
    return line.rpartition(" ")[2].strip() if line.startswith(HEADER) else ""


class Files(NamedTuple):
    """What lies on the disk for a shard: its index, and how long the tar and its sums are."""

    content: bytes
    tar_bytes: int
    sums_bytes: int


def read_files(tar: PathLike) -> Files:
    """Read the index of a local tar and look how long the other files are.

    Raises:
        DataError: one of them is not there.
    """
    paths = os.fspath(tar), index_path(tar), sums_path(tar)
    sizes = []
    for path, missing in zip(paths, ("no such shard", "no index", "no block sums"), strict=True):
        try:
            sizes.append(os.stat(path).st_size)
        except OSError as error:
            beside = f" beside it ({os.path.basename(path)})" if sizes else ""
            raise DataError(f"{paths[0]}: {missing}{beside}") from error
    with open(paths[1], "rb") as stream:
        return Files(stream.read(), sizes[0], sizes[2])


def read_index(tar: PathLike) -> list[Entry]:
    """Read the index of a local tar and check that the tar is as long as it says.

    Raises:
        DataError: tar, index or sums are missing, broken, or do not belong together.
    """
    return to_entries(parse_files(os.fspath(tar), read_files(tar)))


def parse_files(tar: str, files: Files) -> Columns:
    """Parse an index and compare it with the length of the tar and of its sums.

    Raises:
        DataError: the index is broken, or one of the files is cut short or of another shard.
    """
    columns = parse_index(index_path(tar), files.content)
    offset, size = columns.numbers[0], columns.numbers[1]
    end = int((offset + size).max(initial=0))
    # A tar ends with two blocks of 512 zeros and is filled up to a whole record of 20 blocks.
    least = -(-end // 512) * 512 + 1024
    if files.tar_bytes < least:
        said = f"{files.tar_bytes} of {least} bytes"
        raise DataError(f"{tar}: cut short: {said}; copy or make it again")
    name = os.path.basename(tar)
    whole = header_digest(files.content.partition(b"\n")[0].decode(errors="replace")) != INCOMPLETE
    if whole and files.tar_bytes > least + 20 * 512:
        raise DataError(f"{index_path(tar)}: cut short: it ends before {name} does")
    if files.sums_bytes != 8 * -(-files.tar_bytes // BLOCK):
        raise DataError(f"{sums_path(tar)}: not as long as {name} needs")
    return columns


def to_entries(columns: Columns) -> list[Entry]:
    """Return the lines of an index one by one."""
    keys, speakers, numbers = (
        column.tolist() for column in columns._replace(numbers=columns.numbers.T)
    )
    rows = zip(keys, speakers, numbers, strict=True)
    return [Entry(key.decode(), speaker.decode(), *row) for key, speaker, row in rows]


def parse_index(path: str, content: bytes) -> Columns:
    """Parse an index.

    Args:
        path: What to call it in messages.
        content: The bytes of the file.

    Raises:
        DataError: it is no index, is not UTF-8, or has broken lines; all of them are named.
    """
    header, _, body = content.partition(b"\n")
    if not header.startswith(HEADER.encode()):
        raise DataError(f"{path}: no shard index: its first line is not '{HEADER} ...'")
    try:
        body.decode()
        columns = _split(body)
    except (ValueError, OverflowError):  # not UTF-8, or not the numbers that are expected
        columns = None
    if columns is None:
        problems = [
            f"{path}:{number}: expected {COLUMNS}"
            for number, line in enumerate(body.removesuffix(b"\n").split(b"\n"), 2)
            if not _is_whole(line)
        ]
        if body and not body.endswith(b"\n"):
            problems.append(f"{path}: cut short in its last line")
        raise DataError(problem_list("broken shard index", problems))
    return columns


def _is_whole(line: bytes) -> bool:
    try:
        line.decode()
        return _split(line + b"\n") is not None
    except (ValueError, OverflowError):
        return False


def _split(body: bytes) -> Columns | None:
    """Split lines into columns all at once; None when a line has not what it should."""
    count = body.count(b"\n")
    if body.translate(None, _NO_SEPARATORS) != count * _SEPARATORS or b"\0" in body:
        return None
    fields = body.replace(b"\n", b"\t").split(b"\t")[:-1]
    keys, speakers, checksums = fields[0::_WIDTH], fields[1::_WIDTH], fields[5::_WIDTH]
    if count and not (all(keys) and all(speakers) and set(map(len, checksums)) == {8}):
        return None
    numbers = np.empty((6, count), dtype=np.int64)
    for row, column in ((0, 2), (1, 3), (2, 4), (4, 6)):
        numbers[row] = np.fromiter(map(int, fields[column::_WIDTH]), np.int64, count)
    numbers[3] = np.frombuffer(bytes.fromhex(b"".join(checksums).decode()), ">u4")
    starts = (-1 if field == b"-" else int(field) for field in fields[7::_WIDTH])
    numbers[5] = np.fromiter(starts, np.int64, count)
    offset, size, samples, _, rate, pcm = numbers
    possible = (offset >= 0) & (size > 0) & (samples > 0) & (rate > 0) & (pcm >= -1)
    possible &= np.maximum(rate, pcm) < 2**31
    possible &= (pcm < 0) | (pcm + 2 * samples <= size)
    if not possible.all():
        return None
    return Columns(np.array(keys, dtype="S"), np.array(speakers, dtype="S"), numbers)
