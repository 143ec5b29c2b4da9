"""The full audit of shards: every byte of every tar against its index and its sums."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from wesp_lap.data.counts import ShardCounts, count, count_files, sum_counts, unusable
from wesp_lap.data.index import load_utterances
from wesp_lap.data.index_file import (
    BLOCK,
    Entry,
    block_sums,
    index_path,
    parse_files,
    read_files,
    sums_path,
    to_entries,
)
from wesp_lap.data.indexing import mapped
from wesp_lap.data.processes import in_processes
from wesp_lap.data.raw_list import is_raw_list, read_indexed_raw_list
from wesp_lap.data.shard_list import is_url, read_list
from wesp_lap.data.tars import Sample, walk
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.log import progress

_SHOWN_PER_SHARD = 5


def check_shards(shard_list: PathLike, jobs: int = 1) -> dict[str, float]:
    """Read all shards of a list from beginning to end and compare them with their indexes.

    Structure of the tar, sums of its blocks, CRC-32 of each utterance, names, places and speakers
    in the index, and utterances in several shards. Of a raw.list the files are compared.

    Returns:
        Counts, see sum_counts.

    Raises:
        DataError: all faults of all shards.
    """
    if is_raw_list(shard_list):
        return _check_raw_list(shard_list)
    tars = read_list(shard_list)
    remote = [f"{tar}: a URL" for tar in tars if is_url(tar)]
    raise_problems(f"{shard_list}: check them where they lie", remote)
    parts = list(progress(in_processes(_check_tar, tars, jobs), "check", len(tars), "shard"))
    mend = (
        "Copy damaged tars again, or make them again; missing indexes: python -m "
        f"wesp_lap.bin.index_shards --list {shard_list}"
    )
    counts = sum_counts(shard_list, parts, 0, "damaged utterances", mend)
    load_utterances(shard_list)  # what stands in several shards
    return counts


def _check_tar(tar: str) -> ShardCounts:
    faults: list[str] = []
    columns = None
    try:
        columns = parse_files(tar, read_files(tar))
    except DataError as error:
        faults.append(str(error))
    try:
        with mapped(tar) as (content, stream):
            found = walk(tar, content, stream)
            faults += found.broken + found.bad
            if columns is not None:
                faults += _shortened(tar, list(_sum_faults(tar, content)))
                entries = to_entries(columns)
                faults += _shortened(tar, list(_entry_faults(tar, entries, found.samples)))
                faults += _shortened(tar, list(_checksum_faults(tar, entries, content)))
    except DataError as error:
        faults.append(str(error))
    # The same fault may show twice, when the tar is not there at all.
    return (
        unusable(list(dict.fromkeys(faults))) if faults or columns is None else count(tar, columns)
    )


def _shortened(tar: str, faults: list[str]) -> list[str]:
    left = len(faults) - _SHOWN_PER_SHARD
    return faults if left <= 0 else [*faults[:_SHOWN_PER_SHARD], f"{tar}: and {left} more of these"]


def _sum_faults(tar: str, content: memoryview) -> Iterator[str]:
    expected = np.fromfile(sums_path(tar), dtype="<u8")
    wrong = np.flatnonzero(expected != block_sums(content))
    if len(wrong):
        starts = np.flatnonzero(np.diff(wrong, prepend=-2) > 1)
        for first, last in zip(wrong[starts], [*(wrong[starts[1:] - 1]), wrong[-1]], strict=True):
            end = min((last + 1) * BLOCK, len(content))
            yield f"{tar}: bytes {first * BLOCK} to {end}: not what was written (block sums)"


def _entry_faults(tar: str, entries: list[Entry], samples: list[Sample]) -> Iterator[str]:
    index = index_path(tar)
    found = {sample.key: sample for sample in samples}
    for entry in entries:
        sample = found.pop(entry.key, None)
        if sample is None:
            yield f"{index}: utterance '{entry.key}': not in {tar}"
        elif (sample.offset, sample.size) != (entry.offset, entry.size):
            yield f"{index}: utterance '{entry.key}': lies elsewhere in {tar}"
        elif sample.speaker != entry.speaker:
            said = f"'{entry.speaker}', in the tar '{sample.speaker}'"
            yield f"{index}: utterance '{entry.key}': its speaker is {said}"
    for key in found:
        yield f"{index}: utterance '{key}': in {tar} but not in the index"


def _checksum_faults(tar: str, entries: list[Entry], content: memoryview) -> Iterator[str]:
    for entry in entries:
        if zlib.crc32(content[entry.offset : entry.offset + entry.size]) != entry.crc32:
            yield f"{tar}: utterance '{entry.key}': its audio has changed (CRC-32)"


def _check_raw_list(path: PathLike) -> dict[str, float]:
    paths, columns = read_indexed_raw_list(path)
    entries = to_entries(columns)
    faults = []
    for name, entry in zip(progress(paths, "check"), entries, strict=True):
        try:
            with open(name, "rb") as stream:
                content = stream.read()
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
            continue
        if (len(content), zlib.crc32(content)) != (entry.size, entry.crc32):
            faults.append(f"{name}: utterance '{entry.key}': its audio has changed (CRC-32)")
    raise_problems(f"{path}: damaged utterances", faults, "Replace the files, then index_shards.")
    return count_files(entries)
