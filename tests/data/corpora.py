"""Small data directories for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile


def noise(number: int, samples: int) -> np.ndarray:
    """Return (S,) float32 noise whose values 16-bit files hold exactly."""
    rng = np.random.default_rng(number)
    return (rng.integers(-3000, 3000, samples) / 32768).astype(np.float32)


def write_data(
    folder: Path,
    utterances: Mapping[str, np.ndarray],
    suffix: str = "flac",
    rate: int = 16000,
) -> Path:
    """Write a data directory; the speaker of an utterance is its key before the first - or /."""
    (folder / "wav").mkdir(parents=True)
    wav, utt2spk = [], []
    for number, (key, wave) in enumerate(sorted(utterances.items())):
        path = folder / "wav" / f"{number:03d}.{suffix}"
        soundfile.write(path, wave, rate, subtype="PCM_16")
        wav.append(f"{key} {path}\n")
        utt2spk.append(f"{key} {key.replace('/', '-').split('-')[0]}\n")
    (folder / "wav.scp").write_text("".join(wav))
    (folder / "utt2spk").write_text("".join(utt2spk))
    return folder
