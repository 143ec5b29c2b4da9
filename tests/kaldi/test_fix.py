"""fix_data_dir: what is whole stays, the rest leaves every table, and nothing is lost unsaid."""

import os
import random
import subprocess

import pytest

from wesp_lap.bin import fix_data_dir as command
from wesp_lap.cli import run_command
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.fix import fix_data_dir
from wesp_lap.kaldi.validate import validate


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rows(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_a_directory_without_faults_is_not_touched(corpus):
    before = snapshot(corpus)
    report = fix_data_dir(corpus)
    assert (report.before, report.kept, report.speakers) == (4, 4, 2)
    assert report.removed == {} and report.changed == []
    assert snapshot(corpus) == before and not (corpus / ".backup").exists()


def test_orphans_leave_every_table_and_the_old_tables_are_kept(corpus):
    (corpus / "utt2spk").write_text("ghost g\nb-1 b\na-1 a\na-2 a\n")
    (corpus / "utt2gender").write_text("b-2 f\na-1 m\nghost m\n")
    (corpus / "spk2lang").write_text("a en\ng de\n")
    (corpus / "reco2dur").write_text("a-1 1.2\nx 3\n")
    (corpus / "vad").write_text("b-2 0 1\nb-1 0.5 1\nb-1 0 0.6\n")
    before = snapshot(corpus)
    report = fix_data_dir(corpus)
    assert report.removed == {
        "utterances not in wav.scp": ["ghost"],
        "utterances without speaker": ["b-2"],
        "orphans of utt2dur": ["b-2"],
        "orphans of utt2gender": ["b-2", "ghost"],
        "orphans of spk2lang": ["g"],
        "orphans of reco2dur": ["x"],
        "orphans of vad": ["b-2"],
    }
    assert (corpus / "utt2spk").read_text() == "a-1 a\na-2 a\nb-1 b\n"
    assert (corpus / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert (corpus / "wav.scp").read_text() == "".join(
        f"{k} wav/{k}.wav\n" for k in ("a-1", "a-2", "b-1")
    )
    assert (corpus / "utt2gender").read_text() == "a-1 m\n"
    assert (corpus / "vad").read_text() == "b-1 0.0 1.0\n"
    assert (corpus / "spk2lang").read_text() == "a en\n"
    assert snapshot(corpus / ".backup") == before
    assert [one.text.split(": ")[-1] for one in validate(corpus)] == ["b", "a-1, a-2"]
    # Speaker b has one utterance, and two utterances have no speech: warnings, not faults.
    assert {one.level for one in validate(corpus)} == {"warning"}


def random_tables(folder, seed):
    """Write tables with random gaps, orphans, repeats and order; return what should stay."""
    draw = random.Random(seed)
    keys = [f"{speaker}{number}" for speaker in "ABCDEäé" for number in range(4)]
    recordings = [f"r{number}" for number in range(6)]
    some = lambda names, share: [name for name in names if draw.random() < share]  # noqa: E731
    wav, spoken, cut = some(recordings, 0.8), some(keys, 0.8), some(keys, 0.8)
    segments = {key: draw.choice(recordings) for key in cut}
    tables = {
        "wav.scp": [f"{one} /nowhere/{one}.wav" for one in wav],
        "utt2spk": [f"{key} {key[0]}" for key in spoken],
        "segments": [f"{key} {segments[key]} 0 {1 + draw.random():.2f}" for key in cut],
        "utt2lang": [f"{key} en" for key in some(keys, 0.5)] + ["zz en"],
        "spk2gender": [f"{one} f" for one in "ABCXYZ"],
    }
    for name, lines in tables.items():
        lines += draw.sample(lines, 2)
        draw.shuffle(lines)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return {key for key in spoken if key in segments and segments[key] in wav}, segments, tables


@pytest.mark.parametrize("seed", range(12))
def test_random_directories_against_plain_sets(tmp_path, seed):
    wanted, segments, tables = random_tables(tmp_path, seed)
    report = fix_data_dir(tmp_path)
    assert report.kept == len(wanted) and report.before == len(set(tables["utt2spk"]))
    speakers = {key[0] for key in wanted}
    keep = {
        "wav.scp": {segments[key] for key in wanted},
        "utt2spk": wanted,
        "segments": wanted,
        "utt2lang": wanted,
        "spk2gender": speakers,
    }
    for name, lines in tables.items():
        expected = [line for line in set(lines) if line.split()[0] in keep[name]]
        path = tmp_path / name
        assert sorted(path.read_text().splitlines()) == sorted(expected), name
        environment = {**os.environ, "LC_ALL": "C"}
        subprocess.run(["sort", "-c", "-u", "-k1,1", str(path)], check=True, env=environment)
    assert {row[0]: row[1:] for row in rows(tmp_path / "spk2utt")} == {
        one: sorted(key for key in wanted if key[0] == one) for one in speakers
    }
    DataDir.load(tmp_path)
    again = fix_data_dir(tmp_path)
    assert again.changed == [] and again.removed == {}


def test_malformed_and_repeated_lines_are_dropped_and_named(corpus):
    with open(corpus / "utt2spk", "a") as stream:
        stream.write("a-1 a\n\nc-1 c d\nonly\n")
    report = fix_data_dir(corpus)
    assert report.removed["malformed lines"] == [
        f"{corpus}/utt2spk:6: a blank line",
        f"{corpus}/utt2spk:7: 'c-1 c d'",
        f"{corpus}/utt2spk:8: 'only'",
    ]
    assert report.removed["repeated lines"] == [f"{corpus}/utt2spk:5: a-1"]
    assert report.kept == 4 and validate(corpus) == []


def test_keys_with_two_values_are_all_named_and_nothing_changes(corpus):
    with open(corpus / "utt2spk", "a") as stream:
        stream.write("a-2 b\n")
    with open(corpus / "wav.scp", "a") as stream:
        stream.write("b-1 other.wav\n")
    before = snapshot(corpus)
    with pytest.raises(DataError) as caught:
        fix_data_dir(corpus)
    assert f"{corpus}/utt2spk:2: 'a-2 a', but line 5: 'a-2 b'" in str(caught.value)
    assert f"{corpus}/wav.scp:3: 'b-1 wav/b-1.wav', but line 5: 'b-1 other.wav'" in str(
        caught.value
    )
    assert snapshot(corpus) == before


def test_an_empty_directory_is_never_left(corpus):
    (corpus / "utt2spk").write_text("x-1 x\n")
    before = snapshot(corpus)
    with pytest.raises(DataError, match="no utterance would be left") as caught:
        fix_data_dir(corpus)
    assert "1 utterances not in wav.scp: x-1" in str(caught.value)
    assert snapshot(corpus) == before


def test_recordings_do_not_become_utterances_when_no_segment_is_sound(corpus):
    for text in ("", "a-1 a-1 0\n", "a-1 a-1 1 0\n"):
        (corpus / "segments").write_text(text)
        with pytest.raises(DataError, match="no utterance would be left"):
            fix_data_dir(corpus)
        assert (corpus / "segments").read_text() == text


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk"])
def test_missing_tables_are_named(corpus, name):
    (corpus / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        fix_data_dir(corpus)


def test_bad_segments_and_durations_are_dropped(corpus):
    (corpus / "segments").write_text("a-1 a-1 0 1\na-2 lost 0 1\nb-1 b-1 1 0\nb-2 b-1 0 x\n")
    (corpus / "utt2dur").write_text("a-1 -1\nb-1 long\n")
    report = fix_data_dir(corpus)
    assert report.removed["segments without 0 <= start < end"] == ["b-1", "b-2"]
    assert report.removed["segments whose recording is not in wav.scp"] == ["a-2"]
    assert report.removed["durations of utt2dur that are not positive"] == ["a-1", "b-1"]
    assert (corpus / "segments").read_text() == "a-1 a-1 0 1\n"
    assert report.kept == 1 and not (corpus / "utt2dur").exists()
    assert (corpus / ".backup/utt2dur").exists()


def test_audio_is_looked_at_only_when_asked_for(corpus):
    (corpus / "wav/a-1.wav").unlink()
    (corpus / "wav/b-2.wav").write_bytes(b"no audio")
    assert fix_data_dir(corpus).changed == []
    report = fix_data_dir(corpus, audio="headers")
    assert report.removed["utterances without audio file"] == [f"a-1 {corpus}/wav/a-1.wav"]
    assert report.removed["unreadable audio"] == [f"b-2 {corpus}/wav/b-2.wav"]
    assert [row[0] for row in rows(corpus / "utt2spk")] == ["a-2", "b-1"]
    assert not [one for one in validate(corpus) if one.level == "error"]


@pytest.mark.parametrize("source", ["headers", "utt2dur", "segments", "no table"])
def test_short_utterances_and_then_rare_speakers_are_dropped(corpus, wav, source):
    audio = "headers" if source == "headers" else "none"
    if source in ("headers", "no table"):
        wav(corpus / "wav/b-1.wav", seconds=0.5)
    if source == "utt2dur":
        text = (corpus / "utt2dur").read_text()
        (corpus / "utt2dur").write_text(text.replace("b-1 1.200", "b-1 0.500"))
    else:
        (corpus / "utt2dur").unlink()
    if source == "segments":
        ends = {"a-1": 1, "a-2": 1, "b-1": 0.5, "b-2": 1}
        (corpus / "segments").write_text("".join(f"{k} {k} 0 {end}\n" for k, end in ends.items()))
    report = fix_data_dir(corpus, audio, min_utterances=2, min_seconds=0.9)
    assert report.removed["utterances shorter than 0.9 s"] == ["b-1 (0.500 s)"]
    assert report.removed["utterances of speakers with fewer than 2"] == ["b-2"]
    assert (corpus / "spk2utt").read_text() == "a a-1 a-2\n"


def test_the_command_says_what_it_did(corpus, capsys):
    with open(corpus / "utt2spk", "a") as stream:
        stream.writelines(f"x-{number} x\n" for number in range(7))
    with pytest.raises(SystemExit) as caught:
        run_command(command.fix_data_dir, [str(corpus)])
    assert caught.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "removed 7 utterances not in wav.scp: x-0, x-1, x-2, x-3, x-4 and 2 more",
        f"changed utt2spk; what was there before: {corpus}/.backup",
        f"{corpus}: kept 4 of 11 utterances, 2 speakers",
    ]
