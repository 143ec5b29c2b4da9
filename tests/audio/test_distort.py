"""What augmentation does to a batch, against one crop at a time written plainly."""

import augment_reference as reference
import numpy as np
import pytest
import torch
from augment_reference import Source

from wesp_lap.audio.augment import DRAWS, Augmenter, AugmentSettings, Noises, apply, apply_in_place

SETS = ("lap", "wespeaker", "mhfa")
SAMPLES = 2400


def crops(rows, samples=SAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    levels = 10 ** rng.uniform(-3, -0.5, (rows, 1))  # some below the floor of the energies
    return torch.from_numpy((rng.standard_normal((rows, samples)) * levels).astype(np.float32))


def draws(rows, seed=1):
    return np.random.default_rng(seed).random((rows, DRAWS))


def augmenter(name="lap", prob=1.0, **others):
    return Augmenter(AugmentSettings(set=name, noise_prob=prob, **others), Source())


def assert_close(got, expected, tolerance=2e-6):
    """Compare rows relative to their peaks."""
    peaks = np.maximum(np.abs(expected).max(axis=1, keepdims=True), 1e-3)
    np.testing.assert_allclose(np.asarray(got) / peaks, expected / peaks, atol=tolerance)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("samples", [2400, 1, 777])
def test_equal_to_one_crop_at_a_time(name, samples):
    waves, u = crops(300, samples), draws(300)
    expected = [
        reference.augment(w, d, Source(), name, 0.8) for w, d in zip(waves.numpy(), u, strict=True)
    ]
    kinds = {reference.kind_of(d, name, 0.8) for d in u}
    assert kinds == {None, *reference.KINDS[name]}
    got = apply(waves, augmenter(name, 0.8).gather(u, samples))
    assert got.dtype == torch.float32 and got.shape == waves.shape
    assert_close(got, np.stack(expected), 2e-6 if samples > 1 else 1e-5)


@pytest.mark.parametrize("name", SETS)
def test_a_crop_is_the_same_alone_and_in_any_batch(name):
    make = augmenter(name, 0.8, volume_prob=0.5, codec_prob=0.3)
    waves, u = crops(60), draws(60)
    together = apply(waves, make.gather(u, SAMPLES)).numpy()
    order = np.random.default_rng(2).permutation(60)
    mixed = apply(waves[order], make.gather(u[order], SAMPLES)).numpy()
    # One step of the telephone's 256 is wide: rounding may take a sample over its edge.
    plain = u[:, 10] >= 0.3
    assert 20 < plain.sum() < 60
    assert_close(mixed[plain[order]], together[order][plain[order]], 1e-6)
    for row in range(0, 60, 3):
        alone = apply(waves[row : row + 1], make.gather(u[row : row + 1], SAMPLES)).numpy()
        if plain[row]:
            assert_close(alone, together[row : row + 1], 1e-6)
        else:
            assert np.mean(np.abs(alone - together[row : row + 1])) < 1e-3 * np.abs(alone).max()


def test_the_same_draws_give_the_same_bits():
    make, waves, u = augmenter(prob=0.6, volume_prob=0.5, codec_prob=0.5), crops(40), draws(40)
    first = apply(waves, make.gather(u, SAMPLES))
    assert torch.equal(
        first,
        apply(
            waves, augmenter(prob=0.6, volume_prob=0.5, codec_prob=0.5).gather(u.copy(), SAMPLES)
        ),
    )
    assert not torch.equal(first, apply(waves, make.gather(draws(40, 9), SAMPLES)))


@pytest.mark.parametrize("name", SETS)
def test_without_a_distortion_no_bit_changes(name):
    waves, u = crops(200), draws(200)
    before = waves.clone()
    got = apply(waves, augmenter(name, 0.4).gather(u, SAMPLES))
    off = torch.from_numpy(u[:, reference.GATE] >= 0.4)
    assert 80 < off.sum() < 160
    assert torch.equal(got[off], before[off])
    assert torch.equal(waves, before)  # apply is pure
    assert got.data_ptr() != waves.data_ptr()


def test_in_place_is_the_same_without_a_copy():
    waves, noises = crops(50), augmenter(volume_prob=0.5).gather(draws(50), SAMPLES)
    expected = apply(waves, noises)
    result = apply_in_place(waves, noises)
    assert result is waves and torch.equal(waves, expected)


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 200])
def test_gathering_and_distorting_at_once(rows):
    make, waves, u = augmenter(prob=0.8, volume_prob=0.5), crops(rows), draws(rows)
    expected = apply(waves, make.gather(u, SAMPLES))
    result = make.augment(waves, u)
    assert result is waves and result.shape == (rows, SAMPLES)
    assert_close(result, expected.numpy(), 1e-6)


def test_nothing_drawn_and_nothing_to_draw():
    waves = crops(5)
    for make in (augmenter(prob=1.0), Augmenter(AugmentSettings())):
        assert apply(waves[:0], make.gather(draws(0), SAMPLES)).shape == (0, SAMPLES)
    u = draws(5)
    noises = Augmenter(AugmentSettings()).gather(u, SAMPLES)
    assert isinstance(noises, Noises) and not noises.additive and not noises.responses
    assert torch.equal(apply(waves, noises), waves)


@pytest.mark.parametrize("wave_level", [0.0, 1e-5, 1e-2, 0.3])
def test_the_measured_ratio_is_the_drawn_one(wave_level):
    """With the floor of -40 dB that both energies have."""
    waves = crops(400)
    waves = waves / waves.square().mean(1, keepdim=True).sqrt() * wave_level
    u = draws(400)
    u[:, reference.KIND] = 0.3  # one noise
    noises = augmenter().gather(u, SAMPLES)
    (part,) = noises.additive
    added = (apply(waves, noises) - waves).double().numpy()
    expected = np.empty(400)
    for row, length, level, samples in zip(
        *(t.numpy() for t in (part.rows, part.lengths, part.levels, part.samples)), strict=True
    ):
        noise = samples / 32768.0
        power = np.sum(noise**2) / length
        expected[row] = (wave_level**2 + 1e-4) * level**2 * power / (power + 1e-4)
    measured = np.sum(added**2, axis=1)
    lengths = dict(zip(part.rows.tolist(), part.lengths.tolist(), strict=True))
    measured /= np.array([lengths[row] for row in range(400)])
    np.testing.assert_allclose(measured, expected, rtol=2e-4, atol=1e-12)


def additive_only(signal, noise, snr):
    """Add constant noise to constant signal, both (S,), through the public types."""

    class Constant(Source):
        def pieces(self, category):
            return np.array([[0, len(noise)]])

        def read(self, first, length):
            return noise[first : first + length]

    u = draws(1)
    u[:, [reference.KIND, reference.SPAN]] = 0.3, 0
    u[:, reference.FIRST_NOISE + 1] = snr / 15
    make = Augmenter(AugmentSettings(noise_prob=1.0), Constant())
    wave = torch.from_numpy(signal)[None]
    return (apply(wave, make.gather(u, len(signal))) - wave)[0].numpy()


def test_worked_noise_gain():
    added = additive_only(np.full(1000, 0.1, np.float32), np.full(700, 6554, np.int16), 10)
    np.testing.assert_allclose(added, 0.158704 * 0.2, rtol=1e-4)


def test_silence_has_the_energy_of_the_floor():
    silent = np.zeros(500, np.float32)
    assert np.all(additive_only(silent, np.zeros(700, np.int16), 3) == 0)
    quiet = additive_only(silent, np.full(700, 3277, np.int16), 0)  # 0.1, or -20 dB
    np.testing.assert_allclose(quiet, 0.1 * np.sqrt(1e-4 / (0.01 + 1e-4)), rtol=1e-3)


def test_a_unit_impulse_reverberates_nothing():
    class Impulse(Source):
        def recordings(self, category):
            return np.array([[0, 1, 1], [0, 50, 1], [0, 30000, 1]])

        def read(self, first, length):
            return np.concatenate([[9830], np.zeros(length - 1)]).astype(np.int16)

    waves, u = crops(30), draws(30)
    u[:, reference.KIND] = 0
    noises = Augmenter(AugmentSettings(noise_prob=1.0), Impulse()).gather(u, SAMPLES)
    assert_close(apply(waves, noises), waves.numpy(), 1e-6)


def test_a_response_longer_than_the_crop_is_normalised_as_a_whole():
    """Energy beyond the crop counts although it does not reach it."""

    class Late(Source):
        def recordings(self, category):
            return np.array([[0, 5000, 1]])

        def read(self, first, length):
            response = np.zeros(5000, np.int16)
            response[[0, 4000]] = 3000, 4000
            return response

    waves, u = crops(3), draws(3)
    u[:, reference.KIND] = 0
    noises = Augmenter(AugmentSettings(noise_prob=1.0), Late()).gather(u, SAMPLES)
    assert_close(apply(waves, noises), 0.6 * waves.numpy(), 1e-6)


def test_wespeaker_peaks_are_just_below_1():
    waves = crops(100)
    got = apply(waves, augmenter("wespeaker").gather(draws(100), SAMPLES)).abs().amax(1)
    assert got.max() < 1 and got.min() > 0.9


def test_volume_is_uniform_in_decibels_and_the_last_but_the_telephone():
    u = draws(4000)
    make = Augmenter(AugmentSettings(volume_prob=0.5, volume_db=6.0))
    waves = torch.ones(4000, 3)
    decibels = 20 * np.log10(apply(waves, make.gather(u, 3)).numpy())
    assert np.allclose(decibels, decibels[:, :1])
    changed = decibels[:, 0] != 0
    assert abs(changed.sum() - 2000) < 4 * np.sqrt(1000)
    counts, _ = np.histogram(decibels[changed, 0], 6, (-6, 6))
    assert counts.sum() == changed.sum()
    expected = changed.sum() / 6
    assert ((counts - expected) ** 2 / expected).sum() < 25.74
    both = augmenter("wespeaker", volume_prob=1.0, volume_db=6.0)
    alone = apply(crops(20), augmenter("wespeaker").gather(u[:20], SAMPLES))
    gains = torch.from_numpy(10 ** (6 * (2 * u[:20, 9] - 1) / 20)).float()
    louder = apply(crops(20), both.gather(u[:20], SAMPLES))
    torch.testing.assert_close(louder, alone * gains[:, None])


def test_the_telephone_comes_last():
    from wesp_lap.audio.codec import telephone

    make = augmenter(codec_prob=0.5, volume_prob=1.0)
    waves, u = crops(40), draws(40)
    before = apply(waves, augmenter(volume_prob=1.0).gather(u, SAMPLES))
    got = apply(waves, make.gather(u, SAMPLES))
    sent = torch.from_numpy(u[:, 10] < 0.5)
    assert torch.equal(got[~sent], before[~sent])
    torch.testing.assert_close(got[sent], telephone(before[sent]))


def test_noises_travel_to_a_device_and_through_a_loader_process():
    noises = augmenter(volume_prob=0.5).gather(draws(20), SAMPLES)
    waves = crops(20)
    assert torch.equal(apply(waves, noises.to("cpu")), apply(waves, noises))
    assert all(tensor.is_meta for group in noises.to("meta").additive for tensor in group)
    dataset = [(waves, noises)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1)
    ((sent_waves, sent),) = list(loader)
    assert torch.equal(apply(sent_waves, sent), apply(waves, noises))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SETS)
def test_a_gpu_gives_the_same(name):
    waves, noises = crops(200), augmenter(name, 0.8, volume_prob=0.5).gather(draws(200), SAMPLES)
    got = apply(waves.cuda(), noises.to("cuda")).cpu()
    assert_close(got, apply(waves, noises).numpy(), 1e-5)
