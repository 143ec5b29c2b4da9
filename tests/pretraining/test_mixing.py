"""Utterance mixing, with worked figures and beside a plain loop."""

import math

import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.data.noise_bank import NoiseBank, make_noise_bank
from wesp_lap.errors import DataError
from wesp_lap.pretraining.mixing import BankNoise, MixingSettings, gain, mix_utterances
from wesp_lap.seeding import generator

ALWAYS = MixingSettings(prob=1.0)


def speech(rows=4, samples=400, seed=0):
    levels = torch.tensor([1.0, 0.3, 0.02, 4.0, 0.1, 0.7])[:rows].unsqueeze(1)
    return levels * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def hiss(rng):
    return torch.from_numpy(rng.standard_normal(150).astype(np.float32))


def by_loops(waves, settings, rng, noise=None):
    """One sample at a time in float64, with the random numbers in the order of the real one."""
    rows = waves.double().tolist()
    samples = len(rows[0])
    chances = rng.random(len(rows))
    for row, chance in zip(rows, chances, strict=True):
        if chance >= settings.prob:
            continue
        if noise is not None and rng.random() < settings.noise_prob:
            source, bounds = noise(rng).double().tolist(), settings.noise_snr
        else:
            source, bounds = list(rows[rng.integers(len(rows))]), settings.speech_snr
        length = min(int(rng.integers(int(settings.max_share * samples) + 1)), len(source))
        first = int(rng.integers(len(source) - length + 1))
        start = int(rng.integers(samples - length + 1))
        snr = rng.uniform(*bounds)
        power = sum(x * x for x in source) / len(source)
        own = sum(x * x for x in row) / len(row)
        scale = math.sqrt(own / (power * 10 ** (snr / 10))) if power > 0 else 0.0
        for k in range(length):
            row[start + k] += scale * source[first + k]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("snr, scale", [(0, 2.0), (-5, 3.556559), (5, 1.124683)])
def test_worked_gains(snr, scale):
    main, source = torch.ones(100), torch.full((50,), 0.5)
    assert gain(main, source, snr).item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("noise_prob", [0.0, 0.5])
@pytest.mark.parametrize("prob", [0.3, 1.0])
def test_rows_are_mixed_as_the_definition_says(prob, noise_prob):
    settings = MixingSettings(prob, noise_prob)
    waves = speech(6)
    for seed in range(20):
        found = mix_utterances(waves, settings, generator(seed), hiss)
        wanted = by_loops(waves, settings, generator(seed), hiss)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_powers_are_those_of_whole_rows():
    waves = speech(2, 4000)
    for seed in range(40):
        added = mix_utterances(waves, ALWAYS, generator(seed))[0] - waves[0]
        piece = added.nonzero().flatten()
        assert len(piece) <= 2000
        if len(piece) < 1500:
            continue
        source_power = added.square().sum() / len(piece)  # long pieces have nearly the whole's
        snr = 10 * torch.log10(waves[0].square().mean() / source_power).item()
        assert -5.6 < snr < 5.6


def test_length_and_places_are_uniform():
    settings = MixingSettings(prob=1.0, noise_prob=1.0)
    lengths, starts = [], []
    rng = generator(1)
    for _ in range(2000):
        mixed = mix_utterances(torch.ones(1, 20), settings, rng, lambda rng: torch.ones(20))[0]
        places = (mixed != 1).nonzero().flatten().tolist()
        lengths.append(len(places))
        starts += places[:1] if len(places) == 10 else []
    shares = [lengths.count(length) / 2000 for length in range(12)]
    assert shares == pytest.approx([1 / 11] * 11 + [0], abs=0.03)
    assert set(starts) == set(range(11))


def test_nothing_is_added_with_probability_zero_and_the_input_stays():
    waves = speech()
    before = waves.clone()
    assert torch.equal(mix_utterances(waves, MixingSettings(prob=0.0), generator(1)), waves)
    mixed = mix_utterances(waves, ALWAYS, generator(1))
    assert torch.equal(waves, before)
    assert not torch.equal(mixed, before)


@pytest.mark.parametrize("level", [0.0, 1e-30])
def test_silence_makes_no_nan(level):
    waves = speech()
    waves[1:3] = level
    for seed in range(30):
        mixed = mix_utterances(waves, ALWAYS, generator(seed))
        assert torch.isfinite(mixed).all()
        assert mixed[1:3].abs().max() <= 1e-3 * waves[0].abs().max()
    assert not mix_utterances(torch.zeros(3, 100), ALWAYS, generator(1)).any()


def test_noise_may_be_shorter_than_a_piece():
    settings = MixingSettings(prob=1.0, noise_prob=1.0)
    for seed in range(20):
        mixed = mix_utterances(speech(), settings, generator(seed), lambda rng: torch.ones(3))
        assert ((mixed != speech()).sum(dim=1) <= 3).all()


def test_noise_of_a_bank(tmp_path):
    """Each recording has a level of its own, by which its pieces are known."""
    files = (("noise", 0.25, 7), ("noise", 0.5, 2), ("music", 0.75, 3), ("speech", 0.9, 3))
    for category, level, seconds in files:
        file = tmp_path / "musan" / category / f"{level}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, np.full(seconds * 16000, level), 16000)
    make_noise_bank(tmp_path / "bank", tmp_path / "musan")
    bank = NoiseBank(tmp_path / "bank")
    noise, rng = BankNoise(bank), generator(1)
    drawn = [noise(rng) for _ in range(60)]
    assert {round(float(clip.mean()), 3) for clip in drawn} == {0.25, 0.5}
    assert {len(clip) for clip in drawn} == {5 * 16000, 2 * 16000}
    both = BankNoise(bank, ("noise", "music"))
    assert {round(float(both(rng).mean()), 3) for _ in range(60)} == {0.25, 0.5, 0.75}
    with pytest.raises(DataError, match="holds no hum"):
        BankNoise(bank, ("music", "hum"))


def test_noise_needs_a_source():
    with pytest.raises(ValueError, match="no source of noise"):
        mix_utterances(speech(), MixingSettings(noise_prob=0.5), generator(1))


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"prob": 1.5}, "prob"),
        ({"noise_prob": -0.1}, "noise_prob"),
        ({"max_share": 2.0}, "max_share"),
        ({"speech_snr": (5.0, -5.0)}, "speech_snr"),
        ({"noise_snr": (5.0,)}, "noise_snr"),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        MixingSettings(**wrong)
