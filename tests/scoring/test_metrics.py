"""Error rates against worked examples, scikit-learn, brute force and invariances."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring import metrics
from wesp_lap.scoring.curve import crossing_point

EIGHT = (
    np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.4, 0.3, 0.2]),
    np.array([1, 1, 0, 1, 0, 1, 0, 0], np.int8),
)
TWELVE = (
    np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0], np.int8),
)
SEPARABLE = (np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0]))
INVERTED = (np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1]))


def random_trials(seed, decimals=None, shift=1.5, count=400):
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < 0.3).astype(np.int8)
    labels[:2] = 0, 1
    scores = generator.normal(size=count) + shift * labels
    return (scores if decimals is None else scores.round(decimals)), labels


CASES = [
    *(random_trials(seed) for seed in range(4)),
    *(random_trials(seed, decimals=0) for seed in range(4)),
    *(random_trials(seed, decimals=1, shift=0.5) for seed in range(4)),
    random_trials(9, shift=50),
    random_trials(9, shift=-50),
    SEPARABLE,
    INVERTED,
    EIGHT,
    TWELVE,
]


def eer_from_sklearn(scores, labels):
    fpr, tpr, _ = roc_curve(labels, scores)
    targets, nontargets = int(labels.sum()), int((labels == 0).sum())
    points = [
        (1 - Fraction(round(t * targets), targets), Fraction(round(f * nontargets), nontargets))
        for f, t in zip(fpr, tpr, strict=True)
    ]
    return float(max(min(points, key=lambda point: abs(point[0] - point[1]))))


def brute_min_dcf(scores, labels, p, c_miss=1.0, c_fa=1.0):
    costs = []
    for threshold in [np.inf, *np.unique(scores)]:
        fnr = np.mean(scores[labels == 1] < threshold)
        fpr = np.mean(scores[labels == 0] >= threshold)
        costs.append(c_miss * p * fnr + c_fa * (1 - p) * fpr)
    return min(costs) / min(c_miss * p, c_fa * (1 - p))


def test_worked_example_of_eight_trials():
    assert metrics.eer(*EIGHT) == pytest.approx(0.25, abs=1e-12)
    assert metrics.min_dcf(*EIGHT, 0.01) == pytest.approx(0.5)
    assert metrics.min_dcf(*EIGHT, 0.05) == pytest.approx(0.5)
    assert metrics.min_dcf(*EIGHT, 0.5) == pytest.approx(0.5)


def test_worked_example_where_dropping_collinear_points_matters():
    assert TWELVE[1].sum() == 5
    assert metrics.eer(*TWELVE) == pytest.approx(1 / 7, abs=1e-12)
    assert metrics.min_dcf(*TWELVE, 0.01) == pytest.approx(0.4)
    assert metrics.min_dcf(*TWELVE, 0.05) == pytest.approx(0.4)


def test_the_thresholds_of_the_worked_example():
    curve = metrics.error_curve(*EIGHT)
    assert curve.thresholds[crossing_point(curve)] == 0.6
    costs = 0.01 * curve.fnr + 0.99 * curve.fpr
    assert curve.thresholds[np.argmin(costs)] == 0.8  # two of four targets, no false alarm
    assert costs.min() == pytest.approx(0.005)  # without normalisation
    # With every point of the curve the other example would have 20 %.
    full = metrics.error_curve(*TWELVE)
    nearest = np.argmin(np.abs(full.fnr - full.fpr))
    assert max(full.fnr[nearest], full.fpr[nearest]) == pytest.approx(0.2)


@pytest.mark.parametrize("method", ["crossing", "convex_hull"])
def test_separable_trials_have_no_errors(method):
    assert metrics.eer(*SEPARABLE, method=method) == 0
    assert metrics.min_dcf(*SEPARABLE, 0.01) == 0


def test_inverted_scores():
    assert metrics.eer(*INVERTED) == 1
    assert metrics.eer(*INVERTED, method="convex_hull") == pytest.approx(0.5)
    assert metrics.min_dcf(*INVERTED, 0.01) == pytest.approx(1)


@pytest.mark.parametrize(
    "call",
    [
        metrics.eer,
        metrics.min_cllr,
        metrics.evaluate,
        metrics.error_curve,
        lambda scores, labels: metrics.min_dcf(scores, labels, 0.01),
    ],
)
def test_constant_scores_have_no_error_rate_in_any_order(call):
    labels = np.arange(10) % 2
    for ordered in (labels, np.sort(labels), np.sort(labels)[::-1]):
        with pytest.raises(DataError, match=r"all 10 scores are 0\.25: no error rate.*\nLook for"):
            call(np.full(10, 0.25), ordered)
    # As log-likelihood ratios they are the system that knows nothing.
    assert metrics.cllr(np.zeros(10), labels) == pytest.approx(1)
    assert metrics.act_dcf(np.zeros(10), labels, 0.01) == pytest.approx(1)


@pytest.mark.parametrize("scores, labels", CASES)
def test_eer_equals_the_one_from_sklearns_points(scores, labels):
    assert metrics.eer(scores, labels) == pytest.approx(eer_from_sklearn(scores, labels), abs=1e-12)


@pytest.mark.parametrize("scores, labels", CASES)
def test_curve_equals_sklearns_full_curve(scores, labels):
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    curve = metrics.error_curve(scores, labels)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.fnr, 1 - tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@pytest.mark.parametrize("scores, labels", CASES)
@pytest.mark.parametrize(
    "p, c_miss, c_fa", [(0.01, 1, 1), (0.05, 1, 1), (0.5, 1, 1), (0.01, 10, 1)]
)
def test_min_dcf_equals_brute_force(scores, labels, p, c_miss, c_fa):
    got = metrics.min_dcf(scores, labels, p, c_miss, c_fa)
    assert got == pytest.approx(brute_min_dcf(scores, labels, p, c_miss, c_fa), abs=1e-12)
    assert got <= 1 + 1e-12


@pytest.mark.parametrize("scores, labels", CASES)
def test_hull_eer_is_the_worst_least_bayes_error(scores, labels):
    # ROCCH-EER equals the maximum over priors of the minimum Bayes error rate.
    priors = np.linspace(0.001, 0.999, 1999)
    curve = metrics.error_curve(scores, labels)
    rates = np.min(priors[:, None] * curve.fnr + (1 - priors[:, None]) * curve.fpr, axis=1)
    assert metrics.eer(scores, labels, method="convex_hull") == pytest.approx(rates.max(), abs=5e-4)


@pytest.mark.parametrize("scores, labels", CASES)
def test_results_depend_on_neither_order_nor_scale(scores, labels):
    before = metrics.evaluate(scores, labels)
    order = np.random.default_rng(0).permutation(len(scores))
    assert metrics.evaluate(scores[order], labels[order]) == before
    assert metrics.evaluate(np.arctan(scores / 100), labels) == before
    assert metrics.min_cllr(3 * scores - 7, labels) == metrics.min_cllr(scores, labels)


def test_actual_cost_by_hand():
    llrs = np.array([5.0, 4.0, 6.0, -3.0])
    labels = np.array([1, 1, 0, 0])
    # Threshold at p = 0.01 is ln 99 = 4.595: one of two targets missed, one of two accepted.
    assert metrics.act_dcf(llrs, labels, 0.01) == pytest.approx((0.005 + 0.495) / 0.01)
    assert metrics.act_dcf(llrs, labels, 0.5) == pytest.approx(0.5)
    assert metrics.act_dcf(np.full(4, -9.0), labels, 0.01) == pytest.approx(1)
    assert metrics.act_dcf(np.array([0.0, 0, -1, -1]), labels, 0.5) == 0


def test_cllr_by_hand_and_for_large_ratios():
    assert metrics.cllr(np.zeros(4), np.array([1, 1, 0, 0])) == pytest.approx(1)
    llrs, labels = np.array([2.0, -1.0]), np.array([1, 0])
    by_hand = (np.log2(1 + np.exp(-2)) + np.log2(1 + np.exp(-1))) / 2
    assert metrics.cllr(llrs, labels) == pytest.approx(by_hand)
    assert metrics.cllr(np.array([-1e4, 1e4]), labels) == pytest.approx(1e4 / np.log(2))


def test_min_cllr_is_the_cllr_of_the_best_monotone_map():
    scores, labels = random_trials(3, decimals=1)
    from sklearn.isotonic import IsotonicRegression

    share = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels)
    targets = labels == 1
    odds = targets.sum() / (~targets).sum()
    # Where no trial of a kind has the share, the ratio is infinite and costs that kind nothing.
    miss = np.log2(1 + odds * (1 - share[targets]) / share[targets]).mean()
    false = np.log2(1 + share[~targets] / (1 - share[~targets]) / odds).mean()
    assert metrics.min_cllr(scores, labels) == pytest.approx((miss + false) / 2, abs=1e-9)
    assert metrics.min_cllr(*SEPARABLE) == 0
    assert metrics.min_cllr(*INVERTED) == pytest.approx(1)


def test_calibrated_scores_cost_what_they_must():
    generator = np.random.default_rng(1)
    labels = np.arange(20_000) % 2
    # Normal scores with means +-d/2 and variance d are their own log-likelihood ratios.
    llrs = generator.normal(size=labels.size) * 2 + np.where(labels == 1, 2.0, -2.0)
    result = metrics.evaluate(llrs, labels, (0.5,), llr=True)
    assert result.min_cllr <= result.cllr == pytest.approx(result.min_cllr, abs=0.01)
    assert result.act_dcf[0.5] == pytest.approx(result.min_dcf[0.5], abs=0.02)
    assert metrics.cllr(3 * llrs, labels) > result.cllr + 0.05


def test_evaluate_takes_costs_and_the_kind_of_eer():
    scores, labels = random_trials(2)
    result = metrics.evaluate(
        scores, labels, (0.3,), llr=True, c_miss=10, c_fa=2, eer_method="convex_hull"
    )
    assert result.eer == metrics.eer(scores, labels, "convex_hull")
    assert result.min_dcf == {0.3: pytest.approx(brute_min_dcf(scores, labels, 0.3, 10, 2))}
    assert result.act_dcf == {0.3: metrics.act_dcf(scores, labels, 0.3, 10, 2)}
    assert metrics.bayes_threshold(0.3, 10, 2) == pytest.approx(np.log(2 * 0.7 / (10 * 0.3)))


def test_evaluate_counts_and_leaves_calibration_out_unless_asked():
    result = metrics.evaluate(*EIGHT)
    assert (result.trials, result.targets) == (8, 4)
    assert result.min_dcf == {0.01: pytest.approx(0.5), 0.05: pytest.approx(0.5)}
    assert result.act_dcf is result.cllr is result.min_cllr is None


@pytest.mark.parametrize(
    "scores, labels, words",
    [
        ([], [], "no trials"),
        ([0.1, 0.2], [1, 1], "no non-target trials"),
        ([0.1, 0.2], [0, 0], "no target trials"),
        ([0.1, np.nan, np.nan], [0, 1, 1], "2 of 3 scores are NaN or infinite, first at trial 2"),
        ([np.inf, 0.1, 0.2], [1, 0, 1], "1 of 3 scores are NaN or infinite, first at trial 1"),
        ([0.1, 0.2, -np.inf], [1, 0, 0], "1 of 3 scores are NaN or infinite, first at trial 3"),
        ([0.1, 0.2], [0, 1, 1], "do not fit"),
        ([0.1, 0.2], [-1, 1], "labels must be"),
        ([0.1, 0.2], None, "no labels"),
    ],
)
@pytest.mark.parametrize("call", [metrics.eer, metrics.min_cllr, metrics.cllr, metrics.evaluate])
def test_unusable_trials_are_named(call, scores, labels, words):
    with pytest.raises(DataError, match=words):
        call(np.array(scores), None if labels is None else np.array(labels))


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        metrics.min_dcf(*EIGHT, 1)
    with pytest.raises(ConfigError, match="c_fa=0"):
        metrics.act_dcf(*EIGHT, 0.5, c_fa=0)
    with pytest.raises(ConfigError, match="convex_hull"):
        metrics.eer(*EIGHT, method="hull")
