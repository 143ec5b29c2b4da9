"""All utterances of a list of shards, from the indexes beside them, as columns."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from wesp_lap.data.index_file import (
    BLOCK,
    Columns,
    Entry,
    Files,
    block_sums,
    index_digest,
    index_path,
    parse_files,
    parse_index,
    read_files,
    read_index,
    sums_path,
    write_index,
)
from wesp_lap.data.raw_list import is_raw_list, read_indexed_raw_list
from wesp_lap.data.remote import AccessSettings, Remote
from wesp_lap.data.shard_list import is_url, read_list
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike

__all__ = [
    "BLOCK",
    "Entry",
    "Utterances",
    "block_sums",
    "index_digest",
    "index_path",
    "load_utterances",
    "read_index",
    "read_list",
    "sums_path",
    "write_index",
]

_THREADS = 16

_ACCESS = AccessSettings()


@dataclass(frozen=True)
class Utterances:
    """All utterances of a list: small in memory and cheap to send to other processes.

    Attributes:
        tars: (shards,) UTF-8 bytes, paths or URLs; see tar_name. Files of a raw list count as
            shards of one utterance.
        keys: (U,) UTF-8 bytes; see key.
        speakers: Distinct names in the order of their UTF-8 bytes (C locale).
        speaker: (U,) int32, rows of ``speakers``.
        tar: (U,) int32, rows of ``tars``.
        offset: (U,) int64, first byte of the audio in its tar.
        size: (U,) int64, bytes of the audio.
        samples: (U,) int64.
        crc32: (U,) uint32, of the audio's bytes.
        rate: (U,) int32, in Hz.
        pcm: (U,) int32, see Entry.
    """

    tars: np.ndarray
    keys: np.ndarray
    speakers: list[str]
    speaker: np.ndarray
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    samples: np.ndarray
    crc32: np.ndarray
    rate: np.ndarray
    pcm: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Return the key of an utterance."""
        return self.keys[row].decode()

    def tar_name(self, shard: int) -> str:
        """Return the path or URL of a shard."""
        return self.tars[shard].decode()

    def digest(self) -> str:
        """Return a digest of which utterances these are, whose, and of what content."""
        state = hashlib.sha256(f"{self.keys.dtype}\n".encode() + "\n".join(self.speakers).encode())
        for column in (self.keys, self.speaker, self.crc32):
            state.update(column.tobytes())
        return state.hexdigest()

    def take(self, rows: np.ndarray) -> Utterances:
        """Return some of the utterances; speakers that have none among them are left out.

        Args:
            rows: Which ones (n,), in the order that they shall have.
        """
        present = np.unique(self.speaker[rows])
        number = np.zeros(len(self.speakers), np.int32)
        number[present] = np.arange(len(present))
        columns = ("keys", "tar", "offset", "size", "samples", "crc32", "rate", "pcm")
        return replace(
            self,
            speakers=[self.speakers[old] for old in present.tolist()],
            speaker=number[self.speaker[rows]],
            **{name: getattr(self, name)[rows] for name in columns},
        )

    @property
    def is_raw(self) -> bool:
        """Say whether these are files of a raw list: in a tar, audio comes after a header."""
        return not self.offset.any()

    @property
    def seconds(self) -> float:
        """Total duration in seconds."""
        return float((self.samples / self.rate).sum())


def load_utterances(shard_list: PathLike, access: AccessSettings = _ACCESS) -> Utterances:
    """Read the indexes of all shards of a shard.list, or of a raw.list.

    Args:
        shard_list: Paths or URLs of tars, one per line, or JSON lines of files.
        access: How long to wait for servers, and how often to ask.

    Raises:
        DataError: all faults of all shards at once: missing or cut tars, missing or broken
            indexes, utterances that stand there twice.
    """
    if is_raw_list(shard_list):
        tars, columns = read_indexed_raw_list(shard_list)
        return _gather(shard_list, tars, [columns], np.arange(len(tars), dtype=np.int32))
    tars = read_list(shard_list)
    _refuse_repeated(shard_list, tars)
    parts, problems = [], []
    # What waits for a disk or a server waits together; parsed here, since threads would only wait
    # for each other.
    with ThreadPoolExecutor(_THREADS) as pool:
        for tar, files in zip(tars, pool.map(partial(_read, access), tars), strict=True):
            try:
                parts.append(_parse(tar, files))
            except DataError as error:
                problems.append(str(error))
    mend = f"Missing or broken indexes: python -m wesp_lap.bin.index_shards --list {shard_list}"
    raise_problems(f"{shard_list}: unusable shards", problems, mend)
    rows = np.repeat(np.arange(len(tars), dtype=np.int32), [len(part.keys) for part in parts])
    return _gather(shard_list, tars, parts, rows)


def _read(access: AccessSettings, tar: str) -> Files | bytes | DataError:
    try:
        if is_url(tar):
            return Remote(access).read_all(index_path(tar), 1)
        return read_files(tar)
    except DataError as error:
        return error


def _parse(tar: str, files: Files | bytes | DataError) -> Columns:
    if isinstance(files, DataError):
        raise files
    return (
        parse_files(tar, files) if isinstance(files, Files) else parse_index(index_path(tar), files)
    )


def _gather(
    source: PathLike, tars: list[str], parts: list[Columns], rows: np.ndarray
) -> Utterances:
    """Join the columns of all shards; ``rows`` (U,) says which shard each utterance is in."""
    if not len(rows):
        raise DataError(f"{source}: its shards hold no utterance")
    keys = np.concatenate([part.keys for part in parts])
    _refuse_duplicates(source, tars, keys, rows)
    speakers, speaker = _number_speakers(parts)
    offset, size, samples, crc32, rate, pcm = np.concatenate([p.numbers for p in parts], axis=1)
    return Utterances(
        tars=np.array([tar.encode() for tar in tars]),
        keys=keys,
        speakers=speakers,
        speaker=speaker,
        tar=rows,
        offset=offset.copy(),  # without the copy each column would keep all six
        size=size.copy(),
        samples=samples.copy(),
        crc32=crc32.astype(np.uint32),
        rate=rate.astype(np.int32),
        pcm=pcm.astype(np.int32),
    )


def _number_speakers(parts: list[Columns]) -> tuple[list[str], np.ndarray]:
    """Return the distinct speakers in C-locale order and each utterance's row among them."""
    numbers: dict[bytes, int] = {}
    first_met = np.concatenate(
        [[numbers.setdefault(name, len(numbers)) for name in p.speakers.tolist()] for p in parts]
    ).astype(np.int32)
    names = sorted(numbers)
    order = np.empty(len(names), dtype=np.int32)
    order[[numbers[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    return [name.decode() for name in names], order[first_met]


def _refuse_duplicates(
    source: PathLike, tars: list[str], keys: np.ndarray, rows: np.ndarray
) -> None:
    # Sorting a million numbers takes a tenth of the time that sorting the keys takes; what hashes
    # alike is then compared.
    hashes = np.fromiter(map(hash, keys.tolist()), np.int64, len(keys))
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(np.diff(hashes[order]) == 0)
    problems = []
    for first, second in zip(order[alike], order[alike + 1], strict=True):
        if keys[first] == keys[second]:
            where = " and ".join(tars[rows[row]] for row in (first, second))
            problems.append(f"utterance '{keys[first].decode()}' stands there twice: {where}")
    raise_problems(
        f"{source}: duplicate utterances",
        sorted(problems),
        "Keep one of the shards that hold them.",
    )


def _refuse_repeated(shard_list: PathLike, tars: list[str]) -> None:
    problems = [f"{tar} stands there {n} times" for tar, n in Counter(tars).items() if n > 1]
    raise_problems(f"{shard_list}: repeated shards", problems, "Keep one line of each.")
