"""What headers of WAV and FLAC say, and plain WAV without a codec."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

_PCM, _EXTENSIBLE = 1, 0xFFFE
# The sub-format of an extensible header that means PCM, after its two bytes of format code.
_PCM_GUID = bytes.fromhex("000000001000800000aa00389b71")


class PlainWav(NamedTuple):
    """A mono 16-bit little-endian PCM WAV."""

    rate: int
    start: int
    samples: int


def parse_plain_wav(head: bytes, size: int) -> PlainWav | None:
    """Return where the samples of a WAV lie; None when it is not a plain one or not whole.

    Args:
        head: The file or its beginning.
        size: Length of the file in bytes.
    """
    rate, start, length = _find_samples(head)
    # A length that the file does not hold, or an odd one, is for a decoder to judge.
    if not rate or not length or length % 2 or start + length > size:
        return None
    return PlainWav(rate, start, length // 2)


def lacks_length(content: bytes) -> bool:
    """Say whether a mono 16-bit WAV does not say rightly how long it is, as out of a pipe."""
    return _find_samples(content)[0] > 0 and parse_plain_wav(content, len(content)) is None


def _find_samples(head: bytes) -> tuple[int, int, int]:
    """Return rate, first byte and bytes of mono 16-bit samples; a rate of 0 for others."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0, 0, 0
    rate = 0
    place = 12
    while place + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"fmt ":
            rate = _mono_16_bit_rate(head[place : place + length])
        elif name == b"data":
            return rate, place, length
        place += length + length % 2
    return 0, 0, 0


def _mono_16_bit_rate(form: bytes) -> int:
    if len(form) < 16:
        return 0
    code, channels, rate, _, width, bits = struct.unpack_from("<HHIIHH", form)
    if code == _EXTENSIBLE and len(form) >= 40 and form[26:40] == _PCM_GUID:
        code = struct.unpack_from("<H", form, 24)[0]
    return int(rate) if (code, channels, width, bits) == (_PCM, 1, 2, 16) else 0


class FlacInfo(NamedTuple):
    """What STREAMINFO, the first block of a FLAC, says; 0 samples when it does not know."""

    rate: int
    channels: int
    bits: int
    samples: int


def parse_flac(content: bytes) -> FlacInfo | None:
    """Return what the header of a native FLAC says; None when it is no such file."""
    if content[:4] != b"fLaC" or len(content) < 42 or content[4] & 0x7F:
        return None
    packed = int.from_bytes(content[18:26], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    return FlacInfo(rate, channels, bits, packed & (1 << 36) - 1) if rate else None


def plain_wav(samples: np.ndarray, rate: int) -> bytes:
    """Return int16 samples (S,) as a WAV with the usual header of 44 bytes."""
    content = samples.astype("<i2", copy=False).tobytes()
    form = struct.pack("<HHIIHH", _PCM, 1, rate, 2 * rate, 2, 16)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
    chunks += struct.pack("<4sI", b"data", len(content))
    return (
        struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + len(content), b"WAVE") + chunks + content
    )


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Return samples (S,) as int16; floats from 16-bit audio come back exactly."""
    if wave.dtype == np.int16:
        return wave
    return np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)


def to_float32(wave: np.ndarray) -> np.ndarray:
    """Return samples (S,) as float32 in [-1, 1)."""
    return wave.astype(np.float32) / 32768 if wave.dtype == np.int16 else wave
