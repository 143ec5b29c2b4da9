"""CN-Celeb as published to data directories: training set, evaluation, lists, faults."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import ROOT

from wesp_lap.corpora import cnceleb
from wesp_lap.corpora.cnceleb import prepare_cnceleb
from wesp_lap.corpora.layouts import LayoutOptions, lay_out
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.kaldi.tables import read_table, write_table
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.kaldi.validate import validate
from wesp_lap.scoring.lists import TrialFiles, score_lists
from wesp_lap.scoring.measure import Maps, Measures, measure_systems

AVERAGE, CONCATENATED = "trials/CNC-Eval-Avg.lst", "trials/CNC-Eval-Concat.lst"


@pytest.fixture(scope="module")
def published(tiny_corpus, tmp_path_factory):
    """CN-Celeb1 with 3 training and 2 evaluation speakers, CN-Celeb2 with 3 speakers."""
    folder = tmp_path_factory.mktemp("published")
    source = str(tiny_corpus.data)
    first = LayoutOptions(source, speakers=5, test_speakers=2)
    lay_out("cnceleb1", folder / "CN-Celeb_flac", first)
    lay_out("cnceleb2", folder / "CN-Celeb2_flac", LayoutOptions(source, skip=5))
    return folder


@pytest.fixture
def corpora(published, tmp_path):
    """Copies of both that a test may change."""
    for name in ("CN-Celeb_flac", "CN-Celeb2_flac"):
        shutil.copytree(published / name, tmp_path / name)
    return tmp_path / "CN-Celeb_flac", tmp_path / "CN-Celeb2_flac"


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("cnceleb")
    prepare_cnceleb(out, published / "CN-Celeb_flac", published / "CN-Celeb2_flac", nj=1)
    return out


def lines(path):
    return path.read_text().splitlines()


def add(path, *texts):
    path.write_text(path.read_text() + "".join(f"{text}\n" for text in texts))


def samples(path):
    return soundfile.read(path, dtype="int16")[0]


def fault(*arguments, **options):
    with pytest.raises(DataError) as found:
        prepare_cnceleb(*arguments, **options)
    return str(found.value)


def training_names(published):
    dev = lines(published / "CN-Celeb_flac/dev/dev.lst")
    first = [published / "CN-Celeb_flac/data" / name for name in dev]
    folders = [*first, *(published / "CN-Celeb2_flac/data").iterdir()]
    return {f"{path.parent.name}/{path.stem}.wav" for one in folders for path in one.iterdir()}


def test_nothing_is_lost_and_nothing_stands_twice(published, prepared):
    parts = {key: row.split() for key, row in read_table(prepared / "train/utt2parts").items()}
    held = [part for row in parts.values() for part in row]
    assert len(held) == len(set(held))
    assert set(held) == training_names(published)


def test_training_audio_is_that_of_its_parts_in_their_order(published, prepared):
    data = DataDir.load(prepared / "train")
    genres = read_table(prepared / "train/utt2genre")
    joined = 0
    for key, row in read_table(prepared / "train/utt2parts").items():
        parts = row.split()
        files = []
        for part in parts:
            corpus = "CN-Celeb2_flac" if part >= "id1" else "CN-Celeb_flac"
            files.append((published / corpus / "data" / part).with_suffix(".flac"))
        assert {part.split("/")[0] for part in parts} == {data.utt2spk[key]}
        assert {Path(part).name.split("-")[0] for part in parts} == {genres[key]}
        wave = np.concatenate([samples(file) for file in files])
        np.testing.assert_array_equal(samples(data.wav[key]), wave)
        assert data.utt2dur[key] == pytest.approx(len(wave) / 16000, abs=1e-3)
        if len(parts) == 1:
            assert key == parts[0] and data.wav[key] == str(files[0])
        else:
            assert key == f"{parts[0].removesuffix('.wav')}-comb{len(parts)}.wav"
            joined += 1
    assert joined


def test_short_ones_are_left_only_where_a_genre_has_no_more(prepared):
    data = DataDir.load(prepared / "train")
    genres = read_table(prepared / "train/utt2genre")
    groups = {}
    for key in data.utterances:
        groups.setdefault((data.utt2spk[key], genres[key]), []).append(data.utt2dur[key])
    assert all(min(seconds) >= 5 or len(seconds) == 1 for seconds in groups.values())


def test_directories_and_lists_are_valid(prepared):
    lists = [prepared / "eval" / name for name in (AVERAGE, CONCATENATED)]
    assert validate(prepared / "eval", lists, disjoint_from=prepared / "train") == []
    assert validate(prepared / "train") == []


def test_the_evaluation_set_has_both_kinds_of_enrolment(published, prepared):
    data = DataDir.load(prepared / "eval")
    root = published / "CN-Celeb_flac/eval/lists"
    tests = lines(root / "test.lst")
    recordings = [line.split()[1] for line in lines(root / "enroll.lst")]
    models = {line.split()[0]: line.split()[1:] for line in lines(root / "enroll.map")}
    singles = [key for keys in models.values() for key in keys]
    assert data.utterances == sorted([*tests, *recordings, *singles])
    assert set(data.utt2spk.values()) == {"id00800", "id00801"}
    assert data.utt2spk["enroll/id00801-enroll.wav"] == "id00801"
    found = {key: row.split() for key, row in read_table(prepared / "eval/enroll.map").items()}
    assert found == {**models, **{key: [key] for key in recordings}}


def test_both_lists_have_the_published_trials(published, prepared):
    rows = [line.split() for line in lines(published / "CN-Celeb_flac/eval/lists/trials.lst")]
    average = read_trials(prepared / "eval" / AVERAGE)
    concatenated = read_trials(prepared / "eval" / CONCATENATED)
    assert average.enroll == [row[0] for row in rows]
    assert concatenated.enroll == [f"enroll/{row[0]}.wav" for row in rows]
    for trials in (average, concatenated):
        assert trials.test == [row[1] for row in rows]
        assert trials.labels.tolist() == [int(row[2]) for row in rows]


def test_scores_of_both_lists_with_one_map(prepared, tmp_path):
    """Against the definition: cosine with the mean of unit vectors, and with the recording."""
    data = DataDir.load(prepared / "eval")
    vectors = dict(
        zip(
            data.utterances,
            np.random.default_rng(0).standard_normal((len(data.utterances), 8)).astype(np.float32),
            strict=True,
        )
    )
    with VectorWriter(tmp_path / "xvector") as writer:
        for key, vector in vectors.items():
            writer.write(key, vector)
    lists = [prepared / "eval" / name for name in (AVERAGE, CONCATENATED)]
    files = TrialFiles(tmp_path / "xvector.scp", enroll_map=prepared / "eval/enroll.map")
    average, concatenated = (
        read_scores(path) for path in score_lists(lists, files, tmp_path / "scores")
    )

    def unit(vector):
        return vector / np.linalg.norm(vector)

    models = read_table(prepared / "eval/enroll.map")
    for (trials, scores), model in zip((average, concatenated), (True, False), strict=True):
        for one, other, score in zip(trials.enroll, trials.test, scores, strict=True):
            of_model = np.mean([unit(vectors[key]) for key in models[one].split()], axis=0)
            enrolled = of_model if model else vectors[one]
            assert score == pytest.approx(unit(enrolled) @ unit(vectors[other]), abs=1e-4)


def test_error_rates_by_the_genre_of_the_test_side(prepared):
    maps = Maps(by=[prepared / "eval/by/test_genre", prepared / "eval/by/genre"])
    trials = read_trials(prepared / "eval" / AVERAGE)
    scores = np.random.default_rng(0).standard_normal(len(trials))
    report = measure_systems({"x": (trials, scores)}, Measures(), maps)["x"]
    counts = {name: one.trials for name, one in report.groups["test_genre"].items()}
    wanted = {"different": len(trials)}
    for test in trials.test:
        genre = f"*/{Path(test).name.split('-')[1]}"
        wanted[genre] = wanted.get(genre, 0) + 1
    assert counts == wanted
    both = read_table(prepared / "eval/by/genre")
    assert {"same", "different"} <= set(report.groups["genre"])
    for model, row in read_table(prepared / "eval/enroll.map").items():
        genres = {Path(key).name.split("-")[0] for key in row.split()}
        if "/" not in model:
            assert both[model] == (genres.pop() if len(genres) == 1 else "mixed")
            assert both[f"enroll/{model}.wav"] == both[model]


def test_a_model_of_several_genres_is_mixed(corpora, tmp_path):
    lists = corpora[0] / "eval/lists/enroll.map"
    rows = [line.split() for line in lines(lists)]
    other = sorted((corpora[0] / "data" / rows[0][1].split("/")[0]).iterdir())
    names = {path.name.split("-")[0]: f"{path.parent.name}/{path.stem}.wav" for path in other}
    assert len(names) > 1
    lists.write_text(f"{rows[0][0]} {' '.join(names.values())}\n{' '.join(rows[1])}\n")
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    assert read_table(tmp_path / "out/eval/by/genre")["id00800-enroll"] == "mixed"
    assert read_table(tmp_path / "out/eval/by/genre")["id00801-enroll"] != "mixed"
    speakers = read_table(tmp_path / "out/eval/by/speaker")
    assert speakers["id00800-enroll"] == speakers["enroll/id00800-enroll.wav"] == "id00800"
    assert {key[5:12] for key in speakers if key.startswith("test/")} == set(speakers.values())


def test_cnceleb1_alone_without_its_list_of_speakers(corpora, tmp_path):
    (corpora[0] / "dev/dev.lst").unlink()
    prepare_cnceleb(tmp_path / "out", corpora[0], combine_seconds=0)
    data = DataDir.load(tmp_path / "out/train")
    assert set(data.utt2spk.values()) == {"id00000", "id00001", "id00002"}
    assert len(data.utterances) == 12
    assert not (tmp_path / "out/train/combined").exists()


def test_speakers_outside_the_lists_of_speakers_are_not_for_training(corpora, tmp_path):
    (corpora[0] / "dev/dev.lst").write_text("id00000\nid00002\n")
    (corpora[1] / "spk.lst").write_text("id10001\n")
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    speakers = set(DataDir.load(tmp_path / "out/train").utt2spk.values())
    assert speakers == {"id00000", "id00002", "id10001"}


def test_the_folder_of_the_unpacked_archives_will_do(published, prepared, tmp_path):
    prepare_cnceleb(tmp_path / "out", published, published, nj=1)
    for part in ("train/utt2parts", "train/utt2dur", "eval/wav.scp"):
        assert (tmp_path / "out" / part).read_bytes() == (prepared / part).read_bytes()


def test_wav_files_do_as_well(corpora, prepared, tmp_path):
    for corpus in corpora:
        for path in list(corpus.rglob("*.flac")):
            soundfile.write(path.with_suffix(".wav"), samples(path), 16000, "PCM_16")
            path.unlink()
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    parts = "train/utt2parts"
    assert (tmp_path / "out" / parts).read_bytes() == (prepared / parts).read_bytes()
    wav = read_table(tmp_path / "out/eval/wav.scp")
    assert wav["enroll/id00800-enroll.wav"].endswith("enroll/id00800-enroll.wav")


def test_a_second_run_does_nothing(corpora, tmp_path, monkeypatch):
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    with monkeypatch.context() as patch:
        patch.setattr(cnceleb, "read_headers", lambda _: pytest.fail("it did the work again"))
        prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    more = corpora[1] / "data/id10000/vlog-09-001.flac"
    shutil.copy(corpora[0] / "eval/enroll/id00800-enroll.flac", more)
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    assert "id10000/vlog-09-001.wav" in DataDir.load(tmp_path / "out/train").wav


def test_a_killed_run_goes_on_where_it_stopped(corpora, tmp_path, monkeypatch):
    real = soundfile.SoundFile
    written = []

    def killed(file, mode="r", *arguments, **options):
        if isinstance(file, io.BytesIO) and len(written) == 2:
            raise KeyboardInterrupt
        written.extend([file] if isinstance(file, io.BytesIO) else [])
        return real(file, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "SoundFile", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    assert not (tmp_path / "out/train/wav.scp").exists()
    before = {path: os.stat(path).st_ino for path in (tmp_path / "out").rglob("*.flac")}
    assert len(before) == 2
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    assert {path: os.stat(path).st_ino for path in before} == before
    assert len(list((tmp_path / "out").rglob("*.flac"))) > 2


def test_other_settings_leave_no_old_recordings(corpora, tmp_path):
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    prepare_cnceleb(tmp_path / "out", *corpora, combine_seconds=8, nj=1)
    wav = set(read_table(tmp_path / "out/train/wav.scp").values())
    joined = {str(path) for path in (tmp_path / "out").rglob("*.flac")}
    assert joined and joined <= wav


def test_bad_training_files_are_all_named_and_can_be_left_out(corpora, tmp_path):
    files = sorted((corpora[1] / "data/id10000").iterdir())
    files[0].write_bytes(b"no audio")
    soundfile.write(files[1], np.zeros((100, 2)), 16000)
    text = fault(tmp_path / "out", *corpora, nj=1)
    assert all(str(path) in text for path in files[:2])
    table = tmp_path / "out/train/bad_files"
    assert f"--exclude {table}" in text
    bad = {f"id10000/{path.stem}.wav" for path in files[:2]}
    assert set(read_table(table)) == bad
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1, exclude=table)
    held = " ".join(read_table(tmp_path / "out/train/utt2parts").values()).split()
    assert not bad & set(held) and len(held) == 24 - 2
    # The list is still there for the same command again, and what is found later joins it.
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1, exclude=table)
    files[2].write_bytes(b"no audio")
    fault(tmp_path / "out", *corpora, nj=1, exclude=table)
    assert set(read_table(table)) == bad | {f"id10000/{files[2].stem}.wav"}


def test_a_list_of_bad_files_goes_when_they_are_mended(corpora, tmp_path):
    path = min((corpora[1] / "data/id10000").iterdir())
    whole = path.read_bytes()
    path.write_bytes(b"no audio")
    fault(tmp_path / "out", *corpora, nj=1)
    path.write_bytes(whole)
    prepare_cnceleb(tmp_path / "out", *corpora, nj=1)
    assert not (tmp_path / "out/train/bad_files").exists()


def test_a_file_whose_samples_cannot_be_decoded_is_named_too(corpora, tmp_path):
    """Its header is whole, so it is found when it is joined."""
    path = max((corpora[1] / "data/id10001").iterdir())
    prepare_cnceleb(tmp_path / "whole", *corpora, nj=1)
    parts = read_table(tmp_path / "whole/train/utt2parts").values()
    key = next(row.split()[1] for row in parts if len(row.split()) > 1 and row > "id1")
    path = (corpora[1] / "data" / key).with_suffix(".flac")
    path.write_bytes(path.read_bytes()[:3000])
    text = fault(tmp_path / "out", *corpora, nj=1)
    assert str(path) in text
    assert set(read_table(tmp_path / "out/train/bad_files")) == {key}
    assert not (tmp_path / "out/train/wav.scp").exists()


def test_bad_files_of_the_evaluation_cannot_be_left_out(corpora, tmp_path):
    path = corpora[0] / "eval/enroll/id00800-enroll.flac"
    path.write_bytes(b"no audio")
    text = fault(tmp_path / "out", *corpora, nj=1)
    assert str(path) in text and "evaluation files" in text


def test_all_that_is_wrong_with_lists_and_folders_is_said_at_once(corpora, tmp_path):
    lists = corpora[0] / "eval/lists"
    (lists / "enroll.map").unlink()
    add(
        lists / "trials.lst",
        "id00800-enroll test/id00800-x-01-001.wav",
        "id00800-enroll test/x.wav 2",
    )
    add(lists / "enroll.lst", lines(lists / "enroll.lst")[0], "id00999-enroll flat.wav")
    shutil.rmtree(corpora[1] / "data")
    text = fault(tmp_path / "out", *corpora)
    count = len(lines(lists / "trials.lst"))
    for part in (
        f"{lists}/enroll.map: no such list; unpack the corpus again, or fetch cn-celeb_v2.tar.gz",
        f"trials.lst:{count - 1}: expected 3 columns, found 'id00800-enroll test/id00800-x-01-001",
        f"trials.lst:{count}: the third column is 1 or 0, found '2'",
        "enroll.lst:3: model id00800-enroll stands there twice",
        "enroll.lst:4: expected FOLDER/FILE.wav, found 'flat.wav'",
        f"{corpora[1]}: no folder data/",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_files_and_models_that_are_not_there(corpora, tmp_path):
    lists = corpora[0] / "eval/lists"
    add(lists / "trials.lst", "id00805-enroll test/id00805-vlog-01-001.wav 1")
    add(lists / "enroll.map", "id00806-enroll id00806/vlog-01-001.wav")
    (corpora[0] / "eval/enroll/id00800-enroll.flac").unlink()
    add(corpora[0] / "dev/dev.lst", "id00444")
    text = fault(tmp_path / "out", *corpora)
    for part in (
        "enroll.lst: 1 models of trials.lst are not in it: id00805-enroll",
        "enroll.map: 1 models of trials.lst are not in it: id00805-enroll",
        "trials.lst: 1 of 5 files are not in",
        "enroll.lst: 1 of 2 files are not in",
        "enroll.map: 1 of 5 files are not in",
        "dev.lst: 1 speakers without a file in data/: id00444",
    ):
        assert part in text, part


def test_speakers_in_two_places(corpora, tmp_path):
    add(corpora[0] / "dev/dev.lst", "id00800")
    shutil.copytree(corpora[0] / "data/id00001", corpora[1] / "data/id00001")
    add(corpora[1] / "spk.lst", "id00001")
    text = fault(tmp_path / "out", *corpora)
    assert "1 training speakers are in the evaluation too: id00800" in text
    assert "1 speakers are in both corpora: id00001" in text


def test_empty_files_are_named_and_nothing_else(corpora, tmp_path):
    paths = [corpus / "data/id00001/vlog-01-009.flac" for corpus in corpora]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    text = fault(tmp_path / "out", *corpora)
    assert all(f"{path}: empty file" in text for path in paths)
    assert "(2 problems)" in text and " not in " not in text


def test_the_first_release_is_recognised(corpora, tmp_path):
    for path in list(corpora[0].rglob("*.flac")):
        path.rename(path.with_suffix(".wav"))
    (corpora[0] / "eval/lists/enroll.map").unlink()
    text = fault(tmp_path / "out", corpora[0])
    assert "this is the first release of CN-Celeb" in text
    assert "fetch cn-celeb_v2.tar.gz" in text


def test_archives_that_are_still_packed(tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("cn-celeb_v2.tar.gz", "cn-celeb2_v2.tar.gzaa", "cn-celeb2_v2.tar.gzab"):
        (folder / name).write_bytes(b"x")
    text = fault(tmp_path / "out", folder, folder)
    assert f"cat {folder}/cn-celeb_v2.tar.gz | tar -xz -C {folder}" in text
    parts = f"{folder}/cn-celeb2_v2.tar.gzaa {folder}/cn-celeb2_v2.tar.gzab"
    assert f"cat {parts} | tar -xz -C {folder}" in text
    text = fault(tmp_path / "out", folder / "cn-celeb_v2.tar.gz", tmp_path / "nowhere")
    assert "cn-celeb_v2.tar.gz: a file, not a folder; unpack it first: cat" in text
    assert f"{tmp_path / 'nowhere'}: no such folder" in text


def test_what_cannot_be_left_out(corpora, tmp_path):
    write_table(tmp_path / "excluded", {"id00000/none-01-001.wav": "why"})
    text = fault(tmp_path / "out", *corpora, exclude=tmp_path / "excluded")
    assert "1 are no training utterances: id00000/none-01-001.wav" in text
    with pytest.raises(ConfigError, match="combine_seconds must not be negative, got -1"):
        prepare_cnceleb(tmp_path / "out", *corpora, combine_seconds=-1)


def test_the_command_of_the_recipe(published, prepared, tmp_path):
    script = ROOT / "egs/cnceleb/local/prepare_data.py"
    words = ["--out", tmp_path / "out", "--cnceleb1", published, "--cnceleb2", published]
    done = subprocess.run(
        [sys.executable, script, *words, "--nj", "1"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert "joined" in done.stderr
    same = "train/utt2parts"
    assert (tmp_path / "out" / same).read_bytes() == (prepared / same).read_bytes()
