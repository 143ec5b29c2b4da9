"""One utterance of a data directory as samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wesp_lap.audio.io import decode, probe
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import Segment


def load_utterance(path: Path, segment: Segment | None, sample_rate: int = 16000) -> np.ndarray:
    """Decode a recording, or a segment of it, and resample: float32 (S,).

    Raises:
        DataError: the audio cannot be read, or the segment lies beyond its end.
    """
    if segment is None:
        wave, rate = decode(path)
    else:  # decode only that part: a recording may hold many segments
        info = probe(path)
        start, stop = (round(t * info.sample_rate) for t in (segment.start, segment.end))
        if start >= info.samples:
            raise DataError(f"{path}: the segment lies beyond the end of the recording")
        wave, rate = decode(path, start, stop)
    if rate != sample_rate:
        # Imported here: it needs torch, which packing at the right rate does not.
        from wesp_lap.audio.resample import resample

        wave = resample(wave, rate, sample_rate)
    return wave
