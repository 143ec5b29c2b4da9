"""Unpack zip and tar archives: safely, file by file, and on from where a killed run stopped."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO

from wesp_lap.corpora.parts import Archive
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, Stamp, atomic_write
from wesp_lap.log import get_logger, progress

_THREADS = 8
_TOGETHER = 64
_BLOCK = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError, NotImplementedError)
_AGAIN = "Fetch the archive again and compare its checksum; what is whole has been kept."


def unpack(archive: Archive, out: PathLike) -> Path:
    """Unpack an archive into a folder and return the folder.

    A file appears under its name when it is whole. Files of an earlier, unfinished run are kept
    when they are whole: size and CRC of a zip, size of a tar, whose files are renamed into place
    only when complete. A finished folder is known by its stamp and costs nothing. ``__MACOSX``
    and ``._NAME`` are left out.

    Raises:
        DataError: the archive is cut or its members are damaged (all are named; the others have
            been unpacked); members that are links, devices or lead out of the folder; too little
            space on the disk.
    """
    folder = Path(out)
    stamp = Stamp(folder / stamp_name(archive), {"stem": archive.stem}, media=archive.parts)
    if stamp.is_fresh():
        get_logger().info("%s: unpacked in %s", archive.name, folder)
        return folder
    kind = archive.kind()
    get_logger().info("%s: unpacking into %s", archive.name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        names = (_unpack_zip if kind == "zip" else _unpack_tar)(archive, folder)
    except OSError as error:
        raise DataError(f"{archive.name}: cannot be unpacked into {folder}: {error}") from error
    if not names:
        raise DataError(f"{archive.name}: the archive is empty. {_AGAIN}")
    os.sync()  # one for all files: before the stamp says that they are there
    members = folder / f".{archive.stem}.members"
    with atomic_write(members) as stream:
        stream.writelines(f"{name}\n" for name in sorted(names))
    stamp.write([members])
    return folder


def stamp_name(archive: Archive) -> str:
    """Return the name of the file that says that a folder holds all of an archive."""
    return f".{archive.stem}.unpacked.json"


def _unpack_zip(archive: Archive, folder: Path) -> list[str]:
    try:
        package = zipfile.ZipFile(archive.open())
    except _DAMAGE as error:
        last = archive.parts[-1]
        raise DataError(
            f"{archive.name}: not a whole zip archive: {error}; the end, in {last}, is missing or "
            f"damaged. {_AGAIN}"
        ) from error
    with package:
        members = [one for one in package.infolist() if not one.is_dir() and _wanted(one.filename)]
        refused = [f"{one.filename}: {why}" for one in members if (why := _zip_fault(one))]
        refused += _repeated(one.filename for one in members)
        raise_problems(f"{archive.name}: members that are not unpacked", refused)
        left = _not_there(members, folder)
        check_space(folder, sum(one.file_size for one in left), len(left), archive.name)
        damaged: list[str] = []

        def extract(group: list[zipfile.ZipInfo]) -> int:
            for one in group:
                try:
                    with package.open(one) as source:
                        _write(source, folder / one.filename)
                except _DAMAGE as error:
                    damaged.append(f"{one.filename}: {error}")
            return len(group)

        groups = [left[at : at + _TOGETHER] for at in range(0, len(left), _TOGETHER)]
        _in_threads(extract, groups, archive.stem, len(left))
        raise_problems(f"{archive.name}: damaged members", sorted(damaged), _AGAIN)
    return [one.filename for one in members]


def _zip_fault(member: zipfile.ZipInfo) -> str | None:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link or a device"
    if member.flag_bits & 1:
        return "encrypted"
    return _path_fault(member.filename)


def _path_fault(name: str) -> str | None:
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
    return "leads out of the folder" if leaves else None


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    twice: list[str] = []
    for name in names:
        if name in seen:
            twice.append(f"{name}: stands in the archive twice")
        seen.add(name)
    return twice


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" not in path.parts and not path.name.startswith("._")


def _not_there(members: list[zipfile.ZipInfo], folder: Path) -> list[zipfile.ZipInfo]:
    """Return the members that no whole file in the folder stands for."""

    def missing(group: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        return [one for one in group if not _is_whole(folder / one.filename, one)]

    groups = [members[at : at + _TOGETHER] for at in range(0, len(members), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [one for group in pool.map(missing, groups) for one in group]


def _is_whole(path: Path, member: zipfile.ZipInfo) -> bool:
    try:
        if path.stat().st_size != member.file_size:
            return False
        with open(path, "rb") as stream:
            checksum = 0
            for block in iter(lambda: stream.read(_BLOCK), b""):
                checksum = zlib.crc32(block, checksum)
    except OSError:
        return False
    return checksum == member.CRC


def _in_threads(
    work: Callable[[list[zipfile.ZipInfo]], int],
    groups: list[list[zipfile.ZipInfo]],
    what: str,
    total: int,
) -> None:
    # zlib works outside Python's lock, and most of the time goes into making files.
    with ThreadPoolExecutor(_THREADS) as pool:
        done = (count for count in pool.map(work, groups) for _ in range(count))
        for _ in progress(done, what, total, unit="file"):
            pass


def _unpack_tar(archive: Archive, folder: Path) -> list[str]:
    # How much a gzip holds is known at its end only; it holds hardly less than its own size.
    check_space(folder, archive.size - _used(folder), 0, archive.name)
    names: list[str] = []
    refused: list[str] = []
    try:
        with _plain(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as package:
            for one in progress(_files(package, refused), archive.stem, unit="file"):
                target = folder / one.name
                if not (target.is_file() and target.stat().st_size == one.size):
                    source = package.extractfile(one)
                    assert source is not None  # _files yields regular files only
                    _write(source, target, one.size)
                names.append(one.name)
            while stream.read(_BLOCK):  # up to the checksum, which is the last thing in a gzip
                pass
    except gzip.BadGzipFile as error:
        raise DataError(
            f"{archive.name}: {error}: some of its files are damaged, and nothing says which. "
            f"Remove {folder}, fetch the archive again and compare its checksum."
        ) from error
    except _DAMAGE as error:
        after = f"after {names[-1]}" if names else "at its beginning"
        raise DataError(
            f"{archive.name}: damaged or cut {after}: {error or 'the data ends'}. {_AGAIN}"
        ) from error
    refused += _repeated(names)
    raise_problems(f"{archive.name}: members that are not unpacked", refused)
    return names


def _plain(archive: Archive) -> IO[bytes]:
    """Open the tar inside an archive."""
    stream = archive.open()
    if stream.peek(2).startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    return stream


def _files(package: tarfile.TarFile, refused: list[str]) -> Iterator[tarfile.TarInfo]:
    for one in package:
        if one.isdir() or not _wanted(one.name):
            continue
        fault = _path_fault(one.name) if one.isreg() else "a link or a device"
        if fault:
            refused.append(f"{one.name}: {fault}")
        else:
            one.name = str(PurePosixPath(one.name))  # ./a/b
            yield one


def _write(source: IO[bytes], target: Path, size: int | None = None) -> None:
    """Write a file beside its name and rename it; synced together at the end of the archive."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open(partial, "wb") as stream:
            shutil.copyfileobj(source, stream, _BLOCK)
        if size is not None and partial.stat().st_size != size:
            raise EOFError(f"{target.name} has {partial.stat().st_size} of {size} bytes")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _used(folder: Path) -> int:
    """Return the bytes of what an earlier run has left in a folder."""
    walk = ((top, name) for top, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(os.path.join(top, name)).st_size for top, name in walk)


def check_space(folder: PathLike, needed: int, files: int, what: str) -> None:
    """Make sure that a disk has room.

    Args:
        folder: where something will be written; it exists.
        needed: bytes.
        files: new files, each of which takes a block more and a file number (inode).
        what: what messages call it.

    Raises:
        DataError: there is too little room, with both numbers.
    """
    status = os.statvfs(folder)
    needed += files * status.f_frsize
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise DataError(
            f"{what}: needs {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free; make "
            "room or give another folder"
        )
    if 0 < status.f_favail < files:  # some file systems count none
        raise DataError(
            f"{what}: needs {files} files in {folder}, whose file system has room for "
            f"{status.f_favail} (inodes); give a folder on another one"
        )
