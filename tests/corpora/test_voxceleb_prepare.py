"""VoxCeleb as users have it: folders and archives of many forms give the same directories."""

import zipfile

import numpy as np
import pytest
import soundfile

from wesp_lap.corpora.trial_lists import Published
from wesp_lap.corpora.voxceleb import prepare_voxceleb
from wesp_lap.corpora.voxceleb_files import find_voxceleb, read_speakers
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.kaldi.validate import validate

DEV = ["id10001/v1/00001", "id10001/v2/00001", "id11251/v1/00001"]
TEST = ["id10270/v1/00001", "id10270/v1/00002", "id10309/v1/00003"]
VOX2_DEV = ["id00012/v1/00001", "id00012/v1/00002", "id09272/v1/00001"]
VOX2_TEST = ["id00017/v1/00001"]
LISTS = {
    "vox1_O_cleaned": Published("veri_test2.txt", 3, 1),
    "vox1_E_cleaned": Published("list_test_all2.txt", 2, 1),
}


def make_audio(folder, keys, suffix=".wav"):
    """Write half a second of noise for each key; m4a files are only names here."""
    for index, key in enumerate(keys):
        path = folder / f"{key}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".m4a":
            path.write_bytes(b"m4a")
        else:
            noise = np.random.default_rng(index).uniform(-0.5, 0.5, 8000)
            soundfile.write(path, noise, 16000, format=suffix[1:].upper())
    return folder


def make_zip(path, folder, inside):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for file in sorted(folder.rglob("*.*")):
            package.write(file, f"{inside}/{file.relative_to(folder)}")
    return path


def keys(path):
    return DataDir.load(path).utterances


def wavs(names):
    return sorted(f"{name}.wav" for name in names)


def make_lists(folder):
    folder.mkdir(exist_ok=True)
    one, two = folder / "veri_test2.txt", folder / "list_test_all2.txt"
    t = [f"{name}.wav" for name in TEST]
    one.write_text(f"1 {t[0]} {t[1]}\n0 {t[0]} {t[2]}\n0 {t[1]} {t[2]}\n")
    two.write_text(f"1 {DEV[0]}.wav {DEV[1]}.wav\n0 {DEV[0]}.wav {TEST[0]}.wav\n")
    return [one, two]


LAYOUTS = {
    "one folder": {"vox1/wav": DEV + TEST},
    "dev and test folders": {"vox1/dev/wav": DEV, "vox1/test/wav": TEST},
    "named as the archives": {"vox1_dev_wav": DEV, "vox1_test_wav/wav": TEST},
    "bare": {"vox1": DEV + TEST},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vox1_is_found_however_it_is_laid_out(tmp_path, layout):
    for place, names in LAYOUTS[layout].items():
        make_audio(tmp_path / "corpus" / place, names)
    sources = sorted((tmp_path / "corpus").iterdir())
    written = prepare_voxceleb(tmp_path / "data", sources)
    assert set(written) == {"vox1", "vox1_dev", "vox1_test"}
    assert keys(written["vox1_dev"]) == wavs(DEV) and keys(written["vox1_test"]) == wavs(TEST)
    assert keys(written["vox1"]) == wavs(DEV + TEST)
    assert DataDir.load(written["vox1"]).utt2spk["id10309/v1/00003.wav"] == "id10309"
    problems = validate(written["vox1"])
    assert [problem for problem in problems if problem.level == "error"] == []


@pytest.mark.parametrize("suffix", [".m4a", ".wav", ".flac"])
def test_vox2_keys_end_in_wav_and_folders_tell_the_test_set(tmp_path, suffix):
    make_audio(tmp_path / "vox2" / "dev" / "aac", VOX2_DEV, suffix)
    make_audio(tmp_path / "vox2" / "test" / "aac", VOX2_TEST, suffix)
    written = prepare_voxceleb(tmp_path / "data", vox2=[tmp_path / "vox2"])
    assert set(written) == {"vox2_dev", "vox2_test"}
    assert keys(written["vox2_dev"]) == wavs(VOX2_DEV)
    assert keys(written["vox2_test"]) == wavs(VOX2_TEST)
    assert DataDir.load(written["vox2_test"]).wav[wavs(VOX2_TEST)[0]].endswith(suffix)


@pytest.mark.parametrize("place", ["test/aac", "vox2_test_aac/aac", "vox2_test"])
def test_the_folder_that_is_given_may_itself_be_the_test_set(tmp_path, place):
    make_audio(tmp_path / place, VOX2_TEST)
    assert set(find_voxceleb(vox2=[tmp_path / place]).files) == {"vox2_test"}


def test_relative_folders_serve_too(tmp_path, monkeypatch):
    make_audio(tmp_path / "vox1", TEST)
    (tmp_path / "vox1" / "loose.wav").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "vox1")
    written = prepare_voxceleb("../data", ["."])
    assert DataDir.load(written["vox1_test"]).wav[wavs(TEST)[0]] == str(
        tmp_path / "vox1" / f"{TEST[0]}.wav"
    )


def test_a_folder_test_above_the_corpus_means_nothing(tmp_path):
    make_audio(tmp_path / "test" / "vox2" / "aac", VOX2_DEV)
    found = find_voxceleb(vox2=[tmp_path / "test" / "vox2"])
    assert set(found.files) == {"vox2_dev"}


@pytest.mark.parametrize(
    "text",
    [
        "id00017\n",
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n1 ,m ,dev \nid00017 ,n2 ,f ,test \n",
    ],
)
def test_a_list_tells_the_test_speakers_where_no_folder_does(tmp_path, text):
    (tmp_path / "vox2_meta.csv").write_text(text)
    make_audio(tmp_path / "all", VOX2_DEV + VOX2_TEST)
    found = find_voxceleb(vox2=[tmp_path / "all"], vox2_test_speakers=tmp_path / "vox2_meta.csv")
    assert set(found.files["vox2_test"]) == set(wavs(VOX2_TEST))
    assert set(found.files["vox2_dev"]) == set(wavs(VOX2_DEV))


def test_a_speaker_list_without_test_speakers_is_refused(tmp_path):
    (tmp_path / "meta.csv").write_text("id00012 ,n1 ,m ,dev\n")
    with pytest.raises(DataError, match="no speakers idXXXXX of a test set"):
        read_speakers(tmp_path / "meta.csv")


def test_archives_give_what_folders_give_and_are_unpacked_once(tmp_path):
    make_zip(tmp_path / "a" / "vox1_dev_wav.zip", make_audio(tmp_path / "1", DEV), "wav")
    make_zip(tmp_path / "a" / "vox1_test_wav.zip", make_audio(tmp_path / "2", TEST), "wav")
    whole = make_zip(tmp_path / "a" / "x", make_audio(tmp_path / "3", VOX2_DEV), "dev/aac")
    content = whole.read_bytes()
    size = -(-len(content) // 8)
    for number in range(8):
        part = whole.with_name(f"vox2_dev_aac_parta{'abcdefgh'[number]}")
        part.write_bytes(content[number * size : (number + 1) * size])
    whole.unlink()
    test = make_zip(
        tmp_path / "b" / "vox2_test_aac.zip", make_audio(tmp_path / "4", VOX2_TEST), "aac"
    )
    out = tmp_path / "data"
    for _ in range(2):
        written = prepare_voxceleb(out, [tmp_path / "a"], [tmp_path / "a", test])
        assert keys(written["vox1"]) == wavs(DEV + TEST)
        assert keys(written["vox2_dev"]) == wavs(VOX2_DEV)
        assert keys(written["vox2_test"]) == wavs(VOX2_TEST)
    first = DataDir.load(written["vox1_dev"]).resolve(wavs(DEV)[0])
    assert first == out / "unpacked" / "vox1_dev" / "wav" / f"{DEV[0]}.wav"


def test_an_archive_beside_its_unpacked_audio_is_left_alone(tmp_path):
    make_audio(tmp_path / "vox1" / "wav", DEV)
    (tmp_path / "vox1" / "vox1_dev_wav.zip").write_bytes(b"not even an archive")
    make_zip(tmp_path / "vox1" / "vox1_test_wav.zip", make_audio(tmp_path / "t", TEST), "wav")
    written = prepare_voxceleb(tmp_path / "data", [tmp_path / "vox1"])
    assert keys(written["vox1"]) == wavs(DEV + TEST)


def test_parts_that_were_not_all_fetched_are_named(tmp_path):
    for letter in "abc":
        (tmp_path / f"vox1_dev_wav_parta{letter}").write_bytes(b"x" * 10)
    with pytest.raises(DataError, match="the last part is 'ac', of the published archive 'ad'"):
        find_voxceleb([tmp_path])


def test_archives_are_not_unpacked_into_the_corpus_itself(tmp_path):
    make_zip(tmp_path / "vox1_test_wav.zip", make_audio(tmp_path / "t", TEST), "wav")
    (tmp_path / "v").mkdir()
    (tmp_path / "vox1_test_wav.zip").rename(tmp_path / "v" / "vox1_test_wav.zip")
    with pytest.raises(DataError, match=r"cannot be unpacked below it, in .*v/data/unpacked"):
        prepare_voxceleb(tmp_path / "v" / "data", [tmp_path / "v"])


def test_a_conversion_beside_its_source_is_read_in_its_place(tmp_path):
    make_audio(tmp_path / "vox2" / "aac", VOX2_DEV, ".m4a")
    make_audio(tmp_path / "vox2" / "wav", VOX2_DEV[:2], ".wav")
    data = DataDir.load(prepare_voxceleb(tmp_path / "d", vox2=[tmp_path / "vox2"])["vox2_dev"])
    assert [data.wav[key][-4:] for key in wavs(VOX2_DEV)] == [".wav", ".wav", ".m4a"]


def test_the_same_utterance_twice_is_named(tmp_path):
    make_audio(tmp_path / "a", DEV)
    make_audio(tmp_path / "b", DEV[1:])
    with pytest.raises(DataError) as caught:
        prepare_voxceleb(tmp_path / "data", [tmp_path / "a", tmp_path / "b"])
    assert "the same utterance twice (2 problems)" in str(caught.value)
    assert f"id11251/v1/00001.wav: {tmp_path}/a/id11251" in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert prepare_voxceleb(tmp_path / "data", [tmp_path / "a", tmp_path / "a"])


def test_one_folder_with_both_corpora_serves_both(tmp_path):
    make_audio(tmp_path / "all", DEV + TEST + VOX2_DEV)
    written = prepare_voxceleb(tmp_path / "data", [tmp_path / "all"], [tmp_path / "all"])
    assert keys(written["vox1"]) == wavs(DEV + TEST) and keys(written["vox2_dev"]) == wavs(VOX2_DEV)


@pytest.mark.parametrize("option", ["vox1", "vox2"])
def test_swapped_corpora_and_other_folders_are_named(tmp_path, option):
    make_audio(tmp_path / "vox1", DEV)
    make_audio(tmp_path / "vox2", VOX2_DEV)
    make_audio(tmp_path / "first release", ["A.J._Buckley/v/0000001"])
    other = {"vox1": "vox2", "vox2": "vox1"}[option]
    with pytest.raises(DataError, match=f"--{option} .*no idXXXXX/VIDEO/FILE.wav"):
        find_voxceleb(**{option: [tmp_path / other]})
    with pytest.raises(DataError, match=r"1 other audio files: .*A.J._Buckley.*an older release"):
        find_voxceleb(**{option: [tmp_path / "first release"]})
    with pytest.raises(DataError, match="no such file or folder"):
        find_voxceleb(**{option: [tmp_path / "nowhere"]})
    with pytest.raises(DataError, match="no corpus given"):
        find_voxceleb()


def test_what_is_missing_is_a_warning_with_numbers_and_names(tmp_path):
    make_audio(tmp_path / "vox1", TEST)
    make_audio(tmp_path / "vox1", ["strange/1"])
    problems = find_voxceleb([tmp_path / "vox1"]).problems
    texts = [problem.text for problem in problems]
    assert {problem.level for problem in problems} == {"warning"}
    assert "vox1_test: 2 of 40 speakers, 3 of 4,874 utterances; missing: id10271" in texts[1]
    assert "1 files are not idXXXXX/VIDEO/FILE of vox1" in texts[0]


def test_dev_and_test_of_vox2_in_one_folder_are_noticed(tmp_path):
    make_audio(tmp_path / "v" / "dev", [*VOX2_DEV, "id00017/v2/1"], ".m4a")
    make_audio(tmp_path / "v" / "test", VOX2_TEST, ".m4a")
    with pytest.raises(DataError, match="1 speakers are in vox2_dev and in vox2_test: id00017"):
        prepare_voxceleb(tmp_path / "data", vox2=[tmp_path / "v"])
    many = [f"id{number:05d}/v/1" for number in range(1, 5996)]
    for name in many:
        (tmp_path / "m" / name).parent.mkdir(parents=True)
        (tmp_path / "m" / f"{name}.m4a").write_bytes(b"x")
    (problem,) = (p for p in find_voxceleb(vox2=[tmp_path / "m"]).problems if p.level == "error")
    assert "vox2_dev: 5,995 speakers, 5,994 were published" in problem.text


def test_lists_are_written_in_kaldi_form_under_their_names(tmp_path):
    make_audio(tmp_path / "vox1", DEV + TEST)
    lists = make_lists(tmp_path / "lists")
    mine = tmp_path / "lists" / "mine.txt"
    mine.write_text(f"{TEST[0]}.wav {TEST[1]}.wav target\n")
    written = prepare_voxceleb(
        tmp_path / "data", [tmp_path / "vox1"], trials=[*lists, mine], published=LISTS
    )
    assert written["vox1_O_cleaned"] == tmp_path / "data" / "trials" / "vox1_O_cleaned.kaldi"
    assert written["vox1_O_cleaned"].read_text().splitlines()[1] == (
        f"{TEST[0]}.wav {TEST[2]}.wav nontarget"
    )
    assert len(read_trials(written["vox1_E_cleaned"])) == 2 and "mine" in written


def test_utterances_of_the_lists_that_are_not_there_are_counted_per_list(tmp_path):
    make_audio(tmp_path / "vox1", [*DEV[:1], *TEST[:1]])
    with pytest.raises(DataError) as caught:
        prepare_voxceleb(
            tmp_path / "data",
            [tmp_path / "vox1"],
            trials=make_lists(tmp_path / "lists"),
            published=LISTS,
        )
    text = str(caught.value)
    assert f"2 of 3 utterances of vox1_O_cleaned are not in the corpus: {TEST[1]}.wav" in text
    assert "1 of 3 utterances of vox1_E_cleaned" in text and "give all of VoxCeleb1" in text
    assert not (tmp_path / "data").exists()


def test_a_list_that_needs_the_other_set_says_so(tmp_path):
    make_audio(tmp_path / "test", TEST)
    make_audio(tmp_path / "dev", DEV)
    lists = make_lists(tmp_path / "lists")
    for place, number, text in (
        ("test", 1, "vox1_E_cleaned needs the dev set of VoxCeleb1 as well"),
        ("dev", 0, "vox1_O_cleaned needs the test set of VoxCeleb1"),
    ):
        with pytest.raises(DataError, match=text):
            prepare_voxceleb(
                tmp_path / "data", [tmp_path / place], trials=[lists[number]], published=LISTS
            )
