import os
import shutil

import pytest

from wesp_lap.data.index import (
    Entry,
    index_path,
    load_utterances,
    read_index,
    read_list,
    write_index,
)
from wesp_lap.errors import DataError


def tars_of(shards):
    return shards.read_text().split()


def test_columns_of_a_list_hold_every_entry(shards, waves):
    utterances = load_utterances(shards)
    assert len(utterances) == 11 and utterances.seconds == sum(map(len, waves.values())) / 16000
    entries = [(number, e) for number, tar in enumerate(tars_of(shards)) for e in read_index(tar)]
    for row, (number, entry) in enumerate(entries):
        assert (
            Entry(
                str(utterances.keys[row]),
                str(utterances.speakers[row]),
                utterances.offset[row],
                utterances.size[row],
                utterances.samples[row],
                utterances.crc32[row],
            )
            == entry
            and utterances.tar[row] == number
        )


def test_an_index_comes_back(tmp_path):
    tar = tmp_path / "a.b.tar"
    tar.write_bytes(bytes(1000))
    entries = [Entry("id/ü.wav", "id", 512, 100, 50, 0), Entry("k", "s", 700, 300, 1, 2**32 - 1)]
    write_index(tar, "digest", entries)
    assert index_path(tar).name == "a.b.index" and read_index(tar) == entries


def test_lists_are_read_from_here_and_from_beside_the_list(shards, tmp_path, monkeypatch):
    whole = load_utterances(shards).keys.tolist()
    names = [os.path.relpath(tar, tmp_path) for tar in tars_of(shards)]
    shards.write_text("\n".join(["", *names, ""]))
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in read_list("shard.list")] == names
    assert load_utterances("shard.list").keys.tolist() == whole
    monkeypatch.chdir("/")
    assert read_list(shards) == [tmp_path / name for name in names]
    assert load_utterances(shards).keys.tolist() == whole


def test_a_missing_and_an_empty_list_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.list: no such shard list; make_shards writes one"):
        load_utterances(tmp_path / "x.list")
    (tmp_path / "x.list").write_text("\n \n")
    with pytest.raises(DataError, match=r"x\.list: the shard list is empty"):
        load_utterances(tmp_path / "x.list")


def test_the_faults_of_all_shards_are_reported_at_once(shards):
    tars = tars_of(shards)
    size = os.path.getsize(tars[0])
    os.truncate(tars[0], 30000)
    os.unlink(index_path(tars[1]))
    os.unlink(tars[2])
    with pytest.raises(DataError) as caught:
        load_utterances(shards)
    message = str(caught.value)
    assert "unusable shards (3 problems)" in message and size > 30000
    assert f"{tars[0]}: cut short: 30000 of " in message
    assert f"{tars[1]}: no index beside it (shards_000000001.index); make the shards" in message
    assert f"{tars[2]}: no such shard" in message


def test_a_cut_anywhere_in_the_audio_of_a_tar_is_met(shards):
    tar = tars_of(shards)[0]
    last = read_index(tar)[-1]
    end = last.offset + last.size
    for length in (end - 1, last.offset, 512, 0):
        os.truncate(tar, length)
        with pytest.raises(DataError, match=rf"cut short: {length} of {end} bytes"):
            read_index(tar)


def test_an_index_that_has_lost_its_end_is_met(shards):
    path = index_path(tars_of(shards)[0])
    lines = path.read_text().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        path.write_text("".join(lines[:kept]))
        with pytest.raises(
            DataError, match=rf"{path.name}: cut short: it ends before shards_0+\.t"
        ):
            read_index(tars_of(shards)[0])


def test_broken_lines_are_named_with_their_numbers(shards):
    path = index_path(tars_of(shards)[0])
    lines = path.read_text().splitlines()
    lines[1] = lines[1].rpartition("\t")[0]
    lines[3] = lines[3].replace("\t", " ", 1)
    lines[4] = lines[4].rpartition("\t")[0] + "\txyz"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        load_utterances(shards)
    for number in (2, 4, 5):
        assert f"{path}:{number}: expected key speaker offset size samples crc32" in str(
            caught.value
        )
    assert f"{path}:3:" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_file_without_the_header_is_no_index(shards, keep):
    path = index_path(tars_of(shards)[0])
    path.write_text("\n".join(path.read_text().splitlines()[1:][: 10 * keep]))
    with pytest.raises(DataError, match=r"\.index: no shard index: its first line is not"):
        read_index(tars_of(shards)[0])


def test_an_utterance_in_two_shards_is_named(shards, tmp_path):
    first = tars_of(shards)[0]
    shutil.copy(first, tmp_path / "copy.tar")
    shutil.copy(index_path(first), tmp_path / "copy.index")
    with open(shards, "a") as stream:
        stream.write(f"{tmp_path / 'copy.tar'}\n")
    keys = [entry.key for entry in read_index(first)]
    with pytest.raises(DataError, match=r"duplicate utterances \(4 problems\)") as caught:
        load_utterances(shards)
    assert all(f"utterance '{key}' stands in the shards twice" in str(caught.value) for key in keys)


def test_shards_without_utterances_are_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    write_index(tmp_path / "a.tar", "incomplete", [])
    (tmp_path / "x.list").write_text("a.tar\n")
    with pytest.raises(DataError, match=r"x\.list: its shards hold no utterance"):
        load_utterances(tmp_path / "x.list")
