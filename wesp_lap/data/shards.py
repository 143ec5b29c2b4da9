"""Pack a data directory into tars that WeSpeaker reads too, each with an index beside it.

Each utterance is two members, ``KEY.spk`` (the speaker's name) and ``KEY.SUFFIX`` (the audio).
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wesp_lap.audio.io import decode, encode, probe
from wesp_lap.data.index_file import Entry, index_digest, read_index, sums_path, write_index
from wesp_lap.data.tars import TarWriter
from wesp_lap.data.utterance import load_utterance
from wesp_lap.data.wav import parse_plain_wav
from wesp_lap.errors import DataError, WespError, problem_list
from wesp_lap.files import PathLike, atomic_write, write_json
from wesp_lap.kaldi.datadir import DataDir, Segment
from wesp_lap.log import get_logger, progress
from wesp_lap.seeding import generator

AudioFormat = Literal["keep", "flac", "wav"]
# What stays as it is: suffixes by which readers of the tars know how to decode a member.
_KEPT_SUFFIXES = frozenset({"wav", "flac", "ogg", "opus", "mp3"})


@dataclass(frozen=True)
class _Source:
    key: str
    speaker: str
    path: Path
    segment: Segment | None
    problem: str = ""


@dataclass(frozen=True)
class _Job:
    tar: Path
    sources: list[_Source]
    audio_format: AudioFormat
    sample_rate: int

    def digest(self) -> str:
        """Digest of what goes into the shard: a shard with an equal one need not be made again."""
        state = hashlib.sha256(f"{self.audio_format} {self.sample_rate}".encode())
        for source in self.sources:
            status = source.path.stat() if source.path.is_file() else None
            stamp = (status.st_size, status.st_mtime_ns) if status else None
            state.update(repr((source, stamp)).encode())
        return state.hexdigest()


def make_shards(
    data: PathLike,
    out: PathLike,
    shard_list: PathLike,
    utterances_per_shard: int = 1000,
    prefix: str = "shards",
    audio_format: AudioFormat = "keep",
    sample_rate: int = 16000,
    seed: int = 42,
    jobs: int = 1,
    max_bad: int = 0,
) -> dict[str, float]:
    """Pack ``data`` into ``out``/PREFIX_NNNNNNNNN.tar and write the list of tars.

    Shards that are already there and were made from the same input are kept, so that a run that
    was stopped continues.

    Returns:
        Counts: shards, utterances, speakers, seconds, bad.

    Raises:
        DataError: more than ``max_bad`` utterances cannot be packed; all of them are named.
    """
    plan = _plan(data, Path(out), utterances_per_shard, prefix, audio_format, sample_rate, seed)
    done, bad = [], []
    for entries, faults in progress(_packed(plan, jobs), "shards", len(plan), "shard"):
        done += entries
        bad += faults
    if len(bad) > max_bad:
        mend = f"Mend or remove them, or allow them with --max_bad {len(bad)}."
        raise DataError(problem_list(f"{data}: utterances that cannot be packed", bad, mend))
    if bad:
        get_logger().warning("%s", problem_list(f"{data}: left out", bad))
    if not done:
        raise DataError(f"{data}: no utterance could be packed")
    with atomic_write(shard_list) as stream:
        stream.writelines(f"{job.tar}\n" for job in plan)
    counts = {
        "shards": len(plan),
        "utterances": len(done),
        "speakers": len({entry.speaker for entry in done}),
        "seconds": round(sum(entry.samples for entry in done) / sample_rate, 3),
        "bad": len(bad),
    }
    write_json(Path(shard_list).with_suffix(".json"), counts)
    return counts


def _plan(
    data: PathLike,
    out: Path,
    per_shard: int,
    prefix: str,
    audio_format: AudioFormat,
    sample_rate: int,
    seed: int,
) -> list[_Job]:
    if per_shard < 1:
        raise DataError(f"--utterances_per_shard must be at least 1, got {per_shard}")
    source = DataDir.load(data)
    keys = source.utterances
    order = generator(seed).permutation(len(keys))
    sources = [_source(source, keys[i]) for i in order]
    out.mkdir(parents=True, exist_ok=True)
    return [
        _Job(
            out / f"{prefix}_{number:09d}.tar",
            sources[first : first + per_shard],
            audio_format,
            sample_rate,
        )
        for number, first in enumerate(range(0, len(sources), per_shard))
    ]


def _source(data: DataDir, key: str) -> _Source:
    try:
        return _Source(key, data.utt2spk[key], data.resolve(key), data.segments.get(key))
    except DataError as error:  # reported together with the others
        return _Source(key, data.utt2spk[key], Path(), None, str(error))


def _packed(plan: Sequence[_Job], jobs: int) -> Iterator[tuple[list[Entry], list[str]]]:
    """Make the shards here or in ``jobs`` processes, in the order of the plan."""
    if jobs <= 1 or len(plan) == 1:
        yield from map(_pack, plan)
        return
    # Spawned, since a forked process may hang in libraries that had threads.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_pack, plan)
        except BrokenProcessPool as error:
            raise WespError(
                "a packing process was killed, often for want of memory; run the same command "
                "again, with a smaller --nj: finished shards are kept"
            ) from error


def _pack(job: _Job) -> tuple[list[Entry], list[str]]:
    """Make one shard; return its index and what could not be packed."""
    digest = job.digest()
    if index_digest(job.tar) == digest:
        with contextlib.suppress(DataError):  # damaged since: made again
            return read_index(job.tar), []
    entries: list[Entry] = []
    bad: list[str] = []
    with atomic_write(job.tar, "wb") as stream:
        tar = TarWriter(stream)
        for source in job.sources:
            try:
                audio, suffix, samples = _audio(source, job)
            except DataError as error:
                bad.append(f"{source.key}: {error}")
                continue
            tar.add(f"{source.key}.spk", source.speaker.encode())
            offset = tar.add(f"{source.key}.{suffix}", audio)
            crc = zlib.crc32(audio)
            wav = parse_plain_wav(audio, len(audio))
            pcm = wav.start if wav else -1
            entries.append(
                Entry(
                    source.key,
                    source.speaker,
                    offset,
                    len(audio),
                    samples,
                    crc,
                    job.sample_rate,
                    pcm,
                )
            )
        sums = tar.close()
    with atomic_write(sums_path(job.tar), "wb") as stream:
        stream.write(sums.astype("<u8").tobytes())
    # A shard with faults is not marked as finished: the next run tries it again.
    write_index(job.tar, "incomplete" if bad else digest, entries)
    return entries, bad


def _audio(source: _Source, job: _Job) -> tuple[bytes, str, int]:
    """Return the encoded audio of an utterance, its suffix, and its number of samples."""
    if source.problem:
        raise DataError(source.problem)
    suffix = source.path.suffix.lower().lstrip(".")
    if source.segment is None and suffix in _KEPT_SUFFIXES:
        info = probe(source.path)
        same = job.audio_format in ("keep", suffix) and info.sample_rate == job.sample_rate
        if same and info.channels == 1:
            decode(source.path)  # a damaged file must be met here, not in the middle of training
            return source.path.read_bytes(), suffix, info.samples
    wave = load_utterance(source.path, source.segment, job.sample_rate)
    kept = "wav" if suffix == "wav" else "flac"
    target = kept if job.audio_format == "keep" else job.audio_format
    return encode(wave, job.sample_rate, target), target, len(wave)
