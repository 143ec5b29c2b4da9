"""Fusion of systems against scikit-learn, and score files that do not belong together."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring import metrics
from wesp_lap.scoring.fusion import Fusion, fit_fusion, fixed_fusion, fuse_files, read_systems


def make_scores(count=600, seed=0, share=0.2):
    """Two systems with errors of their own, at scales of their own."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(np.int8)
    signal = 2.0 * labels[:, None] + random.normal(size=(count, 2)) * [1.0, 1.3]
    return signal * [0.1, 5] + [0.3, -40], labels


def scikit_fit(scores, labels, prior):
    targets = labels.sum()
    weights = np.where(labels == 1, prior / targets, (1 - prior) / (len(labels) - targets))
    spread = scores.std(axis=0)
    model = LogisticRegression(C=1e9, tol=1e-12, max_iter=10_000)
    model.fit(scores / spread, labels, sample_weight=weights * len(labels))
    return model.coef_[0] / spread, model.intercept_[0] - np.log(prior / (1 - prior))


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_fit_is_the_logistic_regression_of_scikit_learn(prior):
    scores, labels = make_scores()
    fusion = fit_fusion(scores, labels, prior)
    weights, bias = scikit_fit(scores, labels, prior)
    np.testing.assert_allclose(fusion.weights, weights, rtol=1e-3)
    assert fusion.bias == pytest.approx(bias, abs=5e-3)


def true_llrs(scores):
    """Log-likelihood ratios of the Gaussians that ``make_scores`` draws from."""
    signal = (scores - [0.3, -40]) / [0.1, 5]
    return (2 * signal / [1.0, 1.69] - 2 / np.array([1.0, 1.69])).sum(axis=1)


def test_fused_scores_are_better_and_true_llrs_on_other_trials():
    fusion = fit_fusion(*make_scores(5000))
    scores, labels = make_scores(20_000, seed=1, share=0.02)
    llrs = fusion.apply(scores)
    rates = [metrics.eer(column, labels) for column in (*scores.T, llrs)]
    assert rates[2] < 0.9 * min(rates[:2])
    np.testing.assert_allclose(llrs, true_llrs(scores), atol=0.15 * np.abs(llrs).max())
    assert metrics.cllr(llrs, labels) < 1.02 * metrics.cllr(true_llrs(scores), labels)


def test_share_of_targets_in_the_list_does_not_matter():
    scores, labels = make_scores()
    more = np.flatnonzero(labels == 0).repeat(3)
    rows = np.concatenate([np.flatnonzero(labels == 1), more])
    one, other = fit_fusion(scores, labels), fit_fusion(scores[rows], labels[rows])
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-4)
    assert one.bias == pytest.approx(other.bias, rel=1e-4)


def test_scale_and_shift_of_a_system_change_nothing():
    scores, labels = make_scores()
    moved = scores * [100, 0.01] + [7, -3]
    np.testing.assert_allclose(
        fit_fusion(scores, labels).apply(scores),
        fit_fusion(moved, labels).apply(moved),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_a_copy_of_a_system_shares_its_weight():
    scores, labels = make_scores()
    alone = fit_fusion(scores, labels)
    doubled = fit_fusion(scores[:, [0, 1, 1]], labels)
    assert doubled.weights[1] == pytest.approx(doubled.weights[2], rel=1e-6)
    np.testing.assert_allclose(
        doubled.apply(scores[:, [0, 1, 1]]), alone.apply(scores), rtol=1e-4, atol=1e-4
    )


def test_separated_lists_stay_finite_and_warn(caplog):
    labels = np.array([0, 0, 0, 1, 1])
    fusion = fit_fusion(np.arange(5.0)[:, None], labels)
    assert np.isfinite(fusion.weights).all() and fusion.weights[0] > 1
    assert "told apart without an error" in caplog.text


def test_what_cannot_be_fitted_is_named():
    scores, labels = make_scores()
    with pytest.raises(DataError, match="these have no labels"):
        fit_fusion(scores, None)
    with pytest.raises(DataError, match="600 targets, 0 non-targets"):
        fit_fusion(scores, np.ones(600))
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        fit_fusion(scores, labels, 1.0)
    flat = scores * [1, 0]
    with pytest.raises(DataError, match=r"(?s)all equal.*system 2"):
        fit_fusion(flat, labels)


def test_given_weights_and_mean():
    scores, _ = make_scores(10)
    np.testing.assert_allclose(fixed_fusion(2).apply(scores), scores.mean(axis=1))
    np.testing.assert_allclose(fixed_fusion(2, [2, -1]).apply(scores), scores @ [2, -1])
    with pytest.raises(ConfigError, match="3 weights for 2 systems"):
        fixed_fusion(2, [1, 2, 3])
    with pytest.raises(DataError, match="3 systems, the fusion has 2"):
        fixed_fusion(2).apply(np.ones((4, 3)))


def write_list(folder, name, scores, labels, seed=None):
    """Write one score file per system; with a seed, the second one in another order."""
    folder.mkdir(exist_ok=True)
    pairs = [(f"e{i // 7}", f"t{i}") for i in range(len(scores))]
    paths = []
    for system, column in enumerate(scores.T):
        order = np.arange(len(scores))
        if seed is not None and system:
            order = np.random.default_rng(seed).permutation(order)
        trials = Trials(
            [pairs[i][0] for i in order],
            [pairs[i][1] for i in order],
            None if labels is None else labels[order],
        )
        paths.append(folder / f"{name}.{system}.score")
        write_scores(paths[-1], trials, column[order])
    return paths


def test_trials_may_come_in_any_order(tmp_path):
    scores, labels = make_scores(50)
    one, columns = read_systems(write_list(tmp_path, "a", scores, labels))
    other, again = read_systems(write_list(tmp_path, "b", scores, labels, seed=4))
    np.testing.assert_array_equal(columns, again)
    np.testing.assert_allclose(columns, scores, atol=6e-6)
    assert one.test == other.test
    np.testing.assert_array_equal(other.labels, labels)


def test_labels_come_from_whichever_file_has_them(tmp_path):
    scores, labels = make_scores(20)
    blind = write_list(tmp_path / "blind", "a", scores, None)
    known = write_list(tmp_path / "known", "a", scores, labels, seed=1)
    trials, _ = read_systems([blind[0], known[1]])
    np.testing.assert_array_equal(trials.labels, labels)


def test_files_of_different_trials_are_named(tmp_path):
    def one(name, enroll, test, labels=None):
        write_scores(tmp_path / name, Trials(enroll, test, labels), np.arange(len(test)) / 2)
        return tmp_path / name

    first = one("first", ["a", "a", "b"], ["x", "y", "x"], [1, 0, 0])
    with pytest.raises(DataError, match=r"(?s)2 problems.*b x: not in .*second.*b y: not in .*fi"):
        read_systems([first, one("second", ["a", "a", "b"], ["x", "y", "y"])])
    with pytest.raises(DataError, match=r"b x: not in .*short"):
        read_systems([first, one("short", ["a", "a"], ["x", "y"])])
    with pytest.raises(DataError, match=r"(?s)twice: trials given twice.*a x"):
        read_systems([first, one("twice", ["a", "a", "a"], ["x", "y", "x"])])
    with pytest.raises(DataError, match=r"(?s)labels: other labels than in .*first.*a y"):
        read_systems([first, one("labels", ["b", "a", "a"], ["x", "y", "x"], [0, 1, 1])])
    with pytest.raises(ConfigError, match="no score file"):
        read_systems([])


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "wesp_lap.bin.fuse_scores", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_fits_saves_and_applies(tmp_path):
    dev = write_list(tmp_path, "dev", *make_scores(), seed=2)
    scores, labels = make_scores(300, seed=3)
    files = write_list(tmp_path, "eval", scores, labels, seed=3)
    joined = f"--scores={files[0]},{files[1]}"
    done = run(joined, f"--out={tmp_path / 'one'}", f"--dev={dev[0]},{dev[1]}",
               f"--save={tmp_path / 'fusion.json'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "fusion.json").read_text())
    assert record["is_llr"] and record["systems"] == [str(path) for path in dev]
    assert record["training_trials"]["target"] + record["training_trials"]["nontarget"] == 600
    assert record["llr_thresholds"]["0.01"] == pytest.approx(np.log(99))
    done = run(joined, f"--out={tmp_path / 'two'}", f"--fusion={tmp_path / 'fusion.json'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    trials, llrs = read_scores(tmp_path / "one")
    expected = scores @ record["weights"] + record["bias"]
    np.testing.assert_allclose(llrs, expected, atol=1e-3)
    np.testing.assert_array_equal(trials.labels, labels)
    done = run(joined, f"--out={tmp_path / 'mean'}", "--weights=0.5,0.5")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(read_scores(tmp_path / "mean")[1], scores.mean(axis=1), atol=2e-5)


def test_contradicting_arguments_and_files_are_named(tmp_path):
    files = write_list(tmp_path, "eval", *make_scores(30))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="one of dev, fusion and weights"):
        fuse_files(files, out, dev=files, weights=[1, 2])
    with pytest.raises(ConfigError, match="1 dev files for 2 systems"):
        fuse_files(files, out, dev=files[:1])
    for text, message in [
        ('{"weights": [1, 2]}', "not a fusion file"),
        ("[1]", "not a fusion file"),
        (
            '{"weights": [NaN, 2], "bias": 0, "is_llr": true, "prior": 0.5,'
            ' "training_trials": {"target": 1, "nontarget": 1}}',
            "not finite",
        ),
    ]:
        (tmp_path / "fusion.json").write_text(text)
        with pytest.raises(DataError, match=rf"fusion\.json: .*{message}"):
            Fusion.load(tmp_path / "fusion.json")
    fuse_files(files, out, save=tmp_path / "mean.json")
    record = json.loads((tmp_path / "mean.json").read_text())
    assert record["weights"] == [0.5, 0.5] and not record["is_llr"]
    assert record["llr_thresholds"] == {}
    with pytest.raises(DataError, match="1 systems, the fusion has 2"):
        fuse_files(files[:1], out, fusion=tmp_path / "mean.json")
