"""A folder on a disk of this machine that holds copies of shards from URLs and slow disks.

All processes of the machine may share it. A shard is copied once, by whoever takes its lock first;
locks end with the process that holds them. A copy has its final name only once all of its block
sums are right. The copies that were opened longest ago go when the folder has reached its size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wesp_lap.data.index import BLOCK, Utterances, block_sums, sums_path
from wesp_lap.data.locks import locked, open_lock, wait
from wesp_lap.data.remote import AccessSettings, Remote
from wesp_lap.data.shard_list import is_url
from wesp_lap.data.sources import LocalShard
from wesp_lap.errors import DataError

# Shards that are copied at most for each look ahead: more would push out what is in use.
_AHEAD = 4
_PARTIAL = ".partial"
# Blocks that are compared at a time.
_CHUNK = 1024
# A tar's last utterance is followed by at most its padding, two blocks of 512 and a record.
_TAIL = 23 * 512


class _Copy(NamedTuple):
    """A shard in the cache.

    Attributes:
        source: Where it comes from.
        name: Its file name.
        end: Where its last utterance ends, in bytes.
        size: Bytes that it and its sums need at most.
    """

    source: str
    name: str
    end: int
    size: int


class ShardCache:
    """Copies of the shards that ``utterances`` lie in.

    Args:
        utterances: Their columns tell copies of a shard from copies of its earlier versions.
        settings: Folder, size, and how to fetch.
    """

    def __init__(self, utterances: Utterances, settings: AccessSettings) -> None:
        if settings.cache_dir is None:
            raise ValueError("a cache needs a folder")
        self._utterances = utterances
        self._folder = Path(settings.cache_dir).absolute()
        self._budget = int(settings.cache_gb * 1e9)
        self._remote = Remote(settings)
        self._copies: dict[int, _Copy] = {}
        self._wanted: deque[int] = deque()
        self._thread: threading.Thread | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_wanted": deque(), "_thread": None}

    def open(self, tar: int) -> LocalShard:
        """Open the copy of a shard, which is made first when it is not there.

        Raises:
            DataError: it cannot be fetched, is damaged, or does not fit; the shard is named.
        """
        copy = self._copy(tar)
        path = self._folder / copy.name
        with self._fetched(copy):
            mend = f"remove it: it is fetched again from {copy.source}"
            return LocalShard(str(path), mend)

    def ahead(self, tars: Iterable[int]) -> None:
        """Fetch in a thread what the cache lacks of ``tars``, in their order, but only a few.

        What fails is tried again by ``open``, which tells.
        """
        self._wanted = deque(tars)
        if self._wanted and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._fetch_wanted, daemon=True)
            self._thread.start()

    def _fetch_wanted(self) -> None:
        fetched = 0
        wanted = self._wanted
        while wanted:
            copy = self._copy(wanted.popleft())
            try:
                os.utime(self._folder / copy.name)  # needed soon: must stay
            except OSError:
                with contextlib.suppress(DataError), self._fetched(copy):
                    fetched += 1
            if wanted is not self._wanted:
                fetched, wanted = 0, self._wanted
            elif fetched >= _AHEAD:
                return

    def _copy(self, tar: int) -> _Copy:
        if tar not in self._copies:
            columns = self._utterances
            rows = np.flatnonzero(columns.tar == tar)
            source = columns.tar_name(tar)
            source = source if is_url(source) else os.path.abspath(source)
            state = hashlib.sha256(source.encode())
            for column in (columns.offset, columns.size, columns.crc32):
                state.update(column[rows].tobytes())
            stem = os.path.basename(source).rpartition(".")[0][:100]
            name = f"{stem}-{state.hexdigest()[:20]}.tar"
            end = end_of_audio(columns, tar)
            size = end + _TAIL
            self._copies[tar] = _Copy(source, name, end, size + size // 512 + 8)
        return self._copies[tar]

    @contextlib.contextmanager
    def _fetched(self, copy: _Copy) -> Iterator[None]:
        """Hold the lock of a copy that is there and counts as just used."""
        path = self._folder / copy.name
        try:
            with locked(self._lock_path(copy.name), f"another process that fetches {copy.source}"):
                if not path.exists():
                    self._fetch(copy)
                os.utime(path)
                yield
        except OSError as error:
            raise DataError(
                f"{copy.source}: cannot be kept in {self._folder}: {error.strerror or error}; "
                "give another cache_dir"
            ) from error

    def _lock_path(self, name: str) -> Path:
        return self._folder / "locks" / f"{name}.lock"

    def _fetch(self, copy: _Copy) -> None:
        path = self._folder / copy.name
        # Its name tells other processes what size to reckon with.
        folder = self._folder / f"{path.stem}.{copy.size}{_PARTIAL}"
        # Left by a process that was killed: nobody else is at it, since the lock is held here.
        shutil.rmtree(folder, ignore_errors=True)
        self._make_room(copy, folder)
        try:
            expected = self._remote.download(
                sums_path(copy.source), folder, lambda sums: _check_sums(sums, copy.end)
            )
            tar = self._remote.download(copy.source, folder, lambda tar: _check(tar, expected))
            os.replace(expected, sums_path(path))
            os.replace(tar, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, copy: _Copy, folder: Path) -> None:
        """Wait until there is room for a copy, then take it by making ``folder``."""
        if copy.size > self._budget:
            raise DataError(
                f"{copy.source}: its {copy.size / 1e9:.3g} GB do not fit into the cache of "
                f"{self._budget / 1e9:.3g} GB; give more with cache_gb"
            )

        def take() -> bool:
            with locked(self._lock_path("room"), "another process that makes room in the cache"):
                if self._evict(copy):
                    folder.mkdir(exist_ok=True)
                    return True
                return False

        wait(take, f"room in {self._folder} for {copy.source}")

    def _evict(self, copy: _Copy) -> bool:
        """Remove what was opened longest ago until ``copy`` fits; False when too much is in use."""
        files = list(_files(self._folder))
        used = sum(file.size for file in files)
        for file in sorted(files, key=lambda file: file.date):
            if used + copy.size <= self._budget:
                break
            with open_lock(self._lock_path(file.owner)) as lock:
                if lock.take():  # nobody fetches or opens it
                    _remove(file.path)
                    used -= file.size
        return used + copy.size <= self._budget


class _File(NamedTuple):
    path: Path
    owner: str
    size: int
    date: float


def _files(folder: Path) -> Iterator[_File]:
    """Yield the copies, and those in the making with the size they will have."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # moved since
            status = path.stat()
            if path.suffix == ".tar":
                size = status.st_size + status.st_size // 512
                yield _File(path, path.name, size, status.st_mtime)
            elif path.suffix == _PARTIAL:
                stem, size_text = path.stem.rsplit(".", 1)
                yield _File(path, f"{stem}.tar", int(size_text), status.st_mtime)


def _remove(path: Path) -> None:
    if path.suffix == _PARTIAL:
        shutil.rmtree(path, ignore_errors=True)
        return
    path.unlink(missing_ok=True)
    Path(sums_path(path)).unlink(missing_ok=True)


def end_of_audio(utterances: Utterances, tar: int) -> int:
    """Return where the last utterance of a shard ends, in bytes."""
    rows = utterances.tar == tar
    return int((utterances.offset[rows] + utterances.size[rows]).max())


def _check_sums(sums: Path, end: int) -> None:
    length = sums.stat().st_size
    if length < end // BLOCK * 8:
        raise OSError(f"{length} of at least {end // BLOCK * 8} bytes came")


def _check(tar: Path, sums: Path) -> None:
    """Compare a copy with its block sums."""
    expected = np.fromfile(sums, "<u8")
    length = tar.stat().st_size
    if -(-length // BLOCK) != len(expected):
        raise OSError(f"{length} bytes came, {len(expected)} blocks of {BLOCK} were expected")
    with open(tar, "rb") as stream:
        for first in range(0, len(expected), _CHUNK):
            found = block_sums(stream.read(_CHUNK * BLOCK))
            if not np.array_equal(found, expected[first : first + len(found)]):
                raise OSError(
                    "wrong block sums; when this stays so the shard is damaged: python -m "
                    "wesp_lap.bin.check_shards --list FILE finds all damage; make it again"
                )
