"""Results of a recipe against values computed by hand."""

import json

import matplotlib.image
import numpy as np
import pytest

from wesp_lap.analysis.report import (
    Row,
    load_scored,
    named_folders,
    results_rows,
    results_table,
    score_files,
    write_page,
    write_tsv,
)
from wesp_lap.bin import report
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring.labelled import as_systems

# Targets at ranks 1, 2, 4 and 6 of 8. At threshold .6 one of 4 targets is missed and one of 4
# nontargets accepted: EER 25 %. No false alarm and two misses cost 2/4 of rejecting all.
WORKED = "0.9 t|0.8 t|0.7 n|0.6 t|0.55 n|0.4 t|0.3 n|0.2 n"
# Ranks 1 to 3, 5 and 6 of 12: three accepted without false alarm leave 2 of 5 missed.
TWELVE = "0.95 t|0.9 t|0.85 t|0.8 n|0.7 t|0.65 t|0.6 n|0.5 n|0.4 n|0.3 n|0.2 n|0.1 n"
# Ten targets and 100 nontargets, with one nontarget behind the fourth target. Below it one false
# alarm in 100 costs 99/100 at a prior of 1 % and 19/100 at 5 %; above it six misses cost 6/10.
KINDS = "t" * 4 + "n" + "t" * 6 + "n" * 99
LONG = "|".join(f"{1 - rank / 1000} {kind}" for rank, kind in enumerate(KINDS))
PERFECT = "0.9 t|0.8 t|0.2 n|0.1 n"
INVERTED = "0.9 n|0.8 n|0.2 t|0.1 t"


def write_scores(path, text):
    path.parent.mkdir(exist_ok=True)
    names = {"t": "target", "n": "nontarget"}
    rows = [entry.split() for entry in text.split("|")]
    lines = [f"a{i} b{i} {score} {names[kind]}" for i, (score, kind) in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def scores(tmp_path):
    for name, text in {
        "easy.score": PERFECT,
        "easy.asnorm.score": WORKED,
        "easy.qmf.score": INVERTED,
        "hard.score": TWELVE,
        "hard.qmf.score": LONG,
    }.items():
        write_scores(tmp_path / "scores" / name, text)
    write_scores(tmp_path / "untrained" / "hard.score", INVERTED)
    return tmp_path / "scores"


@pytest.fixture
def phase(tmp_path):
    folder = tmp_path / "exp" / "1_frozen"
    folder.mkdir(parents=True)
    records = [
        {
            "epoch": epoch,
            "step": step,
            "steps_per_epoch": 20,
            "lr": 1e-3,
            "margin": 0.1,
            "loss": 5.0 - number / 4,
            "accuracy": number / 8,
            "utterances_per_second": 10.0 * number,
            "seconds": 30.0,
        }
        for number, (epoch, step) in enumerate([(1, 10), (1, 20), (2, 10), (2, 20), (3, 20)])
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_rows_hold_the_worked_values_in_the_order_of_the_methods(tmp_path, scores):
    trials = [tmp_path / "data" / "easy", "hard"]
    files = score_files(trials, {"untrained ": tmp_path / "untrained", "": scores})
    rows = results_rows(as_systems(load_scored(files)))
    assert [(row.trials, row.method) for row in rows] == [
        ("easy", "cosine"),
        ("easy", "asnorm"),
        ("easy", "qmf"),
        ("hard", "untrained cosine"),
        ("hard", "cosine"),
        ("hard", "qmf"),
    ]
    easy = [(0, 0, 0), (25, 0.5, 0.5), (100, 1, 1)]
    expected = [*easy, (100, 1, 1), (100 / 7, 0.4, 0.4), (1, 0.6, 0.19)]
    np.testing.assert_allclose([row[2:] for row in rows], expected, atol=1e-9)


def test_trial_lists_without_scores_are_all_named(tmp_path, scores):
    with pytest.raises(DataError) as caught:
        score_files(["easy", "gone", "lost"], {"": scores})
    assert str(caught.value) == (
        f"no score files in {scores} (2 problems):\n  gone.score\n  lost.score\n"
        "Score these trial lists or leave them out."
    )


def test_results_tsv_has_five_plain_columns(tmp_path):
    rows = [Row("easy", "cosine", 1.23456, 0.1, 0.05), Row("hard", "qmf", 100 / 7, 1, 1)]
    write_tsv(rows, tmp_path / "results.tsv")
    assert (tmp_path / "results.tsv").read_text() == (
        "trials\tmethod\teer\tmindcf01\tmindcf05\n"
        "easy\tcosine\t1.235\t0.1000\t0.0500\n"
        "hard\tqmf\t14.286\t1.0000\t1.0000\n"
    )


def test_the_table_is_aligned_markdown():
    rows = [Row("easy", "cosine", 1.25, 0.1, 0.05), Row("a_long_name", "qmf", 10, 1, 1)]
    lines = results_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["trials", "method", "EER %", "minDCF(0.01)", "minDCF(0.05)"]
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["easy", "cosine", "1.250", "0.1000", "0.0500"]


def test_the_page_shows_results_curves_training_and_environment(tmp_path, scores, phase):
    systems = as_systems(load_scored(score_files(["easy", "hard"], {"": scores})))
    rows = results_rows(systems)
    page = write_page(tmp_path / "out", rows, systems, [phase], "A note.")
    text = page.read_text()
    assert results_table(rows) in text and "A note." in text
    # 5 x 30 s; the last loss and accuracy; the median speed.
    assert "| 1_frozen | 3 | 2.5 min | 4.000 | 50.0 % | 20 |" in text
    assert "wesp_lap 0." in text and "torch " in text and "Python 3." in text
    for name in ("det_easy.png", "det_hard.png", "training.png"):
        assert f"]({name})" in text
        image = matplotlib.image.imread(tmp_path / "out" / name)
        assert image.shape[0] > 300 and image[..., :3].std() > 0.01


def test_the_page_shows_the_validations_of_a_phase(tmp_path, scores, phase):
    with open(phase / "metrics.jsonl", "a") as stream:
        for epoch, eer in enumerate([50.0, 9.25, 9.5]):
            stream.write(json.dumps({"epoch": epoch, "validation": {"eer": eer}}) + "\n")
    systems = as_systems(load_scored(score_files(["easy"], {"": scores})))
    text = write_page(tmp_path / "out", results_rows(systems), systems, [phase]).read_text()
    assert "utt/s | validation EER % (best) |" in text
    assert "| 1_frozen | 3 | 2.5 min | 4.000 | 50.0 % | 20 | 9.50 (9.25) |" in text


def test_the_command_writes_what_it_prints(tmp_path, scores, phase, capsys):
    report.main(["easy"], [str(scores)], str(tmp_path / "out"))
    printed = capsys.readouterr().out
    table = (tmp_path / "out" / "results.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in table[1:]] == [
        ["easy", "cosine"],
        ["easy", "asnorm"],
        ["easy", "qmf"],
    ]
    assert all(value in printed for line in table[1:] for value in line.split("\t"))
    assert not (tmp_path / "out" / "results.md").exists()
    report.main(["easy"], [str(scores)], str(tmp_path / "out"), phases=[str(phase)])
    assert (tmp_path / "out" / "results.md").exists()


def test_intervals_and_groups_are_shown_when_maps_are_given(tmp_path, scores, phase, capsys):
    ids = [f"{side}{i}" for side in "ab" for i in range(8)]
    # Targets of the worked list are trials 0, 1, 3 and 5.
    speakers = {f"a{i}": f"s{i}" for i in range(8)}
    speakers |= {f"b{i}": f"s{i}" if i in (0, 1, 3, 5) else f"s{(i + 1) % 8}" for i in range(8)}
    (tmp_path / "utt2spk").write_text("".join(f"{key} {speakers[key]}\n" for key in ids))
    (tmp_path / "room").write_text(
        "".join(f"{key} {'large' if key < 'b' else 'x'}\n" for key in ids)
    )
    (scores / "easy.score").write_text((scores / "easy.asnorm.score").read_text())
    (scores / "easy.qmf.score").unlink()
    report.main(
        ["easy"],
        [str(scores)],
        str(tmp_path / "out"),
        phases=[str(phase)],
        utt2spk=str(tmp_path / "utt2spk"),
        bootstrap=50,
        by=[str(tmp_path / "room")],
    )
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "results.md").read_text()
    details = page.split("```\n")[1].rstrip("\n")
    assert details in printed and "## Intervals and groups" in page
    header, *rows = details.splitlines()
    assert "EER % low" in header and "EER % high" in header
    assert [row.split()[:4] for row in rows] == [
        ["easy", method, by, group]
        for method in ("cosine", "asnorm")
        for by, group in (("-", "all"), ("room", "different"), ("room", "large/x"))
    ]
    assert all("25.000" in row for row in rows)
    lines = (tmp_path / "out" / "results.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["trials", "method", "eer", "mindcf01", "mindcf05"]


def test_folders_of_scores_may_have_names(tmp_path):
    assert named_folders(["a/b", "joint=c/d=e"]) == {"": "a/b", "joint ": "c/d=e"}
    assert named_folders(["/x=1/scores"]) == {"": "/x=1/scores"}
    with pytest.raises(ConfigError, match=r"a and b need different names: NAME=FOLDER"):
        named_folders(["a", "b"])
