import logging

import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.prepare import prepare_data_dir
from wesp_lap.kaldi.validate import validate


@pytest.fixture(autouse=True)
def _log(caplog):
    logger = logging.getLogger("wesp_lap")
    before = logger.propagate
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="wesp_lap")
    yield
    logger.propagate = before


def test_the_copy_is_valid_sorted_and_independent_of_the_working_directory(
    corpus, tmp_path, monkeypatch
):
    lines = (corpus / "wav.scp").read_text().splitlines(keepends=True)
    (corpus / "wav.scp").write_text("".join(lines[::-1]) + "zz wav/nobody.wav\n")
    (corpus / "utt2ses").write_text("b-1 s1\na-1 s2\nghost s3\n")
    (corpus / "spk2gender").write_text("b f\nc m\n")
    (corpus / "text").write_text("a-1 hello\n")
    out = tmp_path / "out"
    assert prepare_data_dir(corpus, out)
    monkeypatch.chdir("/")
    assert validate(out) == []
    data = DataDir.load(out)
    assert list(data.wav) == ["a-1", "a-2", "b-1", "b-2"]
    assert data.wav["a-1"] == f"{corpus}/wav/a-1.wav"
    assert (out / "utt2ses").read_text() == "a-1 s2\nb-1 s1\n"
    assert (out / "spk2gender").read_text() == "b f\n"
    assert not (out / "text").exists()


def test_complete_durations_are_kept_and_others_measured(corpus, tmp_path):
    text = (corpus / "utt2dur").read_text()
    (corpus / "utt2dur").write_text(text.replace("1.200", "1.210"))
    prepare_data_dir(corpus, tmp_path / "kept")
    assert (tmp_path / "kept/utt2dur").read_text() == text.replace("1.200", "1.210")
    (corpus / "utt2dur").write_text("a-1 1.210\n")
    prepare_data_dir(corpus, tmp_path / "measured")
    assert (tmp_path / "measured/utt2dur").read_text() == text
    (corpus / "utt2dur").unlink()
    prepare_data_dir(corpus, tmp_path / "unread", audio="none")
    assert (tmp_path / "unread/utt2dur").read_text() == text


def test_segments_are_kept_with_the_recordings_they_use(corpus, tmp_path):
    (corpus / "utt2dur").unlink()
    (corpus / "segments").write_text("a-1 b-1 0.1 1.15\na-2 b-1 0 1\nb-1 a-1 0 1\nb-2 a-1 0 1.1\n")
    prepare_data_dir(corpus, tmp_path / "out")
    data = DataDir.load(tmp_path / "out")
    assert list(data.wav) == ["a-1", "b-1"]
    assert data.segments == DataDir.load(corpus).segments
    assert (tmp_path / "out/utt2dur").read_text() == "a-1 1.050\na-2 1.000\nb-1 1.000\nb-2 1.100\n"


def test_a_second_run_does_nothing_until_the_source_changes(corpus, tmp_path, caplog):
    out = tmp_path / "out"
    assert prepare_data_dir(corpus, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not prepare_data_dir(corpus, out)
    assert "up to date" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (corpus / "utt2ses").write_text("a-1 s\n")
    assert prepare_data_dir(corpus, out) and (out / "utt2ses").exists()
    (corpus / "utt2ses").unlink()
    assert prepare_data_dir(corpus, out) and not (out / "utt2ses").exists()
    (out / "utt2spk").unlink()
    assert prepare_data_dir(corpus, out) and (out / "utt2spk").exists()


def test_replaced_audio_is_measured_again(corpus, tmp_path, wav):
    (corpus / "utt2dur").unlink()
    assert prepare_data_dir(corpus, tmp_path / "out")
    assert not prepare_data_dir(corpus, tmp_path / "out")
    wav(corpus / "wav/b-1.wav", seconds=2.5)
    assert prepare_data_dir(corpus, tmp_path / "out")
    assert DataDir.load(tmp_path / "out").utt2dur["b-1"] == 2.5


def test_an_invalid_source_is_refused_with_the_whole_report(corpus, tmp_path):
    (corpus / "wav/a-1.wav").unlink()
    (corpus / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\nghost b\n")
    with pytest.raises(DataError) as caught:
        prepare_data_dir(corpus, tmp_path / "out")
    text = str(caught.value)
    assert (
        "1 audio files are missing: a-1 " in text and "without audio" in text and "mend: " in text
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="no such data directory"):
        prepare_data_dir(tmp_path / "none", tmp_path / "out")


def test_directories_of_others_are_not_overwritten(corpus, tmp_path):
    with pytest.raises(ConfigError, match="--out is --src"):
        prepare_data_dir(corpus, corpus)
    foreign = tmp_path / "foreign"
    DataDir.load(corpus).write(foreign)
    before = {path: path.read_bytes() for path in foreign.iterdir()}
    with pytest.raises(ConfigError, match="was not made by this command"):
        prepare_data_dir(corpus, foreign)
    assert {path: path.read_bytes() for path in foreign.iterdir()} == before


def test_the_output_of_pipes_becomes_files(corpus, tmp_path):
    (corpus / "utt2dur").unlink()
    scp = (corpus / "wav.scp").read_text()
    (corpus / "wav.scp").write_text(scp.replace("wav/a-1.wav", f"cat {corpus}/wav/a-1.wav |"))
    with pytest.raises(DataError, match="are commands, not files"):
        prepare_data_dir(corpus, tmp_path / "out")
    prepare_data_dir(corpus, tmp_path / "out", allow_pipe=True)
    assert validate(tmp_path / "out") == []
    assert DataDir.load(tmp_path / "out").wav["a-1"] == f"{tmp_path}/out/wav/a-1.wav"
    assert (tmp_path / "out/utt2dur").read_text().startswith("a-1 1.200\n")


def test_the_output_of_pipes_is_checked_like_any_file(corpus, tmp_path, wav):
    wav(tmp_path / "slow.wav", rate=8000)
    scp = (corpus / "wav.scp").read_text()
    (corpus / "wav.scp").write_text(scp.replace("wav/a-1.wav", f"cat {tmp_path}/slow.wav |"))
    with pytest.raises(DataError, match="not at 16000 Hz"):
        prepare_data_dir(corpus, tmp_path / "out", allow_pipe=True)
    assert not (tmp_path / "out/wav.scp").exists()
