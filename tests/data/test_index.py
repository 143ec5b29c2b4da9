"""The index beside a shard, its sums, and the columns of a whole list."""

import os
import pickle
import shutil

import numpy as np
import pytest

from wesp_lap.data.index import (
    BLOCK,
    Entry,
    block_sums,
    index_path,
    load_utterances,
    read_index,
    read_list,
    sums_path,
    write_index,
)
from wesp_lap.errors import DataError


def tars_of(shards):
    return shards.read_text().split()


def test_columns_of_a_list_hold_every_entry(shards, waves):
    utterances = load_utterances(shards)
    assert len(utterances) == 11 and utterances.seconds == sum(map(len, waves.values())) / 16000
    assert utterances.speakers == ["s0", "s1", "s2", "s3"]
    entries = [(tar, entry) for tar in tars_of(shards) for entry in read_index(tar)]
    for row, (tar, entry) in enumerate(entries):
        found = Entry(
            utterances.key(row),
            utterances.speakers[utterances.speaker[row]],
            utterances.offset[row],
            utterances.size[row],
            utterances.samples[row],
            utterances.crc32[row],
            utterances.rate[row],
            utterances.pcm[row],
        )
        assert found == entry and utterances.tar_name(utterances.tar[row]) == tar
    kinds = [getattr(utterances, n).dtype for n in ("speaker", "offset", "crc32", "rate", "pcm")]
    assert kinds == [np.int32, np.int64, np.uint32, np.int32, np.int32]


def test_utterances_survive_pickling_and_their_digest_tells_content(shards):
    utterances = load_utterances(shards)
    again = pickle.loads(pickle.dumps(utterances))
    assert again.digest() == utterances.digest() == load_utterances(shards).digest()
    lines = shards.read_text().splitlines(keepends=True)
    shards.write_text("".join(lines[:2]))
    assert load_utterances(shards).digest() != utterances.digest()
    path = index_path(tars_of(shards)[0])
    with open(path) as stream:
        text = stream.read()
    before = load_utterances(shards).digest()
    crc = text.splitlines()[1].split("\t")[5]
    with open(path, "w") as stream:
        stream.write(text.replace(crc, f"{int(crc, 16) ^ 1:08x}"))
    assert load_utterances(shards).digest() != before


def test_speakers_are_numbered_in_the_order_of_their_bytes(tmp_path):
    names = ["b", "ä", "a", "Z", "a1", "z"]
    entries = [Entry(f"k{n}", name, 0, 9, 9, 0, 16000, -1) for n, name in enumerate(names)]
    write_shard(tmp_path / "a.tar", entries, 10240)
    (tmp_path / "x.list").write_text("a.tar\n")
    utterances = load_utterances(tmp_path / "x.list")
    assert utterances.speakers == sorted(names, key=str.encode) == ["Z", "a", "a1", "b", "z", "ä"]
    assert [utterances.speakers[n] for n in utterances.speaker] == names


def write_shard(tar, entries, length):
    tar.write_bytes(bytes(length))
    with open(sums_path(tar), "wb") as stream:
        stream.write(bytes(8 * -(-length // BLOCK)))
    write_index(tar, "digest", entries)


def test_an_index_comes_back(tmp_path):
    tar = tmp_path / "a.b.tar"
    entries = [
        Entry("id/ü.wav", "id", 512, 200, 50, 0, 8000, 44),
        Entry("k", "a speaker", 700, 300, 2**40, 2**32 - 1, 48000, -1),
    ]
    write_shard(tar, entries, 10240)
    assert index_path(tar) == str(tmp_path / "a.b.index") and read_index(tar) == entries


def test_names_beside_a_tar():
    assert index_path("https://host/a.b/c.tar") == "https://host/a.b/c.index"
    assert sums_path("c.tar") == "c.sums" and sums_path("a.b/c") == "a.b/c.sums"


@pytest.mark.parametrize("length", [0, 1, 8, 4095, 4096, 4097, 20000])
def test_block_sums_are_sums_of_words_modulo_two_to_the_64(length):
    content = np.random.default_rng(length).bytes(length)
    padded = content + bytes(-length % 4096)
    expected = [
        sum(int.from_bytes(padded[w : w + 8], "little") for w in range(b, b + 4096, 8)) % 2**64
        for b in range(0, len(padded), 4096)
    ]
    assert block_sums(content).tolist() == block_sums(bytearray(content)).tolist() == expected


def test_lists_are_read_from_here_and_from_beside_the_list(shards, tmp_path, monkeypatch):
    whole = load_utterances(shards).keys.tolist()
    names = [os.path.relpath(tar, tmp_path) for tar in tars_of(shards)]
    shards.write_text("\n".join(["", *names, ""]))
    monkeypatch.chdir(tmp_path)
    assert read_list("shard.list") == names
    assert load_utterances("shard.list").keys.tolist() == whole
    monkeypatch.chdir("/")
    assert read_list(shards) == [str(tmp_path / name) for name in names]
    assert load_utterances(shards).keys.tolist() == whole


def test_missing_empty_and_foreign_lists_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.list: no such shard list; make_shards writes one"):
        load_utterances(tmp_path / "x.list")
    (tmp_path / "x.list").write_text("\n \n")
    with pytest.raises(DataError, match=r"x\.list: the shard list is empty"):
        load_utterances(tmp_path / "x.list")
    (tmp_path / "x.list").write_bytes(b"\xff.tar\n")
    with pytest.raises(DataError, match=r"x\.list: not UTF-8"):
        load_utterances(tmp_path / "x.list")


def test_a_shard_that_stands_in_the_list_twice_is_named(shards):
    shards.write_text(shards.read_text() + tars_of(shards)[1] + "\n")
    with pytest.raises(DataError, match=r"shards_000000001\.tar stands there 2 times"):
        load_utterances(shards)


def test_the_faults_of_all_shards_are_reported_at_once(tmp_path, data):
    from wesp_lap.data.shards import make_shards

    shards = tmp_path / "shard.list"
    make_shards(data, tmp_path / "shards", shards, utterances_per_shard=2)
    tars = tars_of(shards)
    os.truncate(tars[0], 30000)
    os.unlink(index_path(tars[1]))
    os.unlink(tars[2])
    os.unlink(sums_path(tars[3]))
    os.truncate(sums_path(tars[4]), 8)
    with pytest.raises(DataError) as caught:
        load_utterances(shards)
    message = str(caught.value)
    assert "unusable shards (5 problems)" in message
    assert f"{tars[0]}: cut short: 30000 of " in message
    assert f"{tars[1]}: no index beside it (shards_000000001.index)" in message
    assert f"{tars[2]}: no such shard" in message
    assert f"{tars[3]}: no block sums beside it (shards_000000003.sums)" in message
    assert f"{sums_path(tars[4])}: not as long as shards_000000004.tar needs" in message
    assert message.endswith(f"python -m wesp_lap.bin.index_shards --list {shards}")


def test_a_cut_anywhere_in_a_tar_is_met(shards):
    tar = tars_of(shards)[0]
    last = read_index(tar)[-1]
    end = last.offset + last.size
    least = -(-end // 512) * 512 + 1024
    for length in (least - 1, end, end - 1, last.offset, 512, 0):
        os.truncate(tar, length)
        with pytest.raises(DataError, match=rf"cut short: {length} of {least} bytes"):
            read_index(tar)


def test_an_index_that_has_lost_its_end_is_met(tmp_path):
    entries = [Entry(f"k{n}", "s", 20000 * n, 20000, 9, 0, 16000, -1) for n in range(4)]
    tar = tmp_path / "a.tar"
    write_shard(tar, entries, 81920)
    with open(index_path(tar)) as stream:
        lines = stream.readlines()
    for kept in range(1, len(lines)):
        with open(index_path(tar), "w") as stream:
            stream.writelines(lines[:kept])
        with pytest.raises(DataError, match=r"a\.index: cut short: it ends before a\.tar does"):
            read_index(tar)
    with open(index_path(tar), "w") as stream:
        stream.write("".join(lines)[:-1])
    with pytest.raises(DataError, match=r"a\.index: cut short in its last line"):
        read_index(tar)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f[:-1],
        lambda f: [*f, "x"],
        lambda f: [*f[:5], "xyz", *f[6:]],
        lambda f: [*f[:5], "1234567", *f[6:]],
        lambda f: ["", *f[1:]],
        lambda f: [f[0], "", *f[2:]],
        lambda f: [*f[:2], "-1", *f[3:]],
        lambda f: [*f[:3], "0", *f[4:]],
        lambda f: [*f[:4], "1.5", *f[5:]],
        lambda f: [*f[:4], str(10**30), *f[5:]],
        lambda f: [*f[:6], "0", *f[7:]],
        lambda f: [*f[:7], "100000"],
        lambda f: [*f[:7], "x"],
        lambda f: [],
        lambda f: ["a\0", *f[1:]],
    ],
)
def test_broken_lines_are_named_with_their_numbers(shards, change):
    path = index_path(tars_of(shards)[0])
    with open(path) as stream:
        lines = stream.read().splitlines()
    for number in (2, 4):
        lines[number - 1] = "\t".join(change(lines[number - 1].split("\t")))
    with open(path, "w") as stream:
        stream.write("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        load_utterances(shards)
    for number in (2, 4):
        expected = f"{path}:{number}: expected key speaker offset size samples crc32 rate pcm"
        assert expected in str(caught.value)
    assert f"{path}:3:" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "s1-a\ts1\t1024\t5\t5\t00000000\t16000\t-\n", "# other\n"])
def test_a_file_without_the_header_is_no_index(shards, text):
    with open(index_path(tars_of(shards)[0]), "w") as stream:
        stream.write(text)
    with pytest.raises(DataError, match=r"\.index: no shard index: its first line is not"):
        read_index(tars_of(shards)[0])


def test_an_utterance_in_two_shards_is_named(shards, tmp_path):
    first = tars_of(shards)[0]
    for path in (first, index_path(first), sums_path(first)):
        shutil.copy(path, tmp_path / f"copy{os.path.splitext(path)[1]}")
    with open(shards, "a") as stream:
        stream.write(f"{tmp_path / 'copy.tar'}\n")
    with pytest.raises(DataError, match=r"duplicate utterances \(4 problems\)") as caught:
        load_utterances(shards)
    for entry in read_index(first):
        where = f"{first} and {tmp_path / 'copy.tar'}"
        assert f"utterance '{entry.key}' stands there twice: {where}" in str(caught.value)


def test_shards_without_utterances_are_an_error(tmp_path):
    write_shard(tmp_path / "a.tar", [], 10240)
    (tmp_path / "x.list").write_text("a.tar\n")
    with pytest.raises(DataError, match=r"x\.list: its shards hold no utterance"):
        load_utterances(tmp_path / "x.list")
