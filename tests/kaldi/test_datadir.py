import pytest
import soundfile

from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir, Segment


def test_load_write_load_is_the_identity(corpus, tmp_path):
    keys = ("a-1", "a-2", "b-1", "b-2")
    (corpus / "segments").write_text("".join(f"{key} {key} 0.25 1.125\n" for key in keys))
    data = DataDir.load(corpus)
    assert data.utterances == ["a-1", "a-2", "b-1", "b-2"]
    assert data.spk2utt == {"a": ["a-1", "a-2"], "b": ["b-1", "b-2"]}
    assert data.segments["a-2"] == Segment("a-2", 0.25, 1.125)
    data.write(tmp_path / "copy")
    copy = DataDir.load(tmp_path / "copy")
    assert (copy.wav, copy.utt2spk) == (data.wav, data.utt2spk)
    assert (copy.utt2dur, copy.segments) == (data.utt2dur, data.segments)
    assert (tmp_path / "copy/spk2utt").read_bytes() == (corpus / "spk2utt").read_bytes()
    assert (tmp_path / "copy/utt2dur").read_bytes() == (corpus / "utt2dur").read_bytes()


def test_wav_scp_may_hold_more_than_utt2spk(corpus):
    (corpus / "utt2spk").write_text("a-1 a\na-2 a\n")
    assert DataDir.load(corpus).utterances == ["a-1", "a-2"]


def test_load_reports_all_faults_with_their_mends(corpus):
    (corpus / "utt2spk").write_text("a-1 a\nb-1 b extra\nghost g\n")
    (corpus / "utt2dur").write_text("a-1 long\na-2 -1\n")
    with pytest.raises(DataError) as caught:
        DataDir.load(corpus)
    text = str(caught.value)
    assert f"{corpus}/utt2spk:2: expected 2 fields" in text
    assert "1 utterances without audio (not in wav.scp): ghost" in text
    assert "2 durations are not positive numbers: a-1 long, a-2 -1" in text
    assert f"to drop them: python -m wesp_lap.bin.fix_data_dir {corpus}" in text
    assert f"python -m wesp_lap.bin.get_utt2dur {corpus}" in text


@pytest.mark.parametrize(
    "row", ["a-1 a-1 1.0 0.5", "a-1 a-1 nan 1", "a-1 a-1 0 inf", "a-1 a-1 x 1"]
)
def test_bad_segments_are_named(corpus, row):
    (corpus / "segments").write_text(f"{row}\na-2 lost 0 1\n")
    with pytest.raises(DataError) as caught:
        DataDir.load(corpus)
    assert row in str(caught.value) and "not in wav.scp: lost" in str(caught.value)


def test_missing_directory_and_files(corpus, tmp_path):
    with pytest.raises(DataError, match="no such data directory"):
        DataDir.load(tmp_path / "none")
    (corpus / "utt2spk").unlink()
    with pytest.raises(DataError, match=r"utt2spk: no such file\n.*awk '{print \$1, \$1}'"):
        DataDir.load(corpus)


def test_relative_paths_start_at_the_working_directory_then_the_data_directory(
    corpus, tmp_path, monkeypatch, wav
):
    monkeypatch.chdir(tmp_path)
    assert DataDir.load(corpus).resolve("a-1").samefile(corpus / "wav/a-1.wav")
    wav(tmp_path / "wav/a-1.wav")
    assert DataDir.load(corpus).resolve("a-1").samefile(tmp_path / "wav/a-1.wav")
    assert DataDir.load(corpus).resolve("a-2").samefile(corpus / "wav/a-2.wav")


def test_resolve_goes_through_segments(corpus):
    (corpus / "segments").write_text("a-1 b-1 0 1\na-2 b-1 0.1 1\nb-1 a-1 0 1\nb-2 a-1 0.1 1\n")
    assert DataDir.load(corpus).resolve("a-2").samefile(corpus / "wav/b-1.wav")


def test_unknown_utterances_and_lost_files_are_named(corpus):
    (corpus / "wav/a-1.wav").unlink()
    with pytest.raises(DataError, match=r"wav.scp: a-1: no such file: wav/a-1.wav"):
        DataDir.load(corpus).resolve("a-1")
    with pytest.raises(DataError, match="no utterance 'x'"):
        DataDir.load(corpus).resolve("x")


@pytest.fixture
def piped(corpus):
    scp = (corpus / "wav.scp").read_text()
    entry = f"cat '{corpus}/wav/a-1.wav' | cat - |"
    (corpus / "wav.scp").write_text(scp.replace("a-1 wav/a-1.wav", f"a-1 {entry}"))
    return corpus


def test_pipes_are_refused_with_the_way_out(piped):
    with pytest.raises(DataError, match=r"a-1: 'cat .*prepare_data --src .* --allow_pipe"):
        DataDir.load(piped).resolve("a-1")


def test_allowed_pipes_run_without_a_shell(piped, tmp_path):
    data = DataDir.load(piped)
    path = data.resolve("a-1", allow_pipe=True)
    assert path.read_bytes() == (piped / "wav/a-1.wav").read_bytes()
    assert soundfile.info(path).samplerate == 16000
    assert data.resolve("a-1", allow_pipe=True) == path
    data.wav["a-2"] = f"cat {piped}/wav/a-2.wav ; touch {tmp_path}/pwned |"
    with pytest.raises(DataError, match="';' means nothing here"):
        data.resolve("a-2", allow_pipe=True)
    data.wav["b-1"] = f"cat $(touch {tmp_path}/pwned) |"
    with pytest.raises(DataError, match="failed with exit codes"):
        data.resolve("b-1", allow_pipe=True)
    assert not (tmp_path / "pwned").exists()
    del data
    assert not path.exists()


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("no-such-program x |", "cannot run no-such-program"),
        ("false | cat |", r"exit codes \[1, 0\]"),
        ("true |", "wrote nothing"),
        ("cat 'x |", "unbalanced quotes"),
        ("cat x || cat y |", r"'\|\|' means nothing here, as commands run without a shell"),
        ("cat x > y |", "'>' means nothing here"),
        ("|", "chain of commands"),
    ],
)
def test_failing_pipes_are_named(corpus, entry, fault):
    data = DataDir.load(corpus)
    data.wav["a-1"] = entry
    with pytest.raises(DataError, match=fault):
        data.resolve("a-1", allow_pipe=True)
