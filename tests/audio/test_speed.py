"""Speed perturbation and telephone band."""

import numpy as np
import pytest
import torch

import wesp_lap  # noqa: F401 - makes torchaudio importable next to any torch
from wesp_lap.audio.augment import SPEED_FACTORS, change_speed_batch, speed_index
from wesp_lap.audio.codec import mu_law, telephone

RATE = 16000


@pytest.mark.parametrize(
    ("name", "shares"),
    [("lap", (0.6, 0.2, 0.2)), ("mhfa", (0.6, 0.2, 0.2)), ("wespeaker", (1 / 3,) * 3)],
)
def test_shares_of_the_speeds(name, shares):
    draws = (np.arange(30000) + 0.5) / 30000
    counts = np.bincount(speed_index(draws, name), minlength=3)
    np.testing.assert_allclose(counts / 30000, shares, atol=1e-4)
    extremes = speed_index(np.array([0.0, np.nextafter(1, 0)]), name)
    assert extremes.tolist() == [0, 2]


def test_speeds_at_the_bounds():
    assert speed_index(np.array([0.5999, 0.6, 0.7999, 0.8])).tolist() == [0, 1, 1, 2]


def test_speed_labels_of_speaker_7_of_5994():
    classes = {factor: 7 + 5994 * index for index, factor in enumerate(SPEED_FACTORS)}
    assert classes == {1.0: 7, 0.9: 6001, 1.1: 11995}


def buffers(rows, samples, seed=0):
    """Crops before their speed is changed; what follows the valid samples is not a number."""
    rng = np.random.default_rng(seed)
    speeds = rng.integers(0, 3, rows)
    buffer = torch.full((rows, round(samples * 1.1) + 5), torch.nan)
    for row, speed in enumerate(speeds):
        valid = round(samples * SPEED_FACTORS[speed])
        buffer[row, :valid] = torch.from_numpy(rng.standard_normal(valid)).float()
    return buffer, speeds


@pytest.mark.parametrize("samples", [1, 2, 9, 10, 11, 1599, 1600, 1601, 4803])
def test_equal_to_torchaudio_row_by_row(samples):
    functional = pytest.importorskip("torchaudio.functional", reason="torchaudio is not installed")
    buffer, speeds = buffers(40, samples)
    assert set(speeds) == {0, 1, 2}
    before = buffer.clone()
    got = change_speed_batch(buffer, speeds, samples)
    assert got.shape == (40, samples) and got.dtype == torch.float32
    for row, speed in enumerate(speeds):
        valid = buffer[row, : round(samples * SPEED_FACTORS[speed])].double()
        expected = functional.resample(valid, round(SPEED_FACTORS[speed] * RATE), RATE)[:samples]
        np.testing.assert_allclose(got[row], expected, atol=1e-5)
    assert torch.equal(buffer.nan_to_num(9), before.nan_to_num(9))


def test_equal_to_a_windowed_sinc_written_out():
    samples = 200
    buffer, speeds = buffers(12, samples)
    got = change_speed_batch(buffer, speeds, samples).numpy()
    for row, speed in enumerate(speeds):
        factor = SPEED_FACTORS[speed]
        if factor == 1:
            np.testing.assert_array_equal(got[row], buffer[row, :samples])
            continue
        wave = buffer[row, : round(samples * factor)].double().numpy()
        cutoff = 0.99 * min(1, 1 / factor)  # of the band of the input
        times = np.arange(samples)[:, None] * factor - np.arange(len(wave))
        crossings = times * cutoff
        window = np.where(np.abs(crossings) < 6, np.cos(np.pi * crossings / 12) ** 2, 0)
        expected = (cutoff * np.sinc(crossings) * window) @ wave
        np.testing.assert_allclose(got[row], expected, atol=1e-5)


def test_a_row_is_the_same_alone_and_in_any_batch():
    buffer, speeds = buffers(50, 1600)
    together = change_speed_batch(buffer, speeds, 1600)
    for row in range(0, 50, 7):
        alone = change_speed_batch(buffer[row : row + 1], speeds[row : row + 1], 1600)
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


def test_no_rows_and_one_speed_only():
    assert change_speed_batch(torch.zeros(0, 20), np.zeros(0, int), 10).shape == (0, 10)
    buffer = torch.rand(4, 20)
    got = change_speed_batch(buffer, np.zeros(4, int), 10)
    assert torch.equal(got, buffer[:, :10])


def test_a_buffer_of_slow_crops_alone_may_be_shorter_than_the_crops():
    buffer, speeds = torch.rand(4, 900), np.ones(4, int)
    longer = torch.nn.functional.pad(buffer, (0, 300))
    got = change_speed_batch(buffer, speeds, 1000)
    assert torch.equal(got, change_speed_batch(longer, speeds, 1000))


def test_pitch_and_tempo_change_with_the_speed():
    time = np.arange(round(1.1 * RATE)) / RATE
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * time)).float().repeat(3, 1)
    changed = change_speed_batch(tone, np.array([0, 1, 2]), RATE).numpy()
    for wave, factor in zip(changed, SPEED_FACTORS, strict=True):
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(RATE)))
        assert spectrum.argmax() == pytest.approx(1000 * factor, abs=1)


def test_mu_law_equals_torchaudio():
    functional = pytest.importorskip("torchaudio.functional", reason="torchaudio is not installed")
    waves = torch.linspace(-1, 1, 4001)
    expected = functional.mu_law_decoding(functional.mu_law_encoding(waves, 256), 256)
    torch.testing.assert_close(mu_law(waves), expected, atol=1e-6, rtol=0)
    assert 200 < len(mu_law(waves).unique()) <= 256
    assert mu_law(torch.tensor([3.0, -3.0])).tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("samples", [1, 2, 999, 1600])
def test_a_telephone_keeps_the_length(samples):
    assert telephone(torch.rand(3, samples)).shape == (3, samples)


def test_a_telephone_passes_its_band_and_nothing_above():
    time = np.arange(RATE) / RATE
    for frequency, low, high in ((1000, 0.98, 1.02), (3000, 0.95, 1.02), (5000, 0, 0.02)):
        tone = torch.from_numpy(0.5 * np.sin(2 * np.pi * frequency * time)).float()
        got = telephone(tone[None])[0].numpy()
        assert low <= np.std(got) / np.std(tone.numpy()) <= high
    # The error of 8 bits on this curve is some 38 dB below the tone.
    tone = torch.from_numpy(0.5 * np.sin(2 * np.pi * 440 * time)).float()
    error = (telephone(tone[None])[0] - tone)[100:-100].square().mean() / tone.square().mean()
    assert 30 < -10 * np.log10(float(error)) < 45
