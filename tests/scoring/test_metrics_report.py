"""Label words, break-downs, tables and the compute_metrics command."""

import json

import numpy as np
import pytest

from wesp_lap.bin.compute_metrics import compute_metrics
from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.scores import write_scores
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring import metrics
from wesp_lap.scoring.bootstrap import Resampling, bootstrap
from wesp_lap.scoring.breakdown import group_trials, read_values
from wesp_lap.scoring.labelled import read_labelled_scores, read_scored
from wesp_lap.scoring.measure import Maps, Measures, measure_systems
from wesp_lap.scoring.report import report_table, report_tsv, report_values


@pytest.fixture
def scored(tmp_path):
    """Scores of 12 speakers, 8 utterances each, and maps of them."""
    random = np.random.default_rng(4)
    keys = [f"s{s:02d}-u{u}" for s in range(12) for u in range(8)]
    first, second = random.integers(96, size=(2, 900))
    second[::3] = first[::3] // 8 * 8 + second[::3] % 8
    kept = first != second
    first, second = first[kept], second[kept]
    labels = (first // 8 == second // 8).astype(np.int8)
    scores = (random.normal(size=len(labels)) + 2 * labels).round(5)
    trials = Trials([keys[i] for i in first], [keys[i] for i in second], labels)
    write_scores(tmp_path / "list.score", trials, scores)
    write(tmp_path / "utt2spk", {key: key[:3] for key in keys})
    write(tmp_path / "spk2gender", {f"s{s:02d}": "fm"[s % 2] for s in range(12)})
    write(tmp_path / "utt2dur", {key: f"{2 + i % 11}.0" for i, key in enumerate(keys)})
    return tmp_path, trials, scores


def write(path, table):
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()))


def run(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        run_command(compute_metrics, [str(word) for word in words])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    "target, nontarget",
    [("target", "nontarget"), ("tgt", "imp"), ("tgt", "nontgt"), ("tar", "non"), ("1", "0")],
)
def test_label_words_of_other_toolkits(tmp_path, target, nontarget):
    path = tmp_path / "x.score"
    path.write_text(f"a b 0.5 {target} 1.0\na c 0.25 {nontarget} 2.0\nb c -1 {nontarget} 0\n")
    trials, scores = read_labelled_scores(path)
    assert trials.labels.tolist() == [1, 0, 0] and scores.tolist() == [0.5, 0.25, -1]
    assert list(read_scored([path])) == ["x"]


@pytest.mark.parametrize(
    "lines, words",
    [
        ("a b 1 target\na c 2 imp\nb c 0 nontarget\n", [":2: 'a c 2 imp'"]),
        ("a b 1 tgt\na c 2 imp\nb c 0 nontarget\n", [":3: 'b c 0 nontarget'"]),
        ("a b 1 tgt\na c 2 imp\nb c 0 same\n", ["x.score:3: 'same'", "Write one pair of target|"]),
        ("a b 1 yes\na c 2 no\n", ["x.score:1: 'yes'", "x.score:2: 'no'"]),
        ("a b 1 tgt\na c 2 non\nb c 0 tgt\n", ["x.score:2: 'non'"]),
        ("a b 1 0.7\na c 2 0.5\n", ["x.score: blind scores"]),
        ("a b 1\na c 2\n", ["x.score: blind scores"]),
        ("a b 1 1\na c 2 0\nb c 1 2\n", ["x.score: blind scores"]),
        ("a b nan target\na c 2 nontarget\n", [":1: 'a b nan target'"]),
        ("a b 1 target\na c inf nontarget\n", [":2: 'a c inf nontarget'"]),
        ("a b 1 target\na c -inf nontarget\n", [":2: 'a c -inf nontarget'"]),
        ("a b target\n", [":1: 'a b target'"]),
        ("a b 1 tgt\na c 2\n", ["x.score"]),
        ("", ["x.score: empty file"]),
    ],
)
def test_score_files_that_are_no_measure_are_named(tmp_path, lines, words):
    path = tmp_path / "x.score"
    path.write_text(lines)
    with pytest.raises(DataError) as caught:
        read_labelled_scores(path)
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(DataError, match=r"gone\.score: no such file"):
        read_labelled_scores(tmp_path / "gone.score")


@pytest.mark.parametrize(
    "lines, words",
    [
        ("a b 1 target\na c 2 target\n", "x: no non-target trials among 2"),
        ("a b 1 imp\na c 2 imp\n", "x: no target trials among 2"),
        ("a b 1 target\na c 1 nontarget\n", "x: all 2 scores are 1: no error rate is defined"),
    ],
)
def test_lists_without_an_error_rate_end_with_a_sentence(tmp_path, capsys, lines, words):
    (tmp_path / "x.score").write_text(lines)
    code, out, err = run(capsys, tmp_path / "x.score")
    assert code == 1 and not out and words in err and "Traceback" not in err


def test_groups_are_unordered_pairs_of_values(scored):
    folder, trials, _ = scored
    values, order = read_values(folder / "spk2gender")
    utt2spk = {key: key[:3] for key in (*trials.enroll, *trials.test)}
    groups = group_trials(trials, values, order, utt2spk)
    assert list(groups) == ["same", "different", "f/f", "f/m", "m/m"]
    for row, (one, other) in enumerate(zip(trials.enroll, trials.test, strict=True)):
        pair = "/".join(sorted(values[utt2spk[key]] for key in (one, other)))
        found = [name for name, rows in groups.items() if row in rows]
        assert found == [("same" if pair[0] == pair[-1] else "different"), pair]
    assert groups["f/m"].tolist() == groups["different"].tolist()


def test_numbers_fall_into_bins(tmp_path):
    numbers = {"a": "4.99", "b": "5", "c": "9.999", "d": "10", "e": "1e3", "f": "-1"}
    write(tmp_path / "utt2dur", numbers)
    values, order = read_values(tmp_path / "utt2dur", (5, 10))
    assert order == ["<5", "5-10", ">=10"]
    assert values == {
        "a": "<5", "b": "5-10", "c": "5-10", "d": ">=10", "e": ">=10", "f": "<5"
    }  # fmt: skip
    trials = Trials(["a", "d", "b"], ["d", "a", "c"])
    groups = group_trials(trials, values, order)
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "same": [2], "different": [0, 1], "<5/>=10": [0, 1], "5-10/5-10": [2]
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"bins must rise, got 10, 5"):
        read_values(tmp_path / "utt2dur", (10, 5))
    write(tmp_path / "utt2dur", {f"u{i}": i / 7 for i in range(99)})
    with pytest.raises(DataError, match=r"utt2dur: 99 different values, at most 50\nGive --bins"):
        read_values(tmp_path / "utt2dur")


def test_ids_without_a_value_are_named():
    trials = Trials(["a", "b", "c"], ["d", "e", "f"])
    with pytest.raises(DataError, match=r"genre: no value for 5 of 6 ids.*: b, c, d, e, f\nGive"):
        group_trials(trials, {"a": "x"}, ["x"], source="genre")
    # A model may stand in the map itself, or be a speaker of it.
    groups = group_trials(
        Trials(["m", "s"], ["u", "u"]), {"m": "x", "s": "y"}, ["x", "y"], {"u": "s"}
    )
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "same": [1], "different": [0], "x/y": [0], "y/y": [1]
    }  # fmt: skip


def test_every_row_is_the_measure_of_its_trials(scored):
    folder, trials, scores = scored
    maps = Maps(folder / "utt2spk", [folder / "spk2gender", folder / "utt2dur"], (5, 10))
    measures = Measures((0.05,), c_miss=2.0, llr=True)
    report = measure_systems({"list": (trials, scores)}, measures, maps)["list"]
    assert list(report.groups) == ["spk2gender", "utt2dur"]
    labels = trials.labels
    point = metrics.eer(scores, labels)
    for key, groups in report.groups.items():
        for name, result in groups.items():
            rows = report.rows[key][name]
            assert (result.trials, result.targets) == (len(rows), labels[rows].sum())
            if 0 < labels[rows].sum() < len(rows):
                expected = metrics.evaluate(
                    scores[rows], labels[rows], (0.05,), llr=True, c_miss=2.0
                )
                assert result.metrics == expected and not result.note
            else:
                assert result.metrics is None
    across = report.groups["spk2gender"]["f/m"]
    assert across.note == "no targets" and np.isnan(across.rates[0])
    # The rates at the threshold of the whole list, put together, are those of the whole list.
    parts = [report.groups["spk2gender"][name] for name in ("f/f", "f/m", "m/m")]
    alarms = sum(part.rates[1] * (part.trials - part.targets) for part in parts)
    misses = sum(np.nan_to_num(part.rates[0]) * part.targets for part in parts)
    rates = alarms / (labels == 0).sum(), misses / labels.sum()
    assert max(rates) == pytest.approx(point)


def test_groups_of_one_kind_or_one_score_get_a_note():
    trials = Trials(["a1", "a1", "b1", "c1"], ["a2", "c2", "b2", "c2"], np.array([1, 0, 1, 1]))
    scores = np.array([0.9, 0.1, 0.5, 0.9])
    values = {key: "x" if key[0] == "b" else "y" for key in ("a1", "a2", "b1", "b2", "c1", "c2")}
    from wesp_lap.scoring import measure

    rows = {"map": group_trials(trials, values, ["x", "y"])}
    report = measure._report(trials, scores, Measures(), None, rows)
    assert report.groups["map"]["x/x"].note == "only targets"
    flat = measure._report(trials, np.array([0.9, 0.1, 0.5, 0.1]), Measures(), None, rows)
    assert flat.groups["map"]["y/y"].metrics is not None
    same = measure._report(trials, np.array([0.3, 0.3, 0.5, 0.3]), Measures(), None, rows)
    assert same.groups["map"]["y/y"].note == "all 3 scores are 0.3: no error rate is defined"
    assert same.groups["map"]["y/y"].metrics is None
    assert "all 3 scores are 0.3" in report_table({"list": same})


def test_the_table_the_tsv_and_the_json_say_the_same(scored, capsys):
    folder, trials, scores = scored
    words = [
        folder / "list.score", f"--utt2spk={folder / 'utt2spk'}", "--bootstrap=40", "--seed=3",
        f"--by={folder / 'spk2gender'},{folder / 'utt2dur'}", "--bins=5,10", "--p_target=0.1",
        "--confidence=0.8", "--c_fa=2", "--eer=convex_hull",
    ]  # fmt: skip
    code, table, _ = run(capsys, *words)
    assert code == 0
    lines = table.splitlines()
    columns = (
        "name by group trials targets EER % EER % low EER % high minDCF(0.1) minDCF(0.1) low "
        "minDCF(0.1) high miss % fa % note"
    )
    assert lines[0].split() == columns.split()
    _, tsv, _ = run(capsys, *words, "--tsv")
    header, *rows = [line.split("\t") for line in tsv.splitlines()]
    assert len({len(row) for row in rows} | {len(header)}) == 1
    assert [row[2] for row in rows][:6] == ["all", "same", "different", "f/f", "f/m", "m/m"]
    assert [" ".join(cell or "-" for cell in row).split() for row in rows] == [
        line.split() for line in lines[1:]
    ]
    _, text, _ = run(capsys, *words, "--json")
    values = json.loads(text)["list"]
    numbers = np.array([[int(key[1:3]) for key in side] for side in (trials.enroll, trials.test)]).T
    intervals = bootstrap(
        scores, trials.labels, numbers, Resampling(40, 0.8, 3), (0.1,), 1.0, 2.0, "convex_hull"
    )
    assert values["eer_percent_interval"] == [100 * end for end in intervals.eer]
    assert values["min_dcf_interval"] == {"0.1": list(intervals.min_dcf[0.1])}
    assert values["bootstrap"] == {"resamples": 40, "speakers": 12}
    expected = metrics.evaluate(scores, trials.labels, (0.1,), c_fa=2.0, eer_method="convex_hull")
    assert values["eer_percent"] == 100 * expected.eer
    assert values["min_dcf"]["0.1"] == expected.min_dcf[0.1]
    assert values["by"]["spk2gender"]["f/m"]["note"] == "no targets"
    assert values["by"]["spk2gender"]["f/m"]["miss_percent"] is None
    assert float(rows[0][header.index("EER % low")]) == round(100 * intervals.eer[0], 3)


def test_plots_of_groups(scored, capsys):
    folder, _, _ = scored
    code, _, err = run(
        capsys, folder / "list.score", f"--utt2spk={folder / 'utt2spk'}",
        f"--by={folder / 'spk2gender'}", f"--plot={folder / 'plots'}",
    )  # fmt: skip
    assert code == 0, err
    names = {"det.png", "list.hist.png", "list.spk2gender.det.png"}
    assert {path.name for path in (folder / "plots").iterdir()} == names


def test_wrong_options_are_named(scored, capsys):
    folder, _, _ = scored
    path = folder / "list.score"
    for words, text in [
        (["--bootstrap=10"], "confidence intervals need --utt2spk"),
        (["--bootstrap=1", f"--utt2spk={folder / 'utt2spk'}"], "at least 2 resamples"),
        (["--json", "--tsv"], "not both"),
        (["--c_miss=0"], "costs must be positive, got c_miss=0"),
        (["--p_target=1"], "between 0 and 1, got 1"),
        ([f"--by={folder / 'spk2gender'}"], "no value for 96 of 96 ids"),
        (["--eer=hull"], "crossing, convex_hull"),
    ]:
        code, out, err = run(capsys, path, *words)
        assert code in (1, 2) and not out and text in err, err


def test_a_table_without_options_has_the_columns_of_always(scored):
    folder, trials, scores = scored
    reports = measure_systems(read_scored([folder / "list.score"]), Measures())
    assert report_table(reports).splitlines()[0].split() == [
        "name", "trials", "targets", "EER", "%", "minDCF(0.01)", "minDCF(0.05)"
    ]  # fmt: skip
    assert "by" not in report_values(reports)["list"]
    assert len(report_tsv(reports).splitlines()) == 2
    assert reports["list"].whole.metrics == metrics.evaluate(scores, trials.labels)
