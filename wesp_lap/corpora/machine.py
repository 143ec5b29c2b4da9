"""Checks of the machine: folders that can be written, disk, processor cores, shared memory."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from wesp_lap.audio.ffmpeg import GET_FFMPEG, decode_to_wav, find_ffmpeg
from wesp_lap.corpora.checks import Check, ok
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike

# A million utterances make a thousand shards; embeddings and checkpoints are few files.
_FILES = 10_000
_SHM = "/dev/shm"


def check_folder(name: str, path: PathLike) -> list[Check]:
    """Make a folder if need be, and try what a run does in it: write, rename, link, lock.

    Nothing is left but the folder.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".preflight.{os.getpid()}"
        moved = probe.with_suffix(".moved")
        link = probe.with_suffix(".link")
        try:
            probe.write_bytes(b"x")
            os.replace(probe, moved)
            link.symlink_to(moved.name)
            locks = _can_lock(moved)
        finally:
            for one in (probe, moved, link):
                one.unlink(missing_ok=True)
    except OSError as error:
        mend = "give a folder that you may write to, on a disk with room and with links"
        return [Check(name, "error", f"{folder}: cannot be used: {error}", mend)]
    free = shutil.disk_usage(folder).free / 1e9
    checks = [ok(name, f"{folder}: can be written, {free:,.0f} GB are free")]
    if not locks:
        text = f"{folder}: files cannot be locked there, so two runs in it would not notice"
        mend = "do not start the same stage twice, or use a file system with locks"
        checks.append(Check(name, "warning", text, mend))
    numbers = os.statvfs(folder)
    if numbers.f_files and numbers.f_favail < _FILES:
        text = f"{folder}: room for {numbers.f_favail:,} more files only (inodes)"
        checks.append(Check(name, "error", text, "remove small files, or use another disk"))
    return checks


def _can_lock(path: Path) -> bool:
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def check_disk(folder: PathLike, needed: int, what: str) -> list[Check]:
    """Compare what will be written below a folder (bytes) with what is free there."""
    free = shutil.disk_usage(folder).free
    text = f"{what}: about {needed / 1e9:,.1f} GB in {folder}, {free / 1e9:,.1f} GB are free"
    if needed > free:
        mend = "make room, or give another --data or --exp_dir"
        return [Check("disk", "error", text, mend)]
    if needed > 0.9 * free:
        mend = "the estimate is rough, and checkpoints and embeddings come on top: make room"
        return [Check("disk", "warning", text, mend)]
    return [ok("disk", text)]


def check_ffmpeg(example: PathLike) -> list[Check]:
    """Make sure that there is an ffmpeg, and that it decodes one file of the corpus."""
    if find_ffmpeg() is None:
        text = f"the corpus has files such as {example}, and there is no ffmpeg"
        return [Check("ffmpeg", "error", text, f"{GET_FFMPEG}, or convert the corpus to FLAC")]
    try:
        decode_to_wav(Path(example))
    except DataError as error:
        mend = "install an ffmpeg that decodes AAC, or fetch this file again"
        return [Check("ffmpeg", "error", str(error), mend)]
    return [ok("ffmpeg", f"decodes {example}")]


def check_cores(processes: int, workers: int) -> list[Check]:
    """Compare the processes of a run with the cores that this one may use.

    Args:
        processes: training processes.
        workers: loader processes of each.
    """
    cores = len(os.sched_getaffinity(0))
    wanted = processes * (1 + workers)
    text = f"{processes} training processes with {workers} loaders each, {cores} cores"
    if wanted > 2 * cores:
        mend = "ask for more cores, or set --data.num_workers so that the product fits"
        return [Check("cores", "warning", f"{text}: loading may be what training waits for", mend)]
    return [ok("cores", text)]


def check_shared_memory(needed: int, path: PathLike = _SHM) -> list[Check]:
    """Compare the batches that loaders hand over at a time (bytes) with the room for them."""
    if not os.path.isdir(path):
        return []
    free = shutil.disk_usage(path).free
    text = (
        f"{path}: {free / 1e6:,.0f} MB are free, batches on their way take {needed / 1e6:,.0f} MB"
    )
    if needed > free:
        mend = "start the container with --shm-size 8g or --ipc host, or set --data.num_workers 0"
        return [Check("shared memory", "error", text, mend)]
    return [ok("shared memory", text)]
