"""Cepstral coefficients against torchaudio, and against Kaldi's formulas written out."""

import math

import numpy as np
import pytest
import torch

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.audio.fbank import Fbank
from wesp_lap.audio.mfcc import Mfcc, add_deltas


def noise(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("samples", [400, 559, 560, 4801, 16000])
@pytest.mark.parametrize("scale", [1.0, 32768.0])
def test_equal_to_torchaudio(samples, scale):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    wave = noise(samples, seed=samples)
    theirs = kaldi.mfcc(wave.unsqueeze(0) * scale, sample_frequency=16000, use_energy=False)
    ours = Mfcc(scale=scale)(wave.unsqueeze(0))[0]
    assert ours.shape == theirs.shape == (1 + (samples - 400) // 160, 13)
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"num_ceps": 20},
        {"num_mel_bins": 40, "num_ceps": 20},
        {"cepstral_lifter": 0.0},
        {"cepstral_lifter": 10.0},
        {"low_freq": 100.0, "high_freq": -400.0},
    ],
)
def test_options_are_torchaudios(options):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    wave = noise(1, 8000, dtype=torch.float64)
    theirs = kaldi.mfcc(wave * 32768, use_energy=False, **options)
    assert (Mfcc(**options)(wave)[0] - theirs).abs().max() < 1e-3


def test_formula_of_a_coefficient():
    wave = noise(1, 4000, dtype=torch.float64)
    bands = Fbank(num_mel_bins=23)(wave)[0].numpy()
    ours = Mfcc()(wave)[0].numpy()
    for order in range(13):
        scale = math.sqrt((1 if order == 0 else 2) / 23) * (1 + 11 * math.sin(math.pi * order / 22))
        sums = [
            sum(math.cos(math.pi * order * (band + 0.5) / 23) * row[band] for band in range(23))
            for row in bands
        ]
        np.testing.assert_allclose(ours[:, order], scale * np.array(sums), atol=1e-9)


def test_silence_has_c0_only():
    silence = Mfcc()(torch.zeros(1, 1000, dtype=torch.float64))[0]
    floor = math.log(1.1920928955078125e-07)
    np.testing.assert_allclose(silence[:, 0], floor * math.sqrt(23), rtol=1e-12)
    assert silence[:, 1:].abs().max() < 1e-10


def test_a_row_of_a_batch_is_the_row_alone():
    waves = noise(3, 5000)
    torch.testing.assert_close(Mfcc()(waves)[1:2], Mfcc()(waves[1:2]), rtol=0, atol=0)


def test_worked_deltas():
    steps = torch.tensor([0.0, 1, 4, 9, 16, 25]).reshape(1, 6, 1)
    whole = add_deltas(steps)[0]
    # In the middle the slope of t^2 is 2 t; at the ends the outer frames repeat.
    first = [
        (1 + 2 * 4) / 10,
        (4 + 2 * 9) / 10,
        4.0,
        6.0,
        (25 - 9 + 2 * 21) / 10,
        (9 + 2 * 16) / 10,
    ]
    np.testing.assert_allclose(whole[:, 0], steps.flatten())
    np.testing.assert_allclose(whole[:, 1], first, rtol=1e-6)
    second = (first[3] - first[1] + 2 * (first[4] - first[0])) / 10
    np.testing.assert_allclose(whole[2, 2], second, rtol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_deltas_are_torchaudios(frames):
    functional = pytest.importorskip("torchaudio.functional")
    features = noise(2, frames, 13)
    first = functional.compute_deltas(features.transpose(1, 2))
    theirs = torch.cat([features.transpose(1, 2), first, functional.compute_deltas(first)], 1)
    torch.testing.assert_close(add_deltas(features), theirs.transpose(1, 2))


def test_too_short_for_a_frame():
    features = Mfcc()(torch.zeros(2, 399))
    assert add_deltas(features).shape == (2, 0, 39)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_ceps": 24}, "num_ceps"),
        ({"num_ceps": 0}, "num_ceps"),
        ({"cepstral_lifter": -1}, "lif"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        Mfcc(**options)
