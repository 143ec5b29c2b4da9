"""The audio of one utterance as it goes into a shard: checked, cut, resampled, encoded.

A file is read once. What already is what the shard wants keeps its bytes. Files that ffmpeg
decodes are decoded some ahead, many by one process.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from wesp_lap.audio.ffmpeg import decode_files, needs_ffmpeg
from wesp_lap.audio.io import AudioInfo, decode, probe
from wesp_lap.data.tars import AUDIO_SUFFIXES
from wesp_lap.data.utterance import load_utterance
from wesp_lap.data.wav import (
    lacks_length,
    parse_flac,
    parse_plain_wav,
    plain_wav,
    to_float32,
    to_int16,
)
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import Segment
from wesp_lap.kaldi.pipes import run_pipe

AudioFormat = Literal["keep", "flac", "wav"]
Check = Literal["full", "headers"]
# Headers that promise more samples were written by an encoder that did not know.
_LONGEST = 2**40


@dataclass(frozen=True)
class Packing:
    """What the audio of a shard must be; see make_shards."""

    audio_format: AudioFormat = "keep"
    sample_rate: int = 16000
    check: Check = "full"


@dataclass(frozen=True)
class Source:
    """Where an utterance comes from.

    Args:
        key: Utterance.
        speaker: Speaker.
        path: Audio file; empty with a ``problem``, or a ``pipe`` that was not run yet.
        pipe: Command whose output is the audio.
        segment: The part of the recording that is the utterance.
        pieces: The (start, end) in seconds of the speech in the utterance, which is cut out.
        problem: Why there is no audio.
    """

    key: str
    speaker: str
    path: str = ""
    pipe: str = ""
    segment: Segment | None = None
    pieces: Sequence[tuple[float, float]] = ()
    problem: str = ""


class Packed(NamedTuple):
    """The encoded audio of an utterance, and the columns of its index that describe it."""

    content: bytes
    suffix: str
    samples: int
    rate: int
    pcm: int


def pack_all(sources: Sequence[Source], packing: Packing) -> Iterator[Packed | DataError]:
    """Yield the audio of utterances as a shard holds it, or what is wrong with it, in order."""
    decoded = decode_files([source.path for source in sources if is_foreign(source)])
    for source in sources:
        try:
            yield _pack(source, packing, next(decoded) if is_foreign(source) else None)
        except DataError as error:
            yield error


def is_foreign(source: Source) -> bool:
    """Say whether an utterance is a file of its own that only ffmpeg reads."""
    return source.segment is None and needs_ffmpeg(source.path)


def _pack(source: Source, packing: Packing, decoded: bytes | DataError | None) -> Packed:
    if isinstance(decoded, DataError):
        raise decoded
    if decoded is not None:
        return _pack_samples(*_samples(decoded, source.path), source, "", packing)
    if source.problem:
        raise DataError(source.problem)
    if source.path:
        return _pack_file(source, source.path, packing)
    with tempfile.TemporaryDirectory(prefix="wesp_lap-") as folder:
        target = Path(folder) / "pipe.wav"
        run_pipe(source.pipe, target)
        return _pack_file(source, str(target), packing)


def _pack_file(source: Source, path: str, packing: Packing) -> Packed:
    suffix = os.path.splitext(path)[1].lower().lstrip(".")
    label = source.pipe or path
    if source.segment is not None:
        wave = load_utterance(Path(path), source.segment, packing.sample_rate)
        return _encoded(_cut(wave, source, packing.sample_rate), suffix, packing)
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if suffix in AUDIO_SUFFIXES and packing.audio_format in ("keep", suffix) and not source.pieces:
        packed = describe(content, suffix, packing.check, label)
        named_rightly = suffix != "wav" or (content[:4] == b"RIFF" and not lacks_length(content))
        if packed.rate == packing.sample_rate and named_rightly:
            return packed
    return _pack_samples(*_samples(content, label), source, suffix, packing)


def _pack_samples(
    wave: np.ndarray, rate: int, source: Source, suffix: str, packing: Packing
) -> Packed:
    wave = _cut(wave, source, rate)
    if rate != packing.sample_rate:
        # Imported here: it needs torch, which packing at the right rate does not.
        from wesp_lap.audio.resample import resample

        wave = resample(to_float32(wave), rate, packing.sample_rate)
    return _encoded(wave, suffix, packing)


def describe(content: bytes, suffix: str, check: Check, label: str) -> Packed:
    """Find rate and length of encoded audio and check it.

    Args:
        content: The bytes of an audio file.
        suffix: Its suffix, which says how it is encoded.
        check: "full" proves that everything can be decoded; "headers" believes the header of
            FLAC and Ogg. Of a plain WAV header and length are all that can be checked.
        label: What to call it in messages.

    Raises:
        DataError: not readable, not mono, or damaged.
    """
    plain = parse_plain_wav(content, len(content)) if suffix == "wav" else None
    if plain is not None:
        return Packed(content, suffix, plain.samples, plain.rate, plain.start)
    if check == "headers" and suffix in ("flac", "ogg", "opus"):
        flac = parse_flac(content)
        info = AudioInfo(flac.rate, flac.samples, flac.channels) if flac else probe(content, label)
        if 0 < info.samples < _LONGEST and info.channels == 1:
            return Packed(content, suffix, info.samples, info.sample_rate, -1)
    wave, rate = _samples(content, label)
    return Packed(content, suffix, len(wave), rate, -1)


def _samples(content: bytes, label: str) -> tuple[np.ndarray, int]:
    """Decode mono audio: int16 where that is all there is, else float32; and its rate."""
    plain = parse_plain_wav(content, len(content))
    if plain is not None:
        wave = np.frombuffer(content, "<i2", plain.samples, plain.start)
        return wave.astype(np.int16, copy=False), plain.rate
    flac = parse_flac(content)
    if flac is not None and not flac.samples:
        raise DataError(
            f"{label}: its header does not say how long it is, so that no part of it can be found; "
            "encode it again: ffmpeg -i IN -c:a flac OUT.flac"
        )
    if flac is not None and (flac.channels, flac.bits) == (1, 16):
        decoded = _flac_samples(content)
        if decoded is not None:
            return decoded, flac.rate
    return decode(content, name=label)


def _flac_samples(content: bytes) -> np.ndarray | None:
    """Decode mono 16-bit FLAC; None when it is damaged, for which decode has words."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as stream:
            wave = stream.read(dtype="int16")
            return wave if len(wave) == stream.frames > 0 else None
    except (soundfile.LibsndfileError, RuntimeError):
        return None


def _cut(wave: np.ndarray, source: Source, rate: int) -> np.ndarray:
    """Join the speech pieces of an utterance; the places are rounded down as WeSpeaker does."""
    if not source.pieces:
        return wave
    parts = [wave[int(start * rate) : int(end * rate)] for start, end in source.pieces]
    joined = np.concatenate(parts)
    if not len(joined):
        raise DataError("its speech pieces (vad) lie beyond its end")
    return joined


def _encoded(wave: np.ndarray, suffix: str, packing: Packing) -> Packed:
    target = packing.audio_format
    if target == "keep":
        target = "wav" if suffix == "wav" else "flac"
    samples, rate = to_int16(wave), packing.sample_rate
    if target == "wav":
        content = plain_wav(samples, rate)
        return Packed(content, target, len(samples), rate, len(content) - 2 * len(samples))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return Packed(buffer.getvalue(), target, len(samples), rate, -1)
