"""Shards of files that only ffmpeg reads, good and bad ones, and disks that are full."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from coded import ffmpeg_or_skip, tone, write_coded, write_wrapper
from corpora import noise, pack, read_as_wespeaker, write_data

from wesp_lap.audio import ffmpeg
from wesp_lap.audio.io import decode
from wesp_lap.data import shards
from wesp_lap.data.index import read_index
from wesp_lap.errors import DataError

KEYS = [f"s{number % 3}-u{number:02d}" for number in range(9)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    ffmpeg_or_skip()
    folder = tmp_path_factory.mktemp("coded")
    for number, key in enumerate(KEYS):
        write_coded(folder / f"{key}.m4a", tone(number, 0.4 + 0.03 * number))
    return folder


def write_tables(folder, paths):
    folder.mkdir()
    (folder / "wav.scp").write_text("".join(f"{key} {path}\n" for key, path in paths.items()))
    (folder / "utt2spk").write_text("".join(f"{key} {key.split('-')[0]}\n" for key in paths))
    return folder


@pytest.fixture
def paths(recordings):
    return {key: recordings / f"{key}.m4a" for key in KEYS}


@pytest.fixture
def data(tmp_path, paths):
    return write_tables(tmp_path / "data", paths)


def content_of(tars):
    files = [Path(tar).with_suffix(end) for tar in tars for end in (".tar", ".index", ".sums")]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize(("audio_format", "suffix"), [("keep", "flac"), ("flac", "flac")])
def test_shards_hold_the_decoded_samples(tmp_path, data, paths, audio_format, suffix):
    counts, tars = pack(data, tmp_path, utterances_per_shard=4, audio_format=audio_format)
    assert (counts["utterances"], counts["bad"], len(tars)) == (9, 0, 3)
    for sample in [sample for tar in tars for sample in read_as_wespeaker(tar)]:
        wave, rate = soundfile.read(io.BytesIO(sample[suffix]), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(wave, decode(paths[sample["key"]])[0])
    assert not (tmp_path / "shards" / "bad.txt").exists()


def test_plain_wav_shards_of_them(tmp_path, data, paths):
    _, tars = pack(data, tmp_path, audio_format="wav")
    content = Path(tars[0]).read_bytes()
    for entry in read_index(tars[0]):
        samples = np.frombuffer(content, "<i2", entry.samples, entry.offset + entry.pcm)
        np.testing.assert_array_equal(samples / 32768, decode(paths[entry.key])[0])


def test_the_same_bytes_for_any_number_of_processes_and_files_at_a_time(
    tmp_path, data, monkeypatch
):
    made = []
    for files, jobs in ((1, 1), (3, 1), (16, 1), (16, 3)):
        monkeypatch.setattr(ffmpeg, "_BATCH_FILES", files)
        folder = tmp_path / f"{files}-{jobs}"
        made.append(content_of(pack(data, folder, utterances_per_shard=5, jobs=jobs)[1]))
    assert made[0] == made[1] == made[2] == made[3]
    wrapper = write_wrapper(tmp_path / "wrapper", several="kill -9 $$")
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(wrapper))
    assert made[0] == content_of(pack(data, tmp_path / "killed", utterances_per_shard=5)[1])


def test_mixed_with_files_that_are_read_directly(tmp_path, paths):
    waves = {"s9-a": noise(90, 5000), "s9-b": noise(91, 5000)}
    direct = write_data(tmp_path / "direct", waves, "wav")
    table = dict(line.split() for line in (direct / "wav.scp").read_text().splitlines())
    data = write_tables(tmp_path / "data", {**paths, **table})
    _, tars = pack(data, tmp_path, audio_format="flac")
    samples = {sample["key"]: sample["flac"] for sample in read_as_wespeaker(tars[0])}
    for key, path in {**paths, **table}.items():
        wave, _ = soundfile.read(io.BytesIO(samples[key]), dtype="float32")
        np.testing.assert_array_equal(wave, decode(path)[0])


def spoil(folder, paths):
    """Make bad files for some keys; return what is said of each."""
    whole = write_coded(folder / "whole.m4a", noise(1, 20000), words="-movflags faststart")
    contents = {
        "s0-u00": (whole.read_bytes()[:3000], "damaged or cut short: ffmpeg: "),
        "s1-u01": (b"", "cannot be read as audio: the file is empty"),
        "s2-u02": (b"not audio\n" * 50, "cannot be read as audio: ffmpeg: "),
    }
    said = {}
    for key, (content, words) in contents.items():
        paths[key] = folder / f"{key}.m4a"
        paths[key].write_bytes(content)
        said[key] = f"{paths[key]}: {words}"
    paths["s0-u03"] = write_coded(folder / "two.m4a", np.stack([noise(2, 9000)] * 2, 1), 44100)
    said["s0-u03"] = f"{paths['s0-u03']}: 2 channels; mono is expected."
    paths["s1-u04"] = folder / "gone.m4a"
    said["s1-u04"] = f"{folder / 'data' / 'wav.scp'}: s1-u04: no such file: "
    return said


def test_bad_files_are_named_listed_and_left_out_when_allowed(tmp_path, paths):
    good = dict(paths)
    said = spoil(tmp_path, paths)
    data = write_tables(tmp_path / "data", paths)
    with pytest.raises(DataError, match=r"cannot be packed \(5 problems\)") as caught:
        pack(data, tmp_path, utterances_per_shard=4)
    for key, words in said.items():
        assert f"  {key}: {words}" in str(caught.value)
    listed = tmp_path / "shards" / "bad.txt"
    first = listed.read_text()
    counts, tars = pack(data, tmp_path, utterances_per_shard=4, max_bad=5)
    assert listed.read_text() == first
    for key, line in zip(sorted(said), first.splitlines(), strict=True):
        assert line.startswith(f"{key} {paths[key]} ") and said[key] in line
    assert (counts["utterances"], counts["bad"]) == (4, 5)
    kept = {sample["key"]: sample for tar in tars for sample in read_as_wespeaker(tar)}
    assert sorted(kept) == sorted(set(KEYS) - set(said))
    for key, path in good.items():  # mended: the list goes
        paths[key].write_bytes(path.read_bytes())
    counts, _ = pack(data, tmp_path, utterances_per_shard=4)
    assert counts["utterances"] == 9 and not listed.exists()


def test_another_rate_is_resampled(tmp_path):
    wave = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100) / 2
    path = write_coded(tmp_path / "x.m4a", wave, 44100)
    _, tars = pack(write_tables(tmp_path / "data", {"s-a": path}), tmp_path)
    [entry], [sample] = read_index(tars[0]), read_as_wespeaker(tars[0])
    got, rate = soundfile.read(io.BytesIO(sample["flac"]))
    assert rate == entry.rate == 16000 and len(got) == entry.samples
    assert 16000 <= len(got) <= 16800
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) / 2
    assert np.abs(got[2000:14000] - expected[2000:14000]).max() < 0.1


def test_segments_and_speech_pieces_of_them(tmp_path, paths):
    wave, _ = decode(paths["s0-u00"])
    data = write_tables(tmp_path / "data", {"s0-u00": paths["s0-u00"]})
    (data / "vad").write_text("s0-u00 0.05 0.1\ns0-u00 0.2 0.3\n")
    _, [tar] = pack(data, tmp_path, vad=True, audio_format="wav")
    got, _ = soundfile.read(io.BytesIO(read_as_wespeaker(tar)[0]["wav"]), dtype="float32")
    np.testing.assert_array_equal(got, np.concatenate([wave[800:1600], wave[3200:4800]]))
    (data / "segments").write_text("s0-a s0-u00 0.1 0.3\n")
    (data / "utt2spk").write_text("s0-a s0\n")
    (data / "vad").unlink()
    _, [tar] = pack(data, tmp_path, audio_format="wav")
    got, _ = soundfile.read(io.BytesIO(read_as_wespeaker(tar)[0]["wav"]), dtype="float32")
    np.testing.assert_array_equal(got, wave[1600:4800])


def test_without_ffmpeg_nothing_is_begun(tmp_path, data, monkeypatch):
    monkeypatch.setattr(shards, "find_ffmpeg", lambda: None)
    with pytest.raises(DataError, match=r"data: 9 utterances need ffmpeg, .*s0-u00\.m4a; install"):
        pack(data, tmp_path)
    assert not (tmp_path / "shard.list").exists() and not os.listdir(tmp_path / "shards")


def test_without_ffmpeg_finished_shards_are_kept(tmp_path, data, monkeypatch):
    before = content_of(pack(data, tmp_path, utterances_per_shard=4)[1])
    monkeypatch.setattr(shards, "find_ffmpeg", lambda: None)
    assert content_of(pack(data, tmp_path, utterances_per_shard=4)[1]) == before
    os.unlink(tmp_path / "shards" / "shards_000000002.tar")
    with pytest.raises(DataError, match="data: 1 utterances need ffmpeg"):
        pack(data, tmp_path, utterances_per_shard=4)


def test_a_hanging_ffmpeg_makes_its_file_a_bad_one(tmp_path, data, monkeypatch):
    hang = 'case "$*" in *s0-u03.m4a*) exec sleep 100 ;; esac'
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(write_wrapper(tmp_path / "wrapper", always=hang)))
    monkeypatch.setattr(ffmpeg, "_SECONDS", 0.3)
    monkeypatch.setattr(ffmpeg, "_BATCH_SECONDS", 0.1)
    counts, _ = pack(data, tmp_path, max_bad=1)
    assert (counts["utterances"], counts["bad"]) == (8, 1)
    line = (tmp_path / "shards" / "bad.txt").read_text()
    assert line.startswith("s0-u03 ") and line.endswith("ffmpeg did not finish in 0.3 s\n")


@pytest.mark.parametrize("full_after", [0, 3, 12])
def test_a_full_disk_is_named_and_leaves_nothing_half(tmp_path, monkeypatch, full_after):
    data = write_data(tmp_path / "data", {key: noise(0, 4000) for key in KEYS}, "wav")
    calls = []
    add = shards.TarWriter.add

    def add_until_full(*words):
        calls.append(words)
        if len(calls) > full_after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(*words)

    with monkeypatch.context() as patch:
        patch.setattr(shards.TarWriter, "add", add_until_full)
        with pytest.raises(
            DataError, match=r"\.tar: cannot be written: No space left .*same command again"
        ):
            pack(data, tmp_path, utterances_per_shard=4)
    left = sorted(os.listdir(tmp_path / "shards"))
    assert (
        left == [f"shards_000000000.{end}" for end in ("index", "sums", "tar")][: full_after // 4]
    )
    assert not (tmp_path / "shard.list").exists()
    counts, _ = pack(data, tmp_path, utterances_per_shard=4)
    assert counts["utterances"] == 9
