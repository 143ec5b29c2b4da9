"""Sampling rate, channels and length of audio files, read from their headers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wesp_lap.audio.io import AudioInfo, probe
from wesp_lap.errors import DataError
from wesp_lap.log import progress

_CHUNK = 256


def read_headers(paths: Mapping[str, Path]) -> tuple[dict[str, AudioInfo], dict[str, str]]:
    """Read many headers in parallel.

    Returns:
        The headers by key, and by key what is wrong with the files that have none.
    """
    keys = list(paths)
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]

    def read(chunk: list[str]) -> list[tuple[str, AudioInfo | DataError]]:
        return [(key, _header_or_error(paths[key])) for key in chunk]

    headers, faults = {}, {}
    # Threads, because most of the time goes into waiting for the disk.
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 4)) as pool:
        found = (pair for pairs in pool.map(read, chunks) for pair in pairs)
        for key, result in progress(found, "audio headers", total=len(keys), unit="file"):
            if isinstance(result, AudioInfo):
                headers[key] = result
            else:
                faults[key] = str(result)
    return headers, faults


def _header_or_error(path: Path) -> AudioInfo | DataError:
    try:
        return probe(path)
    except DataError as error:
        return error
