"""Filterbank features against torchaudio, and against Kaldi's formulas written out."""

import math

import numpy as np
import pytest
import torch

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.audio.fbank import Fbank


def noise(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def kaldi(wave, window="povey", **options):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    options = {"num_mel_bins": 80, "dither": 0.0, **options}
    return kaldi.fbank(wave.unsqueeze(0) * 32768, window_type=window, **options)


def written_out(wave, window, bins=80, preemphasis=0.97):
    """Kaldi's features of float64 samples (S,), one step after the other."""
    wave = wave * 2.0**15
    turns = np.arange(400) / 399
    shape = 0.54 - 0.46 * np.cos(2 * np.pi * turns)
    if window == "povey":
        shape = (0.5 - 0.5 * np.cos(2 * np.pi * turns)) ** 0.85
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    centres = np.linspace(mel(20), mel(8000), bins + 2)
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start : start + 400] - wave[start : start + 400].mean()
        frame = frame - preemphasis * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * shape, 512)[:256]) ** 2
        place = mel(np.arange(256) * 16000 / 512)
        row = []
        for left, centre, right in zip(centres, centres[1:], centres[2:], strict=False):
            rise = (place - left) / (centre - left)
            fall = (right - place) / (right - centre)
            row.append(
                math.log(max(power @ np.clip(np.minimum(rise, fall), 0, None), 1.1920929e-7))
            )
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("window", ["povey", "hamming"])
def test_kaldis_formulas(window):
    wave = noise(4321, dtype=torch.float64)
    ours = Fbank(window=window)(wave.unsqueeze(0))[0]
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), written_out(wave.numpy(), window), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", ["povey", "hamming"])
@pytest.mark.parametrize("samples", [400, 559, 560, 4801, 16000])
def test_equal_to_torchaudio(samples, window, dtype):
    wave = noise(samples, seed=samples, dtype=dtype)
    ours, theirs = Fbank(window=window)(wave.unsqueeze(0))[0], kaldi(wave, window)
    assert ours.shape == theirs.shape == (1 + (samples - 400) // 160, 80)
    assert ours.dtype == dtype
    assert ((ours - theirs).abs() / theirs.abs()).max() < 1e-4


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({"num_mel_bins": 23}, {"num_mel_bins": 23}),
        ({"use_power": False}, {"use_power": False}),
        ({"remove_dc_offset": False}, {"remove_dc_offset": False}),
        ({"preemphasis": 0.5}, {"preemphasis_coefficient": 0.5}),
        ({"low_freq": 100, "high_freq": -400}, {"low_freq": 100, "high_freq": -400}),
        ({"high_freq": 6000}, {"high_freq": 6000}),
        (
            {"frame_length_ms": 20, "frame_shift_ms": 12.5, "num_mel_bins": 40},
            {"frame_length": 20, "frame_shift": 12.5, "num_mel_bins": 40},
        ),
        (
            {"sample_rate": 8000, "num_mel_bins": 30},
            {"sample_frequency": 8000, "num_mel_bins": 30},
        ),
        ({"snip_edges": False}, {"snip_edges": False}),
        (
            {"snip_edges": False, "frame_shift_ms": 30},
            {"snip_edges": False, "frame_shift": 30},
        ),
    ],
    ids=str,
)
def test_each_option_is_torchaudios(ours, theirs):
    wave = noise(5555) + 0.02
    fbank = Fbank(**ours)
    got, expected = fbank(wave.unsqueeze(0))[0], kaldi(wave, **theirs)
    assert got.shape == expected.shape
    assert fbank.num_frames(5555) == len(expected)
    assert ((got - expected).abs() / expected.abs()).max() < 1e-4


def test_rows_are_independent():
    waves = noise(5, 3000)
    fbank = Fbank()
    for row, features in zip(waves, fbank(waves), strict=True):
        torch.testing.assert_close(fbank(row.unsqueeze(0))[0], features, atol=1e-5, rtol=0)


def test_fewest_samples_of_a_number_of_frames():
    for fbank in (Fbank(), Fbank(snip_edges=False), Fbank(frame_shift_ms=12.5)):
        for frames in (1, 2, 7):
            samples = fbank.samples_for(frames)
            assert fbank.num_frames(samples) == fbank(noise(1, samples)).shape[1] == frames
            assert fbank.num_frames(samples - 1) == frames - 1
    assert Fbank()(noise(2, 399)).shape == (2, 0, 80)


def test_silence_has_the_floor():
    features = Fbank()(torch.zeros(1, 800))
    assert torch.equal(features, torch.full((1, 3, 80), 2.0**-23).log())


def test_dither_is_added_in_training_only_with_its_deviation():
    fbank = Fbank(dither=2.0, preemphasis=0.0, remove_dc_offset=False)
    silence = torch.zeros(4, 16000)
    assert torch.equal(fbank(silence), Fbank()(silence))
    torch.manual_seed(0)
    spectrum = fbank.spectrum(silence, training=True)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(400) / 399)) ** 0.85
    # Of white noise, each line has the energy of the window times the variance.
    assert spectrum[..., 1:-1].mean() == pytest.approx(4 * window.square().sum().item(), rel=0.02)


def test_float32_under_autocast_and_for_half_precision():
    waves = noise(2, 2000)
    expected = Fbank()(waves)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Fbank()(waves), expected)
    assert torch.equal(Fbank()(waves.bfloat16()), Fbank()(waves.bfloat16().float()))


def test_gradients_reach_the_waveform_after_use_in_inference_mode():
    fbank = Fbank(num_mel_bins=17)  # made here, so that nothing of it is cached
    waves = noise(2, 900, dtype=torch.float64)
    with torch.inference_mode():
        fbank(waves)
    assert torch.autograd.gradcheck(fbank, waves[:, :420].requires_grad_(), atol=1e-4)


def test_can_be_made_where_modules_are_made_without_memory():
    with torch.device("meta"):
        fbank = Fbank(num_mel_bins=19)
    assert torch.isfinite(fbank(noise(1, 800))).all()


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"num_mel_bins": 128}, "num_mel_bins 128 is too many"),
        ({"num_mel_bins": 0}, "at least 1"),
        ({"window": "hann"}, "povey or hamming, got 'hann'"),
        ({"high_freq": 9000}, "no band of frequencies from 20.0 to 9000 Hz"),
        ({"low_freq": 8000}, "no band of frequencies"),
        ({"frame_shift_ms": 0}, "span some samples"),
        ({"dither": -1}, "dither >= 0"),
    ],
)
def test_options_that_cannot_be(options, reason):
    with pytest.raises(ValueError, match=reason):
        Fbank(**options)
