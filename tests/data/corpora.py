"""Small data directories for the tests of this room."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wesp_lap.data.shards import make_shards


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


def pack(data: Path, folder: Path, **options: Any) -> tuple[dict[str, float], list[str]]:
    """Make shards under ``folder`` and return (counts, tars)."""
    counts = make_shards(data, folder / "shards", folder / "shard.list", **options)
    return counts, (folder / "shard.list").read_text().split()


def read_as_wespeaker(tar: str) -> list[dict[str, Any]]:
    """Group consecutive members by their name up to the last dot, as WeSpeaker's reader does."""
    samples: list[dict[str, Any]] = []
    with tarfile.open(tar, "r:*") as stream:
        for member in stream:
            prefix, _, suffix = member.name.rpartition(".")
            if not samples or samples[-1]["key"] != prefix:
                samples.append({"key": prefix})
            content = stream.extractfile(member).read()
            samples[-1][suffix] = content.decode() if suffix == "spk" else content
    return samples
