"""Open shards and audio files: bytes from a disk or a URL, checked as they are read.

Of a shard whole blocks are read and compared with the block sums beside it, so that a damaged
shard is an error and not noise to learn from.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from wesp_lap.data.index import BLOCK, block_sums, sums_path
from wesp_lap.data.remote import Remote
from wesp_lap.errors import DataError

_CHECK = "python -m wesp_lap.bin.check_shards --list FILE finds all damage; make it again"
_MENDS = {
    errno.EACCES: "allow yourself to read it",
    errno.EMFILE: "allow more open files: ulimit -n",
    errno.ENFILE: "close other programs: the machine has no more open files",
}


class Source(Protocol):
    """Where the audio of utterances is read from."""

    def read(self, begin: int, end: int) -> tuple[bytes, int]:
        """Return bytes that hold [begin, end) of the file, and where in them ``begin`` is."""

    def close(self) -> None:
        """Close the files."""


class LocalShard:
    """A tar on a disk, with its sums beside it.

    Args:
        tar: Its path.
        mend: What to do when it is damaged.

    Raises:
        DataError: one of the two cannot be opened.
    """

    def __init__(self, tar: str, mend: str = _CHECK) -> None:
        self._name = tar
        self._mend = mend
        self._tar = _opened(tar, "make it again, or mend the list")
        try:
            index = "python -m wesp_lap.bin.index_shards --list FILE makes it"
            self._sums = _opened(sums_path(tar), index)
        except DataError:
            os.close(self._tar)
            raise

    def read(self, begin: int, end: int) -> tuple[bytes, int]:
        """See Source."""
        first = begin & -BLOCK
        stop = (end + BLOCK - 1) & -BLOCK
        content = _read_at(self._tar, stop - first, first)
        if len(content) < end - first:
            raise _cut_short(self._name, self._tar, end, self._mend)
        # 8 bytes for each block of 4096.
        sums = os.pread(self._sums, (stop - first) >> 9, first >> 9)
        if block_sums(content).tobytes() != sums:
            raise _damaged(self._name, first, stop, self._mend)
        return content, begin - first

    def is_deleted(self) -> bool:
        """Say whether the tar has gone from its folder: its bytes stay on the disk until closed."""
        return os.fstat(self._tar).st_nlink == 0

    def close(self) -> None:
        """See Source."""
        os.close(self._tar)
        os.close(self._sums)


class LocalFile:
    """An audio file of its own, without sums: only its length is checked."""

    def __init__(self, path: str, size: int) -> None:
        self._name = path
        self._file = _opened(path, "mend the list")
        length = os.fstat(self._file).st_size
        if length != size:
            os.close(self._file)
            raise _other_length(path, length, size)

    def read(self, begin: int, end: int) -> tuple[bytes, int]:
        """See Source."""
        content = _read_at(self._file, end - begin, begin)
        if len(content) < end - begin:
            raise _cut_short(self._name, self._file, end, "replace it")
        return content, 0

    def close(self) -> None:
        """See Source."""
        os.close(self._file)


class UrlShard:
    """A tar behind a URL of which only what is needed is read.

    Args:
        tar: The URL.
        end: Where its last utterance ends.
        remote: How to read it.
    """

    def __init__(self, tar: str, end: int, remote: Remote) -> None:
        self._name = tar
        self._remote = remote
        # 1/512 of the tar: one request for it is quicker than one for each crop.
        self._sums = remote.read_all(sums_path(tar), end // BLOCK * 8)

    def read(self, begin: int, end: int) -> tuple[bytes, int]:
        """See Source."""
        first = begin & -BLOCK
        stop = (end + BLOCK - 1) & -BLOCK
        content = self._remote.read(self._name, first, stop, end - first)
        if block_sums(content).tobytes() != self._sums[first >> 9 : stop >> 9]:
            raise _damaged(self._name, first, stop, _CHECK)
        return content, begin - first

    def close(self) -> None:
        """See Source; there is nothing to close."""


class UrlFile:
    """An audio file of its own behind a URL."""

    def __init__(self, url: str, remote: Remote) -> None:
        self._name = url
        self._remote = remote

    def read(self, begin: int, end: int) -> tuple[bytes, int]:
        """See Source."""
        return self._remote.read(self._name, begin, end, end - begin), 0

    def close(self) -> None:
        """See Source; there is nothing to close."""


def _opened(path: str, mend_missing: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; {mend_missing}") from error
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "is the disk or the network down?")
        raise DataError(f"{path}: {error.strerror}; {mend}") from error


def _read_at(file: int, count: int, position: int) -> bytes:
    """Read ``count`` bytes, fewer only at the end of the file."""
    content = os.pread(file, count, position)
    while len(content) < count:
        rest = os.pread(file, count - len(content), position + len(content))
        if not rest:
            break
        content += rest
    return content


def _cut_short(name: str, file: int, end: int, mend: str) -> DataError:
    length = os.fstat(file).st_size
    return DataError(f"{name}: cut short: {length} of at least {end} bytes; {mend}")


def _other_length(name: str, length: int, size: int) -> DataError:
    return DataError(
        f"{name}: {length} bytes, but {size} when the list was indexed; python -m "
        "wesp_lap.bin.index_shards --list FILE indexes it again"
    )


def _damaged(name: str, first: int, stop: int, mend: str) -> DataError:
    return DataError(f"{name}: damaged between bytes {first} and {stop}: wrong block sums; {mend}")
