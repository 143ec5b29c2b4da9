"""Tars of utterances, ``KEY.spk`` then ``KEY.SUFFIX``, as WeSpeaker writes and reads them.

Reading is strict, since readers of tars take a damaged header or a block of zeros for the end of
the archive and lose what follows without a word: here every byte must be a header with a right
checksum, the content of a member, padding, or the end of the archive.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from wesp_lap.data.index_file import BLOCK, block_sums

AUDIO_SUFFIXES = frozenset({"flac", "mp3", "ogg", "opus", "wav"})
_OTHER_AUDIO = frozenset({"m4a", "wma"})
_BUFFER = 256 * BLOCK
_SPEAKER_BYTES = 4096
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
# Kinds of headers whose content describes the next member, and with what this content ends.
_EXTENSIONS = {b"x": b"\n", b"g": b"\n", b"L": b"\0", b"K": b"\0"}
# How the common writers spell the checksum of a header.
_CHECKSUM = re.compile(rb"[0-7]{6}(\0 | \0|[0-7]\0)")


class TarWriter:
    """Writes members one after the other and sums the tar's blocks on the way.

    Args:
        stream: Binary file that the tar is written to.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(_BUFFER))
        self._filled = 0
        self._flushed = 0
        self._sums: list[np.ndarray] = []

    def add(self, name: str, content: bytes) -> int:
        """Append a member and return the offset of its content."""
        self._write(_header(name.encode(), len(content)))
        offset = self._flushed + self._filled
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> np.ndarray:
        """Write the end of the archive and return the sums of all blocks (see block_sums)."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-(self._flushed + self._filled) % tarfile.RECORDSIZE))
        self._flush()
        return np.concatenate(self._sums)

    def _write(self, content: bytes) -> None:
        place = 0
        while place < len(content):
            count = min(len(content) - place, _BUFFER - self._filled)
            self._buffer[self._filled : self._filled + count] = content[place : place + count]
            self._filled += count
            place += count
            if self._filled == _BUFFER:
                self._flush()

    def _flush(self) -> None:
        self._sums.append(block_sums(self._buffer[: self._filled]))
        self._stream.write(self._buffer[: self._filled])
        self._flushed += self._filled
        self._filled = 0


_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.GNU_FORMAT)
# Of a header without name, size and checksum, whose own field counts as spaces.
_EMPTY_SUM = sum(_EMPTY_HEADER[:124]) + sum(_EMPTY_HEADER[136:148]) + sum(_EMPTY_HEADER[156:]) + 256


def _header(name: bytes, size: int) -> bytes:
    """Return the header of a member in GNU's format, where any name stands as it is."""
    if len(name) > 100 or size >= 8**11:
        member = tarfile.TarInfo(name.decode())
        member.size = size
        return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_EMPTY_SUM + sum(name) + sum(digits))
    middle = _EMPTY_HEADER[100:124] + digits + _EMPTY_HEADER[136:148] + checksum
    return name.ljust(100, b"\0") + middle + _EMPTY_HEADER[156:]


class Sample(NamedTuple):
    """The audio of one utterance of a tar."""

    key: str
    speaker: str
    suffix: str
    offset: int
    size: int


class Walk(NamedTuple):
    """What a tar holds.

    Attributes:
        samples: Whole utterances.
        bad: Utterances that lack something, one sentence each.
        broken: Why the tar itself is damaged; what follows that place is not among the samples.
    """

    samples: list[Sample]
    bad: list[str]
    broken: list[str]


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def walk(tar: str, content: memoryview, stream: IO[bytes]) -> Walk:
    """Read the structure of a whole tar; the audio itself is not looked at.

    Args:
        tar: What to call it in messages.
        content: All its bytes.
        stream: The same as a file.
    """
    broken: list[str] = []
    members = list(_members(tar, content, stream, broken))
    samples, bad = _pair(tar, content, members)
    if not members and not broken:
        broken.append(f"{tar}: an empty tar")
    return Walk(samples, bad, broken)


def _members(
    tar: str, content: memoryview, stream: IO[bytes], broken: list[str]
) -> Iterator[_Member]:
    """Yield the members up to the first fault, which joins ``broken``."""
    again = "copy or make the shard again"
    for magic, program in _COMPRESSED.items():
        if content[: len(magic)] == magic:
            broken.append(f"{tar}: compressed; unpack it first: {program} (shards are plain tars)")
            return
    end = 0
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - holds nothing open
        for member in archive:
            fault = _header_fault(content, member, end)
            if fault:
                broken.append(f"{tar}: byte {end}: member '{member.name}' {fault}; {again}")
                return
            end = _padded(member.offset_data + member.size)
            yield _Member(member.name, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        broken.append(f"{tar}: byte {end}: {error or 'broken header'}: cut or damaged; {again}")
        return
    rest = bytes(content[end:])
    after = rest.lstrip(b"\0")
    if after:
        place = len(content) - len(after)
        kind = "a damaged member header" if place - end < tarfile.BLOCKSIZE else "a block of zeros"
        broken.append(f"{tar}: byte {end}: {kind} with data behind it; {again}")
    elif len(rest) < 2 * tarfile.BLOCKSIZE or len(rest) % tarfile.BLOCKSIZE:
        broken.append(f"{tar}: byte {len(content)}: cut: no whole end-of-archive mark; {again}")


def _header_fault(content: memoryview, member: tarfile.TarInfo, start: int) -> str:
    """Say what is wrong with a member that tarfile has accepted."""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        return "is no plain file (a link, folder or sparse file)"
    end = member.offset_data + member.size
    if member.offset != start or member.size < 0 or end > len(content):
        return "does not fit into the tar: cut or damaged"
    if any(content[end : _padded(end)]):
        return "is followed by padding that is not zero: damaged"
    place = start
    while place < member.offset_data:
        header = bytes(content[place : place + tarfile.BLOCKSIZE])
        if not _CHECKSUM.fullmatch(header[148:156]):
            return "has a damaged header"
        place += tarfile.BLOCKSIZE
        if header[156:157] in _EXTENSIONS:  # the name follows as content, then the header proper
            stop = place + int(header[124:136].strip(b"\0 "), 8)
            last = content[stop - 1 : stop]
            if last != _EXTENSIONS[header[156:157]] or any(content[stop : _padded(stop)]):
                return "has a damaged extended header"
            place = _padded(stop)
    return ""


def _padded(place: int) -> int:
    return -(-place // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _pair(
    tar: str, content: memoryview, members: Iterable[_Member]
) -> tuple[list[Sample], list[str]]:
    """Group members that stand together by their name up to the last dot, as WeSpeaker does."""
    groups: list[tuple[str, dict[str, _Member]]] = []
    bad = []
    for member in members:
        key, dot, suffix = member.name.rpartition(".")
        kind = "spk" if suffix == "spk" else "audio"
        if not (key and dot) or (kind == "audio" and suffix not in AUDIO_SUFFIXES):
            bad.append(f"{tar}: member '{member.name}': {_suffix_fault(suffix)}")
            continue
        if not groups or groups[-1][0] != key or kind in groups[-1][1]:
            groups.append((key, {}))
        groups[-1][1][kind] = member
    samples: dict[str, Sample] = {}
    seen: set[str] = set()
    for key, group in groups:
        fault = _group_fault(key, group, key in seen)
        seen.add(key)
        if fault:
            bad.append(f"{tar}: utterance '{key}': {fault}")
            continue
        spk, audio = group["spk"], group["audio"]
        try:
            speaker = bytes(content[spk.offset : spk.offset + spk.size]).decode().strip()
        except UnicodeDecodeError:
            speaker = ""
        if not speaker or re.search("[\t\n\r\0]", speaker):
            bad.append(f"{tar}: utterance '{key}': '{spk.name}' holds no speaker's name in UTF-8")
            continue
        suffix = audio.name.rpartition(".")[2]
        samples[key] = Sample(key, speaker, suffix, audio.offset, audio.size)
    return list(samples.values()), bad


def _suffix_fault(suffix: str) -> str:
    known = ", ".join(sorted(AUDIO_SUFFIXES))
    if suffix in _OTHER_AUDIO:
        return f"'{suffix}' cannot be read from inside a tar; make_shards --audio_format flac"
    return f"unknown suffix; expected KEY.spk or KEY.SUFFIX with one of {known}"


def _group_fault(key: str, group: dict[str, _Member], repeated: bool) -> str:
    if repeated and len(group) == 2:
        return "stands in the tar twice"
    missing = {"spk": "no .spk member", "audio": "no audio member"}
    for kind, words in missing.items():
        if kind not in group:
            return f"{words} beside the other one: members of an utterance must stand together"
    if not group["audio"].size:
        return "no audio (0 bytes)"
    if not 0 < group["spk"].size <= _SPEAKER_BYTES:
        return f"'{group['spk'].name}' holds no speaker's name"
    if re.search(r"[\s\0\ud800-\udfff]", key, re.ASCII):
        return "its key has white space or is not UTF-8"
    return ""
