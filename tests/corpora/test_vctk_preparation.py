"""VCTK as it is published becomes data directories at 16 kHz and trials."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.corpora.layouts import LayoutOptions, lay_out
from wesp_lap.corpora.vctk import (
    TEST_SPEAKERS,
    VAL_SPEAKERS,
    draw_split,
    prepare_vctk,
    read_speaker_info,
)
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import has_errors
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.kaldi.validate import validate

RATE = 48000
PROMPTS = (1, 24, 25, 26, 27, 28)
ACCENTS = ("English", "Scottish", "American")


def tone(hertz: float, rate: int, seconds: float = 0.3) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def speakers(count: int) -> list[str]:
    held = [*VAL_SPEAKERS, *TEST_SPEAKERS]
    return [*held, "p280", "p315", "s5", *[f"p{number}" for number in range(225, 229)]][:count]


def write_info(root: Path, names: list[str], bare: bool = False) -> None:
    lines = ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS"]
    for number, name in enumerate(names):
        gender, accent = "FM"[number % 2], ACCENTS[number // 2 % 3]
        lines.append(f"{name[1:] if bare else name}  23  {gender}    {accent}    West  Lothian ")
    root.joinpath("speaker-info.txt").write_text("\n".join(lines) + "\n\n")


def newer_release(root: Path, names: list[str], prompts: tuple[int, ...] = PROMPTS) -> Path:
    """Write release 0.92: mic1 is a tone of 1 kHz, mic2 of 2 kHz."""
    waves = {1: tone(1000, RATE), 2: tone(2000, RATE)}
    for name in names:
        folder = root / "wav48_silence_trimmed" / name
        folder.mkdir(parents=True)
        for prompt in prompts:
            for microphone, wave in waves.items():
                soundfile.write(folder / f"{name}_{prompt:03d}_mic{microphone}.flac", wave, RATE)
    root.joinpath("wav48_silence_trimmed", "log.txt").write_text("not audio\n")
    write_info(root, names)
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release 0.92 with the speakers that are held out and seven others."""
    return newer_release(tmp_path_factory.mktemp("vctk") / "VCTK-Corpus-0.92", speakers(43))


@pytest.fixture(scope="module")
def prepared(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vctk_out")
    prepare_vctk(out, published.parent, per_label=100, jobs=1)
    return out


def test_speakers_are_held_out_as_published_and_two_are_dropped(prepared):
    sets = {name: set(DataDir.load(prepared / name).utt2spk.values()) for name in NAMES}
    assert sets["val"] == set(VAL_SPEAKERS)
    assert sets["test"] == set(TEST_SPEAKERS)
    assert sets["train"] == {"s5", "p225", "p226", "p227", "p228"}
    assert (len(VAL_SPEAKERS), len(TEST_SPEAKERS)) == (18, 18)
    assert not set(VAL_SPEAKERS) & set(TEST_SPEAKERS)


NAMES = ("train", "val", "test")


def test_prompts_that_all_read_are_left_out_and_one_microphone_is_taken(prepared):
    data = DataDir.load(prepared / "test")
    assert set(data.utt2spk) == {f"{n}_{p:03d}" for n in TEST_SPEAKERS for p in (25, 26, 27, 28)}
    wave, rate = soundfile.read(data.wav["p230_025"])
    assert rate == 16000
    assert len(wave) == 4800
    assert np.abs(wave - tone(1000, 16000))[200:-200].max() < 1e-3


def test_the_directories_pass_the_checks_of_stage_1(prepared):
    for name in ("val", "test"):
        lists = [prepared / "trials" / f"vctk_{name}.kaldi"]
        found = validate(prepared / name, lists, disjoint_from=prepared / "train")
        assert not has_errors(found), found


def test_attributes_and_trials_are_those_of_the_speakers(prepared, published):
    info = read_speaker_info(published / "speaker-info.txt")
    for name in ("val", "test"):
        genders = read_table(prepared / name / "spk2gender")
        accents = read_table(prepared / name / "spk2accent")
        assert {s: (genders[s], accents[s]) for s in genders} == {s: info[s] for s in genders}
        trials = read_trials(prepared / "trials" / f"vctk_{name}.kaldi")
        own = {key[:4] for key in trials.enroll + trials.test}
        assert own == set(genders)
        assert trials.labels is not None
        assert int(trials.labels.sum()) == 108  # 100 in whole rounds of 18 speakers
        cells = Counter(
            (genders[a[:4]] == genders[b[:4]], accents[a[:4]] == accents[b[:4]])
            for a, b, label in zip(trials.enroll, trials.test, trials.labels, strict=True)
            if not label
        )
        assert len(cells) == 4
        assert all(count >= 25 for count in cells.values())


def test_a_second_run_converts_only_what_has_changed(published, tmp_path):
    root = newer_release(tmp_path / "VCTK-Corpus", ["p225", "p226", *speakers(10)], (25, 26))
    out = tmp_path / "out"
    words = {"split": "drawn", "held_out": 4, "per_label": 4, "jobs": 1}
    prepare_vctk(out, root, **words)
    made = sorted((out / "flac16k").rglob("*.flac"))
    assert len(made) == 24
    dates = {path: path.stat().st_ctime_ns for path in made}
    lists = (out / "trials" / "vctk_test.kaldi").read_bytes()
    gone, old = made[3], made[5]
    gone.unlink()
    source = root / "wav48_silence_trimmed" / old.parent.name / f"{old.stem}_mic1.flac"
    soundfile.write(source, tone(500, RATE), RATE)
    os.utime(source, ns=(1, 1))  # an older file in its place is another file, too
    prepare_vctk(out, root, **words)
    changed = {path for path in made if path.stat().st_ctime_ns != dates[path]}
    assert changed == {gone, old}
    assert np.abs(soundfile.read(old)[0] - tone(500, 16000))[200:-200].max() < 1e-3
    assert (out / "trials" / "vctk_test.kaldi").read_bytes() == lists


def test_several_processes_write_the_same_files(tmp_path):
    root = newer_release(tmp_path / "VCTK-Corpus", speakers(10), tuple(range(25, 35)))
    words = {"split": "drawn", "held_out": 4, "per_label": 4}
    for jobs in (1, 2):
        prepare_vctk(tmp_path / str(jobs), root, jobs=jobs, **words)
    files = {
        jobs: {
            p.relative_to(tmp_path / jobs): p.read_bytes()
            for p in (tmp_path / jobs).rglob("*.flac")
        }
        for jobs in ("1", "2")
    }
    assert len(files["1"]) == 100
    assert files["1"] == files["2"]


def test_the_older_release_and_its_bare_numbers(tmp_path):
    root, names = tmp_path / "VCTK-Corpus", [f"p{number}" for number in range(225, 237)]
    for name in names:
        folder = root / "wav48" / name
        folder.mkdir(parents=True)
        for prompt in (3, 30, 31):
            wave = tone(800, RATE)
            soundfile.write(folder / f"{name}_{prompt:03d}.wav", wave, RATE, subtype="PCM_16")
    write_info(root, names, bare=True)
    result = prepare_vctk(tmp_path / "out", root, "drawn", 4, per_label=4, jobs=1)
    assert [len(result[name].spk2utt) for name in NAMES] == [4, 4, 4]
    assert sorted({key[-3:] for key in result["val"].utt2spk}) == ["030", "031"]


def test_a_published_list_takes_the_place_of_a_drawn_one(published, tmp_path):
    path = tmp_path / "trials-valid.csv"
    path.write_text("LABEL,SAMPLE1,SAMPLE2\n1,p229/p229_025.wav,p229/p229_026.wav\n")
    prepare_vctk(tmp_path / "out", published, per_label=100, jobs=1, val_trials=path)
    lists = tmp_path / "out" / "trials"
    assert (lists / "vctk_val.kaldi").read_text() == "p229_025 p229_026 target\n"
    assert len(read_trials(lists / "vctk_test.kaldi")) > 200
    path.write_text("LABEL,SAMPLE1,SAMPLE2\n1,p230/p230_025.wav,p230/p230_026.wav\n")
    with pytest.raises(DataError, match=r"valid\.csv:2: no utterance p230_025, p230_026"):
        prepare_vctk(tmp_path / "other", published, per_label=100, jobs=1, val_trials=path)


def test_the_published_archive_is_unpacked(tmp_path):
    """The zip of release 0.92 has no folder around its content."""
    root = newer_release(tmp_path / "content", speakers(10), (25, 26))
    (tmp_path / "fetched").mkdir()
    shutil.make_archive(str(tmp_path / "fetched" / "VCTK-Corpus-0.92"), "zip", root)
    words = {"split": "drawn", "held_out": 4, "per_label": 4, "jobs": 1}
    for name, source in (("folder", "content"), ("archive", "fetched")):
        prepare_vctk(tmp_path / name, tmp_path / source, **words)
    for table in ("train/utt2spk", "test/spk2gender", "trials/vctk_test.kaldi"):
        assert (tmp_path / "folder" / table).read_text() == (
            tmp_path / "archive" / table
        ).read_text()


def test_a_miniature_of_the_layout_tool(tiny_corpus, tmp_path):
    lay_out("vctk", tmp_path / "vctk", LayoutOptions(data=str(tiny_corpus.data)))
    result = prepare_vctk(
        tmp_path / "out", tmp_path / "vctk", "drawn", 3, "mic2", 1, per_label=6, jobs=1
    )
    assert sum(len(data.utt2spk) for data in result.values()) == 32
    assert not has_errors(validate(tmp_path / "out" / "test"))


def test_drawn_speakers_are_half_women_and_the_same_every_time():
    genders = {f"p{number}": "f" if number % 3 else "m" for number in range(300, 340)}
    sets = draw_split(genders, 10, seed=3)
    assert sets == draw_split(dict(reversed(genders.items())), 10, seed=3)
    assert sets != draw_split(genders, 10, seed=4)
    assert sorted(chain(*sets.values())) == sorted(genders)
    women = {name: sum(genders[one] == "f" for one in sets[name]) for name in ("val", "test")}
    assert women == {"val": 5, "test": 5}
    few = {name: "m" if number == 0 else "f" for number, name in enumerate(genders)}
    assert [len(names) for names in draw_split(few, 10).values()] == [20, 10, 10]
    with pytest.raises(DataError, match=r"2 x 20 of 40 speakers .* give a smaller --held_out"):
        draw_split(genders, 20)


def test_what_is_not_as_published_is_named_before_audio_is_converted(tmp_path):
    root = newer_release(tmp_path / "VCTK-Corpus", ["p225", "p226"], (25,))
    folder = root / "wav48_silence_trimmed"
    wave = tone(100, RATE)
    soundfile.write(folder / "p225" / "p226_030_mic1.flac", wave, RATE)
    (folder / "p399").mkdir()
    soundfile.write(folder / "p399" / "p399_030_mic1.flac", wave, RATE)
    with pytest.raises(DataError) as caught:
        prepare_vctk(tmp_path / "out", root)
    assert "p225/p226_030_mic1.flac: expected pNNN/pNNN_NNN_mic1.flac" in str(caught.value)
    assert "speaker-info.txt has no speaker p399" in str(caught.value)
    (folder / "p225" / "p226_030_mic1.flac").unlink()
    (folder / "p399" / "p399_030_mic1.flac").unlink()
    with pytest.raises(
        DataError, match=r"36 of the 36 speakers .* p229, p230.*(?s:.)*--split drawn"
    ):
        prepare_vctk(tmp_path / "out", root)
    with pytest.raises(DataError, match="no files of microphone mic3 with prompts from 025 on"):
        prepare_vctk(tmp_path / "out", root, microphone="mic3")
    with pytest.raises(DataError, match=r"no speaker-info\.txt here .* no archive VCTK"):
        prepare_vctk(tmp_path / "out", tmp_path / "elsewhere")
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_all_named_and_the_others_kept(tmp_path):
    root = newer_release(tmp_path / "VCTK-Corpus", speakers(10), (25, 26))
    folder = root / "wav48_silence_trimmed"
    bad = [folder / name / f"{name}_026_mic1.flac" for name in speakers(2)]
    bad[0].write_bytes(b"fLaC" + bytes(200))
    bad[1].write_bytes(bad[1].read_bytes()[:6000])
    with pytest.raises(DataError) as caught:
        prepare_vctk(tmp_path / "out", root, "drawn", 4, per_label=4, jobs=1)
    assert all(str(path) in str(caught.value) for path in bad)
    assert "2 problems" in str(caught.value)
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 18
    assert not (tmp_path / "out" / "train").exists()


def test_faulty_lines_of_speaker_info_are_named(tmp_path):
    path = tmp_path / "speaker-info.txt"
    path.write_text("ID  AGE  GENDER  ACCENTS\n225  23  F  English\n226 22 X Scottish\np227\n")
    with pytest.raises(DataError) as caught:
        read_speaker_info(path)
    assert f"{path}:3: '226 22 X Scottish'" in str(caught.value)
    assert f"{path}:4: 'p227'" in str(caught.value)
