"""Shards as WeSpeaker, webdataset and the index see them."""

import io
import json
import os
import tarfile
import zlib

import numpy as np
import pytest
import soundfile
import webdataset
from corpora import noise, write_data

from wesp_lap.data.index import load_utterances, read_index
from wesp_lap.data.shards import make_shards
from wesp_lap.errors import DataError


def pack(data, folder, **options):
    """Make shards under ``folder`` and return (counts, tars)."""
    counts = make_shards(data, folder / "shards", folder / "shard.list", **options)
    return counts, (folder / "shard.list").read_text().split()


def read_as_wespeaker(tar):
    """Group consecutive members by their name up to the last dot, as WeSpeaker's reader does."""
    samples = []
    with tarfile.open(tar, "r:*") as stream:
        for member in stream:
            prefix, _, suffix = member.name.rpartition(".")
            if not samples or samples[-1]["key"] != prefix:
                samples.append({"key": prefix})
            content = stream.extractfile(member).read()
            samples[-1][suffix] = content.decode() if suffix == "spk" else content
    return samples


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
        for path in (tar, tar.replace(".tar", ".index")):
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


@pytest.mark.parametrize("change", ["audio", "tar cut", "index cut", "index gone"])
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
    else:
        os.unlink(index)
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


def test_segments_are_cut_out_of_their_recordings(tmp_path):
    wave = noise(0, 48000)
    data = write_data(tmp_path / "data", {"rec1": wave})
    cuts = {"s1-a": (0, 1.001), "s1-b": (1.001, 1.1), "s2-c": (1.1, 3)}
    lines = "".join(f"{key} rec1 {start} {end}\n" for key, (start, end) in cuts.items())
    (data / "segments").write_text(lines)
    (data / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in cuts))
    _, tars = pack(data, tmp_path)
    got = {
        sample["key"]: soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")[0]
        for sample in read_as_wespeaker(tars[0])
    }
    assert [len(got[key]) for key in cuts] == [16016, 1584, 30400]
    np.testing.assert_array_equal(np.concatenate([got[key] for key in cuts]), wave)
    assert {entry.key: entry.samples for entry in read_index(tars[0])}["s2-c"] == 30400


def test_a_segment_behind_the_end_is_a_bad_utterance(tmp_path):
    data = write_data(tmp_path / "data", {"rec1": noise(0, 16000)})
    (data / "segments").write_text("s1-a rec1 0 1\ns1-b rec1 1.5 2\n")
    (data / "utt2spk").write_text("s1-a s1\ns1-b s1\n")
    with pytest.raises(DataError, match=r"s1-b: .*000\.flac: the segment lies beyond the end"):
        pack(data, tmp_path)


def test_other_rates_are_resampled(tmp_path):
    time = np.arange(8000) / 8000
    tone = (0.3 * np.sin(2 * np.pi * 500 * time)).astype(np.float32)
    data = write_data(tmp_path / "data", {"s1-a": tone}, "wav", 8000)
    _, tars = pack(data, tmp_path)
    [sample] = read_as_wespeaker(tars[0])
    wave, rate = soundfile.read(io.BytesIO(sample["wav"]), dtype="float32")
    assert (rate, len(wave)) == (16000, 16000) and read_index(tars[0])[0].samples == 16000
    expected = 0.3 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    np.testing.assert_allclose(wave[200:-200], expected[200:-200], atol=2e-3)


@pytest.mark.parametrize(
    ("source", "audio_format", "suffix"),
    [
        (".wav", "keep", "wav"),
        (".wav", "flac", "flac"),
        (".flac", "wav", "wav"),
        (".WAV", "keep", "wav"),
        (".ogg", "flac", "flac"),
        (".ogg", "keep", "ogg"),
        ("", "keep", "flac"),
    ],
)
def test_audio_formats(tmp_path, source, audio_format, suffix):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "wav")
    path = data / "wav" / f"000{source}"
    form = {".ogg": "OGG", ".flac": "FLAC"}.get(source, "WAV")
    subtype = "VORBIS" if source == ".ogg" else "PCM_16"
    soundfile.write(path, noise(0, 4000), 16000, subtype=subtype, format=form)
    (data / "wav.scp").write_text(f"s1-a {path}\n")
    _, tars = pack(data, tmp_path, audio_format=audio_format)
    [sample] = read_as_wespeaker(tars[0])
    assert list(sample) == ["key", "spk", suffix]
    wave, _ = soundfile.read(io.BytesIO(sample[suffix]), dtype="float32")
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(wave, expected, atol=1 / 32768)


def test_a_shard_needs_an_utterance(tmp_path, data):
    with pytest.raises(DataError, match="--utterances_per_shard must be at least 1, got 0"):
        pack(data, tmp_path, utterances_per_shard=0)
