"""Damage to tars, indexes and sums is named wherever it is; nothing is lost without a word."""

import io
import itertools
import os
import random
import tarfile

import numpy as np
import pytest
from corpora import noise, write_data
from foreign import encoded, members_of, write_list, write_tar

from wesp_lap.data.checking import check_shards
from wesp_lap.data.index import index_path, read_index, sums_path
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.shards import make_shards
from wesp_lap.data.tars import walk
from wesp_lap.errors import DataError

KEYS = ["id1/v/00001.wav", "id2/" + "x" * 120 + "/00002.wav", "ïd3/ü.wav", "id4/v/00004.wav"]
MEMBERS = members_of(
    {key: (key[:3], "wav", encoded(1000 + 100 * n, n)) for n, key in enumerate(KEYS)}
)


def walked(content):
    return walk("x.tar", memoryview(content), io.BytesIO(content))


def faults(content):
    found = walked(content)
    return found.broken + found.bad


@pytest.fixture(scope="module", params=[tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def tar(tmp_path_factory, request):
    """The bytes of a whole tar and where its members' headers begin and end."""
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", MEMBERS, request.param)
    with tarfile.open(path) as stream:
        headers = [(member.offset, member.offset_data) for member in stream]
    return path.read_bytes(), headers


def test_a_whole_tar_has_no_faults(tar):
    found = walked(tar[0])
    assert [sample.key for sample in found.samples] == KEYS
    assert not found.broken and not found.bad


def test_a_tar_cut_anywhere_is_named(tar):
    content, headers = tar
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    lengths = {*range(0, end, 97), *range(0, end, 512), end, end + 1, end + 1023}
    for start, stop in headers:
        lengths |= {start - 1, start, start + 1, stop - 1, stop, stop + 1, len(content) - 1}
    for length in sorted(one for one in lengths if one > 0):
        [fault] = walked(content[:length]).broken
        assert fault.startswith("x.tar: byte ") and "copy or make the shard again" in fault, length
    assert not faults(content[: end + 1024])


def test_zeros_anywhere_over_a_header_are_named(tar):
    content, headers = tar
    for start, stop in headers:
        for first in {start - 1024, start - 512, start, start + 100, stop - 512}:
            first = max(first, 0)
            damaged = content[:first] + bytes(2048) + content[first + 2048 :]
            assert faults(damaged), first


@pytest.mark.parametrize("member", [1, 2, 4])
def test_every_flipped_bit_of_a_header_is_named(tar, member):
    content, headers = tar
    start, stop = headers[member]
    rng = random.Random(0)
    for place in range(start, stop):
        for bit in (7, rng.randrange(7)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            assert faults(bytes(damaged)), (place - start, bit)


def test_every_other_byte_outside_the_audio_is_named(tar):
    content, headers = tar
    audio = {sample.offset: sample.size for sample in walked(content).samples}
    silent = []
    for (_, stop), (following, _) in itertools.pairwise(headers):
        for place in range(stop + audio.get(stop, 0), following):
            damaged = bytearray(content)
            damaged[place] ^= 1
            if not faults(bytes(damaged)) and walked(bytes(damaged)) == walked(content):
                silent.append(place)
    assert not silent  # a changed speaker's name shows in the samples, padding as a fault


def test_random_damage_never_loses_an_utterance_without_a_word(tar):
    content, _ = tar
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(content)
        first = rng.randrange(len(content.rstrip(b"\0")))
        count = rng.choice([1, 2, 100, 512, 2048])
        damaged[first : first + count] = rng.randbytes(min(count, len(content) - first))
        found = walked(bytes(damaged))
        assert found.broken or found.bad or len(found.samples) == len(KEYS)


@pytest.fixture
def made(tmp_path):
    """The list of two shards made here."""
    waves = {f"s{n % 3}-u{n:02d}": noise(n, 3000 + 300 * n) for n in range(8)}
    data = write_data(tmp_path / "data", waves, "wav")
    make_shards(data, tmp_path / "shards", tmp_path / "shard.list", utterances_per_shard=4)
    return tmp_path / "shard.list"


def checked(listed, tar, content):
    """Return what check_shards says after ``tar`` was given this content; undo it."""
    with open(tar, "rb") as stream:
        before = stream.read()
    with open(tar, "wb") as stream:
        stream.write(content)
    try:
        with pytest.raises(DataError) as caught:
            check_shards(listed)
        return str(caught.value)
    finally:
        with open(tar, "wb") as stream:
            stream.write(before)


def test_check_finds_every_flipped_byte(made):
    assert check_shards(made)["utterances"] == 8
    tar = made.read_text().split()[1]
    with open(tar, "rb") as stream:
        content = stream.read()
    entries = read_index(tar)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 60).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        said = checked(made, tar, damaged)
        block = place // 4096 * 4096
        assert f"{tar}: bytes {block} to {min(block + 4096, len(content))}: not what" in said
        for entry in entries:
            inside = entry.offset <= place < entry.offset + entry.size
            words = f"{tar}: utterance '{entry.key}': its audio has changed (CRC-32)"
            assert (words in said) == inside


def test_check_finds_zeros_cuts_and_what_was_added(made):
    tar = made.read_text().split()[0]
    with open(tar, "rb") as stream:
        content = stream.read()
    middle = len(content) // 2
    assert "not what was written" in checked(
        made, tar, content[:middle] + bytes(2048) + content[middle + 2048 :]
    )
    for length in (middle, len(content) - 10240, 1):
        assert "cut short" in checked(made, tar, content[:length])
    assert "no whole end-of-archive mark" in checked(made, tar, content[:-1])
    assert "an empty file" in checked(made, tar, b"")
    longer = checked(made, tar, content + bytes(4096))
    assert "not as long as" in longer or "it ends before" in longer
    assert "data behind it" in checked(made, tar, content + b"x")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (0, "other", "utterance 'other': not in "),
        (1, "s9", "its speaker is 's9', in the tar 's"),
        (2, "512", "lies elsewhere in "),
        (3, "9", "lies elsewhere in "),
        (5, "00000000", "its audio has changed (CRC-32)"),
    ],
)
def test_check_finds_an_index_of_something_else(made, column, value, said):
    tar = made.read_text().split()[1]
    with open(index_path(tar)) as stream:
        header, first, *rest = stream.readlines()
    fields = first[:-1].split("\t")
    fields[column] = value
    fields[7] = "-"
    with open(index_path(tar), "w") as stream:
        stream.writelines([header, "\t".join(fields) + "\n", *rest])
    with pytest.raises(DataError) as caught:
        check_shards(made)
    assert said in str(caught.value)
    with open(index_path(tar), "w") as stream:
        stream.writelines([header, *rest])
    with pytest.raises(DataError, match=r"in .*000000001\.tar but not in the index"):
        check_shards(made)


def test_check_finds_damaged_sums_and_missing_files(made):
    first, second = made.read_text().split()
    with open(sums_path(first), "r+b") as stream:
        stream.write(b"\x01")
    os.unlink(index_path(second))
    with pytest.raises(DataError) as caught:
        check_shards(made, jobs=2)
    assert f"{first}: bytes 0 to 4096: not what was written" in str(caught.value)
    assert f"{second}: no index beside it" in str(caught.value)


def test_tars_of_others_are_checked_as_ours_are(tmp_path):
    listed = write_list(tmp_path / "x.list", [write_tar(tmp_path / "x.tar", MEMBERS)])
    index_shards(listed)
    check_shards(listed)
    content = bytearray((tmp_path / "x.tar").read_bytes())
    entry = read_index(tmp_path / "x.tar")[2]
    content[entry.offset + 500] ^= 4
    said = checked(listed, str(tmp_path / "x.tar"), content)
    assert f"utterance '{entry.key}': its audio has changed" in said
