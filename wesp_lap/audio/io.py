"""Decode audio: whole files or just the samples that are wanted."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from wesp_lap.audio.ffmpeg import decode_to_wav, needs_ffmpeg, read_properties
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike

# WAV headers written to a pipe give this length or a larger one: the writer did not know it.
_UNKNOWN_LENGTH = 0x7FFFF000


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate: int
    samples: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.sample_rate


def probe(source: PathLike | bytes, name: str = "") -> AudioInfo:
    """Read the header of a file or of encoded bytes.

    Raises:
        DataError: it cannot be read; the message names the file.
    """
    label = name or _label(source)
    if not isinstance(source, bytes) and needs_ffmpeg(source):
        rate, channels, seconds = read_properties(Path(source))
        return AudioInfo(rate, round(seconds * rate), channels)
    try:
        info = soundfile.info(_opened(source))
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _unreadable(label, error) from error
    return AudioInfo(info.samplerate, info.frames, info.channels)


def decode(
    source: PathLike | bytes, start: int = 0, stop: int | None = None, name: str = ""
) -> tuple[np.ndarray, int]:
    """Decode mono samples [start, stop) as float32 in [-1, 1], shape (S,), and the sampling rate.

    Only the wanted range is decoded where the format allows seeking.

    Raises:
        DataError: unreadable, empty, not mono, not finite, or shorter than its header says.
    """
    label = name or _label(source)
    if not isinstance(source, bytes) and needs_ffmpeg(source):
        source = decode_to_wav(Path(source))
    try:
        with soundfile.SoundFile(_opened(source)) as stream:
            if stream.channels != 1:
                raise DataError(
                    f"{label}: {stream.channels} channels; mono is expected. Mix down first, for "
                    "example with 'ffmpeg -i IN -ac 1 OUT.flac'"
                )
            if stop is None and (missing := _missing_bytes(source)):
                raise _cut_short(f"{label}: {missing} bytes are missing at the end")
            stop = stream.frames if stop is None else min(stop, stream.frames)
            if start:
                stream.seek(start)
            wave = stream.read(stop - start, dtype="float32")
            rate = int(stream.samplerate)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _unreadable(label, error) from error
    if len(wave) != stop - start or len(wave) == 0:
        raise _cut_short(f"{label}: {len(wave)} of {stop - start} samples could be decoded")
    if not np.isfinite(wave).all():
        raise DataError(f"{label}: NaN or infinite samples; replace it or take it out of wav.scp")
    return wave, rate


def _missing_bytes(source: PathLike | bytes) -> int:
    """Return what a WAV lacks of the samples its header announces: libsndfile does not tell."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        form = stream.read(12)
        if form[:4] != b"RIFF" or form[8:] != b"WAVE":
            return 0
        while len(head := stream.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                end = stream.tell() + (size if size < _UNKNOWN_LENGTH else 0)
                return max(end - stream.seek(0, os.SEEK_END), 0)
            stream.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _cut_short(what: str) -> DataError:
    mend = "Replace it or take it out of wav.scp"
    return DataError(f"{what}; the file is cut short or damaged. {mend}")


def encode(wave: np.ndarray, sample_rate: int, suffix: str) -> bytes:
    """Encode float samples (S,) as 16-bit "flac" or "wav" bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, sample_rate, format=suffix.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _opened(source: PathLike | bytes) -> io.BytesIO | str:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _label(source: PathLike | bytes) -> str:
    return "audio data" if isinstance(source, bytes) else str(source)


def _unreadable(label: str, error: Exception) -> DataError:
    return DataError(f"{label}: cannot be read as audio: {error}")
