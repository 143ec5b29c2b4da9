"""Formats that libsndfile does not read, through ffmpeg.

There is no shell and no network, and every process is bounded in time and memory. Starting an
ffmpeg takes longer than decoding a few seconds of speech, so that many files share one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike

FFMPEG_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp"})
FFMPEG_VARIABLE = "WESP_LAP_FFMPEG"
GET_FFMPEG = (
    "install ffmpeg (pip install imageio-ffmpeg will do), name the program in the environment "
    f"variable {FFMPEG_VARIABLE}"
)
_SECONDS = 600
_MEMORY = 4 << 30
# More files than this at a time save no more time, and a bad one sends them all round again.
_BATCH_FILES = 16
_BATCH_BYTES = 8 << 20
_BATCH_SECONDS = 120
# By default ffmpeg starts a thread per core for every file.
_PLAIN = ["-nostdin", "-hide_banner", "-nostats", "-filter_threads", "1"]
_TO_WAV = ["-c:a", "pcm_s16le", "-f", "wav"]
_HEADER_BYTES = 12


def needs_ffmpeg(path: PathLike) -> bool:
    """Say whether a file's suffix is one that only ffmpeg reads, such as .m4a."""
    return os.path.splitext(path)[1].lower() in FFMPEG_SUFFIXES


def find_ffmpeg() -> str | None:
    """Return the ffmpeg to run, or None.

    That is the one named by the environment variable WESP_LAP_FFMPEG, else the one on PATH, else
    the one in the package imageio-ffmpeg, where that is installed.

    Raises:
        ConfigError: WESP_LAP_FFMPEG names no program.
    """
    named = os.environ.get(FFMPEG_VARIABLE)
    if not named:
        return shutil.which("ffmpeg") or _packaged_ffmpeg()
    program = shutil.which(named)
    if program is None:
        raise ConfigError(f"{FFMPEG_VARIABLE} names '{named}', which is no program")
    return program


@functools.lru_cache(maxsize=1)
def _packaged_ffmpeg() -> str | None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def decode_to_wav(path: Path) -> bytes:
    """Return the first audio stream of a file as 16-bit WAV bytes.

    Raises:
        DataError: no ffmpeg, or it cannot decode the file or finds it damaged; one sentence.
    """
    said, wav = _run_for(path, ["-v", "error", *_input(path), *_output(0), "pipe:1"])
    if said:  # it goes on after what it cannot decode, and calls that a success
        raise DataError(
            f"{path}: damaged or cut short: ffmpeg: {_first_words(said)}. Replace it or take it "
            "out of wav.scp"
        )
    return _with_length(wav)


def decode_files(paths: Sequence[PathLike]) -> Iterator[bytes | DataError]:
    """Yield of each file, in order, what decode_to_wav returns or raises.

    Small files are decoded many at a time. When anything is wrong with one of these, they are
    decoded again one by one, so that the others do not suffer.
    """
    batch: list[Path] = []
    size = 0
    for path in map(Path, paths):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
        batch.append(path)
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield from _decode_batch(batch)
            batch, size = [], 0
    yield from _decode_batch(batch)


def read_properties(path: Path) -> tuple[int, int, float]:
    """Return sampling rate in Hz, channels, and duration in seconds.

    The duration is the one in the file's header, to a hundredth of a second; a file whose header
    has none is decoded.

    Raises:
        DataError: no ffmpeg, or the file is no audio; one sentence.
    """
    words = ["-v", "info", *_input(path), *_output(0), "-frames:a", "1", "pipe:1"]
    said, wav = _run_for(path, words)
    found = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", said, re.MULTILINE)
    start = _first_sample(wav)
    if not start:
        raise DataError(f"{path}: cannot be read as audio: ffmpeg decodes nothing of it")
    channels = int.from_bytes(wav[22:24], "little")
    rate = int.from_bytes(wav[24:28], "little")
    if found and "Estimating duration" not in said:
        hours, minutes, seconds = found.groups()
        return rate, channels, 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    wav = decode_to_wav(path)
    return rate, channels, (len(wav) - _first_sample(wav)) / (2 * channels * rate)


def _input(path: Path) -> list[str]:
    return ["-protocol_whitelist", "file,pipe", "-threads", "1", "-i", f"file:{path}"]


def _output(number: int) -> list[str]:
    return ["-map", f"{number}:a:0", *_TO_WAV]


def _decode_batch(paths: Sequence[Path]) -> Iterator[bytes | DataError]:
    together = _decode_together(paths) if len(paths) > 1 else None
    yield from together if together is not None else map(_decode_or_error, paths)


def _decode_or_error(path: Path) -> bytes | DataError:
    try:
        return decode_to_wav(path)
    except DataError as error:
        return error


def _decode_together(paths: Sequence[Path]) -> list[bytes] | None:
    """Decode files by one process; None when anything at all goes wrong."""
    program = find_ffmpeg()
    if program is None:
        return None
    words = [program, *_PLAIN, "-v", "error"]
    for path in paths:
        words += _input(path)
    try:
        with contextlib.ExitStack() as stack:
            # Files, since a process that fills several pipes in turn waits for their readers.
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in paths]
            numbers = [file.fileno() for file in files]
            for place, number in enumerate(numbers):
                words += [*_output(place), f"pipe:{number}"]
            code, said, _ = _run(words, _BATCH_SECONDS, numbers)
            if code or said:
                return None
            for file in files:
                file.seek(0)  # the place is shared with the process that wrote
            return [_with_length(file.read()) for file in files]
    except (OSError, subprocess.TimeoutExpired):
        return None


def _run_for(path: Path, words: list[str]) -> tuple[str, bytes]:
    """Run ffmpeg for one file; return what it says and what it writes."""
    program = find_ffmpeg()
    if program is None:
        raise DataError(
            f"{path}: '{path.suffix}' files need ffmpeg, which was not found; {GET_FFMPEG}, or "
            "convert the corpus to FLAC or WAV"
        )
    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: cannot be read as audio: the file is empty")
        code, said, output = _run([program, *_PLAIN, *words], _SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{path}: ffmpeg did not finish in {_SECONDS} s") from error
    except OSError as error:
        what = error.filename or program
        raise DataError(f"{path}: cannot be read: {what}: {error.strerror}") from error
    if code < 0:
        raise DataError(f"{path}: ffmpeg was killed by signal {-code}")
    if code:
        raise DataError(f"{path}: cannot be read as audio: ffmpeg: {_first_words(said)}")
    return said, output


def _run(words: Sequence[str], seconds: float, files: Sequence[int] = ()) -> tuple[int, str, bytes]:
    """Run a program that may write to open ``files``: (exit code, standard error, output)."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=files,
    ) as process:
        try:
            _limit_memory(process.pid)
            output, said = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    return process.returncode, said.decode(errors="replace"), output


def _limit_memory(process: int) -> None:
    # From outside: a function that runs between fork and exec may hang when there are threads.
    import resource

    if hasattr(resource, "prlimit"):  # Linux
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))


def _first_words(said: str) -> str:
    """Return the first line of a log, which names the cause, without addresses in memory."""
    lines = [line for line in said.splitlines() if line.strip()]
    return re.sub(r"^(\[[^]]*\] *)+", "", lines[0]).rstrip(". ") if lines else "failed"


def _first_sample(wav: bytes) -> int:
    """Return where the samples of a WAV begin; 0 when there is no place for them."""
    place = _HEADER_BYTES
    while place + 8 <= len(wav):
        length = int.from_bytes(wav[place + 4 : place + 8], "little")
        if wav[place : place + 4] == b"data":
            return place + 8
        place += 8 + length + length % 2
    return 0


def _with_length(wav: bytes) -> bytes:
    """Put the lengths into the header of a WAV that was written to a pipe."""
    start = _first_sample(wav)
    if not start or len(wav) >= 1 << 32:
        return wav
    riff, data = ((len(wav) - skip).to_bytes(4, "little") for skip in (8, start))
    return b"".join([wav[:4], riff, wav[8 : start - 4], data, wav[start:]])
