"""MUSAN and RIRS_NOISES are found, unpacked and counted."""

import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from wesp_lap.corpora.noises import MUSAN, RIRS, check_musan, check_rirs, noise_folder
from wesp_lap.data.noise_bank import make_noise_bank
from wesp_lap.data.noise_files import list_responses
from wesp_lap.errors import DataError

NOISES = ("noise/free-sound/n1", "music/fma/m1", "speech/librivox/s1", "speech/librivox/s2")
REAL = "real_rirs_isotropic_noises"


def make_files(root, names):
    for index, name in enumerate(names):
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.random.default_rng(index).uniform(-0.5, 0.5, 3200)
        soundfile.write(path, wave, 16000)
    return root


def make_musan(root):
    return make_files(root / "musan", NOISES)


def make_rirs(root):
    folder = make_files(
        root / "RIRS_NOISES",
        [f"simulated_rirs/{room}room/Room001/r1" for room in ("small", "medium", "large")],
    )
    make_files(folder, [f"{REAL}/real_1", f"{REAL}/noise_1"])
    (folder / REAL / "rir_list").write_text(
        f"--rir-id 1 --room-id 1 RIRS_NOISES/{REAL}/real_1.wav\n"
    )
    return folder


def levels(problems):
    return [problem.level for problem in problems]


def test_the_folder_or_the_one_above_it_is_found(tmp_path):
    musan, rirs = make_musan(tmp_path), make_rirs(tmp_path)
    for place in (musan, tmp_path):
        assert noise_folder(place, tmp_path / "u") == musan
    for place in (rirs, tmp_path):
        assert noise_folder(place, tmp_path / "u", RIRS) == rirs
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize("give", ["archive", "folder with the archive"])
def test_archives_are_unpacked_and_serve_the_noise_bank(tmp_path, give):
    make_musan(tmp_path / "m")
    make_rirs(tmp_path / "r")
    down = tmp_path / "down"
    down.mkdir()
    with tarfile.open(down / "musan.tar.gz", "w:gz") as package:
        package.add(tmp_path / "m" / "musan", "musan")
    with zipfile.ZipFile(down / "rirs_noises.zip", "w") as package:
        for file in (tmp_path / "r").rglob("*.*"):
            package.write(file, file.relative_to(tmp_path / "r"))
        package.write(
            tmp_path / "r" / "RIRS_NOISES" / REAL / "rir_list", f"RIRS_NOISES/{REAL}/rir_list"
        )
    musan, rirs = down / "musan.tar.gz", down / "rirs_noises.zip"
    if give != "archive":
        musan = rirs = down
    assert check_musan(musan) == [] and check_rirs(rirs) == []
    places = [noise_folder(musan, tmp_path / "u"), noise_folder(rirs, tmp_path / "u", RIRS)]
    assert places == [tmp_path / "u/musan/musan", tmp_path / "u/rirs_noises/RIRS_NOISES"]
    counts = make_noise_bank(tmp_path / "bank", *places)
    assert counts == {"noise": 1, "music": 1, "speech": 2, "rir": 4, "simulated_rir": 3}


@pytest.mark.parametrize("name", ["wav.scp", "data.mdb"])
def test_what_has_keys_is_returned_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("noise-1 /a.wav\n")
    for layout in (MUSAN, RIRS):
        assert noise_folder(tmp_path, tmp_path / "u", layout) == tmp_path
    assert check_musan(tmp_path) == [] and check_rirs(tmp_path) == []


def test_a_folder_of_responses_of_ones_own_will_do(tmp_path):
    make_files(tmp_path / "mine", ["kitchen", "hall"])
    assert noise_folder(tmp_path / "mine", tmp_path / "u", RIRS) == tmp_path / "mine"
    assert check_rirs(tmp_path / "mine") == []
    assert len(list_responses(tmp_path / "mine")) == 2


def test_counts_below_the_published_ones_are_warnings(tmp_path):
    make_musan(tmp_path)
    make_rirs(tmp_path)
    (problem,) = check_musan(tmp_path)
    assert problem.level == "warning"
    assert "1 of 930 in noise/, 1 of 660 in music/, 2 of 426 in speech/" in problem.text
    few, real = check_rirs(tmp_path)
    assert levels([few, real]) == ["warning", "warning"]
    assert "1 of 20,000 in simulated_rirs/smallroom/" in few.text
    assert "1 responses, 325 were published" in real.text


def test_a_missing_category_of_noise_is_an_error_as_the_bank_needs_all(tmp_path):
    make_files(tmp_path / "musan", NOISES[:2])
    missing, few = check_musan(tmp_path)
    assert missing.level == "error" and "no recordings in speech/" in missing.text
    assert few.level == "warning"


def test_missing_rooms_and_responses_are_named(tmp_path):
    rirs = make_rirs(tmp_path)
    (rirs / "simulated_rirs" / "smallroom" / "Room001" / "r1.wav").unlink()
    (rirs / REAL / "real_1.wav").unlink()
    rooms, _, real = check_rirs(tmp_path)
    assert rooms.level == "warning" and "no recordings in simulated_rirs/smallroom/" in rooms.text
    assert real.level == "error"
    assert f"1 of 1 responses are not there: RIRS_NOISES/{REAL}/real_1.wav" in real.text
    (rirs / REAL / "rir_list").rename(rirs / "rir_list")
    assert f"{rirs / 'rir_list'}: 1 of 1" in check_rirs(tmp_path)[-1].text
    (rirs / "rir_list").unlink()
    assert "rir_list: no such file" in check_rirs(tmp_path)[-1].text


def test_other_folders_and_empty_files_are_errors(tmp_path):
    for check in (check_musan, check_rirs):
        assert "no such file or folder" in check(tmp_path / "nowhere")[0].text
        (problem,) = check(tmp_path)
        assert problem.level == "error" and "not laid out as" in problem.text
    musan = make_musan(tmp_path)
    (musan / "noise" / "n.wav").write_bytes(b"")
    (problem,) = check_musan(tmp_path)
    assert problem.level == "error" and "n.wav: empty file" in problem.text
    with pytest.raises(DataError, match="no such file or folder"):
        noise_folder(tmp_path / "nowhere", tmp_path / "u")
