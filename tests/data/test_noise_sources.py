"""Noises from Kaldi data directories and from LMDB databases as WeSpeaker makes them."""

import io
import logging
import pickle
import sys

import numpy as np
import pytest
import soundfile
from corpora import noise

from wesp_lap.data.noise_bank import NoiseBank, make_noise_bank
from wesp_lap.errors import DataError

WAVES = {
    "music/fma/music-fma-0000.wav": noise(1, 900),
    "noise/free-sound/noise-free-sound-0000.wav": noise(2, 700),
    "speech/librivox/speech-librivox-0000.wav": noise(3, 800),
    "noise/sound-bible/noise-sound-bible-0001.wav": noise(4, 600),
}
RESPONSES = {
    "smallroom/Room001/Room001-00001.wav": noise(5, 300),
    "RVB2014_type1_rir_largeroom1_far_angla.wav": noise(6, 400),
}


def wav(wave):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def make_lmdb(path, entries, keys=b"", subdir=True):
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
    opened = lmdb.open(str(path), map_size=1 << 40, subdir=subdir)
    with opened as database, database.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
        transaction.put(b"__keys__", keys or pickle.dumps(list(entries)))
    return path


def make_data_dir(folder, entries, table="wav.scp"):
    folder.mkdir()
    lines = []
    for number, (key, wave) in enumerate(entries.items()):
        (folder / f"{number}.wav").write_bytes(wav(wave))
        lines.append(f"{key} {folder / f'{number}.wav'}\n")
    (folder / table).write_text("".join(lines))
    return folder


def pieces(bank, category):
    return [bank.read(*piece) / 32768 for piece in bank.pieces(category)]


def assert_same(bank):
    """Check that a bank holds WAVES."""
    for category in ("noise", "music", "speech"):
        expected = [WAVES[key] for key in sorted(WAVES) if key.startswith(category)]
        found = pieces(bank, category)
        assert [len(wave) for wave in found] == [len(wave) for wave in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("option", ["musan", "noise"])
@pytest.mark.parametrize("subdir", [True, False])
def test_a_wespeaker_database(tmp_path, option, subdir):
    path = tmp_path / ("musan" if subdir else "musan.mdb")
    make_lmdb(path, {key: wav(wave) for key, wave in WAVES.items()}, subdir=subdir)
    assert make_noise_bank(tmp_path / "bank", **{option: path}) == {
        "music": 1,
        "noise": 2,
        "speech": 1,
    }
    assert_same(NoiseBank(tmp_path / "bank"))


def test_the_pickled_key_list_is_never_run(tmp_path):
    trap = tmp_path / "sprung"
    with pickle.loads(pickle.dumps(Trap(trap))):
        assert trap.exists()  # the trap works
    trap.unlink()
    content = {key: wav(wave) for key, wave in WAVES.items()}
    make_lmdb(tmp_path / "db", content, keys=pickle.dumps(Trap(trap)))
    make_noise_bank(tmp_path / "bank", noise=tmp_path / "db")
    assert not trap.exists()
    assert_same(NoiseBank(tmp_path / "bank"))


def test_a_database_of_responses_tells_the_simulated_ones(tmp_path):
    make_lmdb(tmp_path / "db", {key: wav(wave) for key, wave in RESPONSES.items()})
    assert make_noise_bank(tmp_path / "bank", rirs=tmp_path / "db") == {
        "rir": 2,
        "simulated_rir": 1,
    }
    bank = NoiseBank(tmp_path / "bank")
    assert bank.recordings("simulated_rir")[:, 1].tolist() == [300]
    assert sorted(bank.recordings("rir")[:, 1]) == [300, 400]


def test_a_database_is_read_by_several_processes_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr("wesp_lap.data.noise_build._JOB_FILES", 1)
    make_lmdb(tmp_path / "db", {key: wav(wave) for key, wave in WAVES.items()})
    for number, jobs in enumerate((1, 2)):
        make_noise_bank(tmp_path / f"{number}", noise=tmp_path / "db", jobs=jobs)
        assert_same(NoiseBank(tmp_path / f"{number}"))
    time = (tmp_path / "0" / "samples.i16").stat().st_mtime_ns
    make_noise_bank(tmp_path / "0", noise=tmp_path / "db")
    assert (tmp_path / "0" / "samples.i16").stat().st_mtime_ns == time
    make_lmdb(tmp_path / "db", {"music/new": wav(noise(8, 50))})
    assert make_noise_bank(tmp_path / "0", noise=tmp_path / "db")["music"] == 2


def test_broken_entries_of_a_database_are_all_named(tmp_path):
    make_lmdb(
        tmp_path / "db", {"noise/a": b"no audio", "music/b": wav(noise(0, 9)), "speech/c": b""}
    )
    with pytest.raises(DataError, match=r"cannot be read \(2 problems\)") as caught:
        make_noise_bank(tmp_path / "bank", noise=tmp_path / "db")
    assert f"{tmp_path / 'db'}: noise/a: " in str(caught.value)
    assert f"{tmp_path / 'db'}: speech/c: " in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    pytest.importorskip("lmdb", reason="lmdb is not installed")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"db: not a readable LMDB database: "):
        make_noise_bank(tmp_path / "bank", noise=tmp_path / "db")


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'wesp_lap\[lmdb\]'"):
        make_noise_bank(tmp_path / "bank", noise=tmp_path)


def test_a_kaldi_data_directory(tmp_path):
    make_data_dir(tmp_path / "musan", WAVES)
    make_noise_bank(tmp_path / "bank", noise=tmp_path / "musan")
    assert_same(NoiseBank(tmp_path / "bank"))


def test_a_table_of_categories_comes_before_the_keys(tmp_path):
    data = make_data_dir(tmp_path / "mine", {"noise-a": noise(1, 10), "b": noise(2, 20)})
    (data / "utt2category").write_text("b speech\nnoise-a music\n")
    assert make_noise_bank(tmp_path / "bank", noise=data) == {"speech": 1, "music": 1}
    rooms = make_data_dir(tmp_path / "rooms", {"r": noise(1, 10), "s": noise(2, 20)})
    (rooms / "utt2category").write_text("s simulated_rir\n")
    assert make_noise_bank(tmp_path / "bank", rirs=rooms) == {"rir": 2, "simulated_rir": 1}


def test_keys_of_no_category_are_all_named(tmp_path):
    data = make_data_dir(
        tmp_path / "d", {k: noise(1, 10) for k in ("x", "noisy-1", "noise-1", "y")}
    )
    (data / "utt2category").write_text("y voices\n")
    with pytest.raises(DataError, match=r"of no known category \(3 problems\)") as caught:
        make_noise_bank(tmp_path / "bank", noise=data)
    for line in ("x: no category", "noisy-1: no category", "y: category 'voices'"):
        assert f"  {line}\n" in str(caught.value)
    assert "'key category' in utt2category" in str(caught.value)


def test_commands_and_segments_are_named(tmp_path):
    data = make_data_dir(tmp_path / "d", {"noise-1": noise(1, 10)})
    (data / "wav.scp").write_text("noise-1 cat x.wav |\nnoise-2 sox x.wav |\n")
    (data / "segments").write_text("")
    with pytest.raises(DataError, match=r"no noises as files \(3 problems\)") as caught:
        make_noise_bank(tmp_path / "bank", noise=data)
    assert "noise-2: 'sox x.wav |' is a command" in str(caught.value)
    assert "prepare_data --allow_pipe" in str(caught.value)


def test_files_that_are_not_there_are_named_together(tmp_path):
    data = make_data_dir(tmp_path / "d", {"noise-1": noise(1, 10)})
    (data / "wav.scp").write_text("noise-1 gone.wav\nmusic-1 gone_too.wav\n")
    with pytest.raises(DataError, match=r"cannot be read \(2 problems\)") as caught:
        make_noise_bank(tmp_path / "bank", noise=data)
    for name in ("gone.wav", "gone_too.wav"):
        assert f"  {data / name}: no such file\n" in str(caught.value)


def test_the_log_says_what_a_path_was_taken_for(tmp_path, caplog):
    data = make_data_dir(tmp_path / "musan", WAVES)
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "r.wav").write_bytes(wav(noise(1, 20)))
    make_lmdb(tmp_path / "db", {key: wav(wave) for key, wave in WAVES.items()})
    with caplog.at_level(logging.INFO, logger="wesp_lap"):
        make_noise_bank(tmp_path / "bank", tmp_path / "db", tmp_path / "rooms", data)
    assert f"{data}: a Kaldi data directory" in caplog.messages
    assert f"{tmp_path / 'rooms'}: a folder of room responses" in caplog.messages
    assert f"{tmp_path / 'db'}: an LMDB database" in caplog.messages
    assert NoiseBank(tmp_path / "bank").counts == {"music": 2, "noise": 4, "speech": 2, "rir": 1}
