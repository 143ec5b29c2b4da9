"""The shared fixtures and the --slow option do what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.trials import read_trials

ROOT = Path(__file__).parents[2]


def test_tiny_corpus_is_a_data_directory_with_separable_speakers(tiny_corpus):
    data = DataDir.load(tiny_corpus.data)
    assert data.utterances == tiny_corpus.utterances and len(tiny_corpus.utterances) == 32
    assert sorted(data.spk2utt) == tiny_corpus.speakers
    spectra = {}
    for key in tiny_corpus.utterances:
        wave, rate = soundfile.read(data.resolve(key), dtype="float32")
        assert rate == tiny_corpus.sample_rate and len(wave) / rate == data.utt2dur[key]
        power = np.square(np.abs(np.fft.rfft(wave[:32000])))[1:]
        spectrum = np.log(power.reshape(50, -1).mean(1))
        spectra[key] = spectrum - spectrum.mean()
    trials = read_trials(tiny_corpus.trials)
    scores = np.array(
        [
            -np.square(spectra[one] - spectra[other]).sum()
            for one, other in zip(trials.enroll, trials.test, strict=True)
        ]
    )
    assert np.median(scores[trials.labels == 1]) > np.quantile(scores[trials.labels == 0], 0.9)


@pytest.mark.parametrize(
    ("options", "ci", "outcome"),
    [([], "", "1 passed, 1 skipped"), (["--slow"], "", "2 passed"), ([], "true", "2 passed")],
)
def test_slow_tests_run_on_demand_and_in_continuous_integration(tmp_path, options, ci, outcome):
    for name in ("conftest.py", "helpers.py"):
        (tmp_path / name).write_text((ROOT / "tests" / name).read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: takes long\n")
    (tmp_path / "test_two.py").write_text(
        "import pytest\ndef test_quick(): pass\n@pytest.mark.slow\ndef test_slow(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and outcome in done.stdout
