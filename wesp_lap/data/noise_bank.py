"""Noises and room impulse responses in one memory-mapped file that all workers share.

A bank is a directory with ``samples.i16`` (all recordings, 16-bit, 16 kHz, one after the other; the
channels of a response, too) and ``bank.json`` (by category: first sample, length and channels of
every recording). Source: docs/methods.md, section 4.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from wesp_lap.data.noise_build import SAMPLE_RATE, batches, converted
from wesp_lap.data.noise_files import (
    NOISE_CATEGORIES,
    NoiseFile,
    inputs,
    list_noises,
    list_responses,
)
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, Stamp, atomic_write, read_json, sha256
from wesp_lap.log import progress

_PIECE = 5 * SAMPLE_RATE
_HOP = 3 * SAMPLE_RATE
_SAMPLES_FILE = "samples.i16"
_INDEX_FILE = "bank.json"
_DIGEST_FILE = "samples.sha256"
_AGAIN = "make the noise bank again"


class NoiseBank:
    """Recordings of a bank made by make_noise_bank; safe to send to worker processes."""

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        index = read_json(self._folder / _INDEX_FILE)
        self._recordings: dict[str, np.ndarray] = {}
        for name, rows in index.items():
            table = np.asarray(rows, dtype=np.int64)
            if table.size and table.shape[1:] != (3,):
                raise DataError(f"{self._folder}: made by an older version; {_AGAIN}")
            self._recordings[name] = table.reshape(-1, 3)
        ends = [
            int((r[:, 0] + r[:, 1] * r[:, 2]).max(initial=0)) for r in self._recordings.values()
        ]
        expected = max(ends, default=0)
        samples = self._folder / _SAMPLES_FILE
        actual = samples.stat().st_size // 2 if samples.is_file() else 0
        if actual < expected:
            raise DataError(f"{samples}: {actual} of {expected} samples; {_AGAIN}")
        self._samples: np.ndarray | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of pieces of noise and of responses by category."""
        return {name: len(self.pieces(name)) for name in self._recordings}

    def digest(self) -> str:
        """Return a digest of the bank's recordings and samples."""
        path = self._folder / _DIGEST_FILE
        if not path.is_file():
            raise DataError(f"{path}: no such file; {_AGAIN}")
        return f"{sha256(self._folder / _INDEX_FILE)} {path.read_text().split()[0]}"

    def check(self, categories: Iterable[str]) -> None:
        """Raise a DataError that names all of these categories that are empty."""
        empty = [name for name in categories if not len(self.recordings(name))]
        if empty:
            raise DataError(
                f"{self._folder}: the noise bank holds no {', '.join(empty)}; make it from MUSAN "
                "and RIRS_NOISES, or set data.augment.noise_prob to 0"
            )

    def recordings(self, category: str) -> np.ndarray:
        """Return [first sample, length, channels] (n, 3); channels lie one after the other."""
        return self._recordings.get(category, np.empty((0, 3), dtype=np.int64))

    def pieces(self, category: str) -> np.ndarray:
        """Return [first sample, length] (n, 2): noise in pieces of 5 s every 3 s."""
        first, length, _ = self.recordings(category).T
        if category not in NOISE_CATEGORIES:
            return np.stack([first, length], 1)
        counts = np.maximum(length - _PIECE, 0) // _HOP + 1
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(first, counts) + number * _HOP
        return np.stack([starts, np.repeat(np.minimum(length, _PIECE), counts)], 1)

    def read(self, first: int, length: int) -> np.ndarray:
        """Return int16 samples (length,): a view of the memory map."""
        if self._samples is None:  # opened in the process that reads
            file = self._folder / _SAMPLES_FILE
            self._samples = np.asarray(np.memmap(file, dtype="<i2", mode="r"))
        return self._samples[first : first + length]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_samples": None}


def make_noise_bank(
    out: PathLike,
    musan: PathLike | None = None,
    rirs: PathLike | None = None,
    noise: PathLike | None = None,
    jobs: int = 1,
) -> dict[str, int]:
    """Build a bank and return its counts; one that was made from the same files is kept.

    Args:
        out: Directory of the bank.
        musan: Noises: a folder laid out as MUSAN, a Kaldi data directory, or an LMDB database.
        rirs: Room responses: laid out as RIRS_NOISES, a Kaldi data directory, or an LMDB.
        noise: More noises, in any of the same forms.
        jobs: Processes.

    Raises:
        DataError: a source is missing or empty, or files cannot be read; all are named.
    """
    listed = _listed([(musan, list_noises), (noise, list_noises), (rirs, list_responses)])
    files = [file for _, found in listed for file in found]
    media = [path for source, found in listed for path in inputs(source, found)]
    categories = hashlib.sha256("\n".join(map(str, files)).encode()).hexdigest()
    settings = {"files": categories, "format": 3}
    stamp = Stamp(Path(out) / "done.json", settings, media=media)
    if not stamp.is_fresh():
        index = _write_samples(Path(out), files, jobs)
        with atomic_write(Path(out) / _INDEX_FILE) as stream:
            json.dump(index, stream)
            stream.write("\n")
        names = (_SAMPLES_FILE, _DIGEST_FILE, _INDEX_FILE)
        stamp.write([Path(out) / name for name in names])
    return NoiseBank(out).counts


def _listed(
    sources: list[tuple[PathLike | None, Callable[[PathLike], list[NoiseFile]]]],
) -> list[tuple[PathLike, list[NoiseFile]]]:
    listed, problems = [], []
    for path, list_files in sources:
        try:
            if path:
                listed.append((path, list_files(path)))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    if not listed:
        raise DataError(
            "no source for the noise bank: give --musan DIR, --noise DIR, --rirs DIR, or several"
        )
    return listed


def _write_samples(out: Path, files: list[NoiseFile], jobs: int) -> dict[str, list[list[int]]]:
    index: dict[str, list[list[int]]] = {}
    problems: list[str] = []
    position = 0
    digest = hashlib.sha256()
    results = converted(list(batches(files)), jobs)
    with atomic_write(out / _SAMPLES_FILE, "wb") as stream:
        for file, result in progress(results, "noise bank", len(files), "file"):
            if isinstance(result, str):
                problems.append(f"{file.name}: {result}")
                continue
            channels, length = result.shape
            names = (
                ("rir", "simulated_rir") if file.category == "simulated_rir" else (file.category,)
            )
            for name in names:  # a simulated response is one of all responses, too
                index.setdefault(name, []).append([position, length, channels])
            samples = result.astype("<i2", copy=False).tobytes()
            stream.write(samples)
            digest.update(samples)
            position += result.size
        raise_problems("noise files that cannot be read", problems, "Replace or remove them.")
        # An index of an earlier bank must not stand beside samples that it does not fit.
        (out / _INDEX_FILE).unlink(missing_ok=True)
    with atomic_write(out / _DIGEST_FILE) as stream:
        stream.write(f"{digest.hexdigest()}  {_SAMPLES_FILE}\n")
    return index
