"""Settings of an extraction, and what is done to an utterance before the model gets it."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from wesp_lap.audio.vad import Pieces, SileroVad, energy_vad, keep_speech
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction.sources import Source
from wesp_lap.model import SAMPLE_RATE
from wesp_lap.seeding import generator


@dataclass(frozen=True)
class ExtractionSettings:
    """How embeddings are extracted.

    Attributes:
        batch_seconds: Most padded seconds of a batch; 0 takes utterances one by one. By default
            120 on a GPU and 0 on a CPU, where batches do not pay.
        chunk_seconds: Longer utterances are embedded in chunks of this length; 0 never cuts.
        crop_seconds: Embed a random crop of this length, as WeSpeaker does for its training set;
            shorter utterances are repeated. 0 embeds whole utterances.
        seed: Seed of the crops.
        vad: Cut out speech first: by energy, with silero-vad, or by the data directory's table.
        max_bad: How many utterances may be without embedding.
    """

    batch_seconds: float | None = None
    chunk_seconds: float = 240.0
    crop_seconds: float = 0.0
    seed: int = 42
    vad: Literal["none", "energy", "silero", "table"] = "none"
    max_bad: int = 0

    def check(self, source: Source) -> None:
        """Raise a ConfigError for values out of range, and for what the source lacks."""
        for name in ("batch_seconds", "chunk_seconds", "crop_seconds", "max_bad"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"--{name} must not be negative, got {value:g}")
        if 0 < self.chunk_seconds < 1:
            raise ConfigError(f"--chunk_seconds must be 0 or at least 1, got {self.chunk_seconds}")
        if self.vad not in ("none", "energy", "silero", "table"):
            raise ConfigError(f"--vad must be none, energy, silero or table, got '{self.vad}'")
        if self.vad == "table" and source.vad is None:
            raise ConfigError(
                f"--vad table: {source.name} has no file 'vad' with lines 'utterance start end'"
            )
        if self.vad == "silero":
            SileroVad()

    def identity(self) -> dict[str, object]:
        """Return what embeddings depend on."""
        crop = [self.crop_seconds, self.seed] if self.crop_seconds else None
        return {"chunk_seconds": self.chunk_seconds, "crop": crop, "vad": self.vad}


class Loaded(NamedTuple):
    """One utterance, ready for the model, or what is wrong with it."""

    row: int
    wave: np.ndarray | None
    problem: str = ""


class Loader:
    """Loads utterances of a source and prepares them; for any number of threads."""

    def __init__(self, source: Source, settings: ExtractionSettings) -> None:
        self._source = source
        self._settings = settings
        self._local = threading.local()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _local=threading.local())

    def __call__(self, row: int) -> Loaded:
        """Return an utterance; a fault is named and does not raise."""
        try:
            wave = self._source.load(row)
            if self._settings.vad != "none":
                wave = self._speech(row, wave)
            if self._settings.crop_seconds:
                wave = self._crop(row, wave)
            if not len(wave):
                raise DataError("no samples")
            if not np.isfinite(wave).all():
                raise DataError("NaN or infinite samples")
        except (DataError, OSError) as error:
            return Loaded(row, None, f"{error}")
        return Loaded(row, wave)

    def _speech(self, row: int, wave: np.ndarray) -> np.ndarray:
        speech = keep_speech(wave, self._pieces(row, wave))
        if not len(speech):
            seconds = len(wave) / SAMPLE_RATE
            raise DataError(f"no speech in {seconds:.2f} s by --vad {self._settings.vad}")
        return speech

    def _pieces(self, row: int, wave: np.ndarray) -> Pieces:
        if self._settings.vad == "energy":
            return energy_vad(wave, SAMPLE_RATE)
        if self._settings.vad == "silero":
            if not hasattr(self._local, "silero"):
                self._local.silero = SileroVad()
            return self._local.silero(wave, SAMPLE_RATE)
        pieces = (self._source.vad or {}).get(self._source.keys[row], [])
        return [(round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for a, b in pieces]

    def _crop(self, row: int, wave: np.ndarray) -> np.ndarray:
        samples = round(self._settings.crop_seconds * SAMPLE_RATE)
        if len(wave) <= samples:
            return np.resize(wave, samples)  # repeats it
        # The key's own draw: the same crop for any order, part or number of processes.
        name = hashlib.sha256(self._source.keys[row].encode()).digest()
        draw = generator(self._settings.seed, int.from_bytes(name[:8], "little"))
        start = int(draw.integers(len(wave) - samples + 1))
        return wave[start : start + samples]
