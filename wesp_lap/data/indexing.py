"""Indexes and sums for shards that came without them, from the tars alone, and for raw lists."""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO

from wesp_lap.audio.ffmpeg import needs_ffmpeg
from wesp_lap.audio.io import decode
from wesp_lap.data.counts import ShardCounts, count, count_files, sum_counts, unusable, write_counts
from wesp_lap.data.index import load_utterances
from wesp_lap.data.index_file import (
    INCOMPLETE,
    Entry,
    block_sums,
    index_digest,
    index_path,
    parse_files,
    read_files,
    write_index,
    write_index_file,
    write_sums,
)
from wesp_lap.data.packing import Check, describe
from wesp_lap.data.processes import in_processes
from wesp_lap.data.raw_list import RawItem, is_raw_list, raw_digest, read_raw_list
from wesp_lap.data.shard_list import is_url, read_list
from wesp_lap.data.tars import Sample, walk
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.log import progress

_FILES_AT_ONCE = 500


def index_shards(
    shard_list: PathLike, jobs: int = 1, max_bad: int = 0, check: Check = "headers"
) -> dict[str, float]:
    """Write index and sums beside the tars of a list that lack them, or the index of a raw.list.

    Args:
        shard_list: shard.list or raw.list; counts go into a .json beside it.
        jobs: Processes.
        max_bad: Utterances that may be left out; of a raw.list none may.
        check: "headers" believes the headers of FLAC and Ogg, "full" decodes everything.

    Returns:
        Counts, see sum_counts.

    Raises:
        DataError: damaged tars, more than ``max_bad`` utterances without speaker or usable audio;
            all faults of all shards at once.
    """
    if is_raw_list(shard_list):
        counts = _index_raw_list(shard_list, jobs, check)
    else:
        tars = read_list(shard_list)
        mend = "Fetch the tars, index them here, and put the indexes and sums beside them."
        remote = [f"{tar}: a URL" for tar in tars if is_url(tar)]
        raise_problems(f"{shard_list}: tars that cannot be written beside", remote, mend)
        results = in_processes(partial(_index_tar, check=check), tars, jobs)
        parts = list(progress(results, "index", len(tars), "shard"))
        if sum(len(part.bad) for part in parts) > max_bad:
            for tar in (tar for tar, part in zip(tars, parts, strict=True) if part.bad):
                os.unlink(index_path(tar))  # or training would quietly do without them
        counts = sum_counts(shard_list, parts, max_bad, "utterances that cannot be used")
    load_utterances(shard_list)  # what stands in several shards shows only here
    write_counts(shard_list, counts)
    return counts


@contextlib.contextmanager
def mapped(tar: PathLike) -> Iterator[tuple[memoryview, IO[bytes]]]:
    """Map a tar into memory; gives its bytes and the open file.

    Raises:
        DataError: it is not there, cannot be read, or is empty.
    """
    try:
        with open(tar, "rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise DataError(f"{tar}: an empty file")
            with (
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
                memoryview(content) as view,
            ):
                yield view, stream
    except OSError as error:
        reason = "no such shard" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{tar}: {reason}") from error


def _index_tar(tar: str, check: Check) -> ShardCounts:
    with contextlib.suppress(DataError):
        if index_digest(tar) != INCOMPLETE:
            return count(tar, parse_files(tar, read_files(tar)))
    try:
        with mapped(tar) as (content, stream):
            found = walk(tar, content, stream)
            if found.broken:
                return unusable(found.broken + found.bad)
            entries, bad = [], list(found.bad)
            for sample in found.samples:
                try:
                    entries.append(_entry(tar, sample, content, check))
                except DataError as error:
                    bad.append(str(error))
            sums = block_sums(content)
    except DataError as error:
        return unusable([str(error)])
    write_sums(tar, sums)
    write_index(tar, INCOMPLETE if bad else "tar", entries)
    return count(tar, parse_files(tar, read_files(tar)), bad)


def _entry(tar: str, sample: Sample, content: memoryview, check: Check) -> Entry:
    audio = bytes(content[sample.offset : sample.offset + sample.size])
    what = describe(audio, sample.suffix, check, f"{tar}: utterance '{sample.key}'")
    numbers = (sample.offset, sample.size, what.samples, zlib.crc32(audio), what.rate, what.pcm)
    return Entry(sample.key, sample.speaker, *numbers)


def _index_raw_list(path: PathLike, jobs: int, check: Check) -> dict[str, float]:
    """Index the files of a raw list; bad ones cannot be left out, since rows are lines."""
    items = read_raw_list(path)
    chunks = [items[i : i + _FILES_AT_ONCE] for i in range(0, len(items), _FILES_AT_ONCE)]
    entries: list[Entry] = []
    bad: list[str] = []
    results = in_processes(partial(_index_files, check=check), chunks, jobs)
    for found, faults in progress(results, "index", len(chunks), f"{_FILES_AT_ONCE} files"):
        entries += found
        bad += faults
    raise_problems(f"{path}: files that cannot be used", bad, "Mend or remove their lines.")
    write_index_file(index_path(path), raw_digest(path), entries)
    return count_files(entries)


def _index_files(items: list[RawItem], check: Check) -> tuple[list[Entry], list[str]]:
    entries, bad = [], []
    for item in items:
        try:
            entries.append(_file_entry(item, check))
        except DataError as error:
            bad.append(f"{item.key}: {error}")
    return entries, bad


def _file_entry(item: RawItem, check: Check) -> Entry:
    try:
        with open(item.path, "rb") as stream:
            audio = stream.read()
    except OSError as error:
        raise DataError(f"{item.path}: {error.strerror}") from error
    if needs_ffmpeg(item.path):
        wave, rate = decode(item.path)
        samples, pcm = len(wave), -1
    else:
        what = describe(audio, item.path.rpartition(".")[2].lower(), check, item.path)
        samples, rate, pcm = what.samples, what.rate, what.pcm
    numbers = (0, len(audio), samples, zlib.crc32(audio), rate, pcm)
    return Entry(item.key, item.speaker, *numbers)
