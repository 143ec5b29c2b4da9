"""Pack a data directory into tars that WeSpeaker reads too, each with an index and sums beside it.

Each utterance is two members, ``KEY.spk`` (the speaker's name) and ``KEY.SUFFIX`` (the audio).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from wesp_lap.audio.ffmpeg import GET_FFMPEG, find_ffmpeg, needs_ffmpeg
from wesp_lap.data.counts import ShardCounts, count, sum_counts, write_counts
from wesp_lap.data.index_file import (
    INCOMPLETE,
    Entry,
    index_digest,
    index_path,
    parse_files,
    read_files,
    write_index,
    write_sums,
)
from wesp_lap.data.packing import AudioFormat, Check, Packed, Packing, Source, pack_all
from wesp_lap.data.processes import in_processes
from wesp_lap.data.raw_list import speech_pieces
from wesp_lap.data.tars import TarWriter
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.pipes import is_pipe, run_pipe
from wesp_lap.log import get_logger, progress
from wesp_lap.seeding import generator

BAD_LIST = "bad.txt"
# Part of every shard's digest: shards of another layout are made again.
_LAYOUT = "shards 2"


@dataclass(frozen=True)
class _Shard:
    tar: str
    sources: list[Source]
    packing: Packing
    spooled: Mapping[str, Source] = field(default_factory=dict)

    def digest(self) -> str:
        """Digest of what goes into the shard: one with an equal digest need not be made again.

        The output of commands (``spooled``) is not known before they run: their text counts.
        """
        state = hashlib.sha256(repr((_LAYOUT, self.packing)).encode())
        for source in self.sources:
            stamp = None
            if source.path:
                with contextlib.suppress(OSError):
                    status = os.stat(source.path)
                    stamp = (status.st_size, status.st_mtime_ns)
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
    vad: bool | PathLike = False,
    allow_pipe: bool = False,
    check: Check = "full",
) -> dict[str, float]:
    """Pack ``data`` into ``out``/PREFIX_NNNNNNNNN.tar and write the list of tars.

    Shards that are already there and were made from the same input are kept, so that a run that
    was stopped continues. What cannot be packed is listed in ``out``/bad.txt: key, path, reason.

    Args:
        data: Data directory.
        out: Directory for the shards.
        shard_list: File to write; counts go into a .json beside it.
        utterances_per_shard: Utterances in one tar.
        prefix: First part of the tars' names.
        audio_format: "keep" the bytes of files that are mono and of the right rate, or re-encode.
        sample_rate: Of all shards, in Hz.
        seed: Of the order of utterances.
        jobs: Processes.
        max_bad: Utterances that may be left out.
        vad: Cut out speech and join it: True for the data directory's own ``vad``, or a file.
        allow_pipe: Run commands in wav.scp, each once.
        check: "full" decodes everything, "headers" believes what kept files say of themselves.

    Returns:
        Counts: shards, utterances, speakers, seconds, bad, bytes.

    Raises:
        DataError: more than ``max_bad`` utterances cannot be packed, there is no ffmpeg though
            files need it, or a shard cannot be written.
    """
    if utterances_per_shard < 1:
        raise DataError(f"--utterances_per_shard must be at least 1, got {utterances_per_shard}")
    loaded = DataDir.load(data)
    sources = _sources(loaded, vad, allow_pipe)
    order = generator(seed).permutation(len(sources))
    packing = Packing(audio_format, sample_rate, check)
    Path(out).mkdir(parents=True, exist_ok=True)
    plan = [
        _Shard(
            str(Path(out) / f"{prefix}_{number:09d}.tar"),
            [sources[i] for i in order[first : first + utterances_per_shard]],
            packing,
        )
        for number, first in enumerate(range(0, len(sources), utterances_per_shard))
    ]
    _check_ffmpeg(data, plan)
    # An earlier list names these tars, too: nobody must train on what a failed run leaves of them.
    Path(shard_list).unlink(missing_ok=True)
    with _shared_pipes_run(plan, Path(out), jobs) as ready:
        made = list(progress(in_processes(_make, ready, jobs), "shards", len(plan), "shard"))
    _list_bad(Path(out) / BAD_LIST, loaded, [fault for part in made for fault in part.bad])
    counts = sum_counts(data, made, max_bad, "utterances that cannot be packed")
    with atomic_write(shard_list) as stream:
        stream.writelines(f"{shard.tar}\n" for shard in plan)
    write_counts(shard_list, counts)
    return counts


def _sources(data: DataDir, vad: bool | PathLike, allow_pipe: bool) -> list[Source]:
    pieces = speech_pieces(data, vad)
    cut = {key: tuple(spans) for key, spans in pieces.items()}
    whole = sum(key not in cut for key in data.utt2spk) if cut else 0
    if cut and whole == len(data.utt2spk):
        raise DataError(f"{data.path}: the table of speech pieces names none of its utterances")
    if whole:
        get_logger().warning("%s: %d utterances without speech pieces stay whole", data.path, whole)
    return [
        replace(_source(data, key, allow_pipe), pieces=cut.get(key, ())) for key in data.utterances
    ]


def _source(data: DataDir, key: str, allow_pipe: bool) -> Source:
    speaker, segment = data.utt2spk[key], data.segments.get(key)
    entry = data.wav.get(data.recording(key), "")
    if allow_pipe and is_pipe(entry):
        return Source(key, speaker, pipe=entry, segment=segment)
    try:
        return Source(key, speaker, str(data.resolve(key)), segment=segment)
    except DataError as error:  # reported together with the others
        hint = "; or run it here: --allow_pipe" if is_pipe(entry) else ""
        return Source(key, speaker, problem=f"{error}{hint}")


def _check_ffmpeg(data: PathLike, plan: Sequence[_Shard]) -> None:
    """Refuse, before any work, files that only ffmpeg reads when it is not there."""
    if find_ffmpeg() is not None:
        return
    todo = [shard for shard in plan if not _is_made(shard)]
    paths = [s.path for shard in todo for s in shard.sources if needs_ffmpeg(s.path)]
    if paths:
        raise DataError(
            f"{data}: {len(paths)} utterances need ffmpeg, which was not found, such as "
            f"{min(paths)}; {GET_FFMPEG}, or convert the files to FLAC or WAV"
        )


def _list_bad(path: Path, data: DataDir, faults: Sequence[str]) -> None:
    """List utterances with their entry of wav.scp and what is wrong ("KEY: REASON")."""
    if not faults:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as stream:
        for fault in sorted(faults):
            key, _, reason = fault.replace("\n", " ").partition(": ")
            stream.write(f"{key} {data.wav.get(data.recording(key), '-')} {reason}\n")


@contextlib.contextmanager
def _shared_pipes_run(plan: Sequence[_Shard], out: Path, jobs: int) -> Iterator[Sequence[_Shard]]:
    """Run the commands whose output several utterances share, once, for shards yet to be made.

    What they write stays in ``out`` until the shards are made; the command of a single utterance
    runs when that is packed.
    """
    shared = [shard for shard in plan if any(s.pipe and s.segment for s in shard.sources)]
    todo = [shard for shard in shared if not _is_made(shard)]
    pipes = dict.fromkeys(s.pipe for shard in todo for s in shard.sources if s.pipe and s.segment)
    if not pipes:
        yield plan
        return
    with tempfile.TemporaryDirectory(prefix=".pipes-", dir=out) as folder:
        files = [str(Path(folder) / f"{number}.wav") for number in range(len(pipes))]
        with ThreadPoolExecutor(max(jobs, 1)) as pool:
            spooled = dict(zip(pipes, pool.map(_spool, pipes, files), strict=True))
        yield [replace(shard, spooled=spooled) for shard in plan]


def _spool(pipe: str, target: str) -> Source:
    """Run a command; return a source that has its output as ``path``, or the ``problem``."""
    try:
        run_pipe(pipe, target)
        return Source("", "", target)
    except DataError as error:
        return Source("", "", problem=str(error))


def _is_made(shard: _Shard) -> bool:
    return index_digest(shard.tar) == shard.digest()


def _make(shard: _Shard) -> ShardCounts:
    """Make one shard, unless it is there, and count what is in it."""
    digest = shard.digest()
    if index_digest(shard.tar) == digest:
        with contextlib.suppress(DataError):  # damaged since: made again
            return count(shard.tar, parse_files(shard.tar, read_files(shard.tar)))
    try:
        return _write(shard, digest)
    except OSError as error:
        raise DataError(
            f"{shard.tar}: cannot be written: {error.strerror}; when that is mended, run the same "
            "command again: finished shards are kept"
        ) from error


def _write(shard: _Shard, digest: str) -> ShardCounts:
    # Without its index a shard is not whole: none may stand beside a tar that it does not fit.
    Path(index_path(shard.tar)).unlink(missing_ok=True)
    entries: list[Entry] = []
    bad: list[str] = []
    sources = [_spooled(source, shard.spooled) for source in shard.sources]
    with atomic_write(shard.tar, "wb") as stream:
        tar = TarWriter(stream)
        for source, audio in zip(sources, pack_all(sources, shard.packing), strict=True):
            if isinstance(audio, DataError):
                bad.append(f"{source.key}: {audio}")
            else:
                entries.append(_add(tar, source, audio))
        sums = tar.close()
    write_sums(shard.tar, sums)
    write_index(shard.tar, INCOMPLETE if bad else digest, entries)
    return count(shard.tar, parse_files(shard.tar, read_files(shard.tar)), bad)


def _spooled(source: Source, spooled: Mapping[str, Source]) -> Source:
    found = spooled.get(source.pipe)
    return replace(source, path=found.path, problem=found.problem) if found else source


def _add(tar: TarWriter, source: Source, audio: Packed) -> Entry:
    tar.add(f"{source.key}.spk", source.speaker.encode())
    place = tar.add(f"{source.key}.{audio.suffix}", audio.content)
    numbers = (place, len(audio.content), audio.samples, zlib.crc32(audio.content))
    return Entry(source.key, source.speaker, *numbers, audio.rate, audio.pcm)
