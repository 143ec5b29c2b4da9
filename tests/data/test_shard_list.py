"""Lists of shards behind URLs, and many small files at once."""

import functools
import http.server
import os
import sys
import threading

import fsspec  # noqa: F401 - its registry is looked up
import pytest

from wesp_lap.data.index import load_utterances
from wesp_lap.data.shard_list import read_bytes, read_many
from wesp_lap.errors import DataError


def tars_of(shards):
    return shards.read_text().split()


@pytest.fixture
def server(tmp_path):
    """Serve ``tmp_path`` over HTTP; gives the URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_indexes_are_read_from_urls(shards, tmp_path, server):
    expected = load_utterances(shards)
    names = [f"{server}/{os.path.relpath(tar, tmp_path)}" for tar in tars_of(shards)]
    shards.write_text("".join(f"{name}\n" for name in names))
    found = load_utterances(shards)
    assert found.digest() == expected.digest() and found.tar_name(2) == names[2]
    os.unlink(tmp_path / "shards" / "shards_000000001.index")
    with pytest.raises(DataError, match=r"/shards_000000001\.index: not found"):
        load_utterances(shards)


def test_a_protocol_without_its_package_says_what_to_install(shards, monkeypatch):
    shards.write_text("http://127.0.0.1:9/a.tar\nnosuch://b.tar\n")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, "http", raising=False)
    with pytest.raises(DataError) as caught:
        load_utterances(shards)
    assert "a.index: " in str(caught.value) and "wesp_lap[urls]" in str(caught.value)
    assert "nosuch" in str(caught.value)


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    hang = threading.Event()

    def read(name):
        if name == "b":
            hang.wait(20)
        if name == "c":
            raise DataError("c: bad")
        if name == "d":
            raise KeyError("odd")
        return name

    found = read_many(["a", "b", "c", "d"], read, timeout=0.3)
    hang.set()
    assert [str(one) for one in found] == ["a", "b: no answer within 0.3 s", "c: bad", "d: 'odd'"]


def test_a_url_that_fails_is_tried_again(tmp_path, monkeypatch):
    tries = []

    def stumble(name, mode):
        tries.append(name)
        if len(tries) < 3:
            raise OSError("connection reset")
        return open(tmp_path / "x", mode)

    (tmp_path / "x").write_bytes(b"content")
    monkeypatch.setattr("fsspec.open", stumble)
    monkeypatch.setattr("wesp_lap.data.shard_list._PAUSE_SECONDS", 0.0)
    assert read_bytes("https://host/x") == b"content"
    tries.clear()

    def miss(name, mode):
        tries.append(name)
        raise FileNotFoundError(name)

    monkeypatch.setattr("fsspec.open", miss)
    with pytest.raises(DataError, match=r"https://host/x: not found"):
        read_bytes("https://host/x")
    assert len(tries) == 1
