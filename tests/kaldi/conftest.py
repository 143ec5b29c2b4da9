"""A small, valid data directory to be broken in one way per test."""

import numpy as np
import pytest
import soundfile


def write_wav(path, seconds=1.2, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16")


@pytest.fixture
def wav():
    return write_wav


@pytest.fixture
def corpus(tmp_path):
    """Two speakers with two utterances each, relative paths, all tables sorted."""
    folder = tmp_path / "corpus"
    keys = ["a-1", "a-2", "b-1", "b-2"]
    for key in keys:
        write_wav(folder / "wav" / f"{key}.wav")
    (folder / "wav.scp").write_text("".join(f"{key} wav/{key}.wav\n" for key in keys))
    (folder / "utt2spk").write_text("".join(f"{key} {key[0]}\n" for key in keys))
    (folder / "spk2utt").write_text("a a-1 a-2\nb b-1 b-2\n")
    (folder / "utt2dur").write_text("".join(f"{key} 1.200\n" for key in keys))
    return folder
