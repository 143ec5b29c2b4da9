"""The header of a plain WAV: where its samples lie, so that they can be read without a decoder."""

from __future__ import annotations

import struct
from typing import NamedTuple

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
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    rate = 0
    place = 12
    while place + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"fmt ":
            rate = _mono_16_bit_rate(head[place : place + length])
            if not rate:
                return None
        elif name == b"data":
            # A length that the file does not hold, or an odd one, is for a decoder to judge.
            if not rate or not length or length % 2 or place + length > size:
                return None
            return PlainWav(rate, place, length // 2)
        place += length + length % 2
    return None


def _mono_16_bit_rate(form: bytes) -> int:
    if len(form) < 16:
        return 0
    code, channels, rate, _, width, bits = struct.unpack_from("<HHIIHH", form)
    if code == _EXTENSIBLE and len(form) >= 40 and form[26:40] == _PCM_GUID:
        code = struct.unpack_from("<H", form, 24)[0]
    return int(rate) if (code, channels, width, bits) == (_PCM, 1, 2, 16) else 0
