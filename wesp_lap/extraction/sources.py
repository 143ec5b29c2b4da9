"""Where utterances come from: a data directory, shards, or a raw.list."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wesp_lap.audio.resample import resample
from wesp_lap.data.access import CropReader
from wesp_lap.data.index import Utterances, load_utterances
from wesp_lap.data.utterance import load_utterance
from wesp_lap.errors import ConfigError
from wesp_lap.files import PathLike, dates_digest
from wesp_lap.kaldi.datadir import DataDir, locate
from wesp_lap.kaldi.vad import Pieces
from wesp_lap.model import SAMPLE_RATE


class Source(Protocol):
    """Utterances in rows; may be sent to other processes and used by several threads.

    Attributes:
        name: What messages call it.
        keys: The utterances, in the order in which they are best read.
        vad: Speech pieces in seconds by utterance; None when there is no table of them.
        mend: What to do about utterances that cannot be read.
    """

    name: str
    keys: list[str]
    vad: dict[str, Pieces] | None
    mend: str

    def load(self, row: int) -> np.ndarray:
        """Return the samples of an utterance at 16 kHz, float32 (S,), or raise a DataError."""

    def digest(self, rows: Sequence[int]) -> str:
        """Return a digest of which utterances these are and of what their audio is."""


def open_source(data: PathLike | None = None, shards: PathLike | None = None) -> Source:
    """Open a data directory or a list of shards, of which exactly one must be given.

    Raises:
        ConfigError: both or neither are given.
        DataError: it is not what it should be.
    """
    if (not data) == (not shards):
        raise ConfigError("give either --data DIR or --shards LIST")
    return Directory(DataDir.load(data)) if data else Shards(shards or "")


class Directory:
    """The utterances of a data directory, sorted."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self.name = str(data.path)
        self.keys = data.utterances
        self.vad: dict[str, Pieces] | None = data.vad or None
        self.mend = "Mend these files or take them out of the data directory"

    def load(self, row: int) -> np.ndarray:
        """See Source."""
        key, data = self.keys[row], self._data
        return load_utterance(data.resolve(key), data.segments.get(key), SAMPLE_RATE)

    def digest(self, rows: Sequence[int]) -> str:
        """See Source; audio files count by name, size and modification time."""
        data = self._data
        keys = [self.keys[row] for row in rows]
        tables = [(key, data.segments.get(key), data.vad.get(key)) for key in keys]
        files = [locate(data.wav[data.recording(key)], data.path) for key in keys]
        return _digest(repr(tables), dates_digest(files))


class Shards:
    """The utterances of a shard.list or raw.list, in the order of the list."""

    def __init__(self, shard_list: PathLike) -> None:
        self._utterances: Utterances = load_utterances(shard_list)
        self.name = str(shard_list)
        self.keys = [key.decode() for key in self._utterances.keys.tolist()]
        self.vad: dict[str, Pieces] | None = None
        self.mend = (
            f"Find all damage: python -m wesp_lap.bin.check_shards --list {shard_list}; make what "
            "is damaged again"
        )
        self._local = threading.local()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _local=threading.local())

    def load(self, row: int) -> np.ndarray:
        """See Source."""
        if not hasattr(self._local, "reader"):  # a reader serves one thread
            self._local.reader = CropReader(self._utterances)
        samples = int(self._utterances.samples[row])
        wave = np.empty(samples, np.float32)
        self._local.reader.read(row, 0, samples, wave)
        return resample(wave, int(self._utterances.rate[row]), SAMPLE_RATE)

    def digest(self, rows: Sequence[int]) -> str:
        """See Source; audio counts by its checksum."""
        chosen = np.asarray(rows)
        sums = self._utterances.crc32[chosen].tobytes()
        return _digest("\n".join(self.keys[row] for row in rows), sums.hex())


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
