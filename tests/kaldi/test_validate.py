import os
import re
import shlex
import subprocess
import sys

import pytest
from coded import tone, write_coded
from helpers import ROOT

from wesp_lap.audio import io as audio_io
from wesp_lap.bin.validate_data_dir import validate_data_dir
from wesp_lap.cli import run_command
from wesp_lap.kaldi import check_audio
from wesp_lap.kaldi.validate import inspect, validate


def found(problems, level="error"):
    return [problem.text for problem in problems if problem.level == level]


def only(problems, level="error"):
    """Return the single problem, which has the expected level and a mend."""
    (problem,) = problems
    assert problem.level == level and problem.mend
    return problem


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_valid_directory_has_no_problem_and_is_counted(corpus):
    report = inspect(corpus)
    assert report.problems == []
    assert report.summary() == f"{corpus}: 4 utterances, 2 speakers, 0.00 h: ok"
    assert report.lengths["a-1"] == pytest.approx(1.2)


def test_missing_directory(tmp_path):
    assert "no such data directory" in only(validate(tmp_path / "none")).text


def test_many_faults_are_all_found_in_one_go(corpus, wav):
    edit(corpus / "utt2spk", "a-2 a\n", "a-2 a x\n\nghost g\n")
    edit(corpus / "wav.scp", "a-1 wav/a-1.wav", "a-1 wav/a-1.wav\na-1 wav/a-1.wav\nno")
    (corpus / "spk2utt").unlink()
    (corpus / "wav/b-1.wav").unlink()
    wav(corpus / "wav/b-2.wav", rate=8000)
    errors = "\n".join(found(validate(corpus)))
    for part in (
        f"{corpus}/utt2spk:2: expected 2 fields, found 'a-2 a x'",
        f"{corpus}/utt2spk:3: expected 2 fields, found a blank line",
        f"{corpus}/wav.scp:2: key 'a-1' stands in the file twice",
        "1 utterances without audio (not in wav.scp): ghost",
        f"1 audio files are missing: b-1 {corpus}/wav/b-1.wav",
        f"1 audio files are not at 16000 Hz (8000 Hz): b-2 {corpus}/wav/b-2.wav",
    ):
        assert part in errors
    assert all(problem.mend for problem in validate(corpus))


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk"])
def test_missing_and_empty_tables(corpus, name):
    (corpus / name).write_text("")
    assert f"{corpus}/{name}: empty file" in found(validate(corpus))
    (corpus / name).unlink()
    assert f"{corpus}/{name}: no such file" in found(validate(corpus))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"rate": 8000}, "not at 16000 Hz (8000 Hz)"),
        ({"channels": 2}, "more than one channel"),
        ({"seconds": 0.05}, "shorter than 0.1 s: a-1 (0.050 s)"),
    ],
)
def test_audio_of_another_form(corpus, wav, settings, fault):
    (corpus / "utt2dur").unlink()
    wav(corpus / "wav/a-1.wav", **settings)
    assert fault in only(validate(corpus)).text
    assert validate(corpus, audio="none") == []


def test_other_sampling_rates_can_be_asked_for(corpus, wav):
    for path in (corpus / "wav").iterdir():
        wav(path, rate=8000)
    assert validate(corpus, sample_rate=8000) == []


def test_short_utterances_are_a_warning(corpus, wav):
    (corpus / "utt2dur").unlink()
    wav(corpus / "wav/a-1.wav", seconds=0.5)
    assert "shorter than 1.0 s: a-1 (0.500 s)" in only(validate(corpus), "warning").text


def test_unreadable_audio_is_named(corpus):
    (corpus / "wav/a-1.wav").write_bytes(b"not audio at all")
    (corpus / "wav/a-2.wav").write_bytes(b"")
    text = only(validate(corpus)).text
    assert text.startswith("2 audio files cannot be read")
    assert "wav/a-1.wav: cannot be read" in text and "wav/a-2.wav: cannot be read" in text


def test_only_the_first_missing_files_are_shown(corpus):
    keys = [f"c-{number:03d}" for number in range(100)]
    for name, value in (("wav.scp", "gone.wav"), ("utt2spk", "c")):
        with open(corpus / name, "a") as stream:
            stream.writelines(f"{key} {value}\n" for key in keys)
    (corpus / "utt2dur").unlink()
    (missing,) = [text for text in found(validate(corpus)) if "audio files" in text]
    assert missing.startswith("100 audio files are missing: c-000 ")
    assert "c-004" in missing and "c-005" not in missing and missing.endswith("and 95 more")


def test_formats_that_need_ffmpeg(corpus, monkeypatch):
    (corpus / "wav/a-1.wav").rename(corpus / "wav/a-1.m4a")
    edit(corpus / "wav.scp", "wav/a-1.wav", "wav/a-1.m4a")
    with monkeypatch.context() as patch:
        patch.setattr(check_audio, "find_ffmpeg", lambda: None)
        problem = only(validate(corpus))
        assert "1 files need ffmpeg, which was not found: a-1 " in problem.text
        assert problem.mend.startswith("install ffmpeg")
    seconds = audio_io.decode(corpus / "wav/a-2.wav")[0].size / 16000
    write_coded(corpus / "wav/a-1.m4a", tone(0, seconds, 44100), 44100)
    assert audio_io.probe(corpus / "wav/a-1.m4a").sample_rate == 44100
    assert "(44100 Hz)" in only(validate(corpus)).text
    (corpus / "wav/a-1.m4a").write_bytes(b"no audio")
    assert "cannot be read" in only(validate(corpus)).text


def test_pipes_are_an_error_unless_allowed(corpus):
    edit(corpus / "wav.scp", "a-1 wav/a-1.wav", "a-1 cat x.wav |")
    problem = only(validate(corpus))
    assert "1 entries are commands, not files: a-1 cat x.wav |" in problem.text
    assert f"prepare_data --src {corpus} --out NEW_DIR --allow_pipe" in problem.mend
    assert validate(corpus, allow_pipe=True) == []


def test_single_utterances_are_legal_for_training_and_can_be_forbidden(corpus):
    edit(corpus / "utt2spk", "b-2 b\n", "b-2 c\n")
    edit(corpus / "spk2utt", "b b-1 b-2", "b b-1\nc b-2")
    text = "2 speakers have a single utterance: b, c"
    assert only(validate(corpus), "warning").text == text
    assert only(validate(corpus, require_two_utterances=True)).text == text


def test_audio_without_speaker_is_a_warning(corpus):
    edit(corpus / "utt2spk", "b-2 b\n", "")
    edit(corpus / "spk2utt", " b-2", "")
    texts = found(validate(corpus), "warning")
    assert "1 utterances of wav.scp without speaker, left out: b-2" in texts
    assert not found(validate(corpus))


def run_mend(problem):
    """Run the command in a mend, which stands alone, after a colon or before a comment."""
    words = re.search(r"python -m (wesp_lap\.bin\.[^#;]*)", problem.mend)[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *shlex.split(words)], check=True, env=environment)


def test_unsorted_tables_are_warned_about_and_the_mend_mends(corpus):
    lines = (corpus / "wav.scp").read_text().splitlines(keepends=True)
    (corpus / "wav.scp").write_text("".join([lines[0], *lines[:0:-1]]))
    problem = only(validate(corpus), "warning")
    assert f"{corpus}/wav.scp: not in the order of the C locale: b-1 after b-2" in problem.text
    run_mend(problem)
    assert validate(corpus) == []


@pytest.mark.parametrize(
    "content", ["a a-1\nb b-1 b-2\n", "a a-1 a-2\n", "a a-1 a-2 x\nb b-1 b-2\n"]
)
def test_a_contradicting_spk2utt_and_its_mend(corpus, content):
    (corpus / "spk2utt").write_text(content)
    problem = only(validate(corpus))
    assert "1 speakers differ from utt2spk: " in problem.text
    run_mend(problem)
    assert validate(corpus) == []


def test_the_mend_for_utterances_without_audio_drops_them(corpus):
    edit(corpus / "wav.scp", "b-2 wav/b-2.wav\n", "")
    edit(corpus / "utt2dur", "b-2 1.200\n", "")
    edit(corpus / "spk2utt", " b-2", "")
    problem = next(problem for problem in validate(corpus) if "without audio" in problem.text)
    run_mend(problem)
    assert validate(corpus, audio="none")  # one utterance of b is left, which is a warning
    assert (corpus / "utt2spk").read_text() == "a-1 a\na-2 a\nb-1 b\n"
    assert not found(validate(corpus))


def test_a_missing_spk2utt_is_a_warning_and_the_mend_makes_it(corpus):
    (corpus / "spk2utt").unlink()
    run_mend(only(validate(corpus), "warning"))
    assert (corpus / "spk2utt").read_text() == "a a-1 a-2\nb b-1 b-2\n"


def test_durations_that_contradict_the_audio(corpus):
    edit(corpus / "utt2dur", "a-1 1.200", "a-1 2.000")
    problem = only(validate(corpus))
    assert "1 durations contradict the audio: a-1 2.000 s, audio 1.200 s" in problem.text
    run_mend(problem)
    assert validate(corpus) == []


def test_lacking_durations_are_a_warning(corpus):
    edit(corpus / "utt2dur", "a-1 1.200\n", "")
    assert "1 utterances without duration: a-1" in only(validate(corpus), "warning").text


def test_segments_beyond_the_recording(corpus):
    (corpus / "utt2dur").unlink()
    (corpus / "segments").write_text("a-1 a-1 0 1\na-2 a-1 0 9\nb-1 b-1 0 1\nb-2 b-1 0 0.05\n")
    errors = found(validate(corpus))
    assert "1 segments end after the recording: a-2 ends at 9.0 s of 1.200 s" in errors[0]
    assert "shorter than 0.1 s: b-2 (0.050 s)" in errors[1] and len(errors) == 2


def test_further_tables_are_read_too(corpus):
    (corpus / "utt2ses").write_text("a-1 s1\na-2\n")
    assert f"{corpus}/utt2ses:2: " in only(validate(corpus)).text


def test_trials_and_shared_speakers(corpus, tmp_path):
    (tmp_path / "t").write_text("a-1 a-2 target\nb-1 a-9 nontarget\nx y nontarget\n")
    texts = found(validate(corpus, trials=[tmp_path / "t"]))
    assert texts == [
        f"{tmp_path}/t: 1 enrolment ids are not in {corpus}: x",
        f"{tmp_path}/t: 2 test ids are not in {corpus}: a-9, y",
    ]
    assert "2 speakers are also in " in only(validate(corpus, disjoint_from=corpus)).text


def test_a_wrong_directory_to_be_disjoint_from_is_not_taken_for_disjoint(corpus, tmp_path):
    assert "no such data directory" in only(validate(corpus, disjoint_from=tmp_path / "x")).text


def test_the_command_prints_problems_and_sets_the_exit_code(corpus, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(validate_data_dir, [str(corpus)])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{corpus}: 4 utterances, 2 speakers, 0.00 h: ok\n"
    (corpus / "wav/a-1.wav").unlink()
    (corpus / "spk2utt").unlink()
    with pytest.raises(SystemExit) as caught:
        run_command(validate_data_dir, [str(corpus), "--require_two_utterances"])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 1
    assert lines[0] == "1 error:" and lines[3] == "1 warning:"
    assert lines[-1] == f"{corpus}: 4 utterances, 2 speakers, 0.00 h: 1 error, 1 warning"


def test_validation_writes_nothing(corpus):
    before = sorted(corpus.rglob("*"))
    validate(corpus)
    assert sorted(corpus.rglob("*")) == before
