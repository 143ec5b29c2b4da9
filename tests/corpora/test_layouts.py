"""Miniatures of the corpora: names, lists, and audio that is that of the source."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import ROOT

from wesp_lap.audio.ffmpeg import find_ffmpeg
from wesp_lap.corpora.layouts import LAYOUTS, LayoutOptions, lay_out
from wesp_lap.corpora.layouts.source import load_speakers
from wesp_lap.errors import ConfigError, DataError


@pytest.fixture
def source(tiny_corpus, tmp_path):
    """The tiny corpus with genders and, for the first speaker, sessions."""
    folder = tmp_path / "source"
    shutil.copytree(tiny_corpus.data, folder)
    genders = "".join(
        f"{name} {'mf'[place % 2]}\n" for place, name in enumerate(tiny_corpus.speakers)
    )
    (folder / "spk2gender").write_text(genders)
    (folder / "utt2ses").write_text(
        "".join(f"spk00-{number} {'morning' if number < 3 else 'night'}\n" for number in range(4))
    )
    return LayoutOptions(str(folder), audio="wav", num_trials=40)


def names(folder, pattern="*"):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if path.is_file()
    )


def lines(path):
    return path.read_text().splitlines()


def table(folder):
    return [tuple(line.split("\t")) for line in lines(folder / "layout.tsv")[1:]]


def same_audio(source, folder, key, name):
    wav = dict(line.split() for line in lines(Path(source.data) / "wav.scp"))
    return np.array_equal(
        soundfile.read(wav[key], dtype="int16")[0], soundfile.read(folder / name, dtype="int16")[0]
    )


def listed(path):
    rows = [line.split() for line in lines(path)]
    return [(label, one, other) for label, one, other in rows]


def test_voxceleb1(source, tmp_path):
    out = tmp_path / "vox1"
    assert lay_out("voxceleb1", out, source)
    rows = table(out)
    assert len(rows) == 32
    for part in ("dev", "test"):
        found = names(out / f"vox1_{part}_wav", "*.wav")
        assert all(re.fullmatch(r"wav/id\d{5}/[\w-]{11}/0000\d\.wav", name) for name in found)
    tested = {name.split("/")[1] for name in names(out / "vox1_test_wav")}
    assert tested == {"id10270", "id10271"}
    assert {name.split("/")[1] for name in names(out / "vox1_dev_wav")} == {
        f"id1000{number}" for number in range(1, 7)
    }
    assert all(same_audio(source, out, key, name) for key, _, name, _ in rows[::5])
    speakers = {name.split("/wav/")[1]: speaker for _, speaker, name, _ in rows}
    gender = {name: "mf"[int(speaker[3:]) % 2] for name, speaker in speakers.items()}
    for name in ("veri_test", "veri_test2", "list_test_all2", "list_test_hard2"):
        pairs = listed(out / f"{name}.txt")
        assert {label for label, *_ in pairs} == {"0", "1"}
        assert len(set(pairs)) == len(pairs)
        for label, one, other in pairs:
            assert label == str(int(speakers[one] == speakers[other]))
            if name.startswith("veri"):
                assert {one[:7], other[:7]} <= tested
            if "hard" in name:
                assert gender[one] == gender[other]
            # Targets come from two videos.
            assert label == "0" or one.split("/")[1] != other.split("/")[1]


def test_sessions_become_videos_and_every_speaker_has_two(source, tmp_path):
    lay_out("voxceleb1", tmp_path / "vox1", source)
    videos = {}
    for key, speaker, name, _ in table(tmp_path / "vox1"):
        videos.setdefault(speaker, {}).setdefault(name.split("/")[3], []).append(key)
    assert sorted(map(len, videos["spk00"].values())) == [1, 3]
    assert all(len(found) == 2 for found in videos.values())


def test_a_given_list_keeps_its_pairs(source, tiny_corpus, tmp_path):
    options = replace(source, trials=str(tiny_corpus.trials), test_speakers=3)
    lay_out("voxceleb1", tmp_path / "vox1", options)
    new = {key: name.split("/wav/")[1] for key, _, name, _ in table(tmp_path / "vox1")}
    given = [line.split() for line in lines(tiny_corpus.trials)]
    wanted = [(str(int(label == "target")), new[a], new[b]) for a, b, label in given]
    assert listed(tmp_path / "vox1" / "list_test_all2.txt") == wanted
    original = listed(tmp_path / "vox1" / "veri_test.txt")
    assert len(original) == 12 * 11 // 2
    assert set(original) < set(wanted)


def test_test_speakers_from_a_directory_of_their_own(source, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"8 speakers are in .* and in "):
        lay_out("voxceleb1", tmp_path / "vox1", replace(source, test_data=source.data))
    part = tmp_path / "part"
    shutil.copytree(source.data, part)
    for name in ("utt2spk", "wav.scp", "spk2utt"):
        kept = [line for line in lines(part / name) if line < "spk03"]
        (part / name).write_text("\n".join(kept) + "\n")
    (part / "utt2dur").unlink()
    options = replace(source, data=str(part), test_data=source.data)
    with pytest.raises(DataError, match="3 speakers are in"):
        lay_out("voxceleb1", tmp_path / "vox1", options)
    rest = tmp_path / "rest"
    shutil.copytree(source.data, rest)
    for name in ("utt2spk", "wav.scp", "spk2utt"):
        kept = [line for line in lines(rest / name) if line >= "spk03"]
        (rest / name).write_text("\n".join(kept) + "\n")
    (rest / "utt2dur").unlink()
    lay_out("voxceleb1", tmp_path / "vox1", replace(options, test_data=str(rest), test_speakers=2))
    of_test = {speaker for _, speaker, name, _ in table(tmp_path / "vox1") if "_test_" in name}
    assert len(of_test) == 2 and min(of_test) >= "spk03"
    assert len(names(tmp_path / "vox1", "*.wav")) == 4 * (3 + 2)
    monkeypatch.setattr("wesp_lap.corpora.layouts.voxceleb._TEST", range(10270, 10274))
    lay_out("voxceleb1", tmp_path / "more", replace(options, test_data=str(rest)))
    parts = [name.split("/")[0] for _, _, name, _ in table(tmp_path / "more")]
    # The test part has room for four here; the fifth is for training.
    assert [parts.count(f"vox1_{part}_wav") for part in ("test", "dev")] == [16, 16]


def test_genders_that_are_no_gender_are_not_known(source):
    path = Path(source.data) / "spk2gender"
    path.write_text(path.read_text().replace("spk00 m", "spk00 ?").replace("spk01 f", "spk01 F"))
    assert [one.gender for one in load_speakers(source.data)[:3]] == ["", "f", "m"]


def test_archives_hold_the_same_files(source, tmp_path):
    lay_out("voxceleb1", tmp_path / "files", source)
    lay_out("voxceleb1", tmp_path / "packed", replace(source, archives=True))
    parts = sorted((tmp_path / "packed").glob("vox1_dev_wav_parta*"))
    assert [part.name[-1] for part in parts] == list("abcd")
    sizes = [part.stat().st_size for part in parts]
    assert len(set(sizes[:3])) == 1 and 0 < sizes[3] <= sizes[0]
    whole = b"".join(part.read_bytes() for part in parts)
    test = (tmp_path / "packed" / "vox1_test_wav.zip").read_bytes()
    for name, content in (("dev", whole), ("test", test)):
        root = tmp_path / "files" / f"vox1_{name}_wav"
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert {one: archive.read(one) for one in archive.namelist()} == {
                one: (root / one).read_bytes() for one in names(root)
            }
    assert not list((tmp_path / "packed").rglob("*.wav"))


def test_voxceleb2(source, tmp_path):
    out = tmp_path / "vox2"
    lay_out("voxceleb2", out, source)
    assert re.fullmatch(r"dev/aac/id00012/[\w-]{11}/00001\.wav", names(out, "*.wav")[0])
    ids = sorted(path.name for part in ("dev", "test") for path in (out / part / "aac").iterdir())
    assert ids == [f"id000{number}" for number in range(12, 20)]
    meta = [line.split(",") for line in lines(out / "vox2_meta.csv")[1:]]
    assert [row[0].strip() for row in meta] == ids
    assert {row[2].strip() for row in meta} == {"m", "f"}
    assert [row[3].strip() for row in meta].count("test") == len(list((out / "test/aac").iterdir()))


def test_voxceleb2_as_m4a(source, tmp_path):
    if find_ffmpeg() is None:
        pytest.skip("no ffmpeg")
    options = replace(source, audio="m4a", speakers=3, utterances=2)
    lay_out("voxceleb2", tmp_path / "one", options)
    lay_out("voxceleb2", tmp_path / "two", options)
    files = names(tmp_path / "one", "*.m4a")
    assert len(files) == 6
    content = (tmp_path / "one" / files[0]).read_bytes()
    assert content[4:8] == b"ftyp"
    assert content == (tmp_path / "two" / files[0]).read_bytes()


def test_without_ffmpeg_the_other_form_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr("wesp_lap.corpora.layouts.writer.find_ffmpeg", lambda: None)
    with pytest.raises(DataError, match=r"needs ffmpeg.*--audio wav"):
        lay_out("voxceleb2", tmp_path / "vox2", replace(source, audio="m4a"))
    assert not (tmp_path / "vox2").exists()


def test_cnceleb1(source, tmp_path):
    out = tmp_path / "cn1"
    lay_out("cnceleb1", out, replace(source, test_speakers=3, enroll_utterances=2))
    assert lines(out / "dev/dev.lst") == [f"id0000{number}" for number in range(5)]
    data = names(out / "data")
    assert len(data) == 32
    assert all(re.fullmatch(r"id\d{5}/[a-z_]+-\d\d-\d{3}\.flac", name) for name in data)
    lists = out / "eval/lists"
    models = [f"id{number:05d}-enroll" for number in (800, 801, 802)]
    assert lines(lists / "enroll.lst") == [f"{m} enroll/{m}.wav" for m in models]
    tests = lines(lists / "test.lst")
    assert [f"{Path(name).stem}.flac" for name in sorted(tests)] == names(out / "eval/test")
    trials = [line.split() for line in lines(lists / "trials.lst")]
    assert len(trials) == 3 * len(tests) == 18
    assert all(label == str(int(model[:7] == test[5:12])) for model, test, label in trials)
    for line in lines(lists / "enroll.map"):
        model, *parts = line.split()
        waves = [soundfile.read(out / "data" / Path(p).with_suffix(".flac"))[0] for p in parts]
        whole = soundfile.read(out / "eval/enroll" / f"{model}.flac")[0]
        assert np.array_equal(whole, np.concatenate(waves))
        used = {Path(test).stem for test in tests}
        assert not used & {p.replace("/", "-").removesuffix(".wav") for p in parts}
    name = Path(tests[0]).stem
    copy = out / "data" / name[:7] / f"{name[8:]}.flac"
    assert copy.read_bytes() == (out / "eval/test" / f"{name}.flac").read_bytes()


def test_cnceleb2(source, tmp_path):
    out = tmp_path / "cn2"
    lay_out("cnceleb2", out, replace(source, skip=5, utterances=3))
    assert lines(out / "spk.lst") == ["id10000", "id10001", "id10002"]
    found = [f"{name.removesuffix('.flac')}.wav" for name in names(out / "data")]
    assert sorted(lines(out / "utt.lst")) == found and len(found) == 9
    assert {speaker for _, speaker, *_ in table(out)} == {"spk05", "spk06", "spk07"}


def test_librispeech(source, tmp_path):
    (Path(source.data) / "text").write_text("spk00-0 Hello there\n")
    out = tmp_path / "libri"
    lay_out("librispeech", out, source)
    root = out / "LibriSpeech"
    rows = [[word.strip() for word in line.split("|")] for line in lines(root / "SPEAKERS.TXT")[1:]]
    assert [row[2] for row in rows].count("train-clean-100") == 4
    for reader, sex, subset, minutes, _ in rows:
        folder = root / subset / reader
        texts = [line.split()[0] for path in folder.rglob("*.trans.txt") for line in lines(path)]
        audio = list(folder.rglob("*.flac"))
        assert sorted(texts) == sorted(path.stem for path in audio)
        seconds = sum(soundfile.info(path).duration for path in audio)
        assert float(minutes) == pytest.approx(seconds / 60, abs=0.01)
        assert sex in "MF"
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "train-clean-100",
        "dev-clean",
        "test-clean",
    }
    new = {key: name for key, _, name, _ in table(out)}["spk00-0"]
    reader, chapter, _ = Path(new).stem.split("-")
    transcript = lines((out / new).parent / f"{reader}-{chapter}.trans.txt")
    assert f"{Path(new).stem} HELLO THERE" in transcript
    chapters = lines(root / "CHAPTERS.TXT")[1:]
    assert len(chapters) == len(list(root.rglob("*.trans.txt")))


def test_vctk(source, tmp_path):
    out = tmp_path / "vctk"
    lay_out("vctk", out, replace(source, speakers=2, utterances=2))
    info = [line.split() for line in lines(out / "speaker-info.txt")[1:]]
    assert [(row[0], row[2]) for row in info] == [("p225", "M"), ("p226", "F")]
    assert names(out / "wav48_silence_trimmed" / "p225") == [
        f"p225_00{number}_mic{microphone}.flac" for number in (1, 2) for microphone in (1, 2)
    ]
    assert names(out / "txt") == [f"p22{s}/p22{s}_00{n}.txt" for s in (5, 6) for n in (1, 2)]
    first = out / "wav48_silence_trimmed/p225/p225_001_mic1.flac"
    wave, rate = soundfile.read(first)
    assert rate == 48000
    wav = dict(line.split() for line in lines(Path(source.data) / "wav.scp"))
    assert len(wave) == 3 * soundfile.info(wav["spk00-0"]).frames
    spectrum = np.abs(np.fft.rfft(wave))
    assert (spectrum[len(spectrum) // 3 :] ** 2).sum() < 1e-3 * (spectrum**2).sum()


def test_musan_made_up_and_from_recordings(tmp_path):
    lay_out("musan", tmp_path / "made", LayoutOptions(utterances=3))
    root = tmp_path / "made" / "musan"
    assert len(names(root, "*.wav")) == 9
    assert "noise/sound-bible/noise-sound-bible-0000.wav" in names(root, "*.wav")
    assert lines(root / "noise/free-sound/ANNOTATIONS") == [
        "noise-free-sound-0000",
        "noise-free-sound-0001",
    ]
    lay_out("musan", tmp_path / "again", LayoutOptions(str(root), utterances=2))
    copy = "noise/free-sound/noise-free-sound-0000.wav"
    assert (tmp_path / "again/musan" / copy).read_bytes() == (root / copy).read_bytes()
    with pytest.raises(DataError, match="music: no such folder"):
        lay_out("musan", tmp_path / "bad", LayoutOptions(str(tmp_path / "made")))


def test_rirs_made_up_and_from_recordings(tmp_path):
    lay_out("rirs", tmp_path / "made", LayoutOptions())
    root = tmp_path / "made" / "RIRS_NOISES"
    for name in root.rglob("rir_list"):
        for line in lines(name):
            assert (tmp_path / "made" / line.split()[-1]).is_file()
    assert len(names(root / "simulated_rirs", "*.wav")) == 18
    real = root / "real_rirs_isotropic_noises"
    assert len(lines(real / "rir_list")) == 3
    assert soundfile.info(real / "RVB2014_type1_rir_smallroom1_near_angla.wav").channels == 8
    assert (
        lines(real / "noise_list")[0].split()[-1].endswith("RVB2014_type1_noise_largeroom1_1.wav")
    )
    lay_out("rirs", tmp_path / "again", LayoutOptions(str(root / "simulated_rirs")))
    assert names(tmp_path / "again/RIRS_NOISES/simulated_rirs") == names(root / "simulated_rirs")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_input_makes_equal_files(layout, source, tmp_path):
    options = replace(source, speakers=5, utterances=3)
    if layout in ("musan", "rirs"):
        options = LayoutOptions(utterances=2)
    for name in ("one", "two"):
        lay_out(layout, tmp_path / name, options)
    found = names(tmp_path / "one")
    assert found == names(tmp_path / "two")
    for name in found:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )


def test_a_second_run_does_nothing_and_other_settings_are_refused(source, tmp_path):
    out = tmp_path / "cn2"
    assert lay_out("cnceleb2", out, source)
    assert not lay_out("cnceleb2", out, source)
    with pytest.raises(DataError, match="there already"):
        lay_out("cnceleb2", out, replace(source, utterances=1))
    assert len(names(out, "*.flac")) == 32


def test_a_run_that_was_killed_leaves_nothing_under_the_name(source, tmp_path):
    (tmp_path / "cn2.partial" / "data").mkdir(parents=True)
    (tmp_path / "cn2.partial" / "data" / "half.flac").write_bytes(b"half")
    lay_out("cnceleb2", tmp_path / "cn2", source)
    assert not list(tmp_path.rglob("half.flac"))


@pytest.mark.parametrize(
    "layout, options, message",
    [
        ("voxceleb1", {"speakers": 3}, "it needs 4, 2 for training and 2 for testing; .* 1 and 2"),
        ("cnceleb1", {"enroll_utterances": 4}, "2 for testing with 5 utterances or more"),
        ("vctk", {"speakers": 1}, "it needs 2"),
        ("librispeech", {"skip": 6}, "it needs 3"),
        ("voxceleb2", {"skip": 8}, "it needs 3, 2 for training .* 0 and 0"),
    ],
)
def test_too_few_speakers(layout, options, message, source, tmp_path):
    with pytest.raises(DataError, match=message):
        lay_out(layout, tmp_path / "out", replace(source, **options))


def test_settings_that_cannot_be(source, tmp_path):
    with pytest.raises(ConfigError, match="unknown layout 'vox'; there are voxceleb1, "):
        lay_out("vox", tmp_path / "out", source)
    with pytest.raises(ConfigError, match="needs speech: give --data"):
        lay_out("vctk", tmp_path / "out", LayoutOptions())
    with pytest.raises(ConfigError, match="speakers -1, num_trials 0"):
        LayoutOptions(speakers=-1, num_trials=0)


def test_a_list_of_other_speech_is_refused(source, tmp_path):
    (tmp_path / "trials").write_text("spk00-0 spk00-1 target\nx y nontarget\n")
    options = replace(source, trials=str(tmp_path / "trials"))
    with pytest.raises(DataError, match="it needs 4"):
        lay_out("voxceleb1", tmp_path / "out", options)
    (tmp_path / "trials").write_text("spk00-0 spk00-1 target\nspk01-0 y nontarget\n")
    with pytest.raises(DataError, match="1 of 2 trials"):
        lay_out("voxceleb1", tmp_path / "out", options)


def test_segments_are_cut_out(source, tmp_path):
    folder = Path(source.data)
    keys = [line.split()[0] for line in lines(folder / "utt2spk")]
    (folder / "segments").write_text("".join(f"{key} {key} 0.5 1.25\n" for key in keys))
    utterance = load_speakers(folder)[0].utterances[0]
    whole = soundfile.read(utterance.data.wav[utterance.key], dtype="float32")[0]
    np.testing.assert_array_equal(utterance.read(), whole[8000:20000])


def test_the_command(source, tmp_path):
    command = [sys.executable, ROOT / "tools/lay_out_corpus.py", "cnceleb2"]
    done = subprocess.run(
        [*command, "--utterances", "1", "--data", source.data, "--out", tmp_path / "cn2"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'cn2'}\n"
    assert len(names(tmp_path / "cn2", "*.flac")) == 8
