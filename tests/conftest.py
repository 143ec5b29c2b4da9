"""Fixtures and options that all rooms' tests share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Before numpy and torch are imported: small tensors gain nothing from more threads, and
# several test runs often share one machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
from helpers import real_speech_folder, tiny_frontend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or os.environ.get("CI") == "true":
        return
    skip = pytest.mark.skip(reason="slow; run with --slow or CI=true")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """Folder of real recordings for development; tests that ask for it are skipped without.

    It is named by WESP_LAP_TEST_DATA, or lies beside the clone as ../shared/data.
    """
    folder = real_speech_folder()
    if not folder.is_dir():
        pytest.skip(f"no real speech: {folder} is no folder; set WESP_LAP_TEST_DATA")
    return folder


@dataclass(frozen=True)
class TinyCorpus:
    """A few speakers made of harmonics, as a Kaldi data directory.

    Attributes:
        data: Data directory with wav.scp (absolute paths), utt2spk, spk2utt and utt2dur.
        trials: Kaldi trial list of all pairs of different utterances.
        sample_rate: 16000; all files are mono FLAC.
        speakers: Ids, sorted: spk00, spk01, ...
        utterances: Ids, sorted: spk00-0, spk00-1, ... Each lasts between 2 and 3 seconds.
    """

    data: Path
    trials: Path
    sample_rate: int
    speakers: list[str]
    utterances: list[str]


def voiced(speaker: int, utterance: int, seconds: float, sample_rate: int = 16000) -> np.ndarray:
    """Return speech-like sound (S,): harmonics under the speaker's formants, in syllables."""
    rng = np.random.default_rng([speaker, utterance])
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = 90 * 1.12**speaker * (1 + 0.04 * np.sin(2 * np.pi * rng.uniform(0.5, 1) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formants = np.random.default_rng([speaker]).uniform((300, 900, 2200), (800, 2000, 3400))
    wave = np.zeros_like(time)
    for harmonic in range(1, int(4000 / pitch.max())):
        hertz = harmonic * pitch.mean()
        strength = np.exp(-(((hertz - formants) / 250) ** 2)).sum() + 0.02
        wave += strength * np.sin(harmonic * phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(3, 5) * time + rng.uniform(0, 6))
    wave = wave * syllables + 0.02 * rng.standard_normal(len(time))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    """Make a TinyCorpus of 8 speakers with 4 utterances each; the same on every run.

    The files are shared by all tests of a session: copy what you want to change.
    """
    folder = tmp_path_factory.mktemp("tiny_corpus")
    data = folder / "data"
    (folder / "wav").mkdir()
    data.mkdir()
    speakers = [f"spk{index:02d}" for index in range(8)]
    tables: dict[str, list[str]] = {"wav.scp": [], "utt2spk": [], "utt2dur": [], "spk2utt": []}
    utterances = []
    for number, speaker in enumerate(speakers):
        keys = [f"{speaker}-{index}" for index in range(4)]
        utterances += keys
        tables["spk2utt"].append(f"{speaker} {' '.join(keys)}")
        for index, key in enumerate(keys):
            wave = voiced(number, index, 2 + index / 4)
            path = folder / "wav" / f"{key}.flac"
            soundfile.write(path, wave, 16000, subtype="PCM_16")
            tables["wav.scp"].append(f"{key} {path}")
            tables["utt2spk"].append(f"{key} {speaker}")
            tables["utt2dur"].append(f"{key} {len(wave) / 16000:.3f}")
    for name, lines in tables.items():
        (data / name).write_text("\n".join(lines) + "\n")
    trials = folder / "trials"
    trials.write_text(
        "".join(
            f"{one} {other} {'target' if one[:5] == other[:5] else 'nontarget'}\n"
            for index, one in enumerate(utterances)
            for other in utterances[index + 1 :]
        )
    )
    return TinyCorpus(data, trials, 16000, speakers, utterances)


@pytest.fixture
def tiny_model_settings() -> dict[str, dict[str, object]]:
    """Frontend and backend sections of a model with some 30,000 parameters."""
    return {
        "frontend": {"name": "transformer", "config": tiny_frontend()},
        "backend": {"name": "lap_astp", "heads": 4, "pooled_dim": 32, "embed_dim": 16},
    }
