"""The index beside each shard: which utterance lies where, with its length and checksum.

``NAME.index`` stands beside ``NAME.tar``: a comment line, then tab-separated lines
``key speaker offset size samples crc32``, where the audio of the utterance is the ``size`` bytes
at ``offset`` of the tar. Format: docs/formats.md.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write

_COLUMNS = 6
_HEADER = "# wesp_lap shard index"


class Entry(NamedTuple):
    """One utterance of a shard."""

    key: str
    speaker: str
    offset: int
    size: int
    samples: int
    crc32: int


def index_path(tar: PathLike) -> Path:
    """Return the index that belongs to a tar."""
    return Path(tar).with_suffix(".index")


def write_index(tar: PathLike, digest: str, entries: Sequence[Entry]) -> None:
    """Write the index of ``tar``; ``digest`` says what the shard was made from."""
    with atomic_write(index_path(tar)) as stream:
        stream.write(f"{_HEADER}, made from {digest}\n")
        stream.writelines(
            f"{e.key}\t{e.speaker}\t{e.offset}\t{e.size}\t{e.samples}\t{e.crc32:08x}\n"
            for e in entries
        )


def index_digest(tar: PathLike) -> str:
    """Return the digest a shard's index was written with; empty when there is no index."""
    path = index_path(tar)
    if not path.is_file() or not Path(tar).is_file():
        return ""
    with open(path, encoding="utf-8") as stream:
        return stream.readline().rpartition(" ")[2].strip()


def read_index(tar: PathLike) -> list[Entry]:
    """Read the index of ``tar`` and check that the tar is as long as it says."""
    path = index_path(tar)
    if not Path(tar).is_file():
        raise DataError(f"{tar}: no such shard")
    if not path.is_file():
        raise DataError(f"{tar}: no index beside it ({path.name}); make the shards again")
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if not header.startswith(_HEADER):
        raise DataError(f"{path}: no shard index: its first line is not '{_HEADER} ...'")
    entries, bad = [], []
    for number, line in enumerate(lines, 2):
        parts = line.split("\t")
        try:
            if len(parts) != _COLUMNS:
                raise ValueError
            numbers = (int(parts[2]), int(parts[3]), int(parts[4]), int(parts[5], 16))
            entries.append(Entry(parts[0], parts[1], *numbers))
        except ValueError:
            bad.append(f"{path}:{number}: expected key speaker offset size samples crc32")
    raise_problems("broken shard index", bad, "Make the shards again.")
    _check_length(Path(tar), path, entries)
    return entries


def _check_length(tar: Path, path: Path, entries: Sequence[Entry]) -> None:
    """Compare the tar with the end of the last utterance: one of the two may be cut short."""
    length = tar.stat().st_size
    end = entries[-1].offset + entries[-1].size if entries else 0
    if length < end:
        raise DataError(f"{tar}: cut short: {length} of {end} bytes; make the shards again")
    # A tar ends with two blocks of zeros and is filled up to a whole record.
    if length >= end + 3 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE:
        raise DataError(f"{path}: cut short: it ends before {tar.name} does; make the shards again")


def read_list(path: PathLike) -> list[Path]:
    """Read a shard list: one tar per line, relative to the working directory or to the list."""
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such shard list; make_shards writes one")
    names = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    tars = []
    for name in filter(None, names):
        tar = Path(name)
        tars.append(tar if tar.exists() or tar.is_absolute() else source.parent / tar)
    if not tars:
        raise DataError(f"{source}: the shard list is empty")
    return tars


@dataclass(frozen=True)
class Utterances:
    """All utterances of a shard list, as columns: small in memory and cheap to send to workers."""

    tars: list[Path]
    keys: np.ndarray
    speakers: np.ndarray
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    samples: np.ndarray
    crc32: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Return a digest of which utterances these are, whose, and of what content."""
        state = hashlib.sha256()
        for column in (self.keys, self.speakers, self.crc32):
            state.update(column.tobytes())
        return state.hexdigest()

    @property
    def seconds(self) -> float:
        """Total duration in seconds at 16 kHz."""
        return float(self.samples.sum()) / 16000


def load_utterances(shard_list: PathLike) -> Utterances:
    """Read the indexes of all shards of a list; every fault of every shard is reported at once."""
    tars = read_list(shard_list)
    rows: list[list[Entry]] = []
    problems = []
    for tar in tars:
        try:
            rows.append(read_index(tar))
        except DataError as error:
            problems.append(str(error))
    raise_problems(f"{shard_list}: unusable shards", problems)
    entries = [entry for part in rows for entry in part]
    if not entries:
        raise DataError(f"{shard_list}: its shards hold no utterance")
    keys = np.array([entry.key for entry in entries])
    _refuse_duplicates(keys, shard_list)
    return Utterances(
        tars=tars,
        keys=keys,
        speakers=np.array([entry.speaker for entry in entries]),
        tar=np.repeat(np.arange(len(tars), dtype=np.int32), [len(part) for part in rows]),
        offset=_column(entries, 2),
        size=_column(entries, 3),
        samples=_column(entries, 4),
        crc32=_column(entries, 5),
    )


def _column(entries: Iterable[Entry], position: int) -> np.ndarray:
    return np.array([entry[position] for entry in entries], dtype=np.int64)


def _refuse_duplicates(keys: np.ndarray, shard_list: PathLike) -> None:
    unique, counts = np.unique(keys, return_counts=True)
    problems = [f"utterance '{key}' stands in the shards twice" for key in unique[counts > 1]]
    raise_problems(f"{shard_list}: duplicate utterances", problems, "Make the shards again.")
