"""Lists of shards, and small files from a disk or a URL, many at once."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike

Item = TypeVar("Item")
_THREADS = 16
_TRIES = 3
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 60.0


def is_url(name: PathLike) -> bool:
    """Say whether a line of a list is a URL (``https://...``) rather than a path."""
    return "://" in os.fspath(name)


def read_list(path: PathLike) -> list[str]:
    """Read a shard list: one tar per line, as a URL or relative to the working directory or list.

    Raises:
        DataError: the list is missing, empty, or not UTF-8.
    """
    lines = list_lines(path)
    folder = os.path.dirname(os.fspath(path))
    return [line if is_url(line) else locate(line, folder) for line in lines]


def list_lines(path: PathLike) -> list[str]:
    """Return the lines of a list that are not blank."""
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such shard list; make_shards writes one")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8") from error
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if not lines:
        raise DataError(f"{source}: the shard list is empty")
    return lines


def locate(name: str, folder: str) -> str:
    """Return the file that a line means: from the working directory, else from ``folder``."""
    if os.path.isabs(name) or os.path.exists(name):
        return name
    return os.path.join(folder, name)


def read_many(
    names: Sequence[str],
    read: Callable[[str], Item],
    timeout: float = _TIMEOUT_SECONDS,
) -> list[Item | DataError]:
    """Call ``read`` for all ``names`` in threads; errors come back in the place of results.

    What waits for the disk or the network waits together. The threads are daemons: one that hangs
    keeps neither this call nor the program from ending.

    Args:
        names: What to read.
        read: Returns the result for a name or raises a DataError.
        timeout: Seconds without any result after which the rest is given up.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Item | DataError]] = queue.SimpleQueue()
    results: list[Item | DataError | None] = [None] * len(names)

    def work() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, read(names[number])))
            except DataError as error:
                done.put((number, error))
            except Exception as error:  # a fault of one name must not lose the others
                done.put((number, DataError(f"{names[number]}: {error}")))

    for number in range(len(names)):
        todo.put(number)
    for _ in range(min(_THREADS, len(names))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in names:
            number, result = done.get(timeout=timeout)
            results[number] = result
    except queue.Empty:
        pass
    return [
        DataError(f"{name}: no answer within {timeout:g} s") if result is None else result
        for name, result in zip(names, results, strict=True)
    ]


def read_bytes(name: str) -> bytes:
    """Return the content of a file or URL; a URL is tried a few times.

    Raises:
        DataError: it is not there, cannot be read, or its protocol needs a package.
    """
    if not is_url(name):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: {error.strerror}") from error
    # Imported here: only lists with URLs need it.
    import fsspec

    for attempt in range(_TRIES):
        try:
            with fsspec.open(name, "rb") as stream:
                return stream.read()
        except FileNotFoundError as error:
            raise DataError(f"{name}: not found") from error
        except (ImportError, ValueError) as error:
            raise DataError(f"{name}: {_protocol_mend(name, error)}") from error
        except Exception as error:  # each protocol has its own
            if attempt == _TRIES - 1:
                raise DataError(f"{name}: {error or type(error).__name__}") from error
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _protocol_mend(name: str, error: Exception) -> str:
    if name.startswith(("http://", "https://")):
        return f"{error}; pip install 'wesp_lap[urls]'"
    return f"{error}; 'wesp_lap[urls]' brings http:// and https://, s3:// needs s3fs, gs:// gcsfs"
