"""Copies of audio files at 16 kHz, for corpora of another rate."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path

from wesp_lap.audio.io import decode, encode
from wesp_lap.errors import DataError, WespError, raise_problems
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.log import get_logger, progress, set_up_logging

SAMPLE_RATE = 16000
_TOGETHER = 32
_Pair = tuple[str, str]


def convert_to_16k(
    files: Mapping[str, PathLike], folder: PathLike, jobs: int = 0
) -> dict[str, str]:
    """Write mono FLAC files of 16 bits and 16 kHz, and return their paths by key.

    A file that was made before is kept while its source is the same: it carries the modification
    time of its source. A run that was stopped goes on.

    Args:
        files: source by key; a key is a path below ``folder``, without suffix.
        folder: where the files go, FOLDER/KEY.flac.
        jobs: processes; 0 for one per core.

    Raises:
        DataError: files that cannot be read; all of them are named.
        WespError: a process was killed.
    """
    made = {key: os.path.join(folder, f"{key}.flac") for key in files}
    wanted = [(os.fspath(source), made[key]) for key, source in files.items()]
    todo = [pair for pair in wanted if not _is_done(*pair)]
    if not todo:
        get_logger().info("%s: up to date, %d files", folder, len(made))
        return made
    get_logger().info("%s: converting %d of %d files to 16 kHz", folder, len(todo), len(made))
    groups = [todo[at : at + _TOGETHER] for at in range(0, len(todo), _TOGETHER)]
    found = chain.from_iterable(_in_processes(groups, jobs or len(os.sched_getaffinity(0))))
    faults = [fault for fault in progress(found, "16 kHz", len(todo), "file") if fault]
    mend = "Fetch or unpack these files again; those that are converted are kept."
    raise_problems(f"{folder}: files that cannot be converted to 16 kHz", faults, mend)
    return made


def _is_done(source: str, target: str) -> bool:
    try:
        return os.stat(target).st_mtime_ns == os.stat(source).st_mtime_ns
    except FileNotFoundError:
        return False


def _in_processes(groups: Sequence[list[_Pair]], jobs: int) -> Iterator[list[str]]:
    if min(jobs, len(groups)) <= 1:
        yield from map(_convert, groups)
        return
    # Spawned, since a forked process may hang in libraries that had threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(groups)), context, _start_worker) as pool:
        try:
            yield from pool.map(_convert, groups)
        except BrokenProcessPool as error:
            raise WespError(
                "a process was killed, often for want of memory; run the same command again, with "
                "a smaller --nj: files that are converted are kept"
            ) from error


def _start_worker() -> None:
    import torch

    set_up_logging()
    torch.set_num_threads(1)  # there is a process for every core


def _convert(pairs: list[_Pair]) -> list[str]:
    """Convert files and return for each what went wrong, or nothing."""
    return [_convert_one(source, target) for source, target in pairs]


def _convert_one(source: str, target: str) -> str:
    from wesp_lap.audio.resample import resample  # torch

    try:
        date = os.stat(source).st_mtime_ns  # before it is read: it may be replaced meanwhile
        wave, rate = decode(Path(source))
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{source}: cannot be read: {error.strerror}"
    with atomic_write(target, "wb") as stream:
        stream.write(encode(resample(wave, rate, SAMPLE_RATE), SAMPLE_RATE, "flac"))
    os.utime(target, ns=(date, date))
    return ""
