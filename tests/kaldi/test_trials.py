import numpy as np
import pytest

from wesp_lap.errors import DataError
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.trials import Trials, read_trials, write_trials


@pytest.mark.parametrize(
    "lines",
    [
        "e1 t1 target\ne2 t2 nontarget\n",
        "1 e1 t1\n0 e2 t2\n",
        "e1 t1 1\ne2 t2 0\n",
        "e1\tt1  target\r\ne2 t2 nontarget",
    ],
)
def test_all_forms_with_labels_mean_the_same(tmp_path, lines):
    (tmp_path / "t").write_bytes(lines.encode())
    trials = read_trials(tmp_path / "t")
    assert (trials.enroll, trials.test) == (["e1", "e2"], ["t1", "t2"])
    assert trials.labels.dtype == np.int8 and trials.labels.tolist() == [1, 0]


def test_blind_list(tmp_path):
    (tmp_path / "t").write_text("e1 t1\ne2 t2\n")
    trials = read_trials(tmp_path / "t")
    assert trials.labels is None and len(trials) == 2
    write_trials(tmp_path / "copy", trials)
    assert (tmp_path / "copy").read_text() == "e1 t1\ne2 t2\n"


def test_written_in_the_form_of_kaldi(tmp_path):
    (tmp_path / "v").write_text("1 ü t1\n0 e2 t2\n")
    write_trials(tmp_path / "k", read_trials(tmp_path / "v"))
    assert (tmp_path / "k").read_text() == "ü t1 target\ne2 t2 nontarget\n"
    assert read_trials(tmp_path / "k").enroll == ["ü", "e2"]


def test_lines_of_another_form_are_all_named(tmp_path):
    path = tmp_path / "t"
    path.write_text(
        "a b target\na c nontarget\n1 a b\na d\n\na e Target\na f target x\na g target\n"
    )
    with pytest.raises(DataError) as caught:
        read_trials(path)
    text = str(caught.value)
    assert "3 lines have the form 'enroll test target|nontarget'" in text and "5 problems" in text
    assert all(f"{path}:{line}: " in text for line in (3, 4, 5, 6, 7))
    assert f"{path}:6: 'a e Target'" in text


def test_an_unknown_form_lists_the_known_ones(tmp_path):
    (tmp_path / "t").write_text("a b tgt\nc d imp\n")
    with pytest.raises(DataError, match=r"no line has the form(.|\n)*t:2(.|\n)*'1\|0 enroll test'"):
        read_trials(tmp_path / "t")


def test_empty_and_missing_lists(tmp_path):
    (tmp_path / "t").write_text("")
    with pytest.raises(DataError, match="t: empty file"):
        read_trials(tmp_path / "t")
    with pytest.raises(DataError, match="no such file"):
        read_trials(tmp_path / "none")


def test_sides_of_unequal_length_are_refused():
    with pytest.raises(DataError, match="differ in length"):
        Trials(["a"], ["b", "c"])
    with pytest.raises(DataError, match="differ in length"):
        Trials(["a"], ["b"], np.array([1, 0]))


@pytest.fixture
def trials():
    return Trials(["e1", "e2"], ["t1", "t2"], np.array([1, 0], dtype=np.int8))


def test_scores_are_written_as_the_field_does(tmp_path, trials):
    write_scores(tmp_path / "s", trials, np.array([0.1234567, -2]))
    assert (tmp_path / "s").read_text() == "e1 t1 0.12346 target\ne2 t2 -2.00000 nontarget\n"
    blind = Trials(trials.enroll, trials.test)
    write_scores(tmp_path / "s", blind, [1, 2])
    assert (tmp_path / "s").read_text() == "e1 t1 1.00000\ne2 t2 2.00000\n"


def test_normed_scores_have_eight_columns(tmp_path, trials):
    extra = np.array([[1, 2, 0.5, 0.25], [3, 4, 0.125, 1 / 3]])
    line = "e2 t2 0.50000 nontarget 3.0000 4.0000 0.1250 0.3333\n"
    write_scores(tmp_path / "s", trials, [1.5, 0.5], extra)
    assert (tmp_path / "s").read_text().endswith(line)
    write_scores(tmp_path / "m", trials, [1.5, 0.5], dict(zip("abcd", extra.T, strict=True)))
    assert (tmp_path / "m").read_bytes() == (tmp_path / "s").read_bytes()
    again, scores = read_scores(tmp_path / "s")
    assert again.enroll == trials.enroll and again.test == trials.test
    assert again.labels.tolist() == [1, 0] and scores.tolist() == [1.5, 0.5]


def test_scores_without_labels_may_have_further_numbers(tmp_path):
    (tmp_path / "s").write_text("a b 1.5 0.25 1\nc d -1e-3 0.5 1\n")
    trials, scores = read_scores(tmp_path / "s")
    assert trials.labels is None and scores.tolist() == [1.5, -0.001]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a b 1 target\nc d x target\ne f nan nontarget\n", (2, 3)),
        ("a b 1 target\nc d 1\ne f 1 nontarget\n", (2,)),
        ("a b 1 target\nc d 1 tgt\n", (2,)),
        ("a b\nc d\n", (1, 2)),
        ("a b 1\nc d 1\n\n", (3,)),
    ],
)
def test_bad_score_lines_are_all_named(tmp_path, text, lines):
    path = tmp_path / "s"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_scores(path)
    named = [n for n in range(1, 5) if f"{path}:{n}: " in str(caught.value)]
    assert named == list(lines)


def test_scores_that_are_not_finite_are_named_and_nothing_is_written(tmp_path, trials):
    with pytest.raises(DataError, match=r"s: scores that are not finite(.|\n)*e2 t2: nan"):
        write_scores(tmp_path / "s", trials, [1, np.nan])
    with pytest.raises(DataError, match="not finite"):
        write_scores(tmp_path / "s", trials, [1, 2], [[1], [np.inf]])
    with pytest.raises(DataError, match="2 trials, but scores of shape"):
        write_scores(tmp_path / "s", trials, [1, 2, 3])
    with pytest.raises(DataError, match="2 trials, but further columns"):
        write_scores(tmp_path / "s", trials, [1, 2], np.ones(2))
    assert not list(tmp_path.iterdir())
