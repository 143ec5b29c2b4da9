"""Formats that libsndfile does not read, through ffmpeg: no shell, no network, bounded time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike

FFMPEG_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp"})
_SECONDS = 600
_LOCAL_ONLY = ["-protocol_whitelist", "file,pipe"]


def needs_ffmpeg(path: PathLike) -> bool:
    """Say whether a file's suffix is one that only ffmpeg reads, such as .m4a."""
    return Path(path).suffix.lower() in FFMPEG_SUFFIXES


def decode_to_wav(path: Path) -> bytes:
    """Return a file's audio as 16-bit WAV bytes.

    Raises:
        DataError: no ffmpeg, or it cannot decode the file; one sentence.
    """
    words = ["-nostdin", "-v", "error", *_LOCAL_ONLY, "-i", f"file:{path}"]
    return _run("ffmpeg", path, [*words, "-vn", "-f", "wav", "-c:a", "pcm_s16le", "pipe:1"])


def read_properties(path: Path) -> tuple[int, int, float]:
    """Return sampling rate in Hz, channels, and duration in seconds.

    Raises:
        DataError: no ffprobe, or the file is no audio; one sentence.
    """
    words = ["-v", "error", *_LOCAL_ONLY, "-select_streams", "a:0"]
    words += ["-of", "default=noprint_wrappers=1"]
    words += ["-show_entries", "stream=sample_rate,channels:format=duration", f"file:{path}"]
    lines = _run("ffprobe", path, words).decode(errors="replace").split()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    try:
        return int(found["sample_rate"]), int(found["channels"]), float(found["duration"])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as audio: ffprobe does not say {error}") from error


def _run(name: str, path: Path, words: list[str]) -> bytes:
    program = shutil.which(name)
    if program is None:
        raise DataError(
            f"{path}: '{path.suffix}' files need {name}, which is not on PATH; install ffmpeg or "
            "convert the corpus to FLAC or WAV"
        )
    try:
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{path}: {name} did not finish in {_SECONDS} s") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
        raise DataError(f"{path}: cannot be read as audio: {name}: {reason or 'failed'}")
    return done.stdout
