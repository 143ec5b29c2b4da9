"""Noises and room impulse responses in one memory-mapped file that all workers share.

A bank is a directory with ``samples.i16`` (all recordings, 16-bit, 16 kHz, one after the other) and
``bank.json`` (first sample and length of every recording by category). Noise is cut into pieces of
5 s every 3 s; impulse responses stay whole. Source: docs/methods.md, section 4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, Stamp, atomic_write, read_json, sha256, write_json
from wesp_lap.log import progress
from wesp_lap.seeding import generator

SAMPLE_RATE = 16000
NOISE_CATEGORIES = ("noise", "music", "speech")
_PIECE = 5 * SAMPLE_RATE
_HOP = 3 * SAMPLE_RATE
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_SAMPLES_FILE = "samples.i16"
_INDEX_FILE = "bank.json"
_DIGEST_FILE = "samples.sha256"


class NoiseBank:
    """Draws recordings from a bank made by make_noise_bank; safe to send to worker processes."""

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        index = read_json(self._folder / _INDEX_FILE)
        self._pieces = {
            name: np.asarray(rows, dtype=np.int64).reshape(-1, 2) for name, rows in index.items()
        }
        expected = max(
            (int(r.sum(axis=1).max(initial=0)) for r in self._pieces.values()), default=0
        )
        samples = self._folder / _SAMPLES_FILE
        actual = samples.stat().st_size // 2 if samples.is_file() else 0
        if actual < expected:
            raise DataError(f"{samples}: {actual} of {expected} samples; make the noise bank again")
        self._samples: np.ndarray | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of pieces per category."""
        return {name: len(rows) for name, rows in self._pieces.items()}

    def digest(self) -> str:
        """Return a digest of the bank's pieces and samples."""
        path = self._folder / _DIGEST_FILE
        if not path.is_file():
            raise DataError(f"{path}: no such file; make the noise bank again")
        return f"{sha256(self._folder / _INDEX_FILE)} {path.read_text().split()[0]}"

    def check(self) -> None:
        """Raise a DataError when a category that augmentation draws from is empty."""
        empty = [name for name in (*NOISE_CATEGORIES, "rir") if not len(self._pieces.get(name, ()))]
        if empty:
            raise DataError(
                f"{self._folder}: the noise bank holds no {', '.join(empty)}; make it from MUSAN "
                "and RIRS_NOISES, or set augment.noise_prob to 0"
            )

    def draw(self, category: str, rng: np.random.Generator) -> np.ndarray:
        """Return one piece as float32 (S,) in [-1, 1]."""
        if self._samples is None:  # opened in the process that reads
            self._samples = np.memmap(self._folder / _SAMPLES_FILE, dtype="<i2", mode="r")
        rows = self._pieces[category]
        start, length = rows[int(rng.integers(len(rows)))]
        return self._samples[start : start + length].astype(np.float32) / 32768

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_samples": None}


def make_noise_bank(
    out: PathLike, musan: PathLike | None = None, rirs: PathLike | None = None, seed: int = 42
) -> dict[str, int]:
    """Build a bank from directories laid out as MUSAN and RIRS_NOISES; return the piece counts.

    A bank that was made from the same files is kept.

    Raises:
        DataError: a directory is missing or empty, or files cannot be read; all are named.
    """
    files = {name: list(_audio_under(musan, name)) for name in NOISE_CATEGORIES if musan}
    if rirs:
        files["rir"] = list(_rir_files(Path(rirs)))
    if not files:
        raise DataError("no source for the noise bank: give --musan DIR, --rirs DIR, or both")
    empty = [
        f"no audio for '{name}' under {rirs if name == 'rir' else musan}"
        for name, paths in files.items()
        if not paths
    ]
    mend = "Expected are MUSAN's folders noise/ music/ speech/ and the layout of RIRS_NOISES."
    raise_problems("no noise bank", empty, mend)
    inputs = [path for paths in files.values() for path in paths]
    stamp = Stamp(Path(out) / "done.json", {"seed": seed, "format": 2}, media=inputs)
    if not stamp.is_fresh():
        index = _write_bank(Path(out), files, seed)
        write_json(Path(out) / _INDEX_FILE, index)
        names = (_SAMPLES_FILE, _DIGEST_FILE, _INDEX_FILE)
        stamp.write([Path(out) / name for name in names])
    return NoiseBank(out).counts


def _write_bank(out: Path, files: dict[str, list[Path]], seed: int) -> dict[str, list[list[int]]]:
    index: dict[str, list[list[int]]] = {name: [] for name in files}
    problems: list[str] = []
    position = 0
    digest = hashlib.sha256()
    todo = [(name, path) for name, paths in files.items() for path in paths]
    with atomic_write(out / _SAMPLES_FILE, "wb") as stream:
        for number, (name, path) in enumerate(progress(todo, "noise bank", unit="file")):
            try:
                wave = _read(path, generator(seed, number))
                if name == "rir" and not wave.any():
                    raise DataError("an impulse response of zeros only")
            except (DataError, RuntimeError, OSError) as error:
                problems.append(f"{path}: {error}")
                continue
            index[name] += [[position + a, b] for a, b in _pieces(len(wave), name)]
            samples = wave.astype("<i2").tobytes()
            stream.write(samples)
            digest.update(samples)
            position += len(wave)
        raise_problems("noise files that cannot be read", problems, "Replace or remove them.")
    with atomic_write(out / _DIGEST_FILE) as stream:
        stream.write(f"{digest.hexdigest()}  {_SAMPLES_FILE}\n")
    return index


def _read(path: Path, rng: np.random.Generator) -> np.ndarray:
    """Read one file as int16 at 16 kHz; of several channels a random one."""
    import soundfile

    from wesp_lap.audio.resample import resample

    channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if len(channels) == 0:
        raise DataError("no samples")
    wave = np.ascontiguousarray(channels[:, int(rng.integers(channels.shape[1]))])
    wave = resample(wave, rate, SAMPLE_RATE)
    return np.clip(np.round(wave * 32768), -32768, 32767)


def _pieces(length: int, category: str) -> Iterator[tuple[int, int]]:
    if category == "rir" or length <= _PIECE:
        yield 0, length
        return
    for start in range(0, length - _PIECE + 1, _HOP):
        yield start, _PIECE


def _audio_under(folder: PathLike, name: str) -> Iterator[Path]:
    for path in sorted((Path(folder) / name).rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            yield path


def _rir_files(folder: Path) -> Iterator[Path]:
    """List what a rir_list names and all simulated responses; without either, all there is."""
    lists = [folder / "real_rirs_isotropic_noises" / "rir_list", folder / "rir_list"]
    named = {
        _beside(folder, line.split()[-1])
        for path in lists
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    simulated = set((folder / "simulated_rirs").rglob("*.wav"))
    yield from sorted(named | simulated) or sorted(folder.rglob("*.wav"))


def _beside(folder: Path, name: str) -> Path:
    """Resolve a path of a rir_list: as given, inside the folder, or beside it (RIRS_NOISES/...)."""
    for candidate in (Path(name), folder / name, folder.parent / name):
        if candidate.is_file():
            return candidate
    return folder / name
