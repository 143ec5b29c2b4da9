"""One utterance of a data directory as samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wesp_lap.audio.io import decode
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import Segment


def load_utterance(path: Path, segment: Segment | None, sample_rate: int = 16000) -> np.ndarray:
    """Decode a recording, cut a segment out of it, and resample: float32 (S,).

    Raises:
        DataError: the audio cannot be read, or the segment lies beyond its end.
    """
    wave, rate = decode(path)
    if segment is not None:
        wave = wave[round(segment.start * rate) : round(segment.end * rate)]
        if len(wave) == 0:
            raise DataError(f"{path}: the segment lies beyond the end of the recording")
    if rate != sample_rate:
        # Imported here: it needs torch, which packing at the right rate does not.
        from wesp_lap.audio.resample import resample

        wave = resample(wave, rate, sample_rate)
    return wave
