"""Archives as they are published: one file, or parts that stand for one file."""

from __future__ import annotations

import errno
import io
import os
import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike

Kind = Literal["zip", "tar"]
_WHOLE = re.compile(r"(?P<stem>.+?)\.(zip|tar|tar\.gz|tgz)")
# vox1_dev_wav_partaa, cn-celeb2_v2.tar.gzaa, corpus.zip.aa
_PART = re.compile(r"(?P<stem>.+?)(_part|\.(zip|tar|tar\.gz|tgz)\.?)(?P<letters>[a-z]{2})")
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 65_557  # the end record with the longest comment
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_AGAIN = "Fetch these parts again, and give the folder that holds all of them."


@dataclass(frozen=True)
class Archive:
    """An archive in one or several files.

    Attributes:
        stem: its name without suffix and part letters, such as vox1_dev_wav.
        parts: the files, in order.
    """

    stem: str
    parts: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What messages call the archive."""
        first = self.parts[0]
        return str(first) if len(self.parts) == 1 else f"{first} to {self.parts[-1].name}"

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.stat().st_size for part in self.parts)

    def kind(self) -> Kind:
        """Tell the form by the first bytes, as parts have no suffix that would.

        Raises:
            DataError: neither zip nor tar, as an error page saved in place of the file is.
        """
        with open(self.parts[0], "rb") as stream:
            head = stream.read(512)
        if head.startswith(b"PK"):
            return "zip"
        if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
            return "tar"
        shown = head[:32].decode("latin-1")
        raise DataError(
            f"{self.parts[0]}: neither a zip nor a tar archive; it begins with {shown!r}. "
            "Fetch it again."
        )

    def open(self) -> io.BufferedReader:
        """Open the parts as one file that can be read and sought; nothing is copied."""
        return io.BufferedReader(JoinedFile(self.parts), 1 << 18)


class JoinedFile(io.RawIOBase):
    """Files one after the other as one, for reading."""

    def __init__(self, paths: Sequence[PathLike]) -> None:
        super().__init__()
        self._paths = [os.fspath(path) for path in paths]
        sizes = [os.path.getsize(path) for path in self._paths]
        self._starts = [0, *accumulate(sizes)]
        self._at = 0
        self._open: tuple[int, io.FileIO] | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the part that the position lies in."""
        if self._at >= self._starts[-1]:
            return 0
        # Of empty parts, which start where the next one does, this finds the last start.
        part = bisect_right(self._starts, self._at) - 1
        stream = self._stream(part)
        stream.seek(self._at - self._starts[part])
        view = memoryview(buffer)[: self._starts[part + 1] - self._at]
        count = stream.readinto(view) or 0
        self._at += count
        return count

    def _stream(self, number: int) -> io.FileIO:
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = (number, io.FileIO(self._paths[number]))
        return self._open[1]

    def close(self) -> None:
        """Close the part that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
        super().close()


def find_archives(path: PathLike, stems: Collection[str] | None = None) -> list[Archive]:
    """Return the archives in a folder, or the one that a file is or is a part of.

    Where a whole file and parts of the same name lie together, the whole file is taken.

    Args:
        path: folder or file.
        stems: in a folder, the names that count, without suffixes; others may be broken.

    Raises:
        DataError: no such file; or parts are missing, empty or cut; all of them are named.
    """
    place = Path(path)
    if place.is_dir():
        return _group(sorted(entry for entry in place.iterdir() if entry.is_file()), stems)
    if not place.is_file():
        raise DataError(f"{place}: no such file or folder")
    if _part(place) is None:
        whole = _WHOLE.fullmatch(place.name)
        return [Archive(whole["stem"] if whole else place.stem, (place,))]
    prefix = place.name[:-2]
    beside = [one for one in place.parent.iterdir() if one.name[:-2] == prefix and one.is_file()]
    return _group(sorted(path for path in beside if _part(path)))


def _part(path: Path) -> re.Match[str] | None:
    # Of c.tar.gz, the last two letters number no part.
    return None if _WHOLE.fullmatch(path.name) else _PART.fullmatch(path.name)


def _group(files: Sequence[Path], stems: Collection[str] | None = None) -> list[Archive]:
    found: dict[str, Archive] = {}
    parts: dict[str, list[Path]] = {}
    for path in files:
        part, whole = _part(path), _WHOLE.fullmatch(path.name)
        match = part or whole
        if match is None or path.name.startswith(".") or (stems and match["stem"] not in stems):
            continue
        if part is not None:
            parts.setdefault(part["stem"], []).append(path)
        elif whole is not None:
            found[whole["stem"]] = Archive(whole["stem"], (path,))
    faults = []
    for stem, group in parts.items():
        if stem not in found:
            faults += _part_faults(group)
            found[stem] = Archive(stem, tuple(group))
    raise_problems("archives are not whole", faults, _AGAIN)
    return [found[stem] for stem in sorted(found)]


def _part_faults(group: Sequence[Path]) -> list[str]:
    """Say what is wrong with the names and sizes of one archive's parts."""
    prefix = str(group[0])[:-2]
    there = {path.name[-2:] for path in group}
    last = max(there)
    wanted = []
    for name in (one + other for one in _LETTERS for other in _LETTERS):
        wanted.append(name)
        if name == last:
            break
    faults = [f"{prefix}{name}: missing" for name in wanted if name not in there]
    sizes = {path: path.stat().st_size for path in group}
    faults += [f"{path}: empty file" for path, size in sizes.items() if not size]
    # Parts are cut at one size; only the last one may be smaller.
    usual = max(sizes.values())
    faults += [
        f"{path}: {size} bytes, other parts have {usual}: it is cut"
        for path, size in list(sizes.items())[:-1]
        if 0 < size < usual
    ]
    return faults


def check_last_part(archive: Archive, last: str) -> None:
    """Make sure that the last part has the letters of the published one.

    Raises:
        DataError: there are fewer or more parts than were published.
    """
    if _part(archive.parts[0]):
        found = archive.parts[-1].name[-2:]
        if found != last:
            raise DataError(
                f"{archive.name}: the last part is '{found}', of the published archive '{last}'. "
                f"{_AGAIN}"
            )


def check_end(archive: Archive) -> None:
    """Make sure that an archive begins as one and that a zip has its end, without reading it all.

    Raises:
        DataError: something else than an archive, or the end is missing.
    """
    if archive.kind() != "zip":
        return
    with archive.open() as stream:
        stream.seek(max(0, archive.size - _ZIP_TAIL))
        if _ZIP_END not in stream.read(_ZIP_TAIL):
            raise DataError(
                f"{archive.name}: the end of the zip archive is missing: {archive.parts[-1]} is "
                f"cut, or a part after it is not there. {_AGAIN}"
            )
