"""Large files read through a map of their pages, without the pages piling up in memory."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

_DIGEST_BYTES = 32 << 20


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Give the content of a file."""
    with open(path, "rb") as stream:
        if not path.stat().st_size:
            yield memoryview(b"")
            return
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    # Never closed by hand: arrays made of it may outlive the block, and closing would raise.
    yield memoryview(pages)


def let_go(data: memoryview) -> None:
    """Drop the pages that were read, or a large file would count as memory of the process."""
    if isinstance(data.obj, mmap.mmap):
        data.obj.madvise(mmap.MADV_DONTNEED)


class Digest:
    """SHA-256 of a mapped file, taken along while its content is read."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._done = 0
        self._digest = hashlib.sha256()

    def go_to(self, end: int) -> str:
        """Take in what lies before ``end``; return the digest so far in hexadecimal."""
        end = min(end, len(self._data))
        while self._done < end:
            step = min(end, self._done + _DIGEST_BYTES)
            self._digest.update(self._data[self._done : step])
            if step < end:
                let_go(self._data)
            self._done = step
        return self._digest.hexdigest()
