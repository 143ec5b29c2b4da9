"""Bytes from URLs, through fsspec: tried a few times, checked for length, never waited for in vain.

Whatever the protocol, a call runs in a thread of its own and is given up when nothing has come for
``timeout_seconds``. Connections over HTTP have this as the timeout of their sockets, too.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wesp_lap.errors import DataError
from wesp_lap.log import get_logger

Result = TypeVar("Result")
# Trying again cannot mend these.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError)
_FINAL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# HTTP statuses of 4xx that pass: request timeout, too many requests.
_PASSING = (408, 429)
_PAUSE_SECONDS = 0.5
_INSTALL = {"http": "pip install 'wesp_lap[urls]'", "https": "pip install 'wesp_lap[urls]'"}
_INSTALL |= {"s3": "pip install s3fs", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}


@dataclass(frozen=True)
class AccessSettings:
    """How audio is read that does not lie on a disk of this machine.

    Args:
        cache_dir: Folder on a disk of this machine. Each shard, from a URL or a path, is copied
            here before it is read. Without it URLs are read crop by crop and paths in place, as
            the files of a raw.list always are.
        cache_gb: Size that the cache may reach, in 10**9 bytes; then what was opened longest ago
            goes.
        timeout_seconds: A connection from which nothing comes for so long is given up.
        retries: How often a failed request is tried again.
    """

    cache_dir: str | None = None
    cache_gb: float = 100.0
    timeout_seconds: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cache_gb <= 0 or self.timeout_seconds <= 0 or self.retries < 0:
            raise ValueError("cache_gb > 0, timeout_seconds > 0 and retries >= 0 are needed")


class Remote:
    """Reads and downloads files behind URLs; for downloads paths do, too."""

    def __init__(self, settings: AccessSettings) -> None:
        self._timeout = settings.timeout_seconds
        self._retries = settings.retries

    def read(self, url: str, start: int, stop: int, least: int) -> bytes:
        """Return bytes [start, stop) of a file, or up to its end, but at least ``least`` bytes.

        Raises:
            DataError: the URL, why it cannot be read, and the mend.
        """

        def call() -> bytes:
            filesystem, path = self._located(url)
            return bytes(filesystem.cat_file(path, start=start, end=stop))

        def checked() -> bytes:
            content = _within(self._timeout, call, lambda: None)
            if len(content) > stop - start:
                raise DataError(
                    f"{url}: the server sends whole files only, not ranges of them; give "
                    "a cache_dir, so that shards are downloaded"
                )
            if len(content) < least:
                raise OSError(f"{len(content)} of {least} bytes came")
            return content

        return self._tried(url, checked)

    def read_all(self, url: str, least: int) -> bytes:
        """Return the content of a small file, of at least ``least`` bytes."""

        def call() -> bytes:
            filesystem, path = self._located(url)
            return bytes(filesystem.cat_file(path))

        def checked() -> bytes:
            content = _within(self._timeout, call, lambda: None)
            if len(content) < least:
                raise OSError(f"{len(content)} of at least {least} bytes came")
            return content

        return self._tried(url, checked)

    def download(self, source: str, folder: Path, check: Callable[[Path], None]) -> Path:
        """Copy a file, from its begin to its end, into ``folder``; return the copy.

        Args:
            source: URL or path.
            folder: For this download only: a try that was given up may write there until the
                folder is removed.
            check: Raises an OSError when the copy is not what it should be.
        """

        def call(target: Path) -> None:
            filesystem, path = self._located(source)
            filesystem.get_file(path, str(target))

        def checked() -> Path:
            target = folder / uuid.uuid4().hex
            try:
                _within(self._timeout, lambda: call(target), lambda: _size(target))
                check(target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            return target

        return self._tried(source, checked)

    def _located(self, url: str) -> tuple[Any, str]:
        """Return the file system of a URL, which fsspec keeps for the next call, and the path."""
        # Imported here: it takes a while and most corpora lie on a disk.
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {}
        if url.startswith(("http://", "https://")):
            import aiohttp

            seconds = self._timeout
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        return url_to_fs(url, **options)

    def _tried(self, url: str, call: Callable[[], Result]) -> Result:
        for attempt in range(self._retries + 1):
            try:
                return call()
            except DataError:
                raise
            except Exception as error:  # each protocol has its own
                if attempt == self._retries or _is_final(error):
                    tries = f" ({attempt + 1} tries)" if attempt else ""
                    raise DataError(f"{url}: {_reason(url, error)}{tries}") from error
                get_logger().info("%s: %s; trying again", url, _reason(url, error))
                time.sleep(_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _PASSING
    return isinstance(error, _FINAL) or getattr(error, "errno", None) in _FINAL_NUMBERS


def _reason(url: str, error: Exception) -> str:
    protocol = url.partition("://")[0]
    if isinstance(error, FileNotFoundError):
        if url.endswith(".sums"):
            return "not found; python -m wesp_lap.bin.index_shards --list FILE makes it"
        return "not found; make it again, or mend the list"
    if isinstance(error, ImportError):
        mend = _INSTALL.get(protocol, "install what fsspec needs for this protocol")
        return f"reading {protocol}:// needs a package that is not there: {mend}"
    return str(error) or type(error).__name__


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _within(seconds: float, call: Callable[[], Result], state: Callable[[], object]) -> Result:
    """Return what ``call`` returns; give it up when ``state()`` stays the same for ``seconds``."""
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((True, call()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    last, deadline = state(), time.monotonic() + seconds
    while True:
        try:
            fine, result = done.get(timeout=min(seconds, 1.0))
        except queue.Empty:
            if (now := state()) != last:
                last, deadline = now, time.monotonic() + seconds
            elif time.monotonic() >= deadline:
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            continue
        if not fine:
            raise result
        return result
