"""Quality-aware calibration: features by hand, cohort without own speakers, better LLRs."""

import json

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring import metrics
from wesp_lap.scoring.calibration import Calibration, fit
from wesp_lap.scoring.calibration_data import PairSettings, training_features
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.features import FEATURES, quality_features
from wesp_lap.scoring.pairs import make_pairs


def training_set(speakers=12, utterances=6, dim=8, seed=0, noise=0.6):
    random = np.random.default_rng(seed)
    voices = random.normal(size=(speakers, dim))
    matrix = np.repeat(voices, utterances, axis=0)
    matrix = (matrix + noise * random.normal(size=matrix.shape)) * random.uniform(
        1, 3, (len(matrix), 1)
    )
    keys = [f"s{s:02d}-u{u}" for s in range(speakers) for u in range(utterances)]
    utt2spk = {key: key.split("-")[0] for key in keys}
    durations = {
        key: float(d) for key, d in zip(keys, random.uniform(2, 9, len(keys)), strict=True)
    }
    return Embeddings(keys, matrix.astype(np.float32), "train.scp"), utt2spk, durations


def test_features_by_hand():
    vectors = np.array([[3, -4, 0, 1], [1, 1, 1, 1], [2, 0, 0, 0]], np.float32)
    one = Embeddings(["a", "b", "c"], vectors)
    trials = Trials(["a", "c"], ["b", "a"], None)
    durations = {"a": 2.0, "b": 4.0, "c": 1.0}
    features = quality_features(np.array([1.5, -0.5]), trials, one, one, durations, durations)
    root = np.sqrt(0.75)  # population standard deviation of 2, 0, 0, 0
    expected = [
        [1.5, np.log(2), np.log(4), 8, 5.099020, 4, 2, 2.549510, 0],
        [-0.5, 0, np.log(2), 2, 2, 8, 5.099020, root, 2.549510],
    ]
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert features.shape[1] == len(FEATURES["qmf9"])


def test_features_name_missing_durations_and_embeddings():
    one = Embeddings(["a", "b"], np.ones((2, 3), np.float32), "set.scp")
    trials = Trials(["a"], ["b"], None)
    with pytest.raises(DataError, match=r"(?s)positive duration.*\n  b\n.*utt2dur"):
        quality_features(np.zeros(1), trials, one, one, {"a": 1.0}, {"a": 1.0, "b": 0.0})
    with pytest.raises(DataError, match=r"set\.scp: no embedding for 1"):
        quality_features(np.zeros(1), Trials(["a"], ["x"], None), one, one, {"a": 1}, {"x": 1})
    with pytest.raises(DataError, match="2 scores do not fit 1 trials"):
        quality_features(np.zeros(2), trials, one, one, {}, {})


def test_training_scores_leave_the_pairs_own_speakers_out_of_the_cohort():
    embeddings, utt2spk, durations = training_set()
    mean = embeddings.mean()
    features, labels, made = training_features(
        embeddings, utt2spk, durations, mean, 5, PairSettings(60, 3)
    )
    pairs = make_pairs(embeddings.keys, utt2spk, 60, 3)
    np.testing.assert_array_equal(labels, pairs.labels)
    assert (made.enroll, made.test) == (pairs.enroll, pairs.test)

    def unit(vector):
        return (vector - mean) / np.linalg.norm(vector - mean)

    for row, (one, other) in enumerate(zip(pairs.enroll, pairs.test, strict=True)):
        sides = [unit(embeddings.matrix[embeddings.keys.index(key)]) for key in (one, other)]
        score = sides[0] @ sides[1]
        others = sorted(set(utt2spk.values()) - {utt2spk[one], utt2spk[other]})
        cohort = [
            unit(np.mean([v for k, v in zip(embeddings.keys, embeddings.matrix, strict=True)
                          if utt2spk[k] == speaker], axis=0))
            for speaker in others
        ]  # fmt: skip
        tops = [sorted((side @ entry for entry in cohort), reverse=True)[:5] for side in sides]
        expected = np.mean([(score - np.mean(top)) / np.std(top, ddof=1) for top in tops])
        assert features[row, 0] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    by_side = quality_features(features[:, 0], pairs, embeddings, embeddings, durations, durations)
    np.testing.assert_array_equal(features, by_side)


def test_top_n_must_leave_room_for_the_excluded_speakers():
    embeddings, utt2spk, durations = training_set()
    training_features(embeddings, utt2spk, durations, None, 10, PairSettings(10))
    with pytest.raises(DataError, match=r"10 usable entries, fewer than top_n = 11"):
        training_features(embeddings, utt2spk, durations, None, 11, PairSettings(10))


def test_same_seed_gives_the_same_calibration():
    embeddings, utt2spk, durations = training_set()
    made = [
        fit(
            *training_features(embeddings, utt2spk, durations, None, 6, PairSettings(200, seed))[:2]
        )
        for seed in (7, 7, 8)
    ]
    np.testing.assert_array_equal(made[0].coefficients, made[1].coefficients)
    assert made[0].intercept == made[1].intercept
    assert made[0].coefficients.tolist() != made[2].coefficients.tolist()


def test_calibration_lowers_the_cost_of_scores_and_takes_the_prior_out():
    random = np.random.default_rng(5)

    def trials(count, share):
        labels = (random.random(count) < share).astype(np.int8)
        features = random.normal(size=(count, 9)) * 0.5
        features[:, 0] = random.normal(size=count) * 2 + np.where(labels == 1, 6.0, 2.0)
        features[:, 1] += 2
        return features, labels

    # Trained with nine targets in ten trials, used where one in a hundred is.
    calibration = fit(*trials(20_000, 0.9))
    features, labels = trials(20_000, 0.1)
    llrs = calibration.llr(features)
    before = metrics.cllr(features[:, 0], labels)
    after = metrics.cllr(llrs, labels)
    assert after < before - 0.3
    assert after == pytest.approx(metrics.min_cllr(llrs, labels), abs=0.03)
    assert metrics.act_dcf(llrs, labels, 0.05) < 1.2 * metrics.min_dcf(llrs, labels, 0.05)
    # The true ratio of these scores is 1 * score - 4.
    np.testing.assert_allclose(calibration.coefficients[0], 1, atol=0.1)
    middle = calibration.llr(np.array([[4.0, 2, 0, 0, 0, 0, 0, 0, 0]]))
    assert middle[0] == pytest.approx(0, abs=0.3)


def test_fit_equals_the_minimum_of_the_penalised_likelihood():
    from scipy.optimize import minimize

    embeddings, utt2spk, durations = training_set()
    features, labels, _ = training_features(
        embeddings, utt2spk, durations, None, 6, PairSettings(300)
    )
    signs = np.where(labels == 1, 1, -1)

    def cost(weights):  # liblinear penalises the intercept like any weight
        margins = signs * (features @ weights[:9] + weights[9])
        return weights @ weights / 2 + np.logaddexp(0, -margins).sum()

    best = minimize(cost, np.zeros(10), tol=1e-10).fun
    calibration = fit(features, labels)
    found = cost(np.append(calibration.coefficients, calibration.intercept))
    assert found == pytest.approx(best, rel=1e-9)


def test_rounding_of_the_features_does_not_show():
    embeddings, utt2spk, durations = training_set(40)
    features, labels, _ = training_features(
        embeddings, utt2spk, durations, None, 6, PairSettings(1000)
    )
    rounded = features.astype(np.float32).astype(np.float64)
    llrs = [fit(inputs, labels).llr(features) for inputs in (features, rounded)]
    np.testing.assert_allclose(llrs[0], llrs[1], atol=1e-4)


def test_saved_calibration_comes_back_and_can_be_read_by_people(tmp_path):
    embeddings, utt2spk, durations = training_set()
    features, labels, _ = training_features(
        embeddings, utt2spk, durations, None, 6, PairSettings(100)
    )
    calibration = fit(features, labels)
    path = tmp_path / "calibration.json"
    calibration.save(path, {"top_n": 6})
    np.testing.assert_array_equal(Calibration.load(path).llr(features), calibration.llr(features))
    record = json.loads(path.read_text())
    assert record["features"] == list(FEATURES["qmf9"])
    assert record["training_pairs"] == {"target": 50, "nontarget": 50}
    assert record["settings"] == {"top_n": 6}
    assert record["llr_thresholds"] == {
        "0.01": pytest.approx(4.59512),
        "0.05": pytest.approx(2.944439),
        "0.5": 0,
    }


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda record: record.pop("intercept"), "intercept"),
        (lambda record: record.update(features=["loudness"]), "holds the features loudness;"),
        (lambda record: record.update(coefficients=[1.0]), "Run the calibration again"),
        (lambda record: record.update(intercept=float("nan")), "not finite"),
        (lambda record: record.update(training_pairs={"target": 0, "nontarget": 5}), "no training"),
        (lambda record: record.update(coefficients="abc"), "not a calibration file"),
    ],
)
def test_broken_calibration_files_are_named(tmp_path, change, words):
    path = tmp_path / "calibration.json"
    Calibration(np.ones(9), 0.5, 10, 10).save(path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=words) as error:
        Calibration.load(path)
    assert str(path) in str(error.value)


def test_one_kind_of_pairs_cannot_be_fitted():
    with pytest.raises(DataError, match="target and non-target"):
        fit(np.ones((3, 9)), np.ones(3, np.int8))


def overlapping(count=3000, share=0.3, seed=1):
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(np.int8)
    features = random.normal(size=(count, 7)) * [1, 5, 0.1, 40, 1, 2, 1] + [0, 3, 1, 200, 0, 0, 7]
    features[:, 0] += 2 * labels
    features[:, 3] += 10 * labels
    return features, labels


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_cllr_objective_equals_sklearns_weighted_regression(prior):
    from sklearn.linear_model import LogisticRegression

    features, labels = overlapping()
    weights = np.where(labels == 1, prior / labels.mean(), (1 - prior) / (1 - labels.mean()))
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    model.fit(scaled, labels, sample_weight=weights)
    expected = model.decision_function(scaled) - np.log(prior / (1 - prior))
    got = fit(features, labels, feature_set="qmf7", objective="cllr", prior=prior).llr(features)
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_cllr_objective_does_not_mind_the_share_of_targets_or_the_scale():
    features, labels = overlapping()
    once = fit(features, labels, feature_set="qmf7", objective="cllr")
    targets = labels == 1
    more = np.concatenate([features, *[features[targets]] * 4])
    again = fit(
        more, np.concatenate([labels, *[labels[targets]] * 4]), feature_set="qmf7", objective="cllr"
    )
    np.testing.assert_allclose(again.llr(features), once.llr(features), atol=1e-4)
    scale, shift = np.array([1, 1e-3, 1, 1e4, 1, 1, 1]), np.array([0, 5, 0, 0, -3, 0, 0])
    other = fit(features * scale + shift, labels, feature_set="qmf7", objective="cllr")
    np.testing.assert_allclose(
        other.llr(features * scale + shift), once.llr(features), rtol=1e-4, atol=1e-4
    )


def test_cllr_objective_gives_the_least_cllr():
    features, labels = overlapping()
    best = fit(features, labels, feature_set="qmf7", objective="cllr")
    least = metrics.cllr(best.llr(features), labels)
    assert least <= metrics.cllr(fit(features, labels, feature_set="qmf7").llr(features), labels)
    random = np.random.default_rng(0)
    for _ in range(20):
        weights = best.coefficients * (1 + 0.05 * random.normal(size=7))
        nudged = Calibration(weights, best.intercept, best.targets, best.nontargets, "qmf7")
        assert metrics.cllr(nudged.llr(features), labels) >= least - 1e-6


def test_pairs_without_errors_give_finite_ratios_and_a_warning(caplog):
    labels = np.repeat([1, 0], 50)
    features = np.where(labels == 1, 2.0, -2.0)[:, None] + np.linspace(-1, 1, 100)[:, None]
    with caplog.at_level("WARNING", logger="wesp_lap"):
        calibration = fit(features, labels, feature_set="score", objective="cllr")
    llrs = calibration.llr(features)
    assert np.isfinite(llrs).all() and (np.sign(llrs) == np.where(labels == 1, 1, -1)).all()
    assert "told apart without an error" in caplog.text


def test_features_that_never_change_get_no_weight():
    features, labels = overlapping()
    features[:, 5] = 1e6
    calibration = fit(features, labels, feature_set="qmf7", objective="cllr")
    assert calibration.coefficients[5] == 0 and np.isfinite(calibration.intercept)
    features[7, 2] = np.nan
    with pytest.raises(DataError, match="not finite: l2_enroll"):
        fit(features, labels, feature_set="qmf7")


def test_unknown_settings_are_named():
    features, labels = overlapping(100)
    with pytest.raises(ConfigError, match="unknown objective 'bce'; known: logistic, cllr"):
        fit(features, labels, feature_set="qmf7", objective="bce")
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        fit(features, labels, feature_set="qmf7", objective="cllr", prior=1)


@pytest.mark.parametrize("name", list(FEATURES))
def test_every_feature_set_is_saved_and_known_again(tmp_path, name):
    size = len(FEATURES[name])
    Calibration(np.arange(size) + 1.0, 0.5, 10, 30, name).save(
        tmp_path / "c.json", {"top_n": 5}, (0.001, 0.9)
    )
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded.feature_set == name
    assert loaded.llr(np.ones((1, size)))[0] == pytest.approx(
        size * (size + 1) / 2 + 0.5 + np.log(3)
    )
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["llr_thresholds"] == {
        "0.001": pytest.approx(np.log(999)),
        "0.9": pytest.approx(-np.log(9)),
    }
