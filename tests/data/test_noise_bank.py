import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import noise

from wesp_lap.data.noise_bank import NoiseBank, make_noise_bank
from wesp_lap.data.noise_build import batches
from wesp_lap.data.noise_files import NoiseFile
from wesp_lap.errors import DataError

RATE = 16000


def write(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="PCM_16")


@pytest.fixture
def musan(tmp_path):
    """MUSAN's layout; every file holds one value, so that a piece tells where it comes from."""
    folder = tmp_path / "musan"
    for number, (name, seconds) in enumerate(
        {"noise/free/a": 2, "noise/b": 12.5, "music/x/c": 5, "speech/us/d": 8}.items(), 1
    ):
        write(folder / f"{name}.wav", np.full(int(seconds * RATE), number / 100))
    (folder / "noise" / "ANNOTATIONS").write_text("text")
    return folder


@pytest.fixture
def rirs(tmp_path):
    """The layout of RIRS_NOISES: a list of real responses, and simulated ones."""
    folder = tmp_path / "RIRS_NOISES"
    real = folder / "real_rirs_isotropic_noises"
    write(real / "two.wav", np.stack([np.full(100, 0.5), np.full(100, -0.5)], 1))
    write(real / "not_listed.wav", np.full(7, 0.9))
    write(folder / "simulated_rirs" / "small" / "Room1" / "1.wav", noise(1, 300))
    (real / "rir_list").write_text(
        "--rir-id real_1 --room-id r RIRS_NOISES/real_rirs_isotropic_noises/two.wav\n\n"
    )
    return folder


def waves(bank, category):
    """Every piece of a category, as float."""
    return [bank.read(*piece) / 32768 for piece in bank.pieces(category)]


def channels(bank, category="rir"):
    """The channels of every response, scaled to a peak of 1."""
    found = []
    for first, length, count in bank.recordings(category):
        rows = bank.read(first, count * length).reshape(count, length)
        found.append(rows / np.abs(rows).max(axis=1, keepdims=True))
    return found


def peak_1(wave):
    return wave / np.abs(wave).max()


def test_recordings_become_pieces_of_5_s_every_3_s(tmp_path, musan):
    counts = make_noise_bank(tmp_path / "bank", musan)
    # 12.5 s hold pieces from 0, 3 and 6 s; 8 s hold two; what is no longer than 5 s stays whole.
    assert counts == {"noise": 1 + 3, "music": 1, "speech": 2}
    bank = NoiseBank(tmp_path / "bank")
    assert bank.counts == counts
    lengths = sorted((len(wave), round(float(wave[0]), 2)) for wave in waves(bank, "noise"))
    assert lengths == [(2 * RATE, 0.01), *[(5 * RATE, 0.02)] * 3]
    for category, value in (("music", 0.03), ("speech", 0.04)):
        for wave in waves(bank, category):
            assert wave.shape == (5 * RATE,)
            np.testing.assert_allclose(wave, value, atol=1 / 32768)


def test_pieces_start_where_they_should(tmp_path):
    ramp = np.arange(12 * RATE) / (12 * RATE)
    for name in ("noise", "music", "speech"):
        write(tmp_path / "musan" / name / "x.flac", ramp)
    make_noise_bank(tmp_path / "bank", tmp_path / "musan")
    bank = NoiseBank(tmp_path / "bank")
    assert [round(float(w[0]) * 12, 2) for w in waves(bank, "music")] == [0.0, 3.0, 6.0]


@pytest.mark.parametrize("seconds", [0.01, 4.9, 5, 5.01, 7.9, 8, 8.1, 11, 60])
def test_pieces_of_recordings_of_any_length(tmp_path, seconds):
    lengths = [int(seconds * RATE), 3 * RATE, int(seconds * RATE)]
    bank = fake_bank(
        tmp_path, {"speech": [[10, lengths[0], 1], [7, lengths[1], 1], [9, lengths[2], 1]]}
    )
    expected = []
    for first, length in zip((10, 7, 9), lengths, strict=True):
        starts = [0] if length <= 5 * RATE else range(0, length - 5 * RATE + 1, 3 * RATE)
        expected += [[first + start, min(length, 5 * RATE)] for start in starts]
    assert bank.pieces("speech").tolist() == expected


def fake_bank(folder, index):
    (folder / "bank.json").write_text(json.dumps(index))
    with open(folder / "samples.i16", "wb") as stream:
        stream.truncate(4_000_000)
    return NoiseBank(folder)


def test_responses_are_the_listed_and_the_simulated_ones_whole(tmp_path, rirs):
    counts = make_noise_bank(tmp_path / "bank", rirs=rirs)
    assert counts == {"rir": 2, "simulated_rir": 1}
    bank = NoiseBank(tmp_path / "bank")
    found = {wave.shape: wave for wave in channels(bank)}
    assert sorted(found) == [(1, 300), (2, 100)]
    np.testing.assert_allclose(found[1, 300][0], peak_1(noise(1, 300)), atol=2e-5)
    assert bank.recordings("simulated_rir").tolist() == [
        row for row in bank.recordings("rir").tolist() if row[1] == 300
    ]


def test_all_channels_of_a_response_are_kept_each_as_loud_as_possible(tmp_path, rirs):
    both = np.stack([noise(5, 80), noise(6, 80) / 16], 1)
    path = rirs / "real_rirs_isotropic_noises" / "two.wav"
    soundfile.write(path, both, RATE, subtype="FLOAT")
    make_noise_bank(tmp_path / "bank", rirs=rirs)
    bank = NoiseBank(tmp_path / "bank")
    first, length, count = next(row for row in bank.recordings("rir") if row[1] == 80)
    assert count == 2
    for channel, wave in enumerate(both.T):
        samples = bank.read(first + channel * length, length)
        assert np.abs(samples).max() == 32767
        np.testing.assert_allclose(peak_1(samples), peak_1(wave), atol=2e-5)


def test_of_a_noise_with_several_channels_the_first_is_kept(tmp_path, musan):
    write(musan / "music" / "x" / "c.wav", np.stack([noise(5, 80), noise(6, 80)], 1))
    make_noise_bank(tmp_path / "bank", musan)
    (wave,) = waves(NoiseBank(tmp_path / "bank"), "music")
    np.testing.assert_array_equal(wave, noise(5, 80))


@pytest.mark.parametrize("style", ["absolute", "inside", "top"])
def test_paths_of_a_rir_list_are_found(tmp_path, rirs, style):
    listed = rirs / "real_rirs_isotropic_noises" / "rir_list"
    path = "real_rirs_isotropic_noises/two.wav"
    if style == "top":
        listed.unlink()
        listed = rirs / "rir_list"
    listed.write_text(f"{rirs / path if style == 'absolute' else path}\n")
    assert make_noise_bank(tmp_path / "bank", rirs=rirs) == {"rir": 2, "simulated_rir": 1}


def test_a_folder_without_lists_gives_all_its_responses(tmp_path):
    for number in range(3):
        write(tmp_path / "rirs" / "room" / f"{number}.wav", noise(number, 50))
    assert make_noise_bank(tmp_path / "bank", rirs=tmp_path / "rirs") == {"rir": 3}


def test_other_rates_are_resampled(tmp_path, rirs):
    write(rirs / "simulated_rirs" / "8k.wav", noise(0, 1000), 8000)
    make_noise_bank(tmp_path / "bank", rirs=rirs)
    lengths = NoiseBank(tmp_path / "bank").recordings("rir")[:, 1]
    assert sorted(lengths) == [100, 300, 2000]


def test_bad_files_are_all_named_and_no_bank_is_left(tmp_path, musan, rirs):
    (musan / "noise" / "bad.wav").write_bytes(b"RIFF")
    write(musan / "speech" / "empty.wav", np.zeros(0))
    write(rirs / "simulated_rirs" / "silent.wav", np.zeros(100))
    listed = rirs / "real_rirs_isotropic_noises" / "rir_list"
    listed.write_text(listed.read_text() + "x RIRS_NOISES/gone.wav\n")
    with pytest.raises(DataError, match=r"cannot be read \(4 problems\)") as caught:
        make_noise_bank(tmp_path / "bank", musan, rirs)
    for name in (
        "noise/bad.wav: ",
        "empty.wav: no samples",
        "gone.wav: ",
        "silent.wav: an impulse",
    ):
        assert name in str(caught.value)
    assert not (tmp_path / "bank" / "samples.i16").exists()


def test_a_folder_without_a_category_is_named(tmp_path, musan, rirs):
    os.rename(musan / "music", musan / "Music")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        make_noise_bank(tmp_path / "bank", musan, tmp_path / "empty")
    assert f"no audio for 'music' under {musan}" in str(caught.value)
    assert f"no audio for 'rir' under {tmp_path / 'empty'}" in str(caught.value)
    assert "Expected are MUSAN's folders noise/ music/ speech/" in str(caught.value)
    with pytest.raises(DataError, match="give --musan DIR, --noise DIR, --rirs DIR"):
        make_noise_bank(tmp_path / "bank")


def test_a_bank_is_made_once(tmp_path, musan):
    make_noise_bank(tmp_path / "bank", musan)
    samples = tmp_path / "bank" / "samples.i16"
    time = samples.stat().st_mtime_ns
    make_noise_bank(tmp_path / "bank", musan)
    assert samples.stat().st_mtime_ns == time
    write(musan / "music" / "new.wav", noise(0, 100))
    assert make_noise_bank(tmp_path / "bank", musan)["music"] == 2
    samples.write_bytes(samples.read_bytes()[:-2])
    make_noise_bank(tmp_path / "bank", musan)
    assert NoiseBank(tmp_path / "bank").counts["music"] == 2


def test_a_damaged_bank_is_named(tmp_path, musan):
    make_noise_bank(tmp_path / "bank", musan)
    samples = tmp_path / "bank" / "samples.i16"
    total = samples.stat().st_size // 2
    os.truncate(samples, 2 * total - 2)
    with pytest.raises(DataError, match=rf"samples\.i16: {total - 1} of {total} samples; make the"):
        NoiseBank(tmp_path / "bank")
    samples.unlink()
    with pytest.raises(DataError, match=rf"samples\.i16: 0 of {total} samples"):
        NoiseBank(tmp_path / "bank")
    (tmp_path / "bank" / "bank.json").unlink()
    with pytest.raises(DataError, match=r"bank\.json: no such file"):
        NoiseBank(tmp_path / "bank")


def test_an_earlier_index_never_stands_beside_new_samples(tmp_path, musan, rirs, monkeypatch):
    make_noise_bank(tmp_path / "bank", musan, rirs)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wesp_lap.data.noise_bank.json.dump", die)
    with pytest.raises(KeyboardInterrupt):
        make_noise_bank(tmp_path / "bank", musan)
    with pytest.raises(DataError, match=r"bank\.json: no such file"):
        NoiseBank(tmp_path / "bank")


def test_augmentation_needs_all_categories(tmp_path, musan, rirs):
    make_noise_bank(tmp_path / "full", musan, rirs)
    lap = ("noise", "music", "speech", "rir")
    NoiseBank(tmp_path / "full").check(lap)
    make_noise_bank(tmp_path / "half", rirs=rirs)
    with pytest.raises(
        DataError, match=r"half: the noise bank holds no noise, music, speech; make"
    ):
        NoiseBank(tmp_path / "half").check(lap)
    (tmp_path / "full" / "bank.json").write_text('{"noise": [], "rir": []}')
    with pytest.raises(DataError, match="holds no noise, music, speech, rir"):
        NoiseBank(tmp_path / "full").check(lap)


def test_a_bank_of_an_older_version_is_named(tmp_path):
    with pytest.raises(DataError, match="made by an older version; make the noise bank again"):
        fake_bank(tmp_path, {"noise": [[0, 100], [100, 100]]})


def test_a_bank_travels_to_another_process_without_its_samples(tmp_path, musan):
    make_noise_bank(tmp_path / "bank", musan)
    bank = NoiseBank(tmp_path / "bank")
    before = waves(bank, "noise")
    sent = pickle.dumps(bank)
    assert len(sent) < 2000
    for one, other in zip(before, waves(pickle.loads(sent), "noise"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_digest_tells_other_samples_of_the_same_lengths(tmp_path):
    def bank(name, seed):
        path = tmp_path / name / "rirs" / "r.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, noise(seed, 500), 16000)
        make_noise_bank(tmp_path / name / "bank", rirs=tmp_path / name / "rirs")
        return NoiseBank(tmp_path / name / "bank")

    one, same, other = bank("one", 1), bank("same", 1), bank("other", 2)
    assert one.digest() == same.digest() != other.digest()
    subprocess.run(["sha256sum", "-c", "samples.sha256"], cwd=tmp_path / "one/bank", check=True)


def test_several_processes_make_the_same_bank(tmp_path, musan, rirs, monkeypatch):
    monkeypatch.setattr("wesp_lap.data.noise_build._JOB_FILES", 2)
    make_noise_bank(tmp_path / "one", musan, rirs)
    make_noise_bank(tmp_path / "many", musan, rirs, jobs=2)
    assert NoiseBank(tmp_path / "one").digest() == NoiseBank(tmp_path / "many").digest()


def test_jobs_are_bounded_and_hold_one_database_each():
    def file(size, path="a", key=None):
        return NoiseFile("noise", Path(path), size, key)

    big = 16 << 20
    files = [file(big), file(1), file(2), file(2 * big), *[file(0)] * 300]
    files += [file(1, "x.mdb", "k"), file(1, "x.mdb", "l"), file(1, "y.mdb", "k"), file(3)]
    jobs = list(batches(files))
    assert [len(job) for job in jobs] == [1, 2, 1, 256, 44, 2, 1, 1]
    assert [one for job in jobs for one in job] == files
