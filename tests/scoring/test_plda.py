"""PLDA against Gaussians written out in full, and the properties that EM promises."""

import itertools

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring import class_statistics, plda
from wesp_lap.scoring.class_statistics import collect
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.plda import Plda, adapt, pair_llrs, train_plda

DIM = 4


def covariances(seed=0, dim=DIM):
    random = np.random.default_rng(seed)
    one, other = random.normal(size=(2, dim, dim))
    return one @ one.T, other @ other.T + 0.1 * np.eye(dim)


def sample(counts, seed=1, dim=DIM, mean=0.7):
    """Draw vectors of a known model; return them with their speaker numbers."""
    random = np.random.default_rng(seed)
    between, within = covariances(dim=dim)
    speakers = random.multivariate_normal(np.full(dim, mean), between, len(counts))
    codes = np.repeat(np.arange(len(counts)), counts)
    noise = random.multivariate_normal(np.zeros(dim), within, len(codes))
    return speakers[codes] + noise, codes


def statistics(vectors, codes):
    keys = [f"u{row}" for row in range(len(vectors))]
    return collect(Embeddings(keys, np.asarray(vectors), "x.scp"), codes)


def joint(between, within, count):
    """Covariance of ``count`` stacked vectors of one speaker."""
    return np.kron(np.ones((count, count)), between) + np.kron(np.eye(count), within)


def full_log_likelihood(vectors, codes, mean, between, within):
    total = 0.0
    for code in np.unique(codes):
        own = vectors[codes == code]
        total += multivariate_normal(
            np.tile(mean, len(own)), joint(between, within, len(own))
        ).logpdf(own.ravel())
    return total


def full_llr(enroll, test, mean, between, within):
    """ln p(all vectors, one speaker) - ln p(enroll) - ln p(test), as stacked Gaussians."""
    count = len(enroll)
    together = multivariate_normal(np.tile(mean, count + 1), joint(between, within, count + 1))
    alone = multivariate_normal(np.tile(mean, count), joint(between, within, count))
    other = multivariate_normal(mean, between + within)
    stacked = np.concatenate([enroll.ravel(), test])
    return together.logpdf(stacked) - alone.logpdf(enroll.ravel()) - other.logpdf(test)


def per_class_em(vectors, codes, iterations):
    """Kaldi's EM as its comments describe it, with matrix inverses for every speaker."""
    dim = vectors.shape[1]
    groups = [vectors[codes == code] for code in np.unique(codes)]
    mean = np.mean([group.mean(axis=0) for group in groups], axis=0)
    between, within = np.eye(dim), np.eye(dim)
    for _ in range(iterations):
        b_sum, w_sum = np.zeros((dim, dim)), np.zeros((dim, dim))
        for group in groups:
            n, m = len(group), group.mean(axis=0) - mean
            mixed = np.linalg.inv(np.linalg.inv(between) + n * np.linalg.inv(within))
            w = mixed @ (n * np.linalg.inv(within) @ m)
            offsets = group - group.mean(axis=0)
            b_sum += mixed + np.outer(w, w)
            w_sum += offsets.T @ offsets + n * (mixed + np.outer(m - w, m - w))
        between, within = b_sum / len(groups), w_sum / len(vectors)
    return mean, between, within


@pytest.mark.parametrize("block", [1, 7, 8192])
def test_statistics_equal_sums_over_each_speaker(monkeypatch, block):
    monkeypatch.setattr(class_statistics, "_BLOCK_ROWS", block)
    vectors, codes = sample([1, 5, 2, 30, 3])
    shuffled = np.random.default_rng(5).permutation(len(codes))
    vectors, codes = vectors[shuffled] + 1000, codes[shuffled]
    found = statistics(vectors, codes)
    scatter = np.zeros((DIM, DIM))
    for code in range(5):
        own = vectors[codes == code]
        np.testing.assert_allclose(found.means[code], own.mean(axis=0), rtol=1e-12)
        scatter += (own - own.mean(axis=0)).T @ (own - own.mean(axis=0))
    np.testing.assert_array_equal(found.counts, [1, 5, 2, 30, 3])
    np.testing.assert_allclose(found.scatter, scatter, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.mean(), vectors.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        found.within() + found.between(), np.cov(vectors.T, bias=True), rtol=1e-8, atol=1e-8
    )


def test_mapped_statistics_equal_those_of_mapped_vectors():
    vectors, codes = sample([3, 4, 2, 5])
    offset = np.arange(DIM) / 3
    matrix = np.random.default_rng(2).normal(size=(DIM, 2))
    mapped = statistics(vectors, codes).mapped(offset, matrix)
    again = statistics((vectors - offset) @ matrix, codes)
    np.testing.assert_allclose(mapped.means, again.means, atol=1e-12)
    np.testing.assert_allclose(mapped.scatter, again.scatter, atol=1e-12)


def test_log_likelihoods_are_those_of_stacked_gaussians_and_never_fall():
    vectors, codes = sample([1, 2, 3, 5, 2, 4, 1, 6, 3])
    for start in ("moments", "identity"):
        values = []
        for iterations in range(8):
            model, reported = train_plda(statistics(vectors, codes), iterations, start)
            full = full_log_likelihood(vectors, codes, model.mean, *model.covariances())
            assert len(reported) == iterations + 1
            assert reported[-1] == pytest.approx(full / len(vectors), rel=1e-9)
            values.append(reported[-1])
        assert np.all(np.diff(values) >= -1e-12) and values[-1] > values[0] + 1e-3
        np.testing.assert_allclose(reported, values, rtol=1e-12)


@pytest.mark.parametrize("counts", [[2] * 12, [1, 2, 3, 5, 2, 4, 1, 6, 3]])
def test_em_from_identity_equals_inverses_for_every_speaker(counts):
    vectors, codes = sample(counts)
    model, _ = train_plda(statistics(vectors, codes), 7, "identity")
    mean, between, within = per_class_em(vectors, codes, 7)
    np.testing.assert_allclose(model.mean, mean, rtol=1e-12)
    for mine, theirs in zip(model.covariances(), (between, within), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-9)


def test_many_iterations_find_the_same_model_from_both_starts():
    found = statistics(*sample([2, 3, 4, 5] * 10))
    one, first = train_plda(found, 400, "moments")
    other, second = train_plda(found, 400, "identity")
    assert first[-1] == pytest.approx(second[-1], abs=1e-7)
    np.testing.assert_allclose(one.psi, other.psi, rtol=1e-2, atol=1e-3)


def test_known_model_is_recovered_as_speakers_grow():
    errors = []
    for speakers in (30, 300, 3000):
        model, _ = train_plda(statistics(*sample([2, 4, 6] * (speakers // 3))), 20)
        pairs = zip(model.covariances(), covariances(), strict=True)
        errors.append([np.abs(m - t).max() / np.abs(t).max() for m, t in pairs])
    errors = np.array(errors)
    assert np.all(errors[2] < 0.08) and np.all(errors[2] < errors[0] / 2)


def test_directions_without_speakers_end_with_no_variance_between():
    random = np.random.default_rng(4)
    codes = np.repeat(np.arange(400), 3)
    vectors = random.normal(size=(1200, 3))
    vectors[:, 0] += 2 * random.normal(size=400)[codes]
    model, _ = train_plda(statistics(vectors, codes), 200)
    assert model.psi[0] == pytest.approx(4, rel=0.2) and np.all(model.psi[1:] < 0.1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_llr_equals_stacked_gaussians(count):
    random = np.random.default_rng(count)
    mean = random.normal(size=DIM)
    between, within = covariances(seed=3)
    model = Plda.from_covariances(mean, between, within)
    enroll = random.normal(size=(6, count, DIM)) * 2 + mean
    test = random.normal(size=(6, DIM)) * 2 + mean
    scores = pair_llrs(
        model.psi,
        model.project(enroll.mean(axis=1)),
        np.full(6, count),
        model.project(test),
        np.arange(6),
        np.arange(6),
    )
    expected = [full_llr(enroll[i], test[i], mean, between, within) for i in range(6)]
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", [1, 3, 16_384])
def test_models_of_different_sizes_in_one_list(monkeypatch, block):
    monkeypatch.setattr(plda, "_BLOCK_TRIALS", block)
    monkeypatch.setattr(plda, "_BLOCK_ROWS", block)
    random = np.random.default_rng(0)
    mean, (between, within) = np.zeros(DIM), covariances(seed=5)
    model = Plda.from_covariances(mean, between, within)
    counts = np.array([3, 1, 7, 3, 1])
    groups = [random.normal(size=(count, DIM)) for count in counts]
    test = random.normal(size=(4, DIM))
    pairs = np.array(list(itertools.product(range(5), range(4))))
    enroll = np.stack([group.mean(axis=0) for group in groups])
    projected = [model.project(side).astype(np.float32) for side in (enroll, test)]
    scores = pair_llrs(model.psi, projected[0], counts, projected[1], *pairs.T)
    expected = [full_llr(groups[e], test[t], mean, between, within) for e, t in pairs]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_single_utterances_score_the_same_both_ways():
    model = Plda.from_covariances(np.zeros(DIM), *covariances())
    one, other = model.project(np.random.default_rng(0).normal(size=(2, 9, DIM)))
    rows, ones = np.arange(9), np.ones(9, int)
    np.testing.assert_allclose(
        pair_llrs(model.psi, one, ones, other, rows, rows),
        pair_llrs(model.psi, other, ones, one, rows, rows),
        rtol=1e-10,
    )


def test_rotating_stretching_and_shifting_the_space_changes_no_score():
    vectors, codes = sample([2, 3, 4, 5, 3, 2, 6] * 3)
    trials = np.random.default_rng(8).normal(size=(2, 20, DIM))
    change = np.random.default_rng(7).normal(size=(DIM, DIM))

    def scores(move):
        model, likelihoods = train_plda(statistics(move(vectors), codes), 6)
        sides = [model.project(move(side)) for side in trials]
        rows = np.arange(20)
        ones = np.ones(20, int)
        return pair_llrs(model.psi, sides[0], ones, sides[1], rows, rows), likelihoods

    plain, likelihoods = scores(lambda x: x)
    moved, moved_likelihoods = scores(lambda x: x @ change + 5)
    np.testing.assert_allclose(moved, plain, rtol=1e-7, atol=1e-7)
    jacobian = np.log(np.abs(np.linalg.det(change)))
    np.testing.assert_allclose(np.array(moved_likelihoods) + jacobian, likelihoods, rtol=1e-7)


def test_order_of_utterances_and_names_of_speakers_do_not_matter():
    vectors, codes = sample([2, 3, 4, 5])
    order = np.random.default_rng(0).permutation(len(codes))
    one, _ = train_plda(statistics(vectors, codes))
    other, _ = train_plda(statistics(vectors[order], 3 - codes[order]))
    np.testing.assert_allclose(one.psi, other.psi, rtol=1e-9)


def test_adaptation_adds_shares_of_the_excess_and_moves_the_mean():
    mean, (between, within) = np.ones(DIM), covariances(seed=2)
    model = Plda.from_covariances(mean, between, within)
    total = between + within
    direction = np.array([1.0, -2, 0.5, 1])
    # Three times the variance in one direction of the space where the total is the identity.
    root = np.linalg.cholesky(total)
    unit = direction / np.linalg.norm(direction)
    excess = 2 * root @ np.outer(unit, unit) @ root.T
    adapted = adapt(model, mean, total + excess, within_scale=0.3, between_scale=0.7)
    b, w = adapted.covariances()
    np.testing.assert_allclose(b, between + 0.7 * excess, atol=1e-9)
    np.testing.assert_allclose(w, within + 0.3 * excess, atol=1e-9)
    same = adapt(model, mean + 1, total * 0.5, mean_diff_scale=0)
    np.testing.assert_allclose(same.mean, mean + 1)
    np.testing.assert_allclose(same.covariances()[0], between, atol=1e-9)


def test_coral_gives_the_covariance_of_the_new_data_and_keeps_psi():
    model = Plda.from_covariances(np.zeros(DIM), *covariances(seed=2))
    target = covariances(seed=9)[1]
    adapted = adapt(model, np.ones(DIM), target, "coral")
    np.testing.assert_allclose(sum(adapted.covariances()), target, atol=1e-9)
    np.testing.assert_array_equal(adapted.psi, model.psi)
    singular = np.diag([1.0, 1, 1, 0])
    with pytest.raises(DataError, match=r"(?s)singular, of rank 3 of 4.*method kaldi"):
        adapt(model, np.ones(DIM), singular, "coral")


def test_what_cannot_be_trained_is_named():
    vectors, codes = sample([3, 3, 3, 3])
    with pytest.raises(DataError, match="12 vectors of 12 speakers: PLDA needs"):
        train_plda(statistics(vectors, np.arange(12)))
    with pytest.raises(DataError, match="12 vectors of 1 speakers"):
        train_plda(statistics(vectors, np.zeros(12, int)))
    flat = np.column_stack([vectors, vectors[:, 0] - vectors[:, 1]])
    with pytest.raises(DataError, match=r"(?s)5 dimensions is singular, of rank 4.*at most 3"):
        train_plda(statistics(flat, codes))
    few = statistics(np.random.default_rng(0).normal(size=(6, 5)), np.array([0, 0, 0, 1, 1, 1]))
    with pytest.raises(DataError, match="singular, of rank 4"):
        train_plda(few)
    with pytest.raises(ConfigError, match="iterations >= 0"):
        train_plda(statistics(vectors, codes), -1)
    with pytest.raises(ConfigError, match=r"moments\|identity"):
        train_plda(statistics(vectors, codes), 1, "random")


def test_dead_dimensions_are_warned_of(caplog):
    vectors, codes = sample([3] * 10)
    train_plda(statistics(vectors, codes))
    assert "directions" not in caplog.text
    dead = 1e-4 * np.random.default_rng(0).normal(size=(30, 2))
    train_plda(statistics(np.column_stack([vectors, dead]), codes))
    assert "2 of 6 directions" in caplog.text and "lda:dim=4 or less" in caplog.text


def test_wrong_adaptation_is_named():
    model = Plda.from_covariances(np.zeros(DIM), *covariances())
    with pytest.raises(DataError, match="adaptation data has 3 dimensions, the PLDA 4"):
        adapt(model, np.zeros(3), np.eye(3))
    with pytest.raises(ConfigError, match="scales of 0 or more"):
        adapt(model, np.zeros(DIM), np.eye(DIM), within_scale=-1)


def test_nan_is_named_by_key():
    vectors, codes = sample([3, 3])
    vectors[4, 1] = np.nan
    with pytest.raises(DataError, match=r"(?s)x\.scp: embeddings that hold NaN.*u4"):
        statistics(vectors, codes)
