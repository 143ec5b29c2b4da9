"""raw.list: written as WeSpeaker writes it, indexed, and read through its index."""

import json
import os
import zlib

import numpy as np
import pytest
import soundfile
from corpora import noise, write_data

from wesp_lap.bin import make_raw_list as command
from wesp_lap.data import indexing
from wesp_lap.data.checking import check_shards
from wesp_lap.data.index import load_utterances
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.raw_list import make_raw_list
from wesp_lap.errors import DataError

WAVES = {f"ïd{n % 2}/v/{n}.wav": noise(n, 3000 + 100 * n) for n in range(5)}


@pytest.fixture
def raw(tmp_path):
    """A raw.list with its index; one of its files is a FLAC."""
    data = write_data(tmp_path / "data", WAVES, "wav")
    soundfile.write(data / "wav" / "001.flac", WAVES["ïd0/v/2.wav"], 16000)
    text = (data / "wav.scp").read_text().replace("001.wav", "001.flac")
    (data / "wav.scp").write_text(text)
    command.main(str(data), str(tmp_path / "raw.list"), nj=1)
    return tmp_path / "raw.list"


def test_every_line_is_an_object_as_wespeaker_reads_it(raw):
    text = raw.read_text()
    assert "ïd0" in text  # not escaped
    items = [json.loads(line) for line in text.splitlines()]
    assert [item["key"] for item in items] == sorted(WAVES)
    for item in items:
        assert list(item) == ["key", "spk", "wav"]
        assert item["spk"] == item["key"].split("/")[0] and os.path.exists(item["wav"])


def test_its_utterances_are_files_of_their_own(raw):
    utterances = load_utterances(raw)
    assert len(utterances) == 5 and utterances.speakers == ["ïd0", "ïd1"]
    assert utterances.seconds == sum(map(len, WAVES.values())) / 16000
    items = [json.loads(line) for line in raw.read_text().splitlines()]
    for row, item in enumerate(items):
        with open(item["wav"], "rb") as stream:
            content = stream.read()
        assert utterances.tar_name(utterances.tar[row]) == item["wav"]
        assert (utterances.offset[row], utterances.size[row]) == (0, len(content))
        assert utterances.crc32[row] == zlib.crc32(content)
        assert utterances.samples[row] == len(WAVES[item["key"]])
        assert utterances.pcm[row] == (44 if item["wav"].endswith(".wav") else -1)
    counts = check_shards(raw)
    assert (counts["utterances"], counts["speakers"], counts["shards"]) == (5, 2, 0)
    assert json.loads((raw.parent / "raw.json").read_text()) == counts


def test_files_that_ffmpeg_decodes_are_indexed(raw, monkeypatch):
    items = [json.loads(line) for line in raw.read_text().splitlines()]
    path = raw.parent / "x.m4a"
    path.write_bytes(b"no format that libsndfile knows")
    items[2]["wav"] = str(path)
    raw.write_text("".join(json.dumps(item) + "\n" for item in items))
    wave = np.zeros(1234, dtype=np.float32)
    monkeypatch.setattr(indexing, "decode", lambda name: (wave, 16000) if name == str(path) else 0)
    index_shards(raw)
    utterances = load_utterances(raw)
    assert (utterances.samples[2], utterances.rate[2], utterances.pcm[2]) == (1234, 16000, -1)


def test_an_index_of_another_list_is_refused(raw):
    raw.write_text("".join(raw.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"made from another raw\.list: python -m .*index_shards"):
        load_utterances(raw)
    index_shards(raw)
    assert len(load_utterances(raw)) == 4
    os.unlink(raw.with_suffix(".index"))
    with pytest.raises(DataError, match=rf"no index beside it .*index_shards --list {raw}"):
        load_utterances(raw)


def test_changed_and_lost_files_are_named(raw):
    items = [json.loads(line) for line in raw.read_text().splitlines()]
    os.unlink(items[0]["wav"])
    with open(items[1]["wav"], "r+b") as stream:
        stream.seek(1000)
        stream.write(b"xx")
    with pytest.raises(DataError) as caught:
        check_shards(raw)
    assert f"{items[0]['wav']}: No such file" in str(caught.value)
    assert f"utterance '{items[1]['key']}': its audio has changed" in str(caught.value)
    os.truncate(items[2]["wav"], 100)
    with pytest.raises(DataError, match=r"\(2 problems\)") as caught:
        index_shards(raw)
    assert f"{items[0]['key']}: " in str(caught.value)
    assert f"{items[2]['key']}: " in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "expected a JSON object with key, spk and wav"),
        ("[]", "expected a JSON object with key, spk and wav"),
        ('{"key": "a", "spk": "b"}', "expected a JSON object with key, spk and wav"),
        ('{"key": "a", "spk": 3, "wav": "c"}', "key, spk and wav must be text"),
        ('{"key": "a", "spk": "b", "wav": "sox x - |"}', "make_shards --allow_pipe"),
        ('{"key": "a", "spk": "b", "wav": "c", "vad": [["0", "1"]]}', "make_shards --vad"),
        ('{"key": "a b", "spk": "b", "wav": "c"}', "key: white space"),
        ('{"key": "a", "spk": "b\\t", "wav": "c"}', "spk: a tab or line end"),
        ("", "expected a JSON object with key, spk and wav"),
    ],
)
def test_lines_that_cannot_be_used_are_named(raw, line, said):
    raw.write_text(raw.read_text() + line + "\n" + raw.read_text().splitlines()[0] + "\n")
    for read in (load_utterances, index_shards):
        with pytest.raises(DataError) as caught:
            read(raw)
        assert f"{raw}:6: " in str(caught.value) and said in str(caught.value)
        assert f"{raw}:7: utterance 'ïd0/v/0.wav' stands there twice" in str(caught.value)


def test_relative_paths_are_read_from_here_and_from_beside_the_list(raw, monkeypatch):
    raw.write_text(raw.read_text().replace(f"{raw.parent}/", ""))
    index_shards(raw)
    monkeypatch.chdir(raw.parent)
    index_shards("raw.list")
    monkeypatch.chdir("/")
    utterances = load_utterances(raw)
    assert utterances.tar_name(0) == str(raw.parent / "data" / "wav" / "000.wav")


def test_commands_and_speech_pieces_are_for_wespeaker_alone(tmp_path, capsys):
    data = write_data(tmp_path / "data", WAVES, "wav")
    (data / "vad").write_text("ïd0/v/0.wav 0 0.05\nïd0/v/0.wav 0.1 0.15\n")
    command.main(str(data), str(tmp_path / "vad.list"), vad=True)
    [item] = [json.loads(line) for line in (tmp_path / "vad.list").read_text().splitlines()]
    assert item["vad"] == [["0.0", "0.05"], ["0.1", "0.15"]]
    assert not (tmp_path / "vad.index").exists()
    assert "make_shards" in capsys.readouterr().out
    scp = (data / "wav.scp").read_text().replace(" /", " cat /", 1).replace("\n", " |\n", 1)
    (data / "wav.scp").write_text(scp)
    assert make_raw_list(data, tmp_path / "pipe.list") is False
    wavs = [json.loads(line)["wav"] for line in (tmp_path / "pipe.list").read_text().splitlines()]
    assert [wav.endswith("|") for wav in wavs] == [True, False, False, False, False]


def test_directories_that_a_raw_list_cannot_hold_are_named(tmp_path):
    data = write_data(tmp_path / "data", WAVES, "wav")
    with pytest.raises(DataError, match=r"vad: no such file"):
        make_raw_list(data, tmp_path / "raw.list", vad=True)
    os.unlink(data / "wav" / "001.wav")
    with pytest.raises(DataError, match=r"no such file: .*001\.wav"):
        make_raw_list(data, tmp_path / "raw.list")
    (data / "segments").write_text("ïd0-1 ïd0/v/0.wav 0 0.1\n")
    (data / "utt2spk").write_text("ïd0-1 ïd0\n")
    with pytest.raises(DataError, match=r"a raw\.list cannot hold segments; make_shards"):
        make_raw_list(data, tmp_path / "raw.list")
    assert not (tmp_path / "raw.list").exists()
