"""AS-norm and S-norm against worked numbers, a full sort per trial, and invariances."""

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import EmbeddingFile, Embeddings
from wesp_lap.scoring.norm import score_norm

ENROLL_COSINES = [0.4, 0.3, 0.2, 0.1, 0.0]
TEST_COSINES = [0.6, 0.2, 0.1, -0.1, -0.3]


def embeddings(prefix, count, dim=12, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(count, dim)) + 0.5
    return Embeddings(
        [f"{prefix}{i}" for i in range(count)], matrix.astype(np.float32), f"{prefix}.scp"
    )


def random_case(same_set=False):
    enroll = embeddings("e", 20)
    test = enroll if same_set else embeddings("t", 15, seed=1)
    random = np.random.default_rng(2)
    trials = Trials(
        [str(key) for key in random.choice(enroll.keys, 60)],
        [str(key) for key in random.choice(test.keys, 60)],
        None,
    )
    return trials, enroll, test, embeddings("c", 50, seed=3), enroll.mean()


def worked_case():
    """One trial whose cohort cosines are given numbers: the cohort is a basis."""
    vectors = [
        [*cosines, np.sqrt(1 - np.sum(np.square(cosines)))]
        for cosines in (ENROLL_COSINES, TEST_COSINES)
    ]
    sides = [
        Embeddings([key], np.array([vector], np.float32))
        for key, vector in zip("et", vectors, strict=True)
    ]
    cohort = Embeddings([f"c{i}" for i in range(5)], np.eye(5, 6, dtype=np.float32))
    return Trials(["e"], ["t"], None), *sides, cohort


def brute_force(scores, trials, enroll, test, cohort, mean, top_n, ddof):
    def unit(vector):
        vector = vector.astype(np.float64) - mean
        return vector / np.linalg.norm(vector)

    cohort_unit = [unit(vector) for vector in cohort.matrix]
    normalised = []
    for score, one, other in zip(scores, trials.enroll, trials.test, strict=True):
        total = 0
        for side, key in ((enroll, one), (test, other)):
            vector = unit(side.matrix[side.keys.index(key)])
            top = sorted((vector @ entry for entry in cohort_unit), reverse=True)[:top_n]
            total += (score - np.mean(top)) / np.std(top, ddof=ddof)
        normalised.append(total / 2)
    return np.array(normalised)


@pytest.mark.parametrize("ddof, expected", [(1, 1.377964), (0, 1.687655)])
def test_worked_example(ddof, expected):
    trials, enroll, test, cohort = worked_case()
    got, statistics = score_norm(
        np.array([0.5]), trials, enroll, test, cohort, None, 3, std_ddof=ddof
    )
    assert got[0] == pytest.approx(expected, abs=1e-5)
    assert statistics.enroll_mean[0] == pytest.approx(0.3)
    assert statistics.test_mean[0] == pytest.approx(0.3)
    assert statistics.enroll_norm[0] == pytest.approx(1)


def test_snorm_takes_the_whole_cohort():
    trials, enroll, test, cohort = worked_case()
    got, _ = score_norm(np.array([0.5]), trials, enroll, test, cohort, None, 2, method="snorm")
    by_hand = [
        (0.5 - np.mean(cosines)) / np.std(cosines, ddof=1)
        for cosines in (ENROLL_COSINES, TEST_COSINES)
    ]
    assert got[0] == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize("top_n, ddof", [(2, 1), (10, 1), (10, 0), (50, 1)])
@pytest.mark.parametrize("same_set", [True, False])
def test_equals_a_full_sort_per_trial(same_set, top_n, ddof):
    trials, enroll, test, cohort, mean = random_case(same_set)
    scores = score_trials(trials, enroll, test, mean)
    got, _ = score_norm(scores, trials, enroll, test, cohort, mean, top_n, std_ddof=ddof)
    expected = brute_force(scores, trials, enroll, test, cohort, mean, top_n, ddof)
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)


def test_shifting_everything_with_the_mean_and_swapping_change_nothing():
    trials, enroll, test, cohort, mean = random_case()
    scores = score_trials(trials, enroll, test, mean)
    before, _ = score_norm(scores, trials, enroll, test, cohort, mean, 10)
    shift = np.float32(3)
    moved = [Embeddings(one.keys, one.matrix + shift) for one in (enroll, test, cohort)]
    after, _ = score_norm(scores, trials, *moved, mean + shift, 10)
    np.testing.assert_allclose(after, before, atol=1e-3)
    swapped = Trials(trials.test, trials.enroll, None)
    np.testing.assert_allclose(
        score_norm(scores, swapped, test, enroll, cohort, mean, 10)[0], before, atol=1e-6
    )


def test_small_cohort_says_which_top_n_fits():
    trials, enroll, test, cohort, mean = random_case()
    scores = np.zeros(len(trials.test))
    with pytest.raises(DataError, match=r"50 usable entries, fewer than top_n = 300\n.*top_n 50 "):
        score_norm(scores, trials, enroll, test, cohort, mean, 300)
    with pytest.raises(ConfigError, match="at least 2"):
        score_norm(scores, trials, enroll, test, cohort, mean, 1)
    with pytest.raises(ConfigError, match=r"zsnorm.*asnorm, snorm"):
        score_norm(scores, trials, enroll, test, cohort, mean, 2, method="zsnorm")
    with pytest.raises(DataError, match="59 scores do not fit 60 trials"):
        score_norm(scores[1:], trials, enroll, test, cohort, mean, 2)
    with pytest.raises(DataError, match=r"e\.scp: embeddings have 12 dimensions, c\.scp has 5"):
        score_norm(scores, trials, enroll, test, embeddings("c", 9, dim=5), None, 2)


@pytest.mark.parametrize("method", ["asnorm", "snorm"])
def test_cohort_of_copies_names_utterances(method):
    trials, enroll, test, _, _ = random_case()
    copies = Embeddings([f"c{i}" for i in range(6)], np.ones((6, 12), np.float32))
    with pytest.raises(DataError, match=r"(?s)no spread: e0, e1.*copies"):
        score_norm(np.zeros(60), trials, enroll, test, copies, None, 5, method=method)
    with pytest.raises(DataError, match="cohort has 1 usable entries"):
        one = Embeddings(["c"], np.ones((1, 12), np.float32))
        score_norm(np.zeros(60), trials, enroll, test, one, None, 5, method=method)


@pytest.mark.parametrize("method", ["asnorm", "snorm"])
def test_a_cohort_read_in_blocks_gives_the_same(tmp_path, method):
    trials, enroll, test, cohort, mean = random_case()
    with VectorWriter(tmp_path / "cohort") as writer:
        for key, vector in zip(cohort.keys, cohort.matrix, strict=True):
            writer.write(key, vector)
    scores = score_trials(trials, enroll, test, mean)
    expected, _ = score_norm(scores, trials, enroll, test, cohort, mean, 10, method)
    read = EmbeddingFile(tmp_path / "cohort.scp")
    got, _ = score_norm(scores, trials, enroll, test, read, mean, 10, method)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_trials_in_the_cohort_count_and_are_warned_of(caplog):
    trials, enroll, test, cohort, mean = random_case()
    scores = score_trials(trials, enroll, test, mean)
    mixed = Embeddings(
        [*cohort.keys, *enroll.keys], np.concatenate([cohort.matrix, enroll.matrix]), "mix.scp"
    )
    with caplog.at_level("WARNING", logger="wesp_lap"):
        got, _ = score_norm(scores, trials, enroll, test, mixed, mean, 10)
    assert "mix.scp: 20 of the names in the trials are in the cohort too, as e0" in caplog.text
    expected = brute_force(scores, trials, enroll, test, mixed, mean, 10, 1)
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
