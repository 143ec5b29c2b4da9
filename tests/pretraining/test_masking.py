"""Masks of self-pre-training, beside a plain loop and enumerated cases."""

import numpy as np
import pytest
from pretraining_corpus import as_mask

from wesp_lap.pretraining.masking import MaskSettings, masked_frames
from wesp_lap.seeding import generator


def by_loops(rows, frames, settings, rng):
    """The definition, span by span, with the random numbers in the order of the real one."""
    places = frames - settings.length
    rounding = rng.random(rows)
    keys = rng.random((rows, places))
    sets = []
    for row in range(rows):
        spans = int(settings.prob * frames / settings.length + rounding[row])
        spans = min(max(spans, settings.min_spans), places)
        starts = sorted(range(places), key=lambda place, row=row: keys[row, place])[:spans]
        sets.append({start + k for start in starts for k in range(settings.length)})
    thinning = rng.random((rows, frames))
    least = min(map(len, sets))
    return [
        sorted(sorted(kept, key=lambda frame, row=row: thinning[row, frame])[:least])
        for row, kept in enumerate(sets)
    ]


@pytest.mark.parametrize(
    "rows, frames, settings",
    [
        (1, 99, MaskSettings()),
        (7, 99, MaskSettings()),
        (5, 330, MaskSettings(prob=0.65)),
        (6, 12, MaskSettings()),
        (3, 11, MaskSettings()),
        (8, 40, MaskSettings(prob=1.0, length=3, min_spans=5)),
        (4, 25, MaskSettings(prob=0.3, length=1)),
    ],
)
def test_masks_are_those_of_the_definition(rows, frames, settings):
    for seed in range(20):
        found = masked_frames(rows, frames, settings, generator(seed))
        assert found.tolist() == by_loops(rows, frames, settings, generator(seed))
        mask = as_mask(found, frames)
        assert mask.shape == (rows, frames)
        assert (mask.sum(axis=1) == found.shape[1]).all()
        assert not mask[:, -1].any() and mask.any(axis=1).all()


def test_a_row_alone_is_masked_in_runs_of_ten_frames():
    for seed in range(50):
        mask = as_mask(masked_frames(1, 199, MaskSettings(), generator(seed)), 199)[0]
        edges = np.flatnonzero(np.diff(np.pad(mask.astype(int), 1)))
        assert (edges[1::2] - edges[::2] >= 10).all()


def test_share_of_masked_frames():
    """Ten seconds: 0.8 of the frames with overlaps, of which 56.7 % remain."""
    rng = generator(3)
    shares = [masked_frames(1, 499, MaskSettings(), rng).shape[1] / 499 for _ in range(3000)]
    assert np.mean(shares) == pytest.approx(0.567, abs=0.002)


def test_the_number_of_spans_is_rounded_at_random():
    settings = MaskSettings(prob=0.5, length=1)
    rng = generator(1)
    counts = [masked_frames(1, 25, settings, rng).shape[1] for _ in range(2000)]
    assert set(counts) == {12, 13}
    assert np.mean(counts) == pytest.approx(12.5, abs=0.05)


def test_all_pairs_of_starts_are_equally_likely():
    rng = generator(2)
    found = [tuple(masked_frames(1, 13, MaskSettings(), rng)[0]) for _ in range(3000)]
    unions = [tuple(sorted({*range(a, a + 10), *range(b, b + 10)})) for a, b in ((0, 1), (1, 2))]
    unions.append(tuple(range(12)))
    assert [found.count(union) / 3000 for union in unions] == pytest.approx([1 / 3] * 3, abs=0.04)


def test_frames_are_thinned_without_preference():
    """Two rows of which one has a span more; where it is thinned depends on nothing."""
    settings = MaskSettings(prob=0.5, length=1)
    rng = generator(4)
    counts = sum(as_mask(masked_frames(2, 25, settings, rng), 25).sum(axis=0) for _ in range(3000))
    assert counts[-1] == 0
    assert counts[:-1] / counts[:-1].mean() == pytest.approx(np.ones(24), abs=0.08)


def test_equal_keys_give_equal_masks():
    one, same, other = (masked_frames(4, 99, MaskSettings(), generator(n)) for n in (1, 1, 2))
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("frames", [1, 9, 10])
def test_crops_that_would_be_masked_whole_are_refused(frames):
    with pytest.raises(ValueError, match=rf"{frames} frames are too few .* at least 11"):
        masked_frames(2, frames, MaskSettings(), generator(1))


@pytest.mark.parametrize("wrong", [{"prob": 0.0}, {"prob": 1.1}, {"length": 0}, {"min_spans": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="are needed"):
        MaskSettings(**wrong)
