"""Shards as WeSpeaker, webdataset and the index see them; runs that stop and go on."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
import soundfile
import webdataset
from corpora import noise, pack, read_as_wespeaker, write_data

from wesp_lap.data.index import load_utterances, read_index
from wesp_lap.data.shards import make_shards
from wesp_lap.errors import DataError


def test_every_utterance_stands_once_with_its_speaker_and_its_bytes(tmp_path, data, waves):
    counts, tars = pack(data, tmp_path, utterances_per_shard=4)
    assert tars == [str(tmp_path / "shards" / f"shards_{n:09d}.tar") for n in range(3)]
    samples = [sample for tar in tars for sample in read_as_wespeaker(tar)]
    assert [len(read_as_wespeaker(tar)) for tar in tars] == [4, 4, 3]
    assert sorted(sample["key"] for sample in samples) == sorted(waves)
    assert [sample["key"] for sample in samples] != sorted(waves)  # shuffled
    files = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
    for sample in samples:
        assert list(sample) == ["key", "spk", "flac"]
        assert sample["spk"] == sample["key"].split("-")[0]
        with open(files[sample["key"]], "rb") as stream:
            assert sample["flac"] == stream.read()
    seconds = sum(map(len, waves.values())) / 16000
    expected = {"shards": 3, "utterances": 11, "speakers": 4, "seconds": seconds, "bad": 0}
    expected["bytes"] = sum(map(os.path.getsize, tars))
    assert counts == pytest.approx(expected)
    assert json.loads((tmp_path / "shard.json").read_text()) == counts


def test_webdataset_reads_them(tmp_path, data, waves):
    _, tars = pack(data, tmp_path, utterances_per_shard=4)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert sorted(sample["__key__"] for sample in samples) == sorted(waves)
    for sample in samples:
        wave, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        assert rate == 16000 and sample["spk"].decode() == sample["__key__"].split("-")[0]
        np.testing.assert_array_equal(wave, waves[sample["__key__"]])


def test_the_index_points_at_the_bytes_of_the_audio(tmp_path, data, waves):
    _, tars = pack(data, tmp_path, utterances_per_shard=4)
    for tar in tars:
        with open(tar, "rb") as stream:
            content = stream.read()
        entries = read_index(tar)
        for entry, sample in zip(entries, read_as_wespeaker(tar), strict=True):
            audio = content[entry.offset : entry.offset + entry.size]
            assert (entry.key, entry.speaker) == (sample["key"], sample["spk"])
            assert audio == sample["flac"] and entry.crc32 == zlib.crc32(audio)
            assert entry.samples == len(waves[entry.key])


def test_keys_with_folders_dots_long_names_and_other_letters(tmp_path):
    keys = ["id1/vid/0001.wav", "id1/vid/0002.wav", "id2/" + "x" * 150 + "/1.wav", "ïd3/ü.wav"]
    data = write_data(tmp_path / "data", {k: noise(n, 2000) for n, k in enumerate(keys)}, "wav")
    _, tars = pack(data, tmp_path)
    samples = {sample["key"]: sample for sample in read_as_wespeaker(tars[0])}
    assert sorted(samples) == sorted(keys)
    entries = {entry.key: entry for entry in read_index(tars[0])}
    with open(tars[0], "rb") as stream:
        content = stream.read()
    for key, sample in samples.items():
        entry = entries[key]
        assert sample["spk"] == entry.speaker == key.split("/")[0]
        assert content[entry.offset : entry.offset + entry.size] == sample["wav"]
    with tarfile.open(tars[0]) as tar:
        assert {"id1/vid/0001.wav.spk", "id1/vid/0001.wav.wav"} < set(tar.getnames())
    webdataset_keys = [one["__key__"] for one in webdataset.WebDataset(tars, shardshuffle=False)]
    assert sorted(webdataset_keys) == sorted(key.removesuffix(".wav") for key in keys)


def content_of(tars):
    content = {}
    for tar in tars:
        for path in (tar, tar.replace(".tar", ".index"), tar.replace(".tar", ".sums")):
            with open(path, "rb") as stream:
                content[os.path.basename(path)] = stream.read()
    return content


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order(tmp_path, data):
    made = [
        content_of(pack(data, tmp_path / f"{number}", utterances_per_shard=4, **options)[1])
        for number, options in enumerate([{}, {"jobs": 2}, {"seed": 43}])
    ]
    assert made[0] == made[1] != made[2]


def test_a_second_run_keeps_what_is_finished(tmp_path, data):
    _, tars = pack(data, tmp_path, utterances_per_shard=4)
    before = {tar: os.stat(tar).st_mtime_ns for tar in tars}
    os.unlink(tars[1])  # as if the first run had been stopped there
    counts, _ = pack(data, tmp_path, utterances_per_shard=4)
    after = {tar: os.stat(tar).st_mtime_ns for tar in tars}
    assert counts["utterances"] == 11
    assert [before[tar] == after[tar] for tar in tars] == [True, False, True]


@pytest.mark.parametrize(
    "change", ["audio", "tar cut", "index cut", "index gone", "sums gone", "sums cut"]
)
def test_a_shard_is_made_again_when_its_source_or_it_itself_changes(tmp_path, data, change):
    _, tars = pack(data, tmp_path, utterances_per_shard=4)
    whole = content_of(tars)
    times = {tar: os.stat(tar).st_mtime_ns for tar in tars}
    key = read_index(tars[1])[0].key
    index = tars[1].replace(".tar", ".index")
    if change == "audio":
        files = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
        soundfile.write(files[key], noise(99, 9999), 16000)
    elif change == "tar cut":
        os.truncate(tars[1], 20000)
    elif change == "index cut":
        lines = whole["shards_000000001.index"].splitlines(keepends=True)
        with open(index, "wb") as stream:
            stream.writelines(lines[:-1])
    elif change == "sums cut":
        os.truncate(tars[1].replace(".tar", ".sums"), 8)
    else:
        os.unlink(index if change == "index gone" else tars[1].replace(".tar", ".sums"))
    pack(data, tmp_path, utterances_per_shard=4)
    assert [os.stat(tar).st_mtime_ns == times[tar] for tar in tars] == [True, False, True]
    if change == "audio":
        assert read_index(tars[1])[0].samples == 9999
    else:
        assert content_of(tars) == whole
    assert len(load_utterances(tmp_path / "shard.list")) == 11


def test_a_source_of_the_same_size_but_another_time_is_packed_again(tmp_path):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "wav")
    _, tars = pack(data, tmp_path)
    before = content_of(tars)
    path = data / "wav" / "000.wav"
    time = path.stat().st_mtime_ns
    soundfile.write(path, noise(1, 4000), 16000)
    os.utime(path, ns=(time + 10**9, time + 10**9))
    pack(data, tmp_path)
    assert content_of(tars) != before
    assert read_as_wespeaker(tars[0])[0]["wav"] == path.read_bytes()


@pytest.mark.parametrize(
    "change", [{"sample_rate": 8000}, {"check": "headers"}, {"audio_format": "flac"}, {"vad": True}]
)
def test_a_shard_belongs_to_its_settings(tmp_path, data, change):
    (data / "vad").write_text("s0-u00 0.1 0.2\n")
    _, tars = pack(data, tmp_path)
    before = os.stat(tars[0]).st_mtime_ns
    pack(data, tmp_path)
    assert os.stat(tars[0]).st_mtime_ns == before
    pack(data, tmp_path, **change)
    assert os.stat(tars[0]).st_mtime_ns != before


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, data):
    """The process dies while it writes the second of three shards."""
    script = (
        "import os, sys\n"
        "from wesp_lap.data import shards\n"
        "from wesp_lap.data.shards import make_shards\n"
        "write = shards.write_index\n"
        "def die(tar, *rest):\n"
        "    if tar.endswith('1.tar'):\n"
        "        os._exit(9)\n"
        "    write(tar, *rest)\n"
        "shards.write_index = die\n"
        "make_shards(*sys.argv[1:], utterances_per_shard=4)\n"
    )
    folder = tmp_path / "a"
    words = [str(data), str(folder / "shards"), str(folder / "shard.list")]
    code = subprocess.run([sys.executable, "-c", script, *words], check=False).returncode
    tars = [str(folder / "shards" / f"shards_{n:09d}.tar") for n in range(3)]
    assert code == 9 and not (folder / "shard.list").exists()
    assert [os.path.exists(t.replace(".tar", ".index")) for t in tars] == [True, False, False]
    first = os.stat(tars[0]).st_mtime_ns
    pack(data, folder, utterances_per_shard=4)
    assert os.stat(tars[0]).st_mtime_ns == first
    _, whole = pack(data, tmp_path / "b", utterances_per_shard=4)
    assert content_of(tars) == content_of(whole)


def test_while_a_shard_is_made_again_its_old_index_is_gone(tmp_path, data, monkeypatch):
    _, tars = pack(data, tmp_path)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wesp_lap.data.shards.write_sums", die)
    with pytest.raises(KeyboardInterrupt):
        pack(data, tmp_path, audio_format="wav")
    (tmp_path / "kept.list").write_text("\n".join(tars))
    with pytest.raises(DataError, match="no index beside it"):
        load_utterances(tmp_path / "kept.list")


def test_other_settings_make_the_shards_again(tmp_path, data):
    pack(data, tmp_path)
    _, tars = pack(data, tmp_path, audio_format="wav")
    assert {entry["key"] for entry in read_as_wespeaker(tars[0]) if "wav" in entry} == {
        entry.key for entry in read_index(tars[0])
    }


@pytest.fixture
def broken(tmp_path, waves):
    """A data directory with six unusable utterances, and their paths."""
    data = write_data(tmp_path / "data", waves)
    paths = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
    keys = sorted(waves)[:6]
    os.unlink(paths[keys[0]])
    with open(paths[keys[1]], "wb") as stream:
        stream.write(b"not audio")
    soundfile.write(paths[keys[2]], np.zeros((4800, 2)), 16000)
    os.truncate(paths[keys[3]], 4000)
    os.truncate(paths[keys[4]], 0)
    text = (data / "wav.scp").read_text().replace(paths[keys[5]], "sox x.wav -t wav - |")
    (data / "wav.scp").write_text(text)
    return data, keys


def test_all_bad_utterances_are_named_at_once_and_no_list_is_written(tmp_path, broken):
    data, keys = broken
    with pytest.raises(DataError) as caught:
        pack(data, tmp_path, utterances_per_shard=4)
    message = str(caught.value)
    assert "utterances that cannot be packed (6 problems)" in message
    assert all(f"  {key}: " in message for key in keys)
    for reason in ("no such file", "cannot be read", "2 channels", "is a command, not a file"):
        assert reason in message
    assert message.endswith("allow them with --max_bad 6.")
    assert not (tmp_path / "shard.list").exists()
    with pytest.raises(DataError):
        pack(data, tmp_path, utterances_per_shard=4, max_bad=5)


def test_the_list_of_an_earlier_run_does_not_survive_one_that_fails(tmp_path, data):
    pack(data, tmp_path)
    next((data / "wav").iterdir()).write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be packed \(1 problem\)"):
        pack(data, tmp_path)
    assert not (tmp_path / "shard.list").exists()  # its tars lack an utterance now


def test_counts_do_not_replace_a_list_of_that_name(tmp_path, data):
    counts = make_shards(data, tmp_path / "shards", tmp_path / "shard.json")
    assert len(load_utterances(tmp_path / "shard.json")) == 11
    assert json.loads((tmp_path / "shard.counts.json").read_text()) == counts


def test_bad_utterances_may_be_left_out_and_are_tried_again(tmp_path, broken, waves):
    data, keys = broken
    counts, _ = pack(data, tmp_path, utterances_per_shard=4, max_bad=6)
    assert (counts["utterances"], counts["bad"]) == (5, 6)
    left = load_utterances(tmp_path / "shard.list")
    assert sorted(map(left.key, range(len(left)))) == sorted(waves)[6:]
    paths = dict(line.split(maxsplit=1) for line in (data / "wav.scp").read_text().splitlines())
    soundfile.write(paths[keys[0]], waves[keys[0]], 16000)
    counts, _ = pack(data, tmp_path, utterances_per_shard=4, max_bad=6)
    assert (counts["utterances"], counts["bad"]) == (6, 5)


def test_nothing_but_bad_utterances_is_an_error(tmp_path, waves):
    data = write_data(tmp_path / "data", waves)
    for path in (data / "wav").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no utterance that can be used"):
        pack(data, tmp_path, max_bad=100)


def test_a_shard_needs_an_utterance(tmp_path, data):
    with pytest.raises(DataError, match="--utterances_per_shard must be at least 1, got 0"):
        pack(data, tmp_path, utterances_per_shard=0)
