"""Convert noises and responses to 16-bit, 16 kHz in several processes, in bounded memory."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from wesp_lap.data.noise_files import RESPONSE_CATEGORIES, NoiseFile, open_lmdb, read_recording
from wesp_lap.errors import DataError, WespError

SAMPLE_RATE = 16000
# A job is that much encoded audio; a few of them are in memory for each process.
_JOB_BYTES = 16 << 20
_JOB_FILES = 256

Result = tuple[NoiseFile, "np.ndarray | str"]
"""A file with its int16 samples (channels, S), or with what is wrong with it."""


def batches(files: Sequence[NoiseFile]) -> Iterator[list[NoiseFile]]:
    """Cut a list into jobs of bounded size, each with recordings of one database at most."""
    batch: list[NoiseFile] = []
    size = 0
    for file in files:
        other = batch and _database(file) != _database(batch[0])
        if batch and (other or size + file.size > _JOB_BYTES or len(batch) == _JOB_FILES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _database(file: NoiseFile) -> Path | None:
    return None if file.key is None else file.path


def converted(work: Sequence[list[NoiseFile]], jobs: int) -> Iterator[Result]:
    """Yield every file's result in the order of the list."""
    if jobs <= 1 or len(work) <= 1:
        for batch in work:
            yield from _convert_all(batch)
        return
    waiting: deque[Future[list[Result]]] = deque()
    # Spawned, since a forked process may hang in libraries that had threads.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            for batch in work:
                waiting.append(pool.submit(_convert_all, batch))
                if len(waiting) > 2 * jobs:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WespError(
                "a process of make_noise_bank was killed, often for want of memory; run it again "
                "with a smaller --nj"
            ) from error


def _convert_all(files: list[NoiseFile]) -> list[Result]:
    results: list[Result] = []
    path = _database(files[0])
    with open_lmdb(path) if path is not None else contextlib.nullcontext() as database:
        for file in files:
            try:
                results.append((file, _convert(file, database)))
            except DataError as error:
                results.append((file, str(error)))
    return results


def _convert(file: NoiseFile, database: object) -> np.ndarray:
    """Return int16 (channels, S): all channels of a response, the first one of a noise."""
    waves, rate = read_recording(file, database)
    response = file.category in RESPONSE_CATEGORIES
    if response and not waves.any(axis=1).all():
        raise DataError("an impulse response of zeros only")
    if not response:
        waves = waves[:1]
    if rate != SAMPLE_RATE:
        from wesp_lap.audio.resample import resample  # torch, in every process

        waves = np.stack([resample(wave, rate, SAMPLE_RATE) for wave in waves])
    # The level of a response does not matter: as loud as possible, it loses least in 16 bits.
    scale = 32767 / np.abs(waves).max(axis=1, keepdims=True) if response else 32768
    return np.clip(np.round(waves * scale), -32768, 32767).astype(np.int16)
