"""combine_data_dirs and get_utt2dur."""

import shutil

import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.combine import combine_data_dirs
from wesp_lap.kaldi.datadir import DataDir, Segment
from wesp_lap.kaldi.durations import write_utt2dur
from wesp_lap.kaldi.edit import copy_data_dir, subset_data_dir
from wesp_lap.kaldi.validate import validate


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def halves(corpus, tmp_path):
    """Three overlapping parts of a directory with every kind of table."""
    (corpus / "utt2lang").write_text("a-1 de\na-2 de\nb-1 en\nb-2 en\n")
    (corpus / "spk2gender").write_text("a f\nb m\n")
    (corpus / "vad").write_text("a-1 0.0 1.0\na-2 0.5 1.0\nb-1 0.0 0.5\nb-2 0.0 1.0\n")
    parts = []
    for number, keys in enumerate((["a-1"], ["a-1", "a-2", "b-1"], ["b-2"])):
        (tmp_path / "list").write_text("\n".join(keys))
        parts.append(tmp_path / f"part{number}")
        subset_data_dir(corpus, parts[-1], "utt_list", tmp_path / "list")
    return parts


def test_parts_joined_again_are_the_whole(corpus, halves, tmp_path):
    copy_data_dir(corpus, tmp_path / "copy")
    assert combine_data_dirs(tmp_path / "out", halves) == 4
    assert read_all(tmp_path / "out") == read_all(tmp_path / "copy")
    assert combine_data_dirs(tmp_path / "out", halves[1:2]) == 3  # nothing of before is left
    assert read_all(tmp_path / "out") == read_all(halves[1])


def test_all_contradictions_are_named_at_once(halves, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(halves[1], other)
    (other / "utt2spk").write_text("a-1 c\na-2 a\nb-1 b\n")
    (other / "spk2gender").write_text("a m\nb m\nc f\n")
    (other / "vad").write_text("a-1 0 1\na-2 0.6 1\nb-1 0 0.5\n")
    with pytest.raises(DataError) as caught:
        combine_data_dirs(tmp_path / "out", [halves[1], other])
    text = str(caught.value)
    assert "(3 problems)" in text and "copy_data_dir" in text
    assert f"utt2spk: a-1: 'a' in {halves[1]}, 'c' in {other}" in text
    assert f"spk2gender: a: 'f' in {halves[1]}, 'm' in {other}" in text
    assert f"vad: a-2: [(0.5, 1.0)] in {halves[1]}, [(0.6, 1.0)] in {other}" in text
    assert not (tmp_path / "out").exists()


def test_tables_that_only_some_have_are_left_out_with_a_warning(halves, tmp_path, caplog):
    for name in ("utt2lang", "utt2dur", "vad"):
        (halves[2] / name).unlink()
    combine_data_dirs(tmp_path / "out", halves)
    for name in ("utt2lang", "utt2dur", "vad"):
        assert f"{name} is left out: not in {halves[2]}" in caplog.text
        assert not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out/spk2gender").exists()


@pytest.mark.parametrize("known", [True, False])
def test_missing_segments_become_whole_recordings(corpus, tmp_path, known):
    second = tmp_path / "second"
    copy_data_dir(corpus, second, utt_prefix="x-")
    (second / "segments").write_text("x-a-1 x-a-1 0 0.5\nx-a-2 x-a-1 0.5 1\n")
    (second / "utt2spk").write_text("x-a-1 a\nx-a-2 a\n")
    if not known:
        (corpus / "utt2dur").unlink()
    combine_data_dirs(tmp_path / "out", [corpus, second])
    data = DataDir.load(tmp_path / "out")
    assert data.segments["b-1"] == Segment("b-1", 0, 1.2)
    assert data.segments["x-a-2"] == Segment("x-a-1", 0.5, 1)
    assert data.wav.keys() == {"a-1", "a-2", "b-1", "b-2", "x-a-1"}


def test_utterances_stand_for_themselves_in_a_missing_utt2uniq(corpus, tmp_path):
    copy_data_dir(corpus, tmp_path / "copy", utt_suffix="-2")
    combine_data_dirs(tmp_path / "out", [corpus, tmp_path / "copy"])
    text = (tmp_path / "out/utt2uniq").read_text()
    assert text.startswith("a-1 a-1\na-1-2 a-1\na-2 a-2\n")


def test_sources_are_not_overwritten(corpus, halves):
    with pytest.raises(ConfigError, match="give another directory"):
        combine_data_dirs(halves[0], [corpus, halves[0]])
    with pytest.raises(ConfigError, match="at least one"):
        combine_data_dirs(halves[0], [])


def test_durations_are_measured_whatever_stood_there(corpus, wav):
    wav(corpus / "wav/b-2.wav", seconds=2.5)
    (corpus / "utt2dur").write_text("a-1 long\na-1 1\n")
    assert write_utt2dur(corpus) == pytest.approx(6.1 / 3600)
    assert (corpus / "utt2dur").read_text() == "a-1 1.200\na-2 1.200\nb-1 1.200\nb-2 2.500\n"
    assert validate(corpus) == []


def test_durations_of_segments_need_no_audio(corpus):
    shutil.rmtree(corpus / "wav")
    (corpus / "utt2spk").write_text("a-1 a\nb-1 b\n")
    (corpus / "segments").write_text("a-1 a-1 0.5 1.25\nb-1 a-1 0 2\n")
    write_utt2dur(corpus)
    assert (corpus / "utt2dur").read_text() == "a-1 0.750\nb-1 2.000\n"


def test_what_cannot_be_measured_is_named_and_the_table_stays(corpus):
    before = (corpus / "utt2dur").read_bytes()
    (corpus / "wav/a-1.wav").unlink()
    (corpus / "wav/b-1.wav").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        write_utt2dur(corpus)
    assert "wav/a-1.wav" in str(caught.value) and "wav/b-1.wav" in str(caught.value)
    (corpus / "wav.scp").write_text("".join(f"{k} cat x |\n" for k in ("a-1", "a-2", "b-1", "b-2")))
    with pytest.raises(DataError, match="prepare_data"):
        write_utt2dur(corpus)
    assert (corpus / "utt2dur").read_bytes() == before
