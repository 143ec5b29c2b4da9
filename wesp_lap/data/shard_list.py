"""Lists of shards: paths and URLs of tars, one per line."""

from __future__ import annotations

import os
from pathlib import Path

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike


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
