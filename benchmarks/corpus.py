"""Synthetic corpora for benchmarks: seeded, made in seconds, as large as one likes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def make_corpus(folder: Path, utterances: int, seconds: float, suffix: str) -> Path:
    """Write a Kaldi data directory of coloured noise that compresses about as well as speech."""
    (folder / "wav").mkdir(parents=True)
    rng = np.random.default_rng(0)
    wav, utt2spk = [], []
    for number in range(utterances):
        samples = int(RATE * seconds * rng.uniform(0.6, 1.4))
        key, path = f"id{number % 40:05d}/{number:06d}", folder / "wav" / f"{number:06d}.{suffix}"
        soundfile.write(path, speech_like(rng, samples), RATE, subtype="PCM_16")
        wav.append(f"{key} {path}\n")
        utt2spk.append(f"{key} id{number % 40:05d}\n")
    (folder / "wav.scp").write_text("".join(sorted(wav)))
    (folder / "utt2spk").write_text("".join(sorted(utt2spk)))
    return folder


def speech_like(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return (S,) float32 noise with the tilt of speech and pauses."""
    wave = rng.standard_normal(samples).astype(np.float32)
    for _ in range(2):
        wave[1:] += 0.9 * wave[:-1]
    envelope = np.repeat(rng.random(samples // 3200 + 1).astype(np.float32), 3200)[:samples] ** 2
    return 0.05 * wave * envelope


def make_noises(folder: Path) -> Path:
    """Write folders laid out as MUSAN and RIRS_NOISES."""
    rng = np.random.default_rng(1)
    for category in ("noise", "music", "speech"):
        (folder / "musan" / category).mkdir(parents=True)
        for number in range(20):
            wave = speech_like(rng, int(RATE * rng.uniform(4, 60)))
            soundfile.write(folder / "musan" / category / f"{number:03d}.wav", wave, RATE)
    rooms = folder / "rirs" / "simulated_rirs" / "smallroom"
    rooms.mkdir(parents=True)
    for number in range(100):
        decay = np.exp(-np.arange(RATE) / rng.uniform(500, 4000))
        response = rng.standard_normal(RATE) * decay
        soundfile.write(rooms / f"{number:03d}.wav", 0.5 * response / abs(response).max(), RATE)
    return folder


def make_lmdbs(noises: Path, out: Path) -> None:
    """Write the same noises as WeSpeaker's two databases, ``noise.lmdb`` and ``rirs.lmdb``."""
    import lmdb

    for name, root in (("noise", noises / "musan"), ("rirs", noises / "rirs")):
        files = sorted(root.rglob("*.wav"))
        names = [str(path.relative_to(root)) for path in files]
        database = lmdb.open(str(out / f"{name}.lmdb"), map_size=1 << 32)
        with database, database.begin(write=True) as transaction:
            for key, path in zip(names, files, strict=True):
                transaction.put(key.encode(), path.read_bytes())
            transaction.put(b"__keys__", pickle.dumps(names))
