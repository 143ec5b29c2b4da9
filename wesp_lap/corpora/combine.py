"""Join short utterances to longer recordings: which ones, and the writing of the files."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from wesp_lap.audio.io import AudioInfo
from wesp_lap.corpora.archives import check_space
from wesp_lap.errors import DataError, WespError
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.log import get_logger, progress, set_up_logging

_CHUNK = 64


@dataclass(frozen=True)
class Joint:
    """A recording to be made of several files, one after the other.

    Attributes:
        target: FLAC file to write.
        sources: files to join, of one sampling rate.
        samples: their samples together.
    """

    target: str
    sources: tuple[str, ...]
    samples: int


def choose_joints(seconds: Mapping[str, float], at_least: float) -> list[list[str]]:
    """Divide the utterances of one group into those that stay alone and those that are joined.

    Utterances of ``at_least`` seconds stay as they are. The shorter ones are gathered in the order
    of the mapping until they last that long together. Those left at the end join the last
    recording that was gathered; without one, the last long utterance; without that, they make one
    recording, short as it is. Every utterance stands in exactly one list.

    Kaldi's choose_utts_to_combine.py joins neighbours too, and long ones to them; here a long
    utterance is rewritten only when nothing else can take what is left.

    Args:
        seconds: duration of every utterance.
        at_least: the length wanted, in seconds; 0 joins nothing.

    Returns:
        Lists of keys, ordered by their first key's place.
    """
    alone = [[key] for key, length in seconds.items() if length >= at_least]
    gathered: list[list[str]] = []
    current: list[str] = []
    for key, length in seconds.items():
        if length >= at_least:
            continue
        current.append(key)
        if sum(seconds[part] for part in current) >= at_least:
            gathered.append(current)
            current = []
    order = {key: place for place, key in enumerate(seconds)}
    if current:
        if gathered:
            gathered[-1] += current
        elif alone:
            gathered.append(sorted([*alone.pop(), *current], key=order.__getitem__))
        else:
            gathered.append(current)
    return sorted([*alone, *gathered], key=lambda keys: order[keys[0]])


def write_joints(
    joints: Sequence[Joint], infos: Mapping[str, AudioInfo], folder: PathLike, jobs: int = 0
) -> dict[str, str]:
    """Write recordings as 16-bit FLAC, in several processes; whole files of earlier runs are kept.

    A file is kept when it is newer than its sources, has as many samples, and its comment names
    them. Samples are joined as integers, so none of them changes.

    Args:
        joints: what to write.
        infos: header of every source file.
        folder: where the files lie, for the check of the disk.
        jobs: processes; 0 for one per core.

    Returns:
        What is wrong, by source file; all other recordings have been written.

    Raises:
        DataError: too little space on the disk.
        WespError: a process was killed.
    """
    todo = [joint for joint in progress(joints, "joined files", unit="file") if not _whole(joint)]
    get_logger().info("%s: %d files to join, %d there", folder, len(todo), len(joints) - len(todo))
    if not todo:
        return {}
    # FLAC comes out as large as the same speech as FLAC, and not larger than 16-bit samples.
    needed = sum(_size(source, infos[source]) for joint in todo for source in joint.sources)
    check_space(folder, needed, len(todo), "joined utterances")
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    faults: dict[str, str] = {}
    written = _in_processes(chunks, jobs or len(os.sched_getaffinity(0)))
    for found in progress(written, "joining", total=len(chunks), unit=f"x{_CHUNK} files"):
        faults |= found
    return faults


def _size(source: str, info: AudioInfo) -> int:
    return min(os.path.getsize(source), 2 * info.samples)


def _whole(joint: Joint) -> bool:
    """Say whether the file is there, complete, and newer than what it should be made of."""
    try:
        made = os.stat(joint.target).st_mtime_ns
        if any(os.stat(source).st_mtime_ns > made for source in joint.sources):
            return False
        with soundfile.SoundFile(joint.target) as stream:
            return stream.frames == joint.samples and stream.comment == _comment(joint)
    except (OSError, soundfile.LibsndfileError):
        return False


def _comment(joint: Joint) -> str:
    """Return what is written into a file about its parts."""
    return " + ".join(os.path.basename(source) for source in joint.sources)


def _in_processes(chunks: Sequence[Sequence[Joint]], jobs: int) -> Iterator[dict[str, str]]:
    jobs = min(jobs, len(chunks))
    if jobs <= 1:
        yield from map(_write_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=set_up_logging) as pool:
        try:
            yield from pool.map(_write_chunk, chunks)
        except BrokenProcessPool as error:
            raise WespError(
                "a process that joins utterances was killed, often for want of memory; run the "
                "same command again, with a smaller --nj: what is written is kept"
            ) from error


def _write_chunk(joints: Sequence[Joint]) -> dict[str, str]:
    faults: dict[str, str] = {}
    for joint in joints:
        faults |= _write(joint)
    return faults


def _write(joint: Joint) -> dict[str, str]:
    """Write one recording; return what is wrong with its sources."""
    parts, faults = [], {}
    rates = set()
    for source in joint.sources:
        try:
            samples, rate = _read(source)
        except DataError as error:
            faults[source] = str(error)
            continue
        parts.append(samples)
        rates.add(rate)
    if faults:
        return faults
    if len(rates) > 1:
        text = f"{joint.sources[0]}: sampling rates differ among the files to join: {sorted(rates)}"
        return {joint.sources[0]: text}
    encoded = io.BytesIO()
    with soundfile.SoundFile(encoded, "w", rates.pop(), 1, "PCM_16", format="FLAC") as stream:
        stream.comment = _comment(joint)
        stream.write(np.concatenate(parts))
    with atomic_write(joint.target, "wb") as file:
        file.write(encoded.getvalue())
    return {}


def _read(source: str) -> tuple[np.ndarray, int]:
    """Return all samples of a mono file, int16 (S,), and its sampling rate."""
    try:
        with soundfile.SoundFile(source) as stream:
            if stream.channels != 1:
                raise DataError(f"{source}: {stream.channels} channels; mono is expected")
            samples = stream.read(dtype="int16")
            expected, rate = stream.frames, int(stream.samplerate)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{source}: cannot be read as audio: {error}") from error
    if len(samples) != expected or not len(samples):
        raise DataError(f"{source}: {len(samples)} of {expected} samples could be decoded")
    return samples, rate


def joint_name(keys: Sequence[str]) -> str:
    """Return the name of a recording: ``FIRST-combN`` for N utterances, FIRST for one."""
    first = Path(keys[0])
    return keys[0] if len(keys) == 1 else f"{first.with_suffix('')}-comb{len(keys)}{first.suffix}"
