"""Files that are whole or absent, digests, and stamps that tell finished work."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from wesp_lap.errors import DataError

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside ``path``; on success sync it and rename it into place.

    A reader never meets half a file, and a failure leaves what was there before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(partial, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def write_json(path: PathLike, value: object) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def read_json(path: PathLike) -> Any:
    """Read a JSON file; a missing or broken one is a DataError that names it."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def sha256(path: PathLike) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(path: PathLike) -> None:
    """Bring names in a folder (new files, renames) to the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def point_link(link: PathLike, target: PathLike) -> None:
    """Make or move a symbolic link to ``target``, relative to the link's folder, atomically."""
    path = Path(link)
    text = os.path.relpath(target, path.parent)
    if path.is_symlink() and os.readlink(path) == text:
        return  # several nodes may find at once that there is nothing left to do
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def dates_digest(paths: Iterable[PathLike]) -> str:
    """Return a digest of the names, sizes and modification times of files, missing ones too."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        status = path.stat() if path.is_file() else None
        digest.update(repr((str(path), status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.hexdigest()


class Stamp:
    """Says whether a piece of work is done, from its settings, inputs and outputs.

    The work is done when the stamp file exists, was written for equal ``settings`` and equal
    content of ``inputs``, and every file that it lists as an output is there with its size.

    Args:
        path: The stamp file.
        settings: What the work is done with; must be plain values.
        inputs: Files whose content counts.
        media: Files, often many and large, that count by name, size and modification time.
    """

    def __init__(
        self,
        path: PathLike,
        settings: Mapping[str, object],
        inputs: Iterable[PathLike] = (),
        media: Iterable[PathLike] = (),
    ) -> None:
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings, default=str))
        self._inputs = [Path(name) for name in inputs]
        self._media = [Path(name) for name in media]

    @cached_property
    def _signature(self) -> dict[str, Any]:
        """What the work depends on, as it was when it was first asked for: before the work."""
        return {
            "settings": self._settings,
            "inputs": {str(path): sha256(path) for path in self._inputs if path.exists()},
            "media": dates_digest(self._media),
        }

    def is_fresh(self) -> bool:
        """Return True when the stamped work is done and nothing it depends on has changed."""
        now = self._signature
        if not self.path.is_file():
            return False
        record = read_json(self.path)
        if {key: record.get(key) for key in now} != now:
            return False
        sizes = {name: _size(self.path.parent / name) for name in record["outputs"]}
        return sizes == record["outputs"]

    def write(self, outputs: Iterable[PathLike]) -> None:
        """Record that the work is done and which files it left."""
        folder = self.path.parent
        sizes = {os.path.relpath(name, folder): _size(Path(name)) for name in outputs}
        write_json(self.path, {**self._signature, "outputs": sizes})


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
