import contextlib
import fcntl
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from served import encoded, served, write_shard

from wesp_lap.data import cache, locks, remote
from wesp_lap.data.access import AccessSettings, CropReader
from wesp_lap.data.index import load_utterances, sums_path
from wesp_lap.errors import DataError

WAVES = [np.random.default_rng(n).integers(-999, 999, 50000).astype(np.int16) for n in range(4)]
TAR_BYTES = 102400  # of each of the shards: 100,044 bytes of audio, header and end of the tar


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def source(tmp_path):
    """Four shards, one utterance each, and their list."""
    for number, wave in enumerate(WAVES):
        write_shard(tmp_path / "far" / f"{number}.tar", {f"u{number}.wav": encoded(wave, "wav")})
        assert (tmp_path / "far" / f"{number}.tar").stat().st_size == TAR_BYTES
    return tmp_path / "far"


@pytest.fixture
def server(source):
    with served(source) as running:
        yield running


def utterances_of(folder, prefix):
    target = folder / "shard.list"
    target.write_text("".join(f"{prefix}/{number}.tar\n" for number in range(4)))
    return load_utterances(target)


@pytest.fixture
def near(tmp_path):
    return tmp_path / "near"


def settings(near, shards=100.0, **others):
    return AccessSettings(cache_dir=str(near), cache_gb=shards * 1.15 * TAR_BYTES / 1e9, **others)


def check(reader, row):
    out = np.empty(3000, np.float32)
    reader.read(row, 2000, 3000, out)
    assert np.array_equal(out, WAVES[row][2000:5000] / np.float32(32768))


def kept(near):
    """Return which shards the cache holds, by what is under the final names."""
    return sorted(path.name.partition("-")[0] for path in near.glob("*.tar"))


def files(near):
    return sorted(path.name for path in near.iterdir() if path.name != "locks")


def asked(server, suffix=".tar"):
    return [path for path in server.requests if path.endswith(suffix)]


def test_shards_are_fetched_once_and_whole(source, server, near):
    utterances = load_local(source, server)
    for _ in range(2):
        reader = CropReader(utterances, settings(near))
        for row in (2, 0, 2):
            check(reader, row)
    assert asked(server) == ["/2.tar", "/0.tar"] and not server.ranges
    assert kept(near) == ["0", "2"]
    for path in near.glob("*.tar"):
        original = source / f"{path.name[0]}.tar"
        assert path.read_bytes() == original.read_bytes()
        sums = (Path(sums_path(name)) for name in (path, original))
        assert next(sums).read_bytes() == next(sums).read_bytes()
    assert len(files(near)) == 4


def test_paths_are_copied_too(source, near):
    reader = CropReader(utterances_of(source, source), settings(near))
    check(reader, 1)
    (source / "1.tar").unlink()
    check(CropReader(utterances_of_nothing(reader), settings(near)), 1)


def utterances_of_nothing(reader):
    return pickle.loads(pickle.dumps(reader))._utterances


def test_a_shard_that_was_made_again_is_fetched_again(source, server, near):
    check(CropReader(utterances_of(source, server.url), settings(near)), 0)
    write_shard(source / "0.tar", {"u0.wav": encoded(WAVES[3], "wav")})
    reader = CropReader(utterances_of(source, server.url), settings(near))
    out = np.empty(9, np.float32)
    reader.read(0, 0, 9, out)
    assert np.array_equal(out, WAVES[3][:9] / np.float32(32768))
    assert kept(near) == ["0", "0"]


def test_what_was_opened_longest_ago_goes(source, server, near):
    reader = CropReader(utterances_of(source, server.url), settings(near, shards=2))
    for row, expected in ((0, ["0"]), (1, ["0", "1"]), (2, ["1", "2"]), (3, ["2", "3"])):
        check(reader, row)
        assert kept(near) == expected
        for age, name in enumerate(reversed(expected)):  # dates of files may be coarse
            (path,) = near.glob(f"{name}-*.tar")
            os.utime(path, (time.time() - 100 - age,) * 2)
    other = CropReader(utterances_of(source, server.url), settings(near, shards=2))
    check(other, 2)  # now used later than 3
    check(other, 0)
    assert kept(near) == ["0", "2"] and len(files(near)) == 4
    check(reader, 3)  # still open


def test_space_of_evicted_shards_comes_back(source, server, near):
    reader = CropReader(utterances_of(source, server.url), settings(near, shards=1))
    for row in range(4):
        check(reader, row)
    deleted = [shard.is_deleted() for shard in reader._open.values()]
    # The one evicted by the last fetch goes with the next.
    assert deleted == [True, False]


def test_a_cache_that_is_too_small_is_named(source, server, near):
    reader = CropReader(utterances_of(source, server.url), settings(near, shards=0.5))
    with pytest.raises(DataError, match=r"/1\.tar: its 0\.00011\d GB do not fit .*with cache_gb"):
        check(reader, 1)


def test_a_folder_that_cannot_be_written_is_named(source, server, tmp_path):
    (tmp_path / "plain").write_text("")
    reader = CropReader(utterances_of(source, server.url), settings(tmp_path / "plain"))
    with pytest.raises(DataError, match=r"/1\.tar: cannot be kept in .*plain: .*; give another"):
        check(reader, 1)


@pytest.mark.parametrize("fault", ["503", "stops", "short"])
def test_what_passes_is_tried_again(source, server, near, fault):
    server.fault = lambda path, number: fault if number <= 2 else ""
    utterances = load_local(source, server)
    check(CropReader(utterances, settings(near)), 0)
    assert len(asked(server)) == 3


def load_local(source, server):
    """Load the indexes without the server, so that it only sees the shards' own requests."""
    utterances = utterances_of(source, source)
    tars = np.array([f"{server.url}/{number}.tar".encode() for number in range(4)])
    return type(utterances)(**{**vars(utterances), "tars": tars})


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("503", r"503.*\(2 tries\)"),
        ("stops", r"\(2 tries\)"),
        ("short", r"(bytes came|wrong block sums).*\(2 tries\)"),
        ("hangs", r"\(2 tries\)"),
        ("404", "not found; make it again, or mend the list$"),
    ],
)
def test_what_stays_is_named_and_leaves_nothing(source, server, near, fault, text):
    utterances = load_local(source, server)
    seconds = 0.2 if fault == "hangs" else 20
    reader = CropReader(utterances, settings(near, retries=1, timeout_seconds=seconds))
    server.fault = lambda path, number: fault if path == "/1.tar" else ""
    with pytest.raises(DataError, match=f"^utterance 'u1': {server.url}/1.tar: .*{text}"):
        check(reader, 1)
    assert not files(near)
    check(reader, 0)


def test_damage_at_the_source_never_enters(source, server, near):
    content = bytearray((source / "1.tar").read_bytes())
    content[99999] ^= 8
    (source / "1.tar").write_bytes(content)
    reader = CropReader(load_local(source, server), settings(near, retries=0))
    with pytest.raises(DataError, match=r"1\.tar: wrong block sums; .*check_shards --list FILE"):
        check(reader, 1)
    assert not files(near)


def test_damage_in_the_cache_is_met(source, server, near):
    utterances = load_local(source, server)
    check(CropReader(utterances, settings(near)), 0)
    (path,) = near.glob("*.tar")
    with open(path, "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\1\2\3")
    with pytest.raises(DataError, match=rf"{path}: damaged .* remove it: it is fetched again from"):
        check(CropReader(utterances, settings(near)), 0)


def read_all(utterances, chosen, rows, start):
    start.wait()
    reader = CropReader(utterances, chosen)
    for row in rows:
        check(reader, row)


def test_processes_share_what_one_has_fetched(source, server, near):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    utterances = load_local(source, server)
    server.fault = lambda path, number: "slow"
    orders = [(0, 1, 2), (2, 0, 1), (0, 2, 1)]
    processes = [
        context.Process(target=read_all, args=(utterances, settings(near), rows, start))
        for rows in orders
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(asked(server)) == ["/0.tar", "/1.tar", "/2.tar"]


def test_processes_wait_for_room_that_others_use(source, server, near):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    server.fault = lambda path, number: "slow"
    chosen, utterances = settings(near, shards=1), load_local(source, server)
    processes = [
        context.Process(target=read_all, args=(utterances, chosen, (row, 3 - row), start))
        for row in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(kept(near)) == 1


@pytest.mark.parametrize("shards", [1, 100])
def test_a_killed_download_leaves_nothing_in_the_way(source, server, near, shards):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    start.set()
    utterances = load_local(source, server)
    begun = threading.Event()

    def hang(path, number):
        if path == "/0.tar" and number == 1:
            begun.set()
            return "hangs"
        return ""

    server.fault = hang
    # With room for one shard what the killed process had begun must not count.
    chosen = settings(near, shards=shards)
    process = context.Process(target=read_all, args=(utterances, chosen, (0,), start))
    process.start()
    assert begun.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert not kept(near) and len(list(near.glob("*.partial"))) == 1
    check(CropReader(utterances, chosen), 1)
    check(CropReader(utterances, chosen), 0)
    assert kept(near)[:1] == ["0"] and not list(near.glob("*.partial"))


def test_waiting_is_told(near, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_SAY_SECONDS", 0.0)
    path = near / "locks" / "x.lock"
    tries = iter([False, False, True])
    locks.wait(lambda: next(tries), "another process that fetches x")
    assert caplog.messages == ["still waiting for another process that fetches x"] * 2
    with locks.locked(path, "x"), open(path) as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_shards_needed_next_are_fetched_ahead(source, server, near):
    reader = CropReader(load_local(source, server), settings(near))
    reader.ahead([3, 1])
    reader._cache._thread.join(60)
    assert asked(server) == ["/3.tar", "/1.tar"] and kept(near) == ["1", "3"]
    check(reader, 3)
    assert len(asked(server)) == 2
    reader.ahead([0])
    reader._cache._thread.join(60)
    assert kept(near) == ["0", "1", "3"]
    assert pickle.loads(pickle.dumps(reader))._cache._thread is None


def test_only_a_few_are_fetched_ahead(source, server, near, monkeypatch):
    monkeypatch.setattr(cache, "_AHEAD", 2)
    reader = CropReader(load_local(source, server), settings(near))
    for expected in (["0", "1"], ["0", "1", "2", "3"]):
        reader.ahead(range(4))
        reader._cache._thread.join(60)
        assert kept(near) == expected
    assert len(asked(server)) == 4


def test_what_is_needed_soon_stays(source, server, near):
    reader = CropReader(load_local(source, server), settings(near, shards=2))
    for row in (0, 1):
        check(reader, row)
    for age, path in enumerate(sorted(near.glob("*.tar"), reverse=True)):
        os.utime(path, (time.time() - 100 - age,) * 2)
    other = CropReader(load_local(source, server), settings(near, shards=2))
    other.ahead([0])
    other._cache._thread.join(60)
    check(other, 2)
    assert kept(near) == ["0", "2"]


def test_faults_ahead_show_when_the_shard_is_read(source, server, near):
    server.fault = lambda path, number: "404" if path == "/1.tar" else ""
    reader = CropReader(load_local(source, server), settings(near))
    reader.ahead([1, 2])
    reader._cache._thread.join(60)
    assert kept(near) == ["2"]
    with pytest.raises(DataError, match=r"'u1': .*/1\.tar: not found"):
        check(reader, 1)


def test_without_a_cache_nothing_is_fetched_ahead(source, server, near):
    reader = CropReader(load_local(source, server))
    reader.ahead([0, 1])
    assert not server.requests and not near.exists()


def test_a_forked_process_reads_and_fetches_by_itself(source, server, near):
    reader = CropReader(load_local(source, server), settings(near))
    plain = CropReader(load_local(source, server))
    check(reader, 0)
    check(plain, 0)
    context = multiprocessing.get_context("fork")

    def child():
        for row in range(2):
            check(plain, row)
            check(reader, row)
        reader.ahead([3])
        reader._cache._thread.join(60)
        assert kept(near) == ["0", "1", "3"]

    process = context.Process(target=child)
    process.start()
    process.join(60)
    with contextlib.suppress(ProcessLookupError):
        if process.exitcode is None:
            process.kill()
    assert process.exitcode == 0
