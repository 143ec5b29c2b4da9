import io
import itertools
import os
import pickle
import resource
import threading
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from served import encoded, served, write_shard, write_sums

from wesp_lap.data import access, remote
from wesp_lap.data.access import AccessSettings, CropReader
from wesp_lap.data.index import BLOCK, Utterances, block_sums, load_utterances
from wesp_lap.errors import DataError

SPEECH = np.random.default_rng(5).integers(-32768, 32768, 60000).astype(np.int16)


def make_list(folder, shards):
    """Write shards {name: {file name: bytes}} and their list; return the utterances."""
    for name, files in shards.items():
        write_shard(folder / name, files)
    target = folder / "shard.list"
    target.write_text("".join(f"{folder / name}\n" for name in shards))
    return load_utterances(target)


def remote_list(folder, server, names):
    target = folder / "url.list"
    target.write_text("".join(f"{server.url}/{name}\n" for name in names))
    return load_utterances(target)


def raw_utterances(files, coded):
    """Return what a raw.list of ``files`` {key: path} holds."""
    contents = [Path(path).read_bytes() for path in files.values()]
    count = len(files)
    return Utterances(
        tars=np.array([str(path).encode() for path in files.values()]),
        keys=np.array([key.encode() for key in files]),
        speakers=["s"],
        speaker=np.zeros(count, np.int32),
        tar=np.arange(count, dtype=np.int32),
        offset=np.zeros(count, np.int64),
        size=np.array([len(content) for content in contents]),
        samples=np.array([soundfile.info(path).frames for path in files.values()]),
        crc32=np.array([zlib.crc32(content) for content in contents], np.uint32),
        rate=np.full(count, 16000, np.int32),
        pcm=np.full(count, -1 if coded else 44, np.int32),
    )


def crop(reader, row, start, samples):
    out = np.full(samples + 3, 7, np.float32)
    assert reader.read(row, start, samples, out) == samples
    assert (out[samples:] == 7).all()
    return out[:samples]


def error_of(reader, row=0, start=0, samples=100):
    with pytest.raises(DataError) as caught:
        crop(reader, row, start, samples)
    return str(caught.value)


@pytest.fixture
def mixed(tmp_path):
    """Two shards of odd lengths in all formats, with what soundfile decodes of each."""
    rng = np.random.default_rng(1)
    shards, truth = {}, {}
    for shard in range(2):
        files = {}
        for number, kind in enumerate(["wav", "flac", "ogg", "wav"]):
            key = f"{'ab'[shard]}{number}"
            wave = SPEECH[: int(rng.integers(3000, 20000))]
            files[f"{key}.{kind}"] = encoded(wave, kind)
            truth[key] = soundfile.read(io.BytesIO(files[f"{key}.{kind}"]), dtype="float32")[0]
        shards[f"{shard}.tar"] = files
    return make_list(tmp_path, shards), truth


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)


def test_crops_are_parts_of_what_soundfile_decodes(mixed):
    utterances, truth = mixed
    reader = CropReader(utterances)
    rng = np.random.default_rng(2)
    for row in range(len(utterances)):
        whole = truth[utterances.key(row)]
        ends = [(0, 1), (0, len(whole)), (len(whole) - 1, len(whole))]
        ends += [sorted(rng.integers(0, len(whole), 2)) for _ in range(40)]
        for start, stop in ends:
            if start < stop:
                assert np.array_equal(crop(reader, row, start, stop - start), whole[start:stop])


def test_samples_that_do_not_exist_are_refused(mixed):
    utterances, _ = mixed
    reader = CropReader(utterances)
    length = int(utterances.samples[0])
    for start, samples in ((-1, 5), (length - 4, 5), (0, length + 1), (5, -1)):
        with pytest.raises(ValueError, match="do not exist"):
            reader.read(0, start, samples, np.empty(length + 9, np.float32))


def test_a_flip_of_any_bit_of_a_crops_blocks_is_met(tmp_path):
    files = {"a.wav": encoded(SPEECH[:1500], "wav"), "b.wav": encoded(SPEECH[:9000], "wav")}
    utterances = make_list(tmp_path, {"0.tar": files})
    tar = tmp_path / "0.tar"
    content = tar.read_bytes()
    begin = int(utterances.offset[1]) + 44 + 2 * 2000
    first, stop = begin // BLOCK * BLOCK, -(-(begin + 2 * 3000) // BLOCK) * BLOCK
    truth = SPEECH[2000:5000] / np.float32(32768)
    rng = np.random.default_rng(0)
    for position in range(0, len(content), 61):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        tar.write_bytes(damaged)
        reader = CropReader(utterances)
        if first <= position < stop:
            message = error_of(reader, 1, 2000, 3000)
            assert message.startswith(f"utterance 'b': {tar}: damaged between bytes {first} and")
            assert "check_shards --list FILE finds all damage; make it again" in message
        else:
            assert np.array_equal(crop(reader, 1, 2000, 3000), truth)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_zeroed_block_is_met(tmp_path, kind):
    utterances = make_list(tmp_path, {"0.tar": {f"a.{kind}": encoded(SPEECH[:9000], kind)}})
    with open(tmp_path / "0.tar", "r+b") as stream:
        stream.seek(2 * BLOCK)
        stream.write(bytes(BLOCK))
    assert "damaged" in error_of(CropReader(utterances), 0, 3000, 2000)


def test_what_is_missing_or_cut_short_is_named(tmp_path):
    utterances = make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})
    tar, sums = tmp_path / "0.tar", tmp_path / "0.sums"
    content = tar.read_bytes()
    tar.write_bytes(content[:50000])
    assert np.array_equal(crop(CropReader(utterances), 0, 0, 9), SPEECH[:9] / np.float32(32768))
    message = error_of(CropReader(utterances), 0, 40000, 100)
    assert f"utterance 'a': {tar}: cut short: 50000 of at least 80756 bytes; python -m" in message
    tar.write_bytes(content)
    sums.write_bytes(sums.read_bytes()[:-64])
    assert "damaged" in error_of(CropReader(utterances), 0, 59900, 100)
    sums.unlink()
    message = error_of(CropReader(utterances))
    assert f"'a': {sums}: not found; python -m wesp_lap.bin.index_sh" in message
    tar.unlink()
    message = error_of(CropReader(utterances))
    assert f"'a': {tar}: not found; make it again, or mend the list" in message


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (13, "Permission denied; allow yourself to read it"),
        (24, "Too many open files; allow more open files: ulimit -n"),
        (116, "Stale file handle; is the disk or the network down?"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path, monkeypatch, number, mend):
    utterances = make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    assert error_of(CropReader(utterances)) == f"utterance 'a': {tmp_path / '0.tar'}: {mend}"


def test_only_the_crop_is_read_of_pcm(tmp_path, monkeypatch):
    utterances = make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})
    counts = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, at: counts.append(n) or pread(f, n, at))
    crop(CropReader(utterances), 0, 20000, 4000)
    assert sum(counts) <= 8000 + 2 * BLOCK + 64


def test_reads_that_the_system_cuts_are_continued(tmp_path, monkeypatch):
    utterances = make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, at: pread(f, min(n, 1000), at))
    wave = crop(CropReader(utterances), 0, 20000, 4000)
    assert np.array_equal(wave, SPEECH[20000:24000] / np.float32(32768))


def test_a_failing_disk_is_named(tmp_path, monkeypatch):
    utterances = make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    message = error_of(CropReader(utterances))
    assert message == (
        f"utterance 'a': {tmp_path / '0.tar'}: Input/output error; is the disk or the network down?"
    )


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_open_files_stay_below_the_limit(tmp_path, monkeypatch):
    wave = encoded(SPEECH[:300], "wav")
    utterances = make_list(tmp_path, {f"{n}.tar": {f"k{n}.wav": wave} for n in range(12)})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    before = open_files()
    reader = CropReader(utterances)
    for row in [*range(12), *range(12)]:
        crop(reader, row, 3, 200)
        assert open_files() <= before + 10
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    for row in range(12):
        crop(reader, row, 3, 200)
    assert open_files() == before + 24


def test_a_reader_travels_to_other_processes(mixed):
    utterances, truth = mixed
    reader = CropReader(utterances)
    crop(reader, 0, 0, 5)
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(crop(copy, 5, 7, 900), truth[utterances.key(5)][7:907])


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_files_of_their_own(tmp_path, kind):
    paths = {}
    for key, samples in (("a", 5000), ("b", 7000)):
        paths[key] = tmp_path / f"{key}.{kind}"
        paths[key].write_bytes(encoded(SPEECH[:samples], kind))
    utterances = raw_utterances(paths, coded=kind != "wav")
    whole = soundfile.read(paths["b"], dtype="float32")[0]
    assert np.array_equal(crop(CropReader(utterances), 1, 1000, 2500), whole[1000:3500])
    content = paths["b"].read_bytes()
    paths["b"].write_bytes(content + b"12")
    message = error_of(CropReader(utterances), 1)
    assert f"'b': {paths['b']}: {len(content) + 2} bytes, but {len(content)} when" in message
    if kind != "wav":
        paths["b"].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert "changed or damaged: wrong checksum" in error_of(CropReader(utterances), 1)


def test_files_of_their_own_do_not_go_through_the_cache(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded(SPEECH[:900], "wav"))
    utterances = raw_utterances({"a": tmp_path / "a.wav"}, coded=False)
    reader = CropReader(utterances, AccessSettings(cache_dir=str(tmp_path / "near")))
    reader.ahead([0])
    assert np.array_equal(crop(reader, 0, 5, 50), SPEECH[5:55] / np.float32(32768))
    assert not (tmp_path / "near").exists()


def test_files_that_ffmpeg_decodes(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    path.write_bytes(encoded(SPEECH[:900], "flac"))
    utterances = raw_utterances({"a": path}, coded=True)
    wave = np.zeros(5, np.float32)
    monkeypatch.setattr(access, "decode", lambda *asked: (wave, asked == (str(path), 2, 7)))
    assert np.array_equal(crop(CropReader(utterances), 0, 2, 5), wave)


def test_urls_are_read_by_ranges(tmp_path, mixed):
    local, truth = mixed
    with served(tmp_path) as server:
        utterances = remote_list(tmp_path, server, ["0.tar", "1.tar"])
        reader = CropReader(utterances)
        for row in range(len(utterances)):
            whole = truth[utterances.key(row)]
            assert np.array_equal(crop(reader, row, 1500, 1000), whole[1500:2500])
        reader = CropReader(utterances)
        server.ranges.clear()
        crop(reader, 0, 1500, 1000)
        (first, stop) = server.ranges[0]
        begin = int(local.offset[0]) + 44 + 3000
        assert (first, stop) == (begin // BLOCK * BLOCK, -(-(begin + 2000) // BLOCK) * BLOCK)


@pytest.fixture
def one(tmp_path):
    """A server of one shard, its utterances, quick settings, and the path of the tar."""
    make_list(tmp_path, {"0.tar": {"a.wav": encoded(SPEECH, "wav")}})
    with served(tmp_path) as server:
        yield server, remote_list(tmp_path, server, ["0.tar"]), f"{server.url}/0.tar"


def test_what_passes_is_tried_again(one):
    server, utterances, _ = one
    for fault in ("503", "429", "stops", "short"):
        server.requests.clear()
        server.fault = lambda path, number, fault=fault: fault if number <= 2 else ""
        wave = crop(CropReader(utterances), 0, 100, 4000)
        assert np.array_equal(wave, SPEECH[100:4100] / np.float32(32768)), fault


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("503", r"503.*\(3 tries\)"),
        ("stops", r"\(3 tries\)"),
        ("short", r"6144 of \d+ bytes came \(3 tries\)"),
        ("hangs", r"\(3 tries\)"),
        ("404", "not found; make it again, or mend the list$"),
        ("403", "403[^()]*$"),
        ("whole", "sends whole files only, not ranges of them; give a cache_dir"),
    ],
)
def test_what_stays_is_named(one, fault, text):
    server, utterances, url = one
    seconds = 0.2 if fault == "hangs" else 20
    reader = CropReader(utterances, AccessSettings(timeout_seconds=seconds, retries=2))
    server.fault = lambda path, number: fault if path.endswith(".tar") else ""
    with pytest.raises(DataError, match=f"^utterance 'a': {url}: .*{text}"):
        crop(reader, 0, 2500, 5000)


def test_a_call_that_never_returns_is_given_up(monkeypatch):
    end = threading.Event()
    reader = remote.Remote(AccessSettings(timeout_seconds=0.1, retries=1))

    class Stuck:
        def cat_file(self, path, start=None, end=None):
            wait()

    wait = end.wait
    monkeypatch.setattr(reader, "_located", lambda url: (Stuck(), url))
    with pytest.raises(DataError, match=r"odd://x: no answer within 0.1 s \(2 tries\)"):
        reader.read("odd://x", 0, 5, 5)
    end.set()


def test_a_slow_call_is_waited_for_as_long_as_something_comes():
    end, steps = threading.Event(), itertools.count()

    def state():
        step = next(steps)
        if step == 5:
            end.set()
        return step

    assert remote._within(0.02, lambda: end.wait(30), state) and next(steps) > 5


def test_sums_that_are_not_there_are_named(one, tmp_path):
    _, utterances, url = one
    (tmp_path / "0.sums").unlink()
    expected = f"{url[:-4]}.sums: not found; python -m wesp_lap.bin.index_shards"
    assert expected in error_of(CropReader(utterances))


def test_damage_behind_a_url_is_met(one, tmp_path):
    _, utterances, url = one
    content = bytearray((tmp_path / "0.tar").read_bytes())
    content[5000] ^= 1
    (tmp_path / "0.tar").write_bytes(content)
    assert f"{url}: damaged between bytes 4096 and" in error_of(
        CropReader(utterances), 0, 2000, 3000
    )


def test_files_of_their_own_behind_urls(tmp_path):
    (tmp_path / "a.flac").write_bytes(encoded(SPEECH[:9000], "flac"))
    local = raw_utterances({"a": tmp_path / "a.flac"}, coded=True)
    with served(tmp_path) as server:
        tars = np.array([f"{server.url}/a.flac".encode()])
        utterances = Utterances(**{**vars(local), "tars": tars})
        wave = crop(CropReader(utterances), 0, 2000, 3000)
    assert np.array_equal(wave, SPEECH[2000:5000] / np.float32(32768))


def test_other_protocols_and_missing_packages(tmp_path, mixed):
    local, truth = mixed
    memory = fsspec.filesystem("memory")
    for name in ("0.tar", "0.sums"):
        memory.pipe(f"/shards/{name}", (tmp_path / name).read_bytes())
    tars = np.array([b"memory://shards/0.tar", b"nosuch://shards/1.tar"])
    reader = CropReader(Utterances(**{**vars(local), "tars": tars}))
    for row in range(4):
        whole = truth[local.key(row)]
        assert np.array_equal(crop(reader, row, 100, 2000), whole[100:2100])
    assert "Protocol not known: nosuch" in error_of(reader, 4)


def test_a_missing_package_is_named_with_its_mend(monkeypatch):
    def missing(url):
        raise ImportError("no s3fs")

    reader = remote.Remote(AccessSettings())
    monkeypatch.setattr(reader, "_located", missing)
    with pytest.raises(DataError, match="s3:// needs a package that is not there: pip install s3f"):
        reader.read("s3://bucket/a.tar", 0, 1, 1)
    with pytest.raises(DataError, match=r"pip install 'wesp_lap\[urls\]'"):
        reader.read("https://host/a.tar", 0, 1, 1)


def test_impossible_settings_are_refused():
    for fields in ({"cache_gb": 0}, {"timeout_seconds": 0}, {"retries": -1}):
        with pytest.raises(ValueError, match="are needed"):
            AccessSettings(**fields)


def test_sums_of_the_tests_are_those_of_the_library(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(os.urandom(3 * BLOCK + 700))
    write_sums(path)
    assert block_sums(path.read_bytes()).tobytes() == (tmp_path / "x.sums").read_bytes()
