"""LibriSpeech as it is published becomes data directories and trials."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.corpora.layouts import LayoutOptions, lay_out
from wesp_lap.corpora.librispeech import SUBSETS, Reader, prepare_librispeech, read_readers
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import has_errors
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.kaldi.validate import validate

HEAD = "; Some metadata\n;\n;ID  |SEX| SUBSET           |MINUTES| NAME\n"
# Readers per subset; ids of one and of several digits, as published.
COUNTS = dict(zip(SUBSETS, (3, 2, 2, 3, 3, 3, 2), strict=True))
CHAPTERS = (125, 4152)
PER_CHAPTER = 3


def write_corpus(root: Path) -> Path:
    lines, reader = HEAD, 84
    samples = 0.1 * np.sin(np.arange(16000))
    for subset, count in COUNTS.items():
        for place in range(count):
            for chapter in CHAPTERS:
                folder = root / subset / str(reader) / str(chapter)
                folder.mkdir(parents=True)
                for number in range(PER_CHAPTER):
                    name = f"{reader}-{chapter}-{number:04d}.flac"
                    soundfile.write(folder / name, samples, 16000)
                (folder / f"{reader}-{chapter}.trans.txt").write_text("not audio\n")
            lines += f"{reader:<5}| {'FM'[place % 2]} | {subset:<17}| 8.02  | |CBW|A Name\n"
            reader += 457
    (root / "SPEAKERS.TXT").write_text(lines)
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("openslr") / "LibriSpeech")


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(corpus, tmp_path / "LibriSpeech")
    return tmp_path / "LibriSpeech"


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    prepare_librispeech(out, corpus.parent, per_label=60)
    return out


def test_sets_are_made_of_their_subsets(prepared, corpus):
    readers = read_readers(corpus / "SPEAKERS.TXT")
    for name, prefix in (("train", "train-"), ("val", "dev-"), ("test", "test-")):
        data = DataDir.load(prepared / name)
        wanted = {key for key, reader in readers.items() if reader.subset.startswith(prefix)}
        assert set(data.utt2spk.values()) == wanted
        assert len(data.utt2spk) == len(wanted) * len(CHAPTERS) * PER_CHAPTER
        assert all(key.split("-")[0] == speaker for key, speaker in data.utt2spk.items())
        genders = read_table(prepared / name / "spk2gender")
        assert genders == {key: readers[key].gender for key in wanted}


def test_audio_stays_where_it_is(prepared, corpus):
    wav = DataDir.load(prepared / "val").wav
    assert wav["3283-125-0001"] == str(corpus / "dev-clean" / "3283" / "125" / "3283-125-0001.flac")


def test_the_directories_pass_the_checks_of_stage_1(prepared):
    for name in ("val", "test"):
        lists = [prepared / "trials" / f"librispeech_{name}.kaldi"]
        found = validate(prepared / name, lists, disjoint_from=prepared / "train")
        assert found == []


def test_half_of_the_nontargets_are_of_one_gender_and_targets_as_many(prepared):
    genders = read_table(prepared / "val" / "spk2gender")
    trials = read_trials(prepared / "trials" / "librispeech_val.kaldi")
    cells: Counter[bool] = Counter()
    targets: Counter[str] = Counter()
    for one, other, label in zip(trials.enroll, trials.test, trials.labels, strict=True):
        first, second = one.split("-")[0], other.split("-")[0]
        if label:
            assert first == second
            targets[first] += 1
        else:
            cells[genders[first] == genders[second]] += 1
    # Of 4 women and 2 men: 7 pairs of one gender, 8 of two; 6 speakers.
    assert cells == {True: 35, False: 32}
    assert set(targets.values()) == {12}


def test_a_second_run_writes_the_same(prepared, corpus):
    before = {path: path.read_bytes() for path in sorted(prepared.rglob("*")) if path.is_file()}
    (prepared / "val" / "utt2dur").write_text("old 1\n")
    prepare_librispeech(prepared, corpus, per_label=60)
    after = {path: path.read_bytes() for path in sorted(prepared.rglob("*")) if path.is_file()}
    assert before == after


def test_some_subsets_are_enough(corpus, tmp_path):
    chosen = ("train-clean-100", "dev-other", "test-clean")
    result = prepare_librispeech(tmp_path, corpus, chosen, per_label=6)
    assert {name: len(data.spk2utt) for name, data in result.items()} == {
        "train": 3,
        "val": 3,
        "test": 3,
    }


def test_subsets_that_are_missing_or_unknown_are_named_together(own_corpus, tmp_path):
    shutil.rmtree(own_corpus / "test-other")
    with pytest.raises(DataError) as caught:
        prepare_librispeech(tmp_path / "out", own_corpus, ["train-clean-10", "test-other"])
    message = str(caught.value)
    assert "train-clean-10: no such subset is known" in message
    assert f"{own_corpus / 'test-other'}: no such folder" in message
    assert "no dev-* subset for val" in message
    assert "--subsets" in message


def test_speakers_without_files_are_an_error_unless_allowed(own_corpus, tmp_path):
    shutil.rmtree(own_corpus / "train-clean-100" / "84")
    with pytest.raises(DataError) as caught:
        prepare_librispeech(tmp_path / "out", own_corpus, per_label=60)
    assert "train-clean-100: 1 of 3 speakers have no files: 84" in str(caught.value)
    assert "--allow_missing" in str(caught.value)
    assert not (tmp_path / "out").exists()
    result = prepare_librispeech(tmp_path / "out", own_corpus, per_label=60, allow_missing=True)
    assert len(result["train"].spk2utt) == 6


def test_files_in_the_wrong_place_are_all_named(own_corpus, tmp_path):
    first = own_corpus / "train-clean-100"
    (first / "84" / "125" / "84-125-0000.flac").rename(first / "84" / "125" / "86-125-0000.flac")
    (first / "84").rename(own_corpus / "dev-clean" / "84")
    (first / "541").rename(first / "9999")
    for chapter in (first / "9999").iterdir():
        for path in chapter.glob("*.flac"):
            path.rename(path.with_name(path.name.replace("541-", "9999-")))
    with pytest.raises(DataError) as caught:
        prepare_librispeech(tmp_path / "out", own_corpus)
    message = str(caught.value)
    assert "86-125-0000.flac: expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac" in message
    assert "84-125-0001.flac: SPEAKERS.TXT has the speaker in train-clean-100" in message
    assert "SPEAKERS.TXT has no speaker 9999" in message


def test_the_same_utterance_in_two_forms_is_named(own_corpus, tmp_path):
    path = own_corpus / "train-clean-100" / "84" / "125" / "84-125-0000.flac"
    soundfile.write(path.with_suffix(".wav"), np.zeros(8000), 16000)
    with pytest.raises(DataError, match=r"84-125-0000\.wav: the same utterance as .*0000\.flac"):
        prepare_librispeech(tmp_path / "out", own_corpus)


def test_too_few_utterances_for_the_trials_stop_before_anything_is_written(corpus, tmp_path):
    with pytest.raises(DataError, match="non-target trials of same gender: 8001 wanted, but 7"):
        prepare_librispeech(tmp_path / "out", corpus)
    assert not (tmp_path / "out").exists()


def test_the_published_archives_are_unpacked(corpus, prepared, tmp_path):
    """Each of the seven holds one subset and the same SPEAKERS.TXT."""
    for subset in SUBSETS:
        with tarfile.open(tmp_path / f"{subset}.tar.gz", "w:gz") as archive:
            archive.add(corpus / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
            archive.add(corpus / subset, f"LibriSpeech/{subset}")
    out = tmp_path / "out"
    for _ in range(2):
        result = prepare_librispeech(out, tmp_path, per_label=60)
    assert result["val"].utt2spk == DataDir.load(prepared / "val").utt2spk
    assert all(path.startswith(f"{out}/unpacked/") for path in result["val"].wav.values())


def test_a_miniature_of_the_layout_tool(tiny_corpus, tmp_path):
    layout = LayoutOptions(data=str(tiny_corpus.data), test_speakers=3)
    lay_out("librispeech", tmp_path / "corpus", layout)
    chosen = ("train-clean-100", "dev-clean", "test-clean")
    result = prepare_librispeech(tmp_path / "out", tmp_path / "corpus", chosen, per_label=4)
    assert sum(len(data.utt2spk) for data in result.values()) == 32
    assert not has_errors(validate(tmp_path / "out" / "test"))


def test_speakers_txt(tmp_path):
    path = tmp_path / "SPEAKERS.TXT"
    path.write_text(HEAD + "14   | F | train-clean-360  | 25.03 | Kristin LeMoine\n")
    assert read_readers(path) == {"14": Reader("f", "train-clean-360")}
    path.write_text(HEAD + "14   | F | train-clean-360\n15 | X | dev-clean | 8 | Name\n")
    with pytest.raises(DataError) as caught:
        read_readers(path)
    assert f"{path}:4: '14   | F | train-clean-360'" in str(caught.value)
    assert f"{path}:5: '15 | X | dev-clean | 8 | Name'" in str(caught.value)
    with pytest.raises(DataError, match=r"no SPEAKERS\.TXT here or in LibriSpeech, "):
        prepare_librispeech(tmp_path / "out", tmp_path / "elsewhere")
