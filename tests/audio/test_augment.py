"""Augmentation against its description: what is drawn, how often, how loud, how long, and where."""

import numpy as np
import pytest

from wesp_lap.audio.augment import (
    SPEED_FACTORS,
    AugmentSettings,
    augment,
    change_speed,
    draw_speed,
    fit_length,
    noise_gain,
    reverberate,
)

RATE = 16000
SNR = {"noise": (0, 15), "music": (5, 15), "speech": (13, 20)}
# Quantiles of chi-square by degrees of freedom: 1 in 10,000 correct samplers would be refused.
CRITICAL = {2: 18.42, 3: 21.11, 4: 23.51, 5: 25.74}


def assert_shares(counts, shares):
    """Check counts of draws against their probabilities (Pearson's chi-square)."""
    counts = np.asarray(counts)
    expected = np.asarray(shares) * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < CRITICAL[len(counts) - 1], counts


class Source:
    """Gives what ``make(category, number of the draw)`` makes and remembers what was asked for."""

    def __init__(self, make):
        self.make = make
        self.drawn = []

    def draw(self, category, rng):
        self.drawn.append(category)
        return self.make(category, len(self.drawn) - 1)


def kind_of(drawn):
    """Name the distortion that draws these categories."""
    names = tuple(dict.fromkeys(drawn))
    return {
        (): "clean",
        ("rir",): "reverberation",
        ("noise",): "noise",
        ("music",): "music",
        ("speech",): "babble",
        ("speech", "music"): "television",
    }[names]


def calls(wave, make, wanted, count, seed=0):
    """Yield the results of ``count`` calls of augment that make a ``wanted`` distortion."""
    rng = np.random.default_rng(seed)
    while count:
        source = Source(make)
        result = augment(wave, source, 1.0, rng)
        if kind_of(source.drawn) == wanted:
            count -= 1
            yield result, source.drawn


def test_speed_is_drawn_60_20_20():
    rng = np.random.default_rng(0)
    draws = [draw_speed(rng) for _ in range(10000)]
    assert_shares(np.bincount(draws), (0.6, 0.2, 0.2))


def test_speed_labels_of_speaker_7_of_5994():
    classes = {factor: 7 + 5994 * index for index, factor in enumerate(SPEED_FACTORS)}
    assert classes == {1.0: 7, 0.9: 6001, 1.1: 11995}


def test_two_seconds_at_speed_09_last_2222_and_sound_lower():
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    for factor, seconds in ((0.9, 2.222), (1.1, 1.818)):
        changed = change_speed(tone, factor)
        assert len(changed) / RATE == pytest.approx(seconds, abs=5e-4)
        spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
        assert spectrum.argmax() * RATE / len(changed) == pytest.approx(1000 * factor, abs=1)
    assert change_speed(tone, 1.0) is tone


def test_a_long_wave_is_cropped_at_any_position_equally_often():
    rng = np.random.default_rng(0)
    wave = np.arange(9)
    starts = []
    for _ in range(5000):
        crop = fit_length(wave, 5, rng)
        np.testing.assert_array_equal(crop, wave[crop[0] : crop[0] + 5])
        starts.append(crop[0])
    assert_shares(np.bincount(starts), [0.2] * 5)


def test_a_short_wave_is_repeated_from_its_start():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(fit_length(np.arange(3), 7, rng), [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(fit_length(np.arange(3), 3, rng), [0, 1, 2])


def test_worked_noise_gain():
    signal, noise = np.full(1000, 0.1, np.float32), np.full(700, 0.2, np.float32)
    assert noise_gain(signal, noise, 10.0) == pytest.approx(0.158704, abs=1e-6)


def test_silence_has_the_energy_of_the_floor():
    silence = np.zeros(10, np.float32)
    assert noise_gain(silence, silence, 0.0) == pytest.approx(1)
    assert noise_gain(np.ones(10, np.float32), silence, 20.0) == pytest.approx(10.0005, abs=1e-4)


def test_a_unit_impulse_reverberates_nothing():
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for length in (1, 50, 3000):
        impulse = np.zeros(length, np.float32)
        impulse[0] = 0.3  # divided by its norm: 1
        result = reverberate(wave, impulse)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, wave, atol=1e-5)


def test_reverberation_is_the_convolution_with_a_response_of_unit_energy():
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(500).astype(np.float32)
    response = (rng.standard_normal(200) * np.exp(-np.arange(200) / 30)).astype(np.float32)
    unit = response.astype(np.float64) / np.linalg.norm(response.astype(np.float64))
    expected = np.convolve(wave.astype(np.float64), unit)[:500]
    np.testing.assert_allclose(reverberate(wave, response), expected, atol=1e-5)
    np.testing.assert_allclose(reverberate(wave, 7 * response), expected, atol=1e-5)


def test_the_five_distortions_are_equally_likely():
    wave = np.ones(16, np.float32)
    rng = np.random.default_rng(0)
    kinds = {"clean": 0, "reverberation": 0, "noise": 0, "music": 0, "babble": 0, "television": 0}
    for _ in range(6000):
        source = Source(lambda category, _: np.ones(4, np.float32))
        result = augment(wave, source, 0.6, rng)
        kinds[kind_of(source.drawn)] += 1
        assert kind_of(source.drawn) != "clean" or result is wave
    assert_shares(list(kinds.values()), [0.4] + [0.12] * 5)


def test_no_distortion_with_probability_zero():
    rng = np.random.default_rng(0)
    wave = np.ones(16, np.float32)
    source = Source(lambda category, _: pytest.fail("drawn"))
    assert all(augment(wave, source, 0.0, rng) is wave for _ in range(100))


@pytest.mark.parametrize("kind", ["babble", "television"])
def test_babble_is_4_to_7_voices_equally_often(kind):
    wave = np.ones(16, np.float32)
    voices = [
        drawn.count("speech")
        for _, drawn in calls(wave, lambda *_: np.ones(4, np.float32), kind, 800)
    ]
    assert_shares(np.bincount(voices, minlength=8)[4:], [0.25] * 4)
    assert min(voices) == 4 and max(voices) == 7


@pytest.mark.parametrize("kind", ["noise", "music"])
def test_noise_reaches_its_snr_over_its_span(kind):
    wave = np.sin(np.arange(4000)).astype(np.float32) * 20  # far above the energy floor
    noise = np.random.default_rng(1).standard_normal(900).astype(np.float32) * 5
    snrs, shares, starts = [], [], []
    for result, _ in calls(wave, lambda *_: noise, kind, 900):
        added = (result - wave).astype(np.float64)
        touched = np.flatnonzero(added)
        span = slice(touched[0], touched[-1] + 1)
        snrs.append(
            10 * np.log10(np.mean(wave.astype(np.float64) ** 2) / np.mean(added[span] ** 2))
        )
        shares.append((span.stop - span.start) / len(wave))
        starts.append(span.start / max(len(wave) - (span.stop - span.start), 1))
    low, high = SNR[kind]
    assert low - 0.01 < min(snrs) < low + 0.2 and high - 0.2 < max(snrs) < high + 0.01
    assert_shares(np.histogram(snrs, np.linspace(low, high, 5))[0], [0.25] * 4)
    shares, starts = np.array(shares), np.array(starts)
    full, half, third = shares == 1, (shares >= 0.4) & (shares <= 0.6), shares < 0.4
    assert (full | half | third).all() and shares.min() >= 0.1999
    assert_shares([full.sum(), half.sum(), third.sum()], [1 / 3] * 3)
    assert_shares(np.histogram(shares[half], np.linspace(0.3999, 0.6001, 4))[0], [1 / 3] * 3)
    assert_shares(np.histogram(starts[~full], np.linspace(0, 1, 4))[0], [1 / 3] * 3)
    # Cut from any place of a longer recording, repeated where the recording is shorter.
    assert {len(noise) < share * len(wave) for share in shares} == {True, False}


def test_the_voices_of_a_babble_share_the_class_of_their_span():
    """With constant noise and no signal every voice shows as a step up and an equal step down."""
    wave = np.zeros(3000)  # float64, so that equal steps stay equal
    classes = {"full": (1.0, 1.0), "half": (0.4, 0.6), "third": (0.2, 0.4)}
    met = dict.fromkeys(classes, 0)
    for result, drawn in calls(wave, lambda *_: np.ones(1000), "babble", 300):
        steps = np.diff(result, prepend=0, append=0)
        lengths = []
        for up in np.flatnonzero(steps > 1e-9):
            downs = np.flatnonzero(np.isclose(-steps, steps[up], rtol=1e-6, atol=0))
            lengths += [down - up for down in downs]
        if not lengths:  # all voices start and end together
            lengths = [len(wave)]
        names = {
            name
            for name, (low, high) in classes.items()
            if all(low * 3000 - 1 <= length <= high * 3000 for length in lengths)
        }
        assert names and len(lengths) <= len(drawn)
        if len(names) == 1:
            met[names.pop()] += 1
    assert min(met.values()) > 70


def test_television_is_babble_and_then_music_over_the_full_length():
    """Every voice is a tone of its own, so that its level can be read off the spectrum."""
    samples = 1600
    time = np.arange(samples)

    def tone(number):
        return (30 * np.sin(2 * np.pi * number * time / samples)).astype(np.float32)

    wave = tone(700)
    power = np.mean(wave.astype(np.float64) ** 2)
    voices, musics = [], []
    for result, drawn in calls(wave, lambda _, number: tone(10 * number + 10), "television", 200):
        amplitudes = np.abs(np.fft.rfft(result)) * 2 / samples
        powers = amplitudes[10 : 10 * len(drawn) + 10 : 10] ** 2 / 2
        assert amplitudes[700] == pytest.approx(30, rel=1e-4)  # the speech itself is untouched
        voices += list(10 * np.log10(power / powers[:-1]))
        musics.append(10 * np.log10((power + powers[:-1].sum()) / powers[-1]))
        rest = np.delete(amplitudes, [700, *range(10, 10 * len(drawn) + 10, 10)])
        assert rest.max() < 1e-3  # tones cut short would leak into other frequencies
    for snrs, (low, high) in ((voices, SNR["speech"]), (musics, SNR["music"])):
        assert low - 0.01 < min(snrs) < low + 0.3 and high - 0.3 < max(snrs) < high + 0.01


def test_the_input_is_not_changed_and_stays_float32():
    wave = np.ones(160, np.float32)
    rng = np.random.default_rng(0)
    for _ in range(50):
        source = Source(lambda category, _: np.full(40, 0.5, np.float32))
        result = augment(wave, source, 1.0, rng)
        assert result.dtype == np.float32 and result.shape == (160,)
        assert (wave == 1).all()


def test_the_same_generator_gives_the_same_result():
    wave = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    noises = np.random.default_rng(1).standard_normal((40, 500)).astype(np.float32)

    def results(seed):
        rng = np.random.default_rng(seed)
        source = Source(lambda _, number: noises[number % 40])
        return np.stack([augment(wave, source, 0.6, rng) for _ in range(30)])

    np.testing.assert_array_equal(results(5), results(5))
    assert not np.array_equal(results(5), results(6))


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_outside_0_to_1_is_refused(probability):
    with pytest.raises(ValueError, match=rf"noise_prob must lie in \[0, 1\], got {probability}"):
        AugmentSettings(noise_prob=probability)
