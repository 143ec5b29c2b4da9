"""Lists of shards behind URLs."""

import functools
import http.server
import os
import sys
import threading

import fsspec  # noqa: F401 - its registry is looked up
import pytest

from wesp_lap.data.index import load_utterances
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
    assert "a.index: reading http:// needs a package" in str(caught.value)
    assert "pip install 'wesp_lap[urls]'" in str(caught.value)
    assert "nosuch" in str(caught.value)
