"""The scoring commands as a user runs them: files in, files out, errors as sentences."""

import json
import subprocess
import sys

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi import vector_table
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.trials import Trials, write_trials
from wesp_lap.scoring import metrics
from wesp_lap.scoring.calibration import Calibration
from wesp_lap.scoring.calibration_data import PairSettings
from wesp_lap.scoring.calibration_lists import FitSettings, TrainingFiles, calibrate_lists
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import Embeddings, enrolment_models
from wesp_lap.scoring.features import quality_features
from wesp_lap.scoring.lists import TrialFiles, normalise_lists, score_lists
from wesp_lap.scoring.norm import score_norm
from wesp_lap.scoring.report import evaluate_systems, metrics_table, read_systems


def run(command, *words):
    return subprocess.run(
        [sys.executable, "-m", f"wesp_lap.bin.{command}", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def make_set(folder, prefix, speakers, utterances, seed):
    random = np.random.default_rng(seed)
    voices = random.normal(size=(speakers, 10))
    utt2spk = {
        f"{prefix}{s}-{u}": f"{prefix}{s}" for s in range(speakers) for u in range(utterances)
    }
    folder.mkdir()
    with VectorWriter(folder / "xvector") as writer:
        for number, key in enumerate(utt2spk):
            writer.write(key, voices[number // utterances] + 0.7 * random.normal(size=10) + 0.5)
    (folder / "utt2spk").write_text("".join(f"{u} {s}\n" for u, s in utt2spk.items()))
    (folder / "utt2dur").write_text("".join(f"{u} {2 + i % 7}.5\n" for i, u in enumerate(utt2spk)))
    return utt2spk


@pytest.fixture
def corpus(tmp_path):
    utt2spk = make_set(tmp_path / "test", "t", 8, 5, 1)
    make_set(tmp_path / "train", "c", 15, 6, 2)
    keys = list(utt2spk)
    pairs = [(a, b) for i, a in enumerate(keys) for b in keys[:i:3]]
    labels = np.array([utt2spk[a] == utt2spk[b] for a, b in pairs], np.int8)
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    write_trials(tmp_path / "O.kaldi", Trials(first, second, labels))
    write_trials(tmp_path / "blind", Trials(first[-20:], second[-20:], None))
    return tmp_path


@pytest.fixture
def scored(corpus):
    files = TrialFiles(corpus / "test/xvector.scp", mean_scp=corpus / "train/xvector.scp")
    lists = [corpus / "O.kaldi", corpus / "blind"]
    score_lists(lists, files, corpus / "scores")
    return corpus, files, lists


def normalise(scored, **options):
    corpus, files, lists = scored
    train = corpus / "train"
    return normalise_lists(
        lists, corpus / "scores", files, train / "xvector.scp", train / "utt2spk", **options
    )


def calibrate(scored, out="cal", **options):
    corpus, files, lists = scored
    train = corpus / "train"
    training = TrainingFiles(train / "xvector.scp", train / "utt2spk", train / "utt2dur")
    durations = options.pop("utt2dur", corpus / "test/utt2dur")
    pairs = PairSettings(options.pop("num_pairs", 30_000))
    settings = FitSettings(pairs=pairs, **options)
    return calibrate_lists(
        lists, corpus / "scores", files, durations, training, corpus / out, settings
    )


def test_the_four_commands_in_a_row(corpus):
    test, train, scores = corpus / "test", corpus / "train", corpus / "scores"
    common = [
        f"--trials={corpus / 'O.kaldi'},{corpus / 'blind'}",
        f"--enroll_scp={test / 'xvector.scp'}",
        f"--mean_scp={train / 'xvector.scp'}",
    ]
    cohort = [
        f"--scores_dir={scores}",
        f"--cohort_scp={train / 'xvector.scp'}",
        f"--cohort_utt2spk={train / 'utt2spk'}",
        "--top_n=8",
    ]
    done = run("score", *common, f"--out_dir={scores}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(scores / "O.kaldi.score"), str(scores / "blind.score")]
    done = run("score_norm", *common, *cohort)
    assert done.returncode == 0, done.stderr
    done = run(
        "calibrate", *common, *cohort, f"--test_utt2dur={test / 'utt2dur'}",
        f"--cohort_utt2dur={train / 'utt2dur'}", "--num_pairs=400", "--seed=7",
        f"--out_dir={scores}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [scores / f"O.kaldi{kind}.score" for kind in ("", ".asnorm", ".qmf")]
    done = run("compute_metrics", *names, "--p_target=0.01,0.05")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == [
        "name",
        "trials",
        "targets",
        "EER",
        "%",
        "minDCF(0.01)",
        "minDCF(0.05)",
    ]
    assert [row.split()[0] for row in rows] == ["O.kaldi", "O.kaldi.asnorm", "O.kaldi.qmf"]
    done = run("compute_metrics", names[2], "--llr", "--json", f"--plot={corpus / 'plots'}")
    assert {path.name for path in (corpus / "plots").iterdir()} == {
        "det.png",
        "O.kaldi.qmf.hist.png",
    }
    values = json.loads(done.stdout)["O.kaldi.qmf"]
    trials, llrs = read_scores(names[2])
    expected = metrics.evaluate(llrs, trials.labels, llr=True)
    assert values["eer_percent"] == 100 * expected.eer
    assert values["cllr"] == expected.cllr < 1
    assert values["act_dcf"]["0.05"] == expected.act_dcf[0.05]


@pytest.mark.parametrize("name", ["score", "score_norm", "calibrate", "compute_metrics"])
def test_help_describes_the_arguments(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert "trial list" in done.stderr + done.stdout or "score files" in done.stderr + done.stdout


def test_wrong_words_exit_with_2_and_write_nothing(corpus):
    done = run("compute_metrics", "--p_targets=0.01")
    assert done.returncode == 2
    done = run(
        "score_norm", "--trials=a", "--scores_dir=b", "--enroll_scp=c", "--cohort_scp=d",
        "--method=zsnorm",
    )  # fmt: skip
    assert done.returncode == 2 and "asnorm, snorm" in done.stderr


def test_score_file_holds_the_cosines(scored):
    corpus, files, _ = scored
    enroll, test, mean = files.load()
    trials, scores = read_scores(corpus / "scores/O.kaldi.score")
    np.testing.assert_allclose(scores, score_trials(trials, enroll, test, mean), atol=5.1e-6)
    blind, _ = read_scores(corpus / "scores/blind.score")
    assert blind.labels is None and len(blind) == 20


def test_normed_score_file_has_wespeakers_columns(scored):
    corpus, files, _ = scored
    normalise(scored, top_n=8)
    lines = (corpus / "scores/O.kaldi.asnorm.score").read_text().splitlines()
    assert {len(line.split()) for line in lines} == {8}
    enroll, test, mean = files.load()
    trials, scores = read_scores(corpus / "scores/O.kaldi.score")
    train = Embeddings.read(corpus / "train/xvector.scp")
    utt2spk = dict(line.split() for line in (corpus / "train/utt2spk").read_text().splitlines())
    expected, statistics = score_norm(
        scores, trials, enroll, test, train.speaker_means(utt2spk), mean, 8
    )
    for row in (0, 7, len(lines) - 1):
        words = lines[row].split()
        assert words[3] == ("target" if trials.labels[row] else "nontarget")
        centred = enroll.matrix[enroll.keys.index(words[0])] - mean
        assert float(words[2]) == pytest.approx(expected[row], abs=1e-5)
        assert float(words[4]) == pytest.approx(np.linalg.norm(centred), abs=1e-4)
        assert float(words[7]) == pytest.approx(statistics.test_mean[row], abs=1e-4)
    blind = (corpus / "scores/blind.asnorm.score").read_text().splitlines()
    assert {len(line.split()) for line in blind} == {7}


def test_lists_normalised_together_or_alone_are_equal(scored):
    corpus, files, lists = scored
    normalise(scored, top_n=8)
    together = (corpus / "scores/blind.asnorm.score").read_bytes()
    normalise((corpus, files, lists[1:]), top_n=8)
    assert (corpus / "scores/blind.asnorm.score").read_bytes() == together


def test_a_stored_mean_does_the_same_as_its_embeddings(scored):
    corpus, files, lists = scored
    expected = (corpus / "scores/O.kaldi.score").read_bytes()
    np.save(corpus / "mean_vec.npy", Embeddings.read(corpus / "train/xvector.scp").mean())
    stored = TrialFiles(files.enroll_scp, mean_scp=corpus / "mean_vec.npy")
    score_lists(lists, stored, corpus / "stored")
    assert (corpus / "stored/O.kaldi.score").read_bytes() == expected
    wrong = [np.zeros((2, 10)), np.full(10, np.nan), np.array(["a"]), np.zeros(10, object)]
    for array in wrong:
        np.save(corpus / "mean_vec.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=r"mean_vec\.npy: (expected one finite|cannot be read)"):
            score_lists(lists, stored, corpus / "wrong")
    (corpus / "mean_vec.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"mean_vec\.npy: cannot be read"):
        score_lists(lists, stored, corpus / "wrong")
    assert not (corpus / "wrong").exists()


@pytest.mark.parametrize("damaged", ["test", "train"])
def test_a_flipped_bit_in_any_archive_stops_every_stage(scored, damaged):
    corpus, files, lists = scored
    archive = corpus / damaged / "xvector.ark"
    content = bytearray(archive.read_bytes())
    content[-7] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=rf"{damaged}/xvector.ark: its content is not what"):
        score_lists(lists, files, corpus / "again")
    with pytest.raises(DataError, match=rf"{damaged}/xvector.ark: its content is not what"):
        normalise(scored, top_n=8)
    train = corpus / "train/xvector.scp"
    with pytest.raises(DataError, match=rf"{damaged}/xvector.ark: its content is not what"):
        normalise_lists(lists, corpus / "scores", TrialFiles(files.enroll_scp), train, top_n=8)
    assert not (corpus / "again").exists() and not list(corpus.glob("scores/*asnorm*"))


def test_utterances_as_cohort_are_read_in_blocks(scored, monkeypatch):
    corpus, files, lists = scored
    train = corpus / "train/xvector.scp"
    monkeypatch.setattr(vector_table, "_BLOCK_ROWS", 7)
    normalise_lists(lists, corpus / "scores", files, train, top_n=8)
    trials, scores = read_scores(corpus / "scores/O.kaldi.score")
    enroll, test, mean = files.load()
    expected, _ = score_norm(scores, trials, enroll, test, Embeddings.read(train), mean, 8)
    _, got = read_scores(corpus / "scores/O.kaldi.asnorm.score")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_torch_device_gives_the_same(scored):
    corpus, _, _ = scored
    normalise(scored, top_n=8)
    _, expected = read_scores(corpus / "scores/O.kaldi.asnorm.score")
    normalise(scored, top_n=8, device="cpu:0")
    _, got = read_scores(corpus / "scores/O.kaldi.asnorm.score")
    np.testing.assert_allclose(got, expected, atol=2e-5)
    with pytest.raises(ConfigError, match=r"--device tpu: .*Give cpu, or cuda"):
        normalise(scored, top_n=8, device="tpu")


def test_too_large_top_n_says_what_fits(scored):
    with pytest.raises(DataError, match=r"15 usable entries.*top_n = 300\nGive --top_n 15 or less"):
        normalise(scored)
    assert not list((scored[0] / "scores").glob("*.asnorm.score"))


def test_calibration_is_repeatable_and_refuses_other_norm_settings(scored):
    corpus, _, _ = scored
    normalise(scored, top_n=8)
    first = [path.read_bytes() for path in calibrate(scored, "one", top_n=8, num_pairs=200)]
    again = [path.read_bytes() for path in calibrate(scored, "two", top_n=8, num_pairs=200)]
    assert first == again
    assert (corpus / "one/calibration.json").read_bytes() == (
        corpus / "two/calibration.json"
    ).read_bytes()
    with pytest.raises(DataError, match=r"asnorm\.json: top_n = 8, here 5"):
        calibrate(scored, top_n=5, num_pairs=200)


def test_calibration_names_bad_durations(scored):
    corpus, _, _ = scored
    normalise(scored, top_n=8)
    (corpus / "words").write_text("t0-0 3.0\nt0-1 long\n")
    with pytest.raises(DataError, match=r"(?s)words.*t0-1: 'long' is not a number of seconds"):
        calibrate(scored, top_n=8, utt2dur=corpus / "words")
    (corpus / "few").write_text("t0-0 3.0\n")
    with pytest.raises(DataError, match=r"(?s)without a positive duration.*t0-1"):
        calibrate(scored, top_n=8, num_pairs=200, utt2dur=corpus / "few")


def test_stages_out_of_order_or_stale_are_named(scored):
    corpus, files, lists = scored
    with pytest.raises(DataError, match=r"O\.kaldi\.asnorm\.score: no such file.*score_norm first"):
        calibrate(scored, top_n=8)
    write_trials(lists[1], Trials(["t0-0"], ["t1-0"], None))
    with pytest.raises(DataError, match=r"blind\.score: its trials are not those of the list"):
        normalise(scored, top_n=8)
    with pytest.raises(ConfigError, match=r"equal file name: O\.kaldi"):
        score_lists([lists[0], lists[0]], files, corpus / "x")


def test_enrolment_map_makes_models_through_all_stages(scored):
    corpus, files, _lists = scored
    models = {f"m{s}": [f"t{s}-0", f"t{s}-1", f"t{s}-2"] for s in range(8)}
    (corpus / "enroll.map").write_text("".join(f"{m} {' '.join(u)}\n" for m, u in models.items()))
    pairs = [(m, f"t{s}-{u}") for m in models for s in range(8) for u in (3, 4)]
    labels = np.array([m[1:] == t[1:].split("-")[0] for m, t in pairs], np.int8)
    trials = Trials([m for m, _ in pairs], [t for _, t in pairs], labels)
    write_trials(corpus / "cnc.lst", trials)
    files = TrialFiles(files.enroll_scp, None, files.mean_scp, corpus / "enroll.map")
    case = (corpus, files, [corpus / "cnc.lst"])
    score_lists(case[2], files, corpus / "scores")
    test = Embeddings.read(files.enroll_scp)
    mean = Embeddings.read(files.mean_scp).mean()
    unit = dict(zip(test.keys, test.unit(mean)[0], strict=True))
    _, scores = read_scores(corpus / "scores/cnc.lst.score")
    for (model, key), score in zip(pairs, scores, strict=True):
        direction = np.mean([unit[u] for u in models[model]], axis=0)
        expected = direction @ unit[key] / np.linalg.norm(direction)
        assert score == pytest.approx(expected, abs=1e-5)
    normalise(case, top_n=8)
    (written,) = calibrate(case, top_n=8, num_pairs=200)
    lines = (corpus / "test/utt2dur").read_text().splitlines()
    seconds = {key: float(word) for key, word in map(str.split, lines)}
    together = {model: sum(seconds[key] for key in models[model]) for model in models}
    _, normed = read_scores(corpus / "scores/cnc.lst.asnorm.score")
    features = quality_features(normed, trials, files.load()[0], test, together, seconds)
    llrs = Calibration.load(corpus / "cal/calibration.json").llr(features)
    np.testing.assert_allclose(read_scores(written)[1], llrs, atol=1e-5)
    expected = enrolment_models(test, models, mean)
    assert expected.keys == files.load()[0].keys == sorted(models)
    (corpus / "short").write_text("t0-0 1.0\n")
    with pytest.raises(DataError, match=r"(?s)short: enrolment utterances without.*t0-1"):
        calibrate(case, top_n=8, utt2dur=corpus / "short")


def test_blind_and_one_sided_score_files_are_named_errors(scored):
    corpus, _, _ = scored
    done = run("compute_metrics", corpus / "scores/blind.score")
    assert done.returncode == 1 and done.stdout == ""
    assert "blind.score: blind scores" in done.stderr and "Traceback" not in done.stderr
    write_scores(corpus / "one.score", Trials(["a", "b"], ["c", "d"], [1, 1]), [0.1, 0.2])
    with pytest.raises(DataError, match="one: no non-target trials among 2"):
        evaluate_systems(read_systems([corpus / "one.score"]))
    done = run("compute_metrics")
    assert done.returncode != 0 and "no score file" in done.stderr


def test_score_files_of_equal_name_keep_their_folders_apart(tmp_path):
    trials = Trials(["a", "b"], ["c", "d"], [1, 0])
    for folder in ("x", "y"):
        write_scores(tmp_path / folder / "O.score", trials, [0.9, 0.1])
    write_scores(tmp_path / "E.score", trials, [0.9, 0.1])
    files = [tmp_path / "x/O.score", tmp_path / "y/O.score", tmp_path / "E.score"]
    assert list(read_systems(files)) == [str(files[0]), str(files[1]), "E"]


def test_table_is_aligned_and_in_per_cent():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.4, 0.3, 0.2])
    labels = np.array([1, 1, 0, 1, 0, 1, 0, 0])
    results = evaluate_systems({"a": (scores, labels), "longer": (-scores, labels)}, (0.01,))
    header, one, other = metrics_table(results).splitlines()
    assert len(header) == len(one) == len(other)
    assert one.split() == ["a", "8", "4", "25.000", "0.5000"]
