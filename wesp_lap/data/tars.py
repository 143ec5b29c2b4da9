"""Tars of utterances, ``KEY.spk`` then ``KEY.SUFFIX``, as WeSpeaker writes and reads them."""

from __future__ import annotations

import tarfile
from typing import IO

import numpy as np

from wesp_lap.data.index_file import BLOCK, block_sums

_FLUSH = 256 * BLOCK


class TarWriter:
    """Writes members one after the other and sums the tar's blocks on the way.

    Args:
        stream: Binary file that the tar is written to.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._written = 0
        self._sums: list[np.ndarray] = []

    def add(self, name: str, content: bytes) -> int:
        """Append a member and return the offset of its content."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        # GNU's format, so that names of any length and letters stand in the tar as they are.
        self._pending += member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
        offset = self._written + len(self._pending)
        self._pending += content
        self._pending += bytes(-len(content) % tarfile.BLOCKSIZE)
        if len(self._pending) >= _FLUSH:
            self._flush(len(self._pending) // BLOCK * BLOCK)
        return offset

    def close(self) -> np.ndarray:
        """Write the end of the archive and return the sums of all blocks (see block_sums)."""
        self._pending += bytes(2 * tarfile.BLOCKSIZE)
        length = self._written + len(self._pending)
        self._pending += bytes(-length % tarfile.RECORDSIZE)
        self._flush(len(self._pending))
        return np.concatenate(self._sums)

    def _flush(self, count: int) -> None:
        block = bytes(memoryview(self._pending)[:count])
        self._sums.append(block_sums(block))
        self._stream.write(block)
        self._written += count
        del self._pending[:count]
