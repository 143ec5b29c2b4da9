"""Calibration from files to files: fitted, saved, applied to other lists, and what is refused."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.kaldi.trials import Trials, write_trials
from wesp_lap.scoring.calibration import Calibration
from wesp_lap.scoring.calibration_data import PairSettings
from wesp_lap.scoring.calibration_lists import (
    FitSettings,
    TrainingFiles,
    apply_calibration,
    calibrate_lists,
)
from wesp_lap.scoring.features import FEATURES
from wesp_lap.scoring.lists import TrialFiles, normalise_lists, score_lists


def write_set(folder, prefix, speakers, utterances, seed):
    random = np.random.default_rng(seed)
    folder.mkdir()
    keys = [f"{prefix}{s}-{u}" for s in range(speakers) for u in range(utterances)]
    voices = random.normal(size=(speakers, 10))
    with VectorWriter(folder / "xvector") as writer:
        for number, key in enumerate(keys):
            vector = voices[number // utterances] + 0.7 * random.normal(size=10) + 0.5
            writer.write(key, vector * random.uniform(1, 3))
    (folder / "utt2spk").write_text("".join(f"{key} {key.split('-')[0]}\n" for key in keys))
    (folder / "utt2dur").write_text("".join(f"{k} {2 + i % 9}.5\n" for i, k in enumerate(keys)))
    return keys


@pytest.fixture
def corpus(tmp_path):
    """A training set, a test set with two scored and normalised lists, and their files."""
    keys = write_set(tmp_path / "test", "t", 8, 5, 1)
    write_set(tmp_path / "train", "c", 20, 6, 2)
    pairs = [(a, b) for i, a in enumerate(keys) for b in keys[:i:3]]
    labels = np.array([a.split("-")[0] == b.split("-")[0] for a, b in pairs], np.int8)
    lists = [tmp_path / "one", tmp_path / "two"]
    for path, rows in zip(lists, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        first, second = zip(*pairs[rows], strict=True)
        write_trials(path, Trials(list(first), list(second), labels[rows]))
    files = TrialFiles(tmp_path / "test/xvector.scp", mean_scp=tmp_path / "train/xvector.scp")
    score_lists(lists, files, tmp_path / "scores")
    train = tmp_path / "train"
    normalise_lists(
        lists, tmp_path / "scores", files, train / "xvector.scp", train / "utt2spk", top_n=8
    )
    return tmp_path, files, lists


def training(corpus, **changes):
    train = corpus[0] / "train"
    paths = {"utt2dur": train / "utt2dur", **changes}
    return TrainingFiles(train / "xvector.scp", train / "utt2spk", **paths)


def calibrate(corpus, lists=None, out="cal", utt2dur=True, decide=None, **options):
    folder, files, both = corpus
    options = {"pairs": PairSettings(200), "top_n": 8, **options}
    return calibrate_lists(
        lists or both,
        folder / "scores",
        files,
        folder / "test/utt2dur" if utt2dur else None,
        training(corpus),
        folder / out,
        FitSettings(**options),
        decide=decide,
    )


def apply(corpus, lists=None, out="applied", files=None, utt2dur=True, decide=None):
    folder, own, both = corpus
    return apply_calibration(
        lists or both,
        folder / "scores",
        files or own,
        folder / "cal/calibration.json",
        folder / out,
        folder / "test/utt2dur" if utt2dur else None,
        decide,
    )


OPTIONS = [
    {},
    {"features": "qmf7"},
    {"features": "wespeaker13", "objective": "cllr"},
    {"features": "wespeaker9", "objective": "cllr", "prior": 0.01},
    {"features": "score", "score": "cosine"},
    {"pairs": PairSettings(60, kind="duration_balanced")},
    {"pairs": PairSettings(60, cohort_disjoint=True)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_saved_calibration_gives_other_lists_the_same_ratios(corpus, options):
    together = [path.read_bytes() for path in calibrate(corpus, **options)]
    calibrate(corpus, corpus[2][:1], **options)
    applied = [path.read_bytes() for path in apply(corpus)]
    assert applied == together
    trials, llrs = read_scores(corpus[0] / "applied/two.qmf.score")
    assert trials.labels is not None and len(np.unique(llrs)) > 50


@pytest.mark.parametrize("name", ["qmf7", "wespeaker9", "score"])
def test_features_without_durations_need_no_durations_at_all(corpus, name):
    folder, files, lists = corpus
    calibrate_lists(
        lists,
        folder / "scores",
        files,
        None,
        training(corpus, utt2dur=None),
        folder / "cal",
        FitSettings(features=name, top_n=8, pairs=PairSettings(100)),
    )
    assert len(apply(corpus, utt2dur=False)) == 2
    with pytest.raises(ConfigError, match="qmf9 need the utt2dur of the trials"):
        calibrate(corpus, utt2dur=False)
    with pytest.raises(ConfigError, match="qmf9 need the training set's utt2dur"):
        calibrate_lists(
            lists,
            folder / "scores",
            files,
            folder / "test/utt2dur",
            training(corpus, utt2dur=None),
            folder / "cal",
            FitSettings(top_n=8),
        )


def test_ratios_are_the_saved_map_of_the_columns_of_the_score_file(corpus):
    calibrate(corpus, features="wespeaker9", objective="cllr")
    calibration = Calibration.load(corpus[0] / "cal/calibration.json")
    rows = [line.split() for line in (corpus[0] / "scores/one.asnorm.score").open()]

    def four(one, other):
        low, high = sorted((float(one), float(other)))
        return [low, high, high - low, high / max(low, 0.01)]

    features = np.array([[float(r[2]), *four(r[4], r[5]), *four(r[6], r[7])] for r in rows])
    _, llrs = read_scores(corpus[0] / "cal/one.qmf.score")
    np.testing.assert_allclose(llrs, calibration.llr(features), atol=1e-5)


def test_the_file_remembers_what_was_calibrated(corpus):
    options = {"features": "wespeaker13", "objective": "cllr", "prior": 0.05}
    calibrate(corpus, pairs=PairSettings(60, 3, "duration_balanced", (2, 5)), **options)
    record = json.loads((corpus[0] / "cal/calibration.json").read_text())
    assert record["features"] == list(FEATURES["wespeaker13"])
    assert record["settings"] == {
        "score": "asnorm",
        "top_n": 8,
        "std_ddof": 1,
        "seed": 3,
        "objective": "cllr",
        "prior": 0.05,
        "pairs": "duration_balanced",
        "pair_durations": [2, 5],
        "cohort_disjoint": False,
        "dim": 10,
        "mean_subtracted": True,
        "model": None,
        "durations": [2.5, 10.5],
    }


def test_scores_and_embeddings_of_another_kind_are_named(corpus):
    folder, files, lists = corpus
    for name in ("test", "train"):
        record = {"settings": {"model": ["config", f"weights-of-{name}"]}}
        (folder / name / "done.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"model weights-of-t, here of weights-of-t"):
        calibrate(corpus)
    (folder / "test/done.json").write_text((folder / "train/done.json").read_text())
    calibrate(corpus)
    apply(corpus)
    (folder / "test/done.json").write_text('{"settings": {"model": ["config", "fresh"]}}')
    with pytest.raises(
        DataError,
        match=r"(?s)calibration\.json: calibrated for .*weights-of-.*, here of fresh",
    ):
        apply(corpus)
    (folder / "test/done.json").unlink()  # nothing known: nothing refused
    apply(corpus)
    with pytest.raises(DataError, match="mean_subtracted = True, here False"):
        apply(corpus, files=TrialFiles(files.enroll_scp))
    train = folder / "train"
    normalise_lists(
        lists, folder / "scores", files, train / "xvector.scp", train / "utt2spk", top_n=9
    )
    with pytest.raises(DataError, match=r"one\.asnorm\.json: top_n = 9, here 8"):
        apply(corpus)


def test_a_list_without_norm_columns_is_named(corpus):
    calibrate(corpus, features="wespeaker9")
    path = corpus[0] / "scores/one.asnorm.score"
    path.write_text(re.sub(r"(target).*", r"\1", path.read_text()))
    with pytest.raises(DataError, match=r"one\.asnorm\.score: no norms and cohort means.*\n.*norm"):
        apply(corpus)
    with pytest.raises(ConfigError, match="wespeaker9 need AS-normalised scores"):
        FitSettings(features="wespeaker9", score="cosine")
    with pytest.raises(ConfigError, match="known: asnorm, cosine"):
        FitSettings(score="plda")


def test_decisions_are_those_of_the_posterior(corpus):
    written = calibrate(corpus, corpus[2][:1], decide=0.01)
    assert [path.name for path in written] == ["one.qmf.score", "one.qmf.decisions"]
    trials, llrs = read_scores(written[0])
    lines = [line.split() for line in written[1].open()]
    assert [line[:2] for line in lines] == [
        list(pair) for pair in zip(trials.enroll, trials.test, strict=True)
    ]
    posterior = 0.01 * np.exp(llrs) / (0.01 * np.exp(llrs) + 0.99)
    np.testing.assert_allclose([float(line[3]) for line in lines], posterior, atol=2e-5)
    clear = np.abs(posterior - 0.5) > 1e-4
    words = np.where(posterior >= 0.5, "accept", "reject")
    assert (np.array([line[2] for line in lines]) == words)[clear].all()
    assert {line[2] for line in lines} == {"accept", "reject"}
    again = apply(corpus, corpus[2][:1], decide=0.01)
    assert again[1].read_bytes() == written[1].read_bytes()
    with pytest.raises(ConfigError, match="between 0 and 1, got 5"):
        apply(corpus, decide=5)


def test_trials_outside_the_calibrated_durations_are_counted(corpus, caplog):
    calibrate(corpus)
    with caplog.at_level("WARNING", logger="wesp_lap"):
        apply(corpus)
        assert "outside" not in caplog.text
        durations = corpus[0] / "test/utt2dur"
        durations.write_text(durations.read_text().replace("t0-0 2.5", "t0-0 1.5"))
        apply(corpus, corpus[2][:1])
    trials, _ = read_scores(corpus[0] / "scores/one.score")
    count = (trials.enroll + trials.test).count("t0-0")
    assert f"one: {count} of {len(trials)} trials have a side outside the 2.5 to" in caplog.text


def test_sessions_of_the_training_set_are_kept_apart(corpus):
    folder, files, lists = corpus
    sessions = folder / "train/utt2session"
    keys = [line.split()[0] for line in (folder / "train/utt2spk").open()]
    # Every speaker has two sessions of three utterances: 9 pairs of 15 are left.
    sessions.write_text("".join(f"{key} {key[:-1]}{int(key[-1]) // 3}\n" for key in keys))
    settings = FitSettings(top_n=8, pairs=PairSettings(1000))
    calibrate_lists(
        lists,
        folder / "scores",
        files,
        folder / "test/utt2dur",
        training(corpus, utt2session=sessions),
        folder / "cal",
        settings,
    )
    record = json.loads((folder / "cal/calibration.json").read_text())
    assert record["training_pairs"] == {"target": 20 * 9, "nontarget": 500}


def run(command, *words):
    return subprocess.run(
        [sys.executable, "-m", f"wesp_lap.bin.{command}", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_both_commands(corpus):
    folder, files, lists = corpus
    train = folder / "train"
    common = [
        f"--trials={lists[0]},{lists[1]}",
        f"--scores_dir={folder / 'scores'}",
        f"--enroll_scp={files.enroll_scp}",
        f"--mean_scp={files.mean_scp}",
        "--decide=0.05",
    ]
    done = run(
        "calibrate", *common, f"--cohort_scp={train / 'xvector.scp'}", "--top_n=8",
        f"--cohort_utt2spk={train / 'utt2spk'}", "--features=wespeaker9", "--objective=cllr",
        "--num_pairs=100", "--cohort_disjoint", "--p_target=0.05", f"--out_dir={folder / 'cal'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "cal/calibration.json").read_text())
    assert list(record["llr_thresholds"]) == ["0.05"] and record["settings"]["cohort_disjoint"]
    calibration = f"--calibration={folder / 'cal/calibration.json'}"
    done = run("apply_calibration", *common, calibration, f"--out_dir={folder / 'applied'}")
    assert done.returncode == 0, done.stderr
    names = ["one.qmf.score", "one.qmf.decisions", "two.qmf.score", "two.qmf.decisions"]
    assert done.stdout.split() == [str(folder / "applied" / name) for name in names]
    for name in names:
        applied = (folder / "applied" / name).read_bytes()
        assert applied == (folder / "cal" / name).read_bytes()
    done = run("apply_calibration", *common[:3], calibration, f"--out_dir={folder / 'x'}")
    assert done.returncode == 1 and "mean_subtracted = True, here False" in done.stderr
