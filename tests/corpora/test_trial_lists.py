"""Trial lists are known by what they hold, whatever they are called."""

import pytest

from wesp_lap.corpora.trial_lists import (
    PUBLISHED,
    Published,
    claimed_name,
    read_list,
    write_lists,
)
from wesp_lap.errors import DataError

SMALL = {
    "vox1_O_cleaned": Published("veri_test2.txt", 4, 2),
    "vox1_O": Published("veri_test.txt", 6, 3),
    "vox1_E": Published("list_test_all.txt", 8, 4),
    "vox1_E_cleaned": Published("list_test_all2.txt", 7, 3),
}


def make_list(path, trials, targets=None, form="voxceleb"):
    targets = trials // 2 if targets is None else targets
    rows = [(f"a/b/{n}.wav", f"a/c/{n}.wav", n < targets) for n in range(trials)]
    words = ("nontarget", "target")
    lines = [
        f"{int(label)} {one} {two}" if form == "voxceleb" else f"{one} {two} {words[label]}"
        for one, two, label in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_published_counts():
    # Table of the VoxCeleb site; targets and nontargets of each list differ by few.
    counts = {name: one.trials for name, one in PUBLISHED.items()}
    assert counts == {
        "vox1_O_cleaned": 37611,
        "vox1_E_cleaned": 579818,
        "vox1_H_cleaned": 550894,
        "vox1_O": 37720,
        "vox1_E": 581480,
        "vox1_H": 552536,
    }
    for one in PUBLISHED.values():
        assert abs(one.trials - 2 * one.targets) < 100


def test_the_real_length_of_the_list_o_is_recognised_under_any_name(tmp_path):
    for name in ("veri_test2.txt", "anything.lst", "vox1_O_cleaned.kaldi"):
        one = read_list(make_list(tmp_path / name, 37611, 18802))
        assert one.name == "vox1_O_cleaned" and one.problems == []
    kaldi = make_list(tmp_path / "o.txt", 37611, 18802, form="kaldi")
    assert read_list(kaldi).name == "vox1_O_cleaned"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("veri_test2.txt", "vox1_O_cleaned"),
        ("veri_test.txt", "vox1_O"),
        ("list_test_hard.txt", "vox1_H"),
        ("vox1-E(cleaned).txt", "vox1_E_cleaned"),
        ("vox1_H_cleaned.kaldi", "vox1_H_cleaned"),
        ("VoxCeleb1-H-clean.lst", "vox1_H_cleaned"),
        ("vox1-O.txt", "vox1_O"),
        ("vox1_easy.txt", None),
        ("vox1_test.txt", None),
        ("trials", None),
    ],
)
def test_what_file_names_say(file, name):
    assert claimed_name(file) == name


def test_a_list_called_one_thing_that_is_another_is_an_error(tmp_path):
    one = read_list(make_list(tmp_path / "veri_test2.txt", 6), SMALL)
    (problem, old) = [*one.problems, None]
    assert problem.level == "error" and old is None
    assert "named as vox1_O_cleaned, but its 6 trials are those of vox1_O" in problem.text
    assert "give veri_test2.txt for vox1_O_cleaned" in problem.mend


def test_lists_before_cleaning_are_accepted_with_a_warning(tmp_path):
    one = read_list(make_list(tmp_path / "list_test_all.txt", 8), SMALL)
    (problem,) = one.problems
    assert one.name == "vox1_E" and problem.level == "warning"
    assert "before it was cleaned" in problem.text and "list_test_all2.txt" in problem.mend


def test_a_part_of_the_corpus_has_parts_of_the_lists(tmp_path):
    one = read_list(make_list(tmp_path / "veri_test2.txt", 3), SMALL, part=True)
    (problem,) = one.problems
    assert (one.name, problem.level) == ("vox1_O_cleaned", "warning")
    assert "3 of the 4 trials of vox1_O_cleaned" in problem.text


def test_a_published_name_with_other_trials_is_an_error(tmp_path):
    (problem,) = read_list(make_list(tmp_path / "veri_test2.txt", 3), SMALL).problems
    assert problem.level == "error"
    assert "it has 3 trials and veri_test2.txt 4" in problem.text


def test_labels_that_differ_from_the_published_ones_are_an_error(tmp_path):
    (problem,) = read_list(make_list(tmp_path / "o.txt", 4, targets=3), SMALL).problems
    assert "vox1_O_cleaned with 3 target trials instead of 2" in problem.text
    (tmp_path / "blind.txt").write_text("a b\nc d\ne f\ng h\n")
    (problem,) = read_list(tmp_path / "blind.txt", SMALL).problems
    assert "with no labels instead of 2" in problem.text


def test_a_list_of_ones_own_is_a_warning(tmp_path):
    one = read_list(make_list(tmp_path / "mine.txt", 5), SMALL)
    (problem,) = one.problems
    assert one.name == "mine" and problem.level == "warning"
    assert "5 trials, which is none of the published lists" in problem.text


def test_unreadable_lists_name_their_lines(tmp_path):
    path = make_list(tmp_path / "mine.txt", 5)
    path.write_text(path.read_text() + "1 only\n")
    one = read_list(path, SMALL)
    assert one.trials is None and f"{path}:6: '1 only'" in one.problems[0].text
    assert one.utterances == []
    assert "no such file" in read_list(tmp_path / "nowhere").problems[0].text


def test_the_same_list_twice_is_refused(tmp_path):
    lists = [read_list(make_list(tmp_path / name, 5), SMALL) for name in ("a.txt", "b.txt")]
    assert [path.name for path in write_lists(tmp_path, lists)] == ["a.kaldi", "b.kaldi"]
    lists = [read_list(make_list(tmp_path / name, 4), SMALL) for name in ("a.txt", "b.txt")]
    with pytest.raises(DataError, match=r"a\.txt, .*b\.txt; give each once"):
        write_lists(tmp_path, lists)
