import numpy as np
import pytest
import torch

import wesp_lap  # noqa: F401 - makes torchaudio importable next to any torch
from wesp_lap.audio.resample import resample

NOISE = np.random.default_rng(0).standard_normal(4801).astype(np.float32)


@pytest.mark.parametrize(
    ("old", "new"),
    [(14400, 16000), (17600, 16000), (8000, 16000), (44100, 16000), (16000, 8000), (48000, 16000)],
)
def test_equal_to_torchaudio(old, new):
    functional = pytest.importorskip("torchaudio.functional", reason="torchaudio is not installed")
    # In float64, since torchaudio's float32 kernels carry rounding errors of 1e-5.
    expected = functional.resample(torch.from_numpy(NOISE).double(), old, new).numpy()
    got = resample(NOISE, old, new)
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize(("old", "new"), [(14400, 16000), (8000, 16000), (44100, 16000)])
@pytest.mark.parametrize("samples", [1, 7, 999, 1000])
def test_length_is_rounded_up(old, new, samples):
    assert len(resample(NOISE[:samples], old, new)) == -(-samples * new // old)


def test_equal_rates_change_nothing():
    assert resample(NOISE, 16000, 16000) is NOISE


@pytest.mark.parametrize("old", [8000, 22050, 44100])
def test_a_tone_stays_the_same_tone(old):
    def tone(rate):
        return np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

    inner = slice(500, -500)
    np.testing.assert_allclose(
        resample(tone(old), old, 16000)[inner], tone(16000)[inner], atol=3e-3
    )


def test_what_is_above_the_new_band_is_removed():
    tone = np.sin(2 * np.pi * 7000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(tone, 16000, 8000)[100:-100]).max() < 0.01
