"""What augmentation draws: how often, how loud, how long, and where."""

import pickle

import augment_reference as reference
import numpy as np
import pytest
import torch
from augment_reference import Source

from wesp_lap.audio.augment import DRAWS, Augmenter, AugmentSettings
from wesp_lap.audio.augment_sets import SETS

SAMPLES = 1000
SNR = {"noise": (0, 15), "music": (5, 15), "speech": (13, 20)}
# Quantiles of chi-square by degrees of freedom: 1 in 10,000 correct samplers would be refused.
CRITICAL = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51, 5: 25.74, 9: 33.72}


def assert_shares(counts, shares=None):
    """Check counts of draws against their probabilities (Pearson's chi-square)."""
    counts = np.asarray(counts)
    shares = np.full(len(counts), 1 / len(counts)) if shares is None else np.asarray(shares)
    expected = shares * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < CRITICAL[len(counts) - 1], counts


def assert_uniform(values, low, high):
    assert low <= values.min() and values.max() <= high
    assert_shares(np.histogram(values, 10, (low, high))[0])


class Levels(Source):
    """Every recording of a category holds one value, so that a noise tells where it comes from."""

    values = {"noise": 100, "music": 200, "speech": 300}  # noqa: RUF012 - a constant

    def __init__(self):
        super().__init__()
        for category, value in self.values.items():
            for first, length, _ in self.tables[category]:
                self.samples[first : first + length] = value


def gathered(name, rows=6000, seed=1, source=None, **columns):
    """Return draws, and by row what was gathered: response length or the list of noises."""
    u = np.random.default_rng(seed).random((rows, DRAWS))
    for column, value in columns.items():
        u[:, getattr(reference, column)] = value
    make = Augmenter(AugmentSettings(set=name, noise_prob=1.0), source or Levels())
    noises = make.gather(u, SAMPLES)
    found = [[] for _ in range(rows)]
    for group in noises.responses:
        for row in group.rows.tolist():
            found[row].append(("rir",))
    names = {value: category for category, value in Levels.values.items()}
    for order, part in enumerate(noises.additive):
        columns = (part.rows, part.lengths, part.levels, part.samples)
        for row, length, level, samples in zip(*(c.numpy() for c in columns), strict=True):
            start = int(np.flatnonzero(samples)[0])
            assert np.count_nonzero(samples) == length
            snr = -20 * np.log10(level)
            found[row].append((names[samples[start]], int(length), start, float(snr), order))
    return u, found


def same(one, other):
    """Compare all tensors of two Noises."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(map(same, one, other))


def kind_of(noises):
    names = [noise[0] for noise in noises]
    return "+".join(dict.fromkeys(names)) or "clean"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("lap", ("rir", "noise", "music", "speech", "speech+music")),
        ("mhfa", ("clean", "rir", "music", "speech", "noise", "speech+music")),
    ],
)
def test_the_kinds_of_a_set_are_equally_likely(name, kinds):
    _, found = gathered(name)
    got = [kind_of(noises) for noises in found]
    assert set(got) == set(kinds)
    assert_shares([got.count(kind) for kind in kinds])


def test_wespeaker_takes_responses_half_the_time_and_else_any_recording_alike():
    _, found = gathered("wespeaker")
    got = [kind_of(noises) for noises in found]
    assert all(len(noises) == 1 for noises in found)
    assert_shares([got.count("rir"), 6000 - got.count("rir")])
    # 3 recordings of noise, 2 of music, 6 of speech
    shares = np.array([3, 2, 6]) / 11
    assert_shares([got.count(kind) for kind in ("noise", "music", "speech")], shares)


@pytest.mark.parametrize("prob", [0.0, 0.25, 0.6, 1.0])
def test_the_gate_opens_with_its_probability(prob):
    u = np.random.default_rng(0).random((4000, DRAWS))
    noises = Augmenter(AugmentSettings(noise_prob=prob), Source()).gather(u, 10)
    groups = [*noises.responses, *noises.additive]
    rows = np.unique(np.concatenate([np.empty(0), *(group.rows.numpy() for group in groups)]))
    assert set(rows) == set(np.flatnonzero(u[:, reference.GATE] < prob))
    assert abs(len(rows) - 4000 * prob) <= 4 * np.sqrt(4000 * prob * (1 - prob))


@pytest.mark.parametrize(("name", "counts"), [("lap", (4, 7)), ("mhfa", (3, 8))])
def test_voices_are_counted_and_levelled(name, counts):
    _, found = gathered(name, KIND=0.55 if name == "mhfa" else 0.7)
    assert {kind_of(noises) for noises in found} == {"speech"}
    lengths = [len(noises) for noises in found]
    low, high = counts
    assert_shares(np.bincount(lengths, minlength=high + 1)[low:])
    assert set(lengths) == set(range(low, high + 1))
    assert_uniform(np.array([noise[3] for noises in found for noise in noises]), 13, 20)
    spread = np.mean([np.ptp([noise[3] for noise in noises]) for noises in found])
    assert spread > 3  # each voice has a level of its own


@pytest.mark.parametrize(
    ("name", "kind", "category", "snr"),
    [
        ("lap", 0.3, "noise", (0, 15)),
        ("lap", 0.5, "music", (5, 15)),
        ("mhfa", 0.7, "noise", (0, 15)),
        ("mhfa", 0.4, "music", (5, 15)),
        ("wespeaker", 0.6, "noise", (0, 15)),
        ("wespeaker", 0.6, "music", (5, 15)),
        ("wespeaker", 0.6, "speech", (10, 30)),
    ],
)
def test_levels_of_one_recording(name, kind, category, snr):
    _, found = gathered(name, KIND=kind)
    assert all(len(noises) == 1 for noises in found)
    levels = np.array([noises[0][3] for noises in found if noises[0][0] == category])
    assert len(levels) > 500
    assert_uniform(levels, snr[0] - 1e-5, snr[1] + 1e-5)


@pytest.mark.parametrize("kind", [0.3, 0.5, 0.7])
def test_lap_noises_cover_all_half_or_a_third(kind):
    _, found = gathered("lap", KIND=kind)
    classes = {"all": 0, "half": 0, "third": 0}
    for noises in found:
        names = set()
        for _, length, start, _, _ in noises:
            name = "all" if length == 1000 else "half" if length >= 400 else "third"
            assert (
                length in {"all": [1000], "half": range(400, 600), "third": range(200, 400)}[name]
            )
            assert 0 <= start <= 1000 - length
            names.add(name)
        assert len(names) == 1  # one class for all voices
        classes[names.pop()] += 1
    assert_shares(list(classes.values()))
    for low, high in ((400, 600), (200, 400)):
        some = [noise for noises in found for noise in noises if low <= noise[1] < high]
        assert_uniform(np.array([noise[1] for noise in some]), low, high)
        assert_uniform(np.array([noise[2] / (1000 - noise[1] + 1) for noise in some]), 0, 1)


@pytest.mark.parametrize("name", ["wespeaker", "mhfa"])
def test_other_sets_cover_the_whole_crop(name):
    _, found = gathered(name, 500)
    assert {noise[1] for noises in found for noise in noises if len(noise) > 1} == {1000}


@pytest.mark.parametrize(("name", "voices"), [("lap", (4, 7)), ("mhfa", (3, 8))])
def test_television_is_babble_and_then_music_over_the_full_crop(name, voices):
    _, found = gathered(name, KIND=0.9)
    assert {kind_of(noises) for noises in found} == {"speech+music"}
    counts = np.bincount([len(noises) - 1 for noises in found], minlength=voices[1] + 1)
    assert counts[: voices[0]].sum() == 0
    assert_shares(counts[voices[0] :])
    noises = [noise for noises in found for noise in noises]
    assert {noise[1] for noise in noises} == {1000}
    for category, order in (("speech", 0), ("music", 1)):
        some = [noise for noise in noises if noise[0] == category]
        assert {noise[4] for noise in some} == {order}
        assert_uniform(
            np.array([noise[3] for noise in some]), *(SNR[category] + np.array([-1e-5, 1e-5]))
        )


class Ramp(Source):
    """Noises whose samples tell their positions, and responses that tell which they are."""

    def __init__(self, pieces, responses=((0, 1, 1),)):
        super().__init__()
        self.samples = np.arange(30000, dtype=np.int16)
        self.tables = dict.fromkeys(("noise", "music", "speech"), np.array(pieces))
        self.tables |= dict.fromkeys(("rir", "simulated_rir"), np.array(responses))

    def pieces(self, category):
        return self.tables[category][:, :2]


def test_pieces_are_drawn_alike_and_cropped_anywhere():
    rng = np.random.default_rng(0)
    u = rng.random((6000, DRAWS))
    u[:, [reference.KIND, reference.SPAN]] = 0.3, 0
    make = Augmenter(
        AugmentSettings(noise_prob=1.0), Ramp([[1000, 104, 1], [5000, 108, 1], [9000, 40, 1]])
    )
    (part,) = make.gather(u, 100).additive
    samples = part.samples.numpy()
    first = samples[:, 0]
    assert_shares([np.sum(first // 1000 == number) for number in (1, 5, 9)])
    assert_shares(np.bincount(first[first // 1000 == 1] - 1000, minlength=5))
    assert set(first[first // 1000 == 5] - 5000) == set(range(9))
    for row in samples[:50]:
        length = 40 if row[0] == 9000 else 100
        np.testing.assert_array_equal(row, np.resize(row[0] + np.arange(length), 100))


def test_responses_are_drawn_alike_and_then_one_of_their_channels():
    u = np.random.default_rng(0).random((6000, DRAWS))
    u[:, reference.KIND] = 0
    responses = [[1000, 10, 1], [2000, 20, 3], [3000, 30, 2]]
    make = Augmenter(AugmentSettings(noise_prob=1.0), Ramp([[0, 9, 1]], responses))
    first = np.concatenate([g.samples[:, 0].numpy() for g in make.gather(u, 100).responses])
    assert_shares([np.sum(first // 1000 == number) for number in (1, 2, 3)])
    assert_shares([np.sum(first == start) for start in (2000, 2020, 2040)])
    assert_shares([np.sum(first == start) for start in (3000, 3030)])
    assert np.isin(first, [1000, 2000, 2020, 2040, 3000, 3030]).all()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "value", [0.0, np.nextafter(1, 0), float(np.float32(1) - np.float32(2**-24))]
)
def test_extreme_draws_stay_inside(name, value):
    make = Augmenter(AugmentSettings(set=name, noise_prob=1.0), Source())
    for kind in (0.05, 0.3, 0.5, 0.7, 0.9):
        u = np.full((2, DRAWS), value)
        u[:, [reference.GATE, reference.KIND]] = 0, kind
        for samples in (1, 1000):
            make.gather(u, samples)  # the source refuses what lies outside


def test_single_precision_draws_are_as_good():
    u = np.random.default_rng(0).random((50, DRAWS), dtype=np.float32)
    make = Augmenter(AugmentSettings(noise_prob=1.0), Source())
    for one, other in zip(
        make.gather(u, 50).additive, make.gather(u.astype(float), 50).additive, strict=True
    ):
        assert all(map(np.array_equal, one, other))


@pytest.mark.parametrize("name", SETS)
def test_every_column_decides_one_thing(name):
    """Speed and crop, columns 0 and 1, are not used again; no column outside is read."""
    make = Augmenter(
        AugmentSettings(set=name, noise_prob=0.7, volume_prob=0.5, codec_prob=0.5), Source()
    )
    u = np.random.default_rng(0).random((100, DRAWS))
    other = u.copy()
    other[:, [0, 1, *range(11, 16), *range(61, 64)]] = 0.5
    assert same(make.gather(u, 200), make.gather(other, 200))
    for column in (2, 3, 9):
        other = u.copy()
        other[:, column] = 1 - u[:, column]
        assert not same(make.gather(u, 200), make.gather(other, 200))


def test_an_augmenter_travels_to_another_process():
    make = Augmenter(AugmentSettings(noise_prob=0.6), Source())
    u = np.random.default_rng(0).random((20, DRAWS))
    sent = pickle.loads(pickle.dumps(make))
    assert same(make.gather(u, 300), sent.gather(u, 300))
