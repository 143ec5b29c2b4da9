"""The vad table: both forms of lines, joined pieces, and what is wrong with others."""

import random

import pytest

from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.prepare import prepare_data_dir
from wesp_lap.kaldi.vad import read_vad, write_vad
from wesp_lap.kaldi.validate import validate


def test_both_forms_of_lines_are_read_and_pieces_are_sorted(tmp_path):
    (tmp_path / "vad").write_text("u 2.5 3\nu-0001 u 0 1.25\nseg-7 v/1.wav 0.5 1e1\n")
    assert read_vad(tmp_path / "vad") == {"u": [(0.0, 1.25), (2.5, 3.0)], "v/1.wav": [(0.5, 10.0)]}


def test_joined_pieces_cover_the_same_moments(tmp_path):
    random.seed(3)
    for _ in range(50):
        pieces = []
        for _ in range(random.randint(1, 8)):
            start = random.randint(0, 40)
            pieces.append((start, start + random.randint(1, 9)))
        lines = [f"u {start} {end}\n" for start, end in pieces]
        (tmp_path / "vad").write_text("".join(lines))
        found = read_vad(tmp_path / "vad")["u"]
        moments = {moment for start, end in pieces for moment in range(start, end)}
        assert {m for start, end in found for m in range(int(start), int(end))} == moments
        ends = [moment for piece in found for moment in piece]
        assert ends == sorted(set(ends))  # sorted, and no two pieces touch


def test_write_then_read_is_the_identity(tmp_path):
    vad = {"b": [(0.1, 0.30000000000000004), (1.0, 2.0)], "a": [(1e-7, 5.0)]}
    write_vad(tmp_path / "vad", vad)
    assert read_vad(tmp_path / "vad") == vad
    assert (tmp_path / "vad").read_text().startswith("a ")


@pytest.mark.parametrize(
    "line", ["u 1", "a b u 1 2", "u 1 1", "u -1 1", "u 2 1", "u x 1", "u 0 nan", "u 0 inf", ""]
)
def test_bad_lines_are_all_named(tmp_path, line):
    (tmp_path / "vad").write_text(f"u 0 1\n{line}\nv 5 4\n")
    with pytest.raises(DataError) as caught:
        read_vad(tmp_path / "vad")
    assert f"{tmp_path}/vad:2: " in str(caught.value) and f"{tmp_path}/vad:3: " in str(caught.value)
    assert "'utterance start end'" in str(caught.value)


def test_an_empty_or_missing_table_is_named(tmp_path):
    (tmp_path / "vad").write_text("")
    with pytest.raises(DataError, match="vad: empty file"):
        read_vad(tmp_path / "vad")
    with pytest.raises(DataError, match="no such file"):
        read_vad(tmp_path / "none")


def test_the_data_directory_has_it(corpus, tmp_path):
    assert DataDir.load(corpus).vad == {}
    (corpus / "vad").write_text("a-1 0 0.5\nx b-1 0.25 1\nb-1 0.1 0.2\n")
    data = DataDir.load(corpus)
    assert data.vad == {"a-1": [(0.0, 0.5)], "b-1": [(0.1, 0.2), (0.25, 1.0)]}
    data.write(tmp_path / "copy")
    assert DataDir.load(tmp_path / "copy").vad == data.vad
    (corpus / "vad").write_text("a-1 0.5\n")
    with pytest.raises(DataError, match=f"{corpus}/vad:1: expected 'utterance start end'"):
        DataDir.load(corpus)


def texts(corpus, level, **settings):
    return [one.text for one in validate(corpus, **settings) if one.level == level]


@pytest.mark.parametrize("audio", ["headers", "none"])
def test_speech_after_the_end_is_an_error(corpus, audio):
    (corpus / "vad").write_text("a-1 0 1\na-2 0 1.24\nb-1 0 0.1\nb-1 0.5 1.5\nb-2 0 1\n")
    (text,) = texts(corpus, "error", audio=audio)
    assert text == f"{corpus}/vad: 1 utterances have speech after their end: " + (
        "b-1 ends at 1.5 s of 1.200 s"
    )


def test_times_count_from_the_start_of_a_segment(corpus):
    (corpus / "utt2dur").unlink()
    (corpus / "segments").write_text(
        "".join(f"{k}-{i} {k}-{i} 0.2 1.2\n" for k in "ab" for i in "12")
    )
    (corpus / "vad").write_text("a-1 0 1\na-2 0 1.1\nb-1 0 1\nb-2 0 1\n")
    (text,) = texts(corpus, "error", audio="none")
    assert "1 utterances have speech after their end: a-2 ends at 1.1 s of 1.000 s" in text


def test_unknown_utterances_and_those_without_speech_are_warned_about(corpus):
    (corpus / "vad").write_text("a-1 0 1\na-2 0 1\nghost 0 1\nb-2 0 1\n")
    assert texts(corpus, "error") == []
    assert texts(corpus, "warning") == [
        f"{corpus}/vad: 1 unknown utterances: ghost",
        f"{corpus}/vad: 1 utterances without speech: b-1",
    ]


def test_prepare_data_carries_it_without_what_has_no_speaker(corpus, tmp_path):
    (corpus / "vad").write_text("b-2 0.5 1\nb-2 0 0.5\nghost 0 1\n")
    assert prepare_data_dir(corpus, tmp_path / "out")
    assert (tmp_path / "out/vad").read_text() == "b-2 0.0 1.0\n"
    (corpus / "vad").unlink()
    assert prepare_data_dir(corpus, tmp_path / "out")
    assert not (tmp_path / "out/vad").exists()
