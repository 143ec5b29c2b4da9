"""Cosine scores of lists against a loop over the trials."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from wesp_lap.errors import DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring import cosine
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import Embeddings


def embeddings(prefix, count, dim=16, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(count, dim)) + 1
    return Embeddings(
        [f"{prefix}{i}" for i in range(count)], matrix.astype(np.float32), f"{prefix}.scp"
    )


def trials_between(enroll, test, count, seed=1):
    random = np.random.default_rng(seed)
    return Trials(
        [str(key) for key in random.choice(enroll.keys, count)],
        [str(key) for key in random.choice(test.keys, count)],
        None,
    )


def brute_force(trials, enroll, test, mean):
    scores = []
    shift = 0 if mean is None else mean.astype(np.float64)
    for one, other in zip(trials.enroll, trials.test, strict=True):
        e = enroll.matrix[enroll.keys.index(one)].astype(np.float64) - shift
        t = test.matrix[test.keys.index(other)].astype(np.float64) - shift
        scores.append(e @ t / np.linalg.norm(e) / np.linalg.norm(t))
    return np.array(scores)


@pytest.mark.parametrize("block", [1, 7, 16_384])
@pytest.mark.parametrize("same_set", [True, False])
@pytest.mark.parametrize("use_mean", [True, False])
def test_equals_a_loop_over_the_trials(monkeypatch, block, same_set, use_mean):
    monkeypatch.setattr(cosine, "_BLOCK_TRIALS", block)
    enroll = embeddings("e", 40)
    test = enroll if same_set else embeddings("t", 30, seed=5)
    mean = enroll.mean() if use_mean else None
    trials = trials_between(enroll, test, 100)
    scores = score_trials(trials, enroll, test, mean)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, brute_force(trials, enroll, test, mean), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_lengths_far_from_one_change_nothing(scale):
    enroll = embeddings("e", 20)
    trials = trials_between(enroll, enroll, 50)
    scaled = Embeddings(enroll.keys, enroll.matrix * np.float32(scale))
    expected = brute_force(trials, enroll, enroll, enroll.mean())
    scores = score_trials(trials, scaled, scaled, scaled.mean())
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_threads_change_nothing():
    enroll = embeddings("e", 40)
    trials = trials_between(enroll, enroll, 100)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(score_trials(trials, enroll, enroll, enroll.mean()))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_swapping_the_sides_changes_nothing():
    enroll, test = embeddings("e", 10), embeddings("t", 10, seed=5)
    trials = trials_between(enroll, test, 50)
    swapped = Trials(trials.test, trials.enroll, None)
    np.testing.assert_array_equal(
        score_trials(trials, enroll, test), score_trials(swapped, test, enroll)
    )


def test_an_utterance_against_itself_scores_one():
    one = embeddings("e", 5)
    scores = score_trials(Trials(one.keys, one.keys, None), one, one, one.mean())
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_missing_keys_of_a_side_are_named():
    enroll, test = embeddings("e", 3), embeddings("t", 3)
    with pytest.raises(DataError, match=r"t\.scp: no embedding for 2 of 3 names: e0, x"):
        score_trials(Trials(["e0", "e1", "e2"], ["t0", "e0", "x"], None), enroll, test)
    with pytest.raises(DataError, match=r"e\.scp: no embedding for 1 of 1 names: t0"):
        score_trials(Trials(["t0"], ["t0"], None), enroll, test)


def test_unequal_widths_name_both_sets():
    enroll, test = embeddings("e", 3, dim=16), embeddings("t", 3, dim=8)
    with pytest.raises(DataError, match=r"e\.scp: embeddings have 16 dimensions, t\.scp has 8"):
        score_trials(Trials(["e0"], ["t0"], None), enroll, test)
    with pytest.raises(DataError, match="16 dimensions, the mean has 4"):
        score_trials(Trials(["e0"], ["e1"], None), enroll, enroll, np.zeros(4))
