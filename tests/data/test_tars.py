"""Tars of WeSpeaker are indexed from themselves alone, and every fault of theirs is named."""

import io
import json
import os
import tarfile
import zlib

import numpy as np
import pytest
import soundfile
import webdataset
from foreign import encoded, members_of, write_list, write_tar

from wesp_lap.data.checking import check_shards
from wesp_lap.data.index import block_sums, index_path, load_utterances, read_index, sums_path
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.tars import TarWriter, _header
from wesp_lap.errors import DataError

LONG = "id10003/" + "v" * 120 + "/00001.wav"
UTTERANCES = {
    "id10001/1zcIwhmdeo4/00001.wav": ("id10001", "wav", encoded(4000, 1)),
    "id10002/abc/00002.wav": ("id10002", "flac", encoded(5000, 2, "FLAC")),
    LONG: ("id10003", "wav", encoded(1600, 3)),
    "ïd4/später/00003.wav": ("ïd4", "ogg", encoded(8000, 4, "OGG")),
    "plain": ("a speaker", "wav", encoded(300, 5, rate=8000)),
}
SAMPLES = {"id10001/1zcIwhmdeo4/00001.wav": 4000, "id10002/abc/00002.wav": 5000, LONG: 1600}
SAMPLES |= {"ïd4/später/00003.wav": 8000, "plain": 300}
FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


@pytest.fixture(params=FORMATS, ids=["pax", "gnu"])
def foreign(tmp_path, request):
    """A list of two tars in WeSpeaker's layout, without indexes."""
    members = members_of(UTTERANCES)
    tars = [
        write_tar(tmp_path / "shards_000000000.tar", members[:6], request.param),
        write_tar(tmp_path / "shards_000000001.tar", members[6:], request.param),
    ]
    return write_list(tmp_path / "shard.list", tars)


def reference(tar):
    """Read a tar with tarfile alone: key -> (speaker, place, bytes of the audio)."""
    found = {}
    with tarfile.open(tar) as stream:
        for member in stream:
            key, _, suffix = member.name.rpartition(".")
            content = stream.extractfile(member).read()
            speaker, place, audio = found.get(key, ("", 0, b""))
            if suffix == "spk":
                found[key] = (content.decode(), place, audio)
            else:
                found[key] = (speaker, member.offset_data, content)
    return found


def test_an_index_says_what_tarfile_finds(foreign):
    counts = index_shards(foreign)
    tars = foreign.read_text().split()
    for tar in tars:
        entries, expected = read_index(tar), reference(tar)
        assert [entry.key for entry in entries] == list(expected)
        for entry in entries:
            speaker, place, audio = expected[entry.key]
            assert (entry.speaker, entry.offset, entry.size) == (speaker, place, len(audio))
            assert entry.crc32 == zlib.crc32(audio) and entry.samples == SAMPLES[entry.key]
            assert entry.rate == (8000 if entry.key == "plain" else 16000)
            assert entry.pcm == (44 if UTTERANCES[entry.key][1] == "wav" else -1)
        with open(tar, "rb") as stream:
            content = stream.read()
        with open(sums_path(tar), "rb") as stream:
            assert stream.read() == block_sums(content).astype("<u8").tobytes()
    seconds = sum(n / (8000 if key == "plain" else 16000) for key, n in SAMPLES.items())
    assert counts == {
        "shards": 2,
        "utterances": 5,
        "speakers": 5,
        "seconds": pytest.approx(seconds, abs=1e-3),
        "bad": 0,
        "bytes": sum(map(os.path.getsize, tars)),
    }
    assert json.loads((foreign.parent / "shard.json").read_text()) == counts
    assert check_shards(foreign) == counts
    assert index_shards(foreign) == counts  # those that are there are kept


def test_webdataset_finds_the_same_samples(foreign):
    index_shards(foreign)
    utterances = load_utterances(foreign)
    tars = foreign.read_text().split()
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == len(utterances)
    for row, sample in enumerate(samples):
        # webdataset cuts keys at the first dot of the file's name, WeSpeaker at the last one.
        assert utterances.key(row).startswith(sample["__key__"])
        assert (
            sample[next(k for k in sample if k.endswith("spk"))].decode()
            == (utterances.speakers[utterances.speaker[row]])
        )
        suffix = UTTERANCES[utterances.key(row)][1]
        audio = sample[next(k for k in sample if k.split(".")[-1] == suffix)]
        assert zlib.crc32(audio) == utterances.crc32[row] and len(audio) == utterances.size[row]


def test_several_processes_write_the_same(foreign):
    index_shards(foreign, jobs=2)
    paths = [f(tar) for tar in foreign.read_text().split() for f in (index_path, sums_path)]
    first = [open(path, "rb").read() for path in paths]  # noqa: SIM115
    for path in paths:
        os.unlink(path)
    index_shards(foreign, jobs=1)
    assert [open(path, "rb").read() for path in paths] == first  # noqa: SIM115


@pytest.mark.parametrize("damage", ["gone", "old", "cut", "sums gone"])
def test_an_index_that_cannot_be_used_is_made_again(foreign, damage):
    index_shards(foreign)
    tar = foreign.read_text().split()[0]
    with open(index_path(tar)) as stream:
        text = stream.read()
    if damage == "sums gone":
        os.unlink(sums_path(tar))
    else:
        old = "\n".join("\t".join(line.split("\t")[:6]) for line in text.splitlines()) + "\n"
        with open(index_path(tar), "w") as stream:
            stream.write({"gone": "", "old": old, "cut": text[:-3]}[damage])
    with pytest.raises(DataError, match="index_shards --list"):
        load_utterances(foreign)
    index_shards(foreign)
    with open(index_path(tar)) as stream:
        assert stream.read() == text


def indexed_error(folder, members, **options):
    """Index one tar of these members and return what is said about it."""
    listed = write_list(folder / "x.list", [write_tar(folder / "x.tar", members)])
    with pytest.raises(DataError) as caught:
        index_shards(listed, **options)
    assert not os.path.exists(folder / "x.index")
    assert f"{folder / 'x.tar'}" in str(caught.value)
    return str(caught.value)


A, B = ("a.spk", b"s1"), ("b.spk", b"s2")
AUDIO_A, AUDIO_B = ("a.wav", encoded(400, 1)), ("b.wav", encoded(400, 2))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([A, AUDIO_A, AUDIO_B], "utterance 'b': no .spk member"),
        ([A, AUDIO_A, B], "utterance 'b': no audio member"),
        ([A, AUDIO_A, A, AUDIO_A], "utterance 'a': stands in the tar twice"),
        ([A, B, AUDIO_A, AUDIO_B], "utterance 'a': no audio member"),
        ([A, AUDIO_A, B, ("b.txt", b"x")], "member 'b.txt': unknown suffix; expected KEY.spk"),
        ([A, AUDIO_A, B, ("b.m4a", b"x")], "'m4a' cannot be read from inside a tar; make_shards"),
        ([A, AUDIO_A, B, ("b.wav", b"")], "utterance 'b': no audio (0 bytes)"),
        ([A, AUDIO_A, B, ("b.wav", b"junk")], "utterance 'b': cannot be read as audio"),
        ([A, AUDIO_A, B, ("b.wav", AUDIO_B[1][:-100])], "'b': 100 bytes are missing at the end"),
        ([A, AUDIO_A, ("b.spk", b""), AUDIO_B], "utterance 'b': 'b.spk' holds no speaker's name"),
        ([A, AUDIO_A, ("b.spk", b" \n"), AUDIO_B], "'b.spk' holds no speaker's name in UTF-8"),
        ([A, AUDIO_A, ("b.spk", b"\xff"), AUDIO_B], "'b.spk' holds no speaker's name in UTF-8"),
        ([A, AUDIO_A, ("b c.spk", b"s"), ("b c.wav", AUDIO_B[1])], "its key has white space"),
        ([A, AUDIO_A, ("nosuffix", b"s")], "member 'nosuffix': unknown suffix"),
        ([A, AUDIO_A, ("b.spk", b"s"), ("b.wav", encoded(9, 0) * 2)], None),
    ],
)
def test_utterances_that_lack_something_are_named(tmp_path, members, said):
    if said is None:  # bytes after the samples harm nobody
        index_shards(write_list(tmp_path / "x.list", [write_tar(tmp_path / "x.tar", members)]))
        return
    message = indexed_error(tmp_path, members)
    assert said in message and "--max_bad " in message


def test_stereo_is_named(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((400, 2)), 16000, format="WAV")
    message = indexed_error(tmp_path, [A, AUDIO_A, B, ("b.wav", buffer.getvalue())])
    assert "utterance 'b': 2 channels; mono is expected" in message


def test_bad_utterances_may_be_left_out(tmp_path, caplog):
    members = [A, AUDIO_A, B, ("b.wav", b"x" * 50000), ("c.spk", b"s3")]
    listed = write_list(tmp_path / "x.list", [write_tar(tmp_path / "x.tar", members)])
    assert "(2 problems)" in indexed_error(tmp_path, members, max_bad=1)
    counts = index_shards(listed, max_bad=2)
    assert (counts["utterances"], counts["bad"]) == (1, 2)
    utterances = load_utterances(listed)
    assert [utterances.key(row) for row in range(len(utterances))] == ["a"]
    with pytest.raises(DataError, match=r"\(2 problems\)"):
        index_shards(listed)  # they are not forgotten


def test_links_folders_and_compressed_tars_are_refused(tmp_path):
    tar = tmp_path / "x.tar"
    listed = write_list(tmp_path / "x.list", [tar])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        write_tar(tar, [A, AUDIO_A])
        with tarfile.open(tar, "a") as stream:
            member = tarfile.TarInfo("b.wav")
            member.type, member.linkname = kind, "a.wav"
            stream.addfile(member)
        with pytest.raises(DataError, match=r"byte 2560: member 'b\.wav' is no plain file"):
            index_shards(listed)
    for mode, program in (("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")):
        with tarfile.open(tar, mode) as stream:
            stream.addfile(tarfile.TarInfo("a.spk"))
        with pytest.raises(DataError, match=f"compressed; unpack it first: {program}"):
            index_shards(listed)
    tar.write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.tar: an empty file"):
        index_shards(listed)
    tar.write_bytes(bytes(10240))
    with pytest.raises(DataError, match=r"x\.tar: an empty tar"):
        index_shards(listed)
    tar.unlink()
    with pytest.raises(DataError, match=r"x\.tar: no such shard"):
        index_shards(listed)


def test_an_utterance_in_two_shards_is_named(tmp_path):
    tars = [write_tar(tmp_path / f"{n}.tar", [A, AUDIO_A]) for n in range(2)]
    with pytest.raises(DataError, match=r"utterance .a. stands there twice: .*0\.tar and .*1\.tar"):
        index_shards(write_list(tmp_path / "x.list", tars))


def test_the_faults_of_all_tars_come_at_once(tmp_path):
    tars = [
        write_tar(tmp_path / "a.tar", [A]),
        write_tar(tmp_path / "b.tar", [B, AUDIO_B]),
        tmp_path / "c.tar",
    ]
    os.truncate(tars[1], 1500)
    with pytest.raises(DataError) as caught:
        index_shards(write_list(tmp_path / "x.list", tars), jobs=2)
    for said in ("a.tar: utterance 'a': no audio", "b.tar: byte 1024", "c.tar: no such shard"):
        assert said in str(caught.value)


def test_flac_that_does_not_know_its_length_is_named(tmp_path):
    flac = bytearray(encoded(4000, 1, "FLAC"))
    flac[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    flac[22:26] = bytes(4)
    message = indexed_error(tmp_path, [A, ("a.flac", bytes(flac))])
    assert "utterance 'a': its header does not say how long it is" in message


def test_headers_are_believed_and_decoding_is_not(tmp_path):
    flac = bytearray(encoded(40000, 1, "FLAC"))
    flac[len(flac) // 2] ^= 0xFF
    members = [A, ("a.flac", bytes(flac))]
    listed = write_list(tmp_path / "x.list", [write_tar(tmp_path / "x.tar", members)])
    index_shards(listed, check="headers")
    os.unlink(tmp_path / "x.index")
    with pytest.raises(DataError, match=r"utterance 'a': .*cannot be read|could be decoded"):
        index_shards(listed, check="full")


def test_urls_are_not_written_beside(tmp_path):
    (tmp_path / "x.list").write_text("https://host/a.tar\n")
    with pytest.raises(DataError, match=r"https://host/a\.tar: a URL"):
        index_shards(tmp_path / "x.list")


@pytest.mark.parametrize("name", ["a", "id1/ü.wav.spk", "x" * 100, "x" * 101, "ü" * 51, "a/" * 200])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 70000])
def test_a_tar_is_what_tarfile_writes(tmp_path, name, size):
    members = [(f"{name}.spk", b"s"), (name, bytes(size)), ("last", b"x")]
    expected = write_tar(tmp_path / "x.tar", members, tarfile.GNU_FORMAT).read_bytes()
    stream = io.BytesIO()
    tar = TarWriter(stream)
    offsets = [tar.add(*member) for member in members]
    sums = tar.close()
    assert stream.getvalue() == expected and sums.tolist() == block_sums(expected).tolist()
    with tarfile.open(tmp_path / "x.tar") as whole:
        assert [member.offset_data for member in whole] == offsets


def test_headers_of_very_large_members_are_tarfiles_too():
    member = tarfile.TarInfo("x")
    for member.size in (8**11 - 1, 8**11, 2**40):
        assert _header(b"x", member.size) == member.tobuf(tarfile.GNU_FORMAT)
