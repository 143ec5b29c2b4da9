"""Sampling rate, channels and length of audio files, read from their headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wesp_lap.errors import DataError
from wesp_lap.log import progress

# Containers that libsndfile does not read.
FFMPEG_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp"})
_CHUNK = 256
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class Header:
    """What an audio file says about itself."""

    sample_rate: int
    channels: int
    seconds: float


def needs_ffmpeg(path: Path) -> bool:
    """Return True for formats that only ffmpeg reads."""
    return path.suffix.lower() in FFMPEG_SUFFIXES


def read_header(path: Path) -> Header:
    """Read the header of one audio file.

    Raises:
        DataError: no such file, or not an audio file that can be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if needs_ffmpeg(path):
        return _probe(path)
    import soundfile

    try:
        info = soundfile.info(str(path))
    except (RuntimeError, TypeError, OSError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error
    return Header(info.samplerate, info.channels, info.frames / info.samplerate)


def _probe(path: Path) -> Header:
    program = shutil.which("ffprobe")
    if program is None:
        raise DataError(f"{path}: {path.suffix} files need ffmpeg, which is not installed")
    command = [program, "-v", "error", "-protocol_whitelist", "file,pipe"]
    command += ["-select_streams", "a:0", "-of", "default=noprint_wrappers=1"]
    command += ["-show_entries", "stream=sample_rate,channels:format=duration", str(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=True,
        )
        found = dict(line.split("=", 1) for line in done.stdout.split())
        rate, channels = int(found["sample_rate"]), int(found["channels"])
        return Header(rate, channels, float(found["duration"]))
    except (subprocess.SubprocessError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not readable as audio: {error}") from error


def read_headers(paths: Mapping[str, Path]) -> tuple[dict[str, Header], dict[str, str]]:
    """Read many headers in parallel.

    Returns:
        The headers by key, and by key what is wrong with the files that have none.
    """
    keys = list(paths)
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]

    def read(chunk: list[str]) -> list[tuple[str, Header | DataError]]:
        return [(key, _header_or_error(paths[key])) for key in chunk]

    headers, faults = {}, {}
    # Threads, because most of the time goes into waiting for the disk.
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 4)) as pool:
        found = (pair for pairs in pool.map(read, chunks) for pair in pairs)
        for key, result in progress(found, "audio headers", total=len(keys), unit="file"):
            if isinstance(result, Header):
                headers[key] = result
            else:
                faults[key] = str(result)
    return headers, faults


def _header_or_error(path: Path) -> Header | DataError:
    try:
        return read_header(path)
    except DataError as error:
        return error
