"""Confidence intervals: equal to a plain loop over resampled lists, and wide enough."""

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring import metrics
from wesp_lap.scoring.bootstrap import Resampling, bootstrap, trial_speakers
from wesp_lap.seeding import generator


def trials_of(speakers, seed, count=600, shift=2.0, decimals=None, voice=0.6):
    """Scores with an effect of both speakers, half of them targets."""
    random = np.random.default_rng(seed)
    pairs = random.integers(speakers, size=(count, 2))
    pairs[::2, 1] = pairs[::2, 0]
    labels = (pairs[:, 0] == pairs[:, 1]).astype(np.int8)
    voices = voice * random.normal(size=speakers)
    scores = random.normal(size=count) + shift * labels + voices[pairs].sum(axis=1)
    return (scores if decimals is None else scores.round(decimals)), labels, pairs


def plain_intervals(scores, labels, pairs, count, seed, p_targets, method, c_miss, c_fa):
    """Write every resampled list out and measure it."""
    random, size = generator(seed), pairs.max() + 1
    values = []
    for _ in range(count):
        drawn = list(random.integers(size, size=size))
        rows = []
        for row, (one, other) in enumerate(pairs):
            times = drawn.count(one) * (1 if one == other else drawn.count(other))
            rows += [row] * times
        chosen = scores[rows], labels[rows]
        if len(set(chosen[1])) == 2:
            values.append(
                [metrics.eer(*chosen, method)]
                + [metrics.min_dcf(*chosen, p, c_miss, c_fa) for p in p_targets]
            )
    return np.quantile(values, [0.05, 0.95], axis=0).T, len(values)


@pytest.mark.parametrize("method", ["crossing", "convex_hull"])
@pytest.mark.parametrize(
    "speakers, decimals, shift, count",
    [(12, None, 2, 300), (12, 0, 1, 300), (5, 1, 2, 120), (12, 0, -1, 200), (20, None, 9, 300)],
)
def test_intervals_equal_a_plain_loop_over_resampled_lists(
    speakers, decimals, shift, count, method
):
    scores, labels, pairs = trials_of(speakers, 3, count, shift, decimals)
    expected, kept = plain_intervals(scores, labels, pairs, 30, 5, (0.05, 0.5), method, 2, 1)
    got = bootstrap(scores, labels, pairs, Resampling(30, 0.9, 5), (0.05, 0.5), 2.0, 1.0, method)
    assert (got.resamples, got.speakers) == (kept, speakers)
    np.testing.assert_allclose([got.eer, got.min_dcf[0.05], got.min_dcf[0.5]], expected, atol=1e-12)


def test_large_lists_equal_the_plain_measure_too():
    # More thresholds than are looked at first around the crossing, and long runs of one kind.
    scores, labels, pairs = trials_of(40, 1, 20_000, 2.0)
    draws = generator(9).integers(40, size=(3, 40))
    expected = []
    for drawn in draws:
        counts = np.bincount(drawn, minlength=40)
        target = pairs[:, 0] == pairs[:, 1]
        times = counts[pairs[:, 0]] * np.where(target, 1, counts[pairs[:, 1]])
        rows = np.repeat(np.arange(len(scores)), times)
        expected.append(metrics.eer(scores[rows], labels[rows]))
    got = bootstrap(scores, labels, pairs, Resampling(3, 0.999999, 9)).eer
    np.testing.assert_allclose(got, [min(expected), max(expected)], rtol=1e-6)


def test_order_of_the_trials_does_not_matter_and_the_seed_does():
    scores, labels, pairs = trials_of(10, 0, decimals=1)
    order = np.random.default_rng(1).permutation(len(scores))
    first = bootstrap(scores, labels, pairs, Resampling(50, seed=1))
    assert bootstrap(scores[order], labels[order], pairs[order], Resampling(50, seed=1)) == first
    assert bootstrap(scores, labels, pairs, Resampling(50, seed=2)) != first
    wider = bootstrap(scores, labels, pairs, Resampling(50, 0.99, 1))
    assert wider.eer[0] <= first.eer[0] <= first.eer[1] <= wider.eer[1]
    estimate = metrics.eer(scores, labels)
    assert first.eer[0] < estimate < first.eer[1]


def coverage(make_interval, truth, simulations):
    hits = 0
    for seed in range(simulations):
        low, high = make_interval(*trials_of(30, 1000 + seed, 1500, 3.0))
        hits += low <= truth <= high
    return hits / simulations


def test_ninety_per_cent_intervals_hold_the_truth_about_that_often():
    # The rate of the population, from as many speakers as there are trials.
    truth = metrics.eer(*trials_of(100_000, 7, 200_000, 3.0)[:2])
    options = Resampling(100, 0.9, 0)
    by_speaker = coverage(lambda *t: bootstrap(*t, options).eer, truth, 60)

    def by_trial(scores, labels, pairs):
        random, rates = np.random.default_rng(0), []
        for _ in range(100):
            rows = random.integers(len(scores), size=len(scores))
            rates.append(metrics.eer(scores[rows], labels[rows]))
        return np.quantile(rates, [0.05, 0.95])

    assert 0.82 <= by_speaker <= 1
    # Trials drawn as if they were independent give intervals that are far too short.
    assert coverage(by_trial, truth, 20) < by_speaker - 0.15


def test_speakers_come_from_utterances_or_stand_for_themselves():
    utt2spk = {"a-1": "a", "a-2": "a", "b-1": "b", "z-1": "z"}
    numbers, count = trial_speakers(Trials(["a-1", "b"], ["a-2", "a-1"]), utt2spk)
    assert numbers.tolist() == [[0, 0], [1, 0]] and count == 2
    trials = Trials([f"x{i}" for i in range(7)], ["a-1"] * 7)
    with pytest.raises(DataError, match=r"7 ids .*: x0, x1, x2, x3, x4, \.\.\.\nGive an utt2spk"):
        trial_speakers(trials, utt2spk)


def test_what_cannot_be_resampled_is_named():
    scores, labels, pairs = trials_of(10, 0)
    with pytest.raises(DataError, match=r"labels of 600 of 600 trials contradict the speakers"):
        bootstrap(scores, 1 - labels, pairs, Resampling(10))
    two = np.array([0.9, 0.1, 0.8]), np.array([1, 0, 1]), np.array([[0, 0], [0, 1], [1, 1]])
    with pytest.raises(DataError, match=r"draws from 2 speakers have no target or no non-target"):
        bootstrap(*two, Resampling(100, seed=1))
    with pytest.raises(DataError, match="no labels"):
        bootstrap(scores, None, pairs, Resampling(10))
    with pytest.raises(ConfigError, match="at least 2 resamples, got 1"):
        Resampling(1)
    with pytest.raises(ConfigError, match="between 0 and 1, got 95"):
        Resampling(confidence=95)


def test_draws_without_both_kinds_are_left_out_and_counted(caplog):
    scores, labels, pairs = trials_of(3, 0, 60)
    with caplog.at_level("WARNING", logger="wesp_lap"):
        found = bootstrap(scores, labels, pairs, Resampling(200))
    assert 100 < found.resamples < 200
    assert f"{200 - found.resamples} of 200 draws from 3 speakers left out" in caplog.text
