"""Downloads from a server that drops, changes, refuses and lies."""

import hashlib
import os
import random
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from wesp_lap.corpora import archives
from wesp_lap.corpora.catalogue import CATALOGUE, File, Release
from wesp_lap.corpora.download import catalogue_table, choose, credentials, download
from wesp_lap.corpora.fetch import fetch
from wesp_lap.corpora.server import NotServedError, Remote
from wesp_lap.errors import ConfigError, DataError

CONTENT = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """What the handler does, and what it was asked."""

    def __init__(self):
        self.files = {"a.bin": CONTENT}
        self.etag = '"one"'
        self.ranges = True
        self.says_length = True
        self.drops = []  # bytes sent until the connection is cut, one for each request
        self.answers = []  # codes in place of an answer, one for each request
        self.redirect = None
        self.requests = []

    def handle(self, handler):
        self.requests.append(dict(handler.headers))
        if self.answers and (code := self.answers.pop(0)):
            return handler.send_error(code)
        name = handler.path.rsplit("/", 1)[-1]
        if self.redirect and handler.path.startswith("/old/"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.redirect}/{name}")
            return handler.end_headers()
        if name not in self.files:
            return handler.send_error(404)
        body, start = self.files[name], 0
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if self.ranges and asked and handler.headers.get("If-Range") == self.etag:
            start = int(asked[1])
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                return handler.end_headers()
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.says_length:
            handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        stop = start + self.drops.pop(0) if self.drops else len(body)
        handler.wfile.write(body[start:stop])
        return None


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.handle(self)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}"
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def naps():
    return []


def get(server, folder, naps, md5=MD5, size=None, tries=3, path="a.bin", **more):
    remote = Remote(f"{server.url}/{path}", "a.bin", md5, size, **more)
    return fetch(remote, folder, naps.append, tries)


def test_a_file_is_fetched_and_its_checksum_compared(server, tmp_path, naps):
    assert get(server, tmp_path, naps) is None
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.part")) and naps == []


def test_without_a_published_checksum_the_files_own_is_given(server, tmp_path, naps):
    assert get(server, tmp_path, naps, md5=None) == hashlib.sha256(CONTENT).hexdigest()


def test_a_second_call_asks_nothing(server, tmp_path, naps):
    get(server, tmp_path, naps)
    get(server, tmp_path, naps)
    assert len(server.requests) == 1


def test_a_file_from_elsewhere_is_compared_and_kept(server, tmp_path, naps):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert get(server, tmp_path, naps) is None and server.requests == []
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(DataError, match=f"is there, but has MD5 .* published {MD5}; move it away"):
        get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == b"other"


def test_dropped_connections_go_on_where_they_broke(server, tmp_path, naps):
    server.drops = [100_000, 0, 50_000]
    get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [one.get("Range") for one in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert naps == [2.0, 4.0, 2.0]  # the wait grows only while nothing arrives


def test_a_later_call_goes_on_too(server, tmp_path, naps):
    server.drops = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match=r"3 times in a row; 100000 bytes are kept in .*a.bin.part"):
        get(server, tmp_path, naps)
    server.drops = []
    get(server, tmp_path, naps)
    assert server.requests[-1]["Range"] == "bytes=100000-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, naps):
    server.drops = [100_000]
    server.answers = [0, 404]
    with pytest.raises(NotServedError):
        get(server, tmp_path, naps)
    other = CONTENT[::-1]
    server.files["a.bin"], server.etag, server.answers = other, '"two"', []
    get(server, tmp_path, naps, md5=hashlib.md5(other).hexdigest())
    assert server.requests[-1]["If-Range"] == '"one"'
    assert (tmp_path / "a.bin").read_bytes() == other


@pytest.mark.parametrize(
    "change",
    [{"ranges": False}, {"etag": 'W/"weak"'}, {"etag": ""}],
    ids=["ranges", "weak", "none"],
)
def test_a_server_that_cannot_go_on_starts_over(server, tmp_path, naps, change):
    vars(server).update(change)
    server.drops = [100_000]
    get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server, tmp_path, naps):
    server.drops = [100_000]
    server.answers = [0, 404]
    with pytest.raises(NotServedError):
        get(server, tmp_path, naps)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_dropped(server, tmp_path, naps):
    server.drops = [100_000]
    server.answers = [0, 404]
    with pytest.raises(NotServedError):
        get(server, tmp_path, naps)
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_the_file_as_bad(server, tmp_path, naps):
    with pytest.raises(DataError, match=f"MD5 {MD5}, published 0000: .*kept as .*a.bin.bad"):
        get(server, tmp_path, naps, md5="0000")
    assert (tmp_path / "a.bin.bad").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin.bad"]


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path, naps):
    with pytest.raises(DataError, match="has 300000 bytes, published are 7"):
        get(server, tmp_path, naps, size=7)
    assert list(tmp_path.iterdir()) == []


def test_without_a_length_the_checksum_tells_a_cut_file(server, tmp_path, naps):
    server.says_length = False
    server.drops = [1000]
    with pytest.raises(DataError, match="published"):
        get(server, tmp_path, naps)
    (tmp_path / "a.bin.bad").unlink()
    get(server, tmp_path, naps)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_passing_answers_are_asked_again_and_lasting_ones_not(server, tmp_path, naps):
    server.answers = [503, 429]
    get(server, tmp_path, naps)
    assert naps == [2.0, 4.0]
    for code in (401, 403, 404):
        server.answers, asked = [code], len(server.requests)
        with pytest.raises(NotServedError, match=f"answered {code} .*. ask the makers"):
            get(server, tmp_path / str(code), naps, refused="ask the makers")
        assert len(server.requests) == asked + 1
        assert list((tmp_path / str(code)).iterdir()) == []


def test_a_server_that_is_not_there_is_named(tmp_path, naps):
    remote = Remote("http://127.0.0.1:9/dir/a.bin?key=secret", "a.bin", MD5)
    with pytest.raises(NotServedError, match=r"no connection: .*, 3 times in a row") as caught:
        fetch(remote, tmp_path, naps.append, 3)
    assert "secret" not in str(caught.value) and naps == [2.0, 4.0]


def test_passwords_go_to_the_server_and_not_where_it_redirects(server, tmp_path, naps):
    server.redirect = server.url.replace("127.0.0.1", "localhost")
    get(server, tmp_path, naps, path="old/a.bin", headers={"Authorization": "Basic c2VjcmV0"})
    first, second = server.requests
    assert first["Authorization"] == "Basic c2VjcmV0" and "Authorization" not in second
    assert "c2VjcmV0" not in repr(Remote("u", "n", headers={"Authorization": "c2VjcmV0"}))


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"]
)
def test_open_connections_are_refused_where_nothing_would_notice(tmp_path, naps, url):
    with pytest.raises(DataError, match="not an https address"):
        fetch(Remote(url, "a.bin"), tmp_path, naps.append)
    with pytest.raises(DataError, match="not an https address"):
        fetch(Remote(url, "a.bin", MD5, headers={"Authorization": "x"}), tmp_path, naps.append)


def test_a_full_disk_is_noticed_before_the_first_byte(server, tmp_path, naps, monkeypatch):
    status = SimpleNamespace(f_frsize=4096, f_bavail=10, f_favail=100)
    monkeypatch.setattr(archives.os, "statvfs", lambda _: status)
    with pytest.raises(DataError, match=r"a\.bin: needs 0\.0 GB"):
        get(server, tmp_path, naps)
    files = (File("a.bin", (server.url,), MD5, 5_000_000_000),)
    with pytest.raises(DataError, match=r"the downloads: needs 5\.0 GB"):
        download(tmp_path, ["one"], catalogue={"one": Release(files, 5)})


def test_two_processes_do_not_write_one_file(server, tmp_path, naps):
    code = (
        "import fcntl, sys; stream = open(sys.argv[1], 'ab'); "
        "fcntl.flock(stream, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.bin.part")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(DataError, match="another process is fetching this file"):
        get(server, tmp_path, naps)
    holder.communicate()
    get(server, tmp_path, naps)


def releases(server, **joined):
    return {
        "one": Release((File("a.bin", (server.url,), MD5),), 1),
        "two": Release(
            (File("b.tar.gzaa", (server.url,)), File("b.tar.gzab", (server.url,))), 1, joined
        ),
    }


def test_corpora_go_into_their_folders(server, tmp_path):
    server.files |= {"b.tar.gzaa": b"first", "b.tar.gzab": b"second"}
    joined = {"b.tar.gz": hashlib.md5(b"firstsecond").hexdigest()}
    for _ in range(2):
        done = download(tmp_path, ["one", "two"], catalogue=releases(server, **joined))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in done) == [
        "one/a.bin",
        "two/b.tar.gzaa",
        "two/b.tar.gzab",
    ]
    assert len(server.requests) == 3


def test_parts_that_do_not_make_the_published_whole_are_kept_as_bad(server, tmp_path):
    server.files |= {"b.tar.gzaa": b"first", "b.tar.gzab": b"second"}
    with pytest.raises(DataError, match=r"b.tar.gzab: MD5 .* together, published 00"):
        download(tmp_path, ["two"], catalogue=releases(server, **{"b.tar.gz": "00"}))
    assert (tmp_path / "two" / "b.tar.gzaa.bad").read_bytes() == b"first"


def test_all_files_that_fail_are_named_and_the_others_there(server, tmp_path):
    with pytest.raises(DataError) as caught:
        download(tmp_path, ["one", "two"], catalogue=releases(server))
    text = str(caught.value)
    assert "1 of 3 files are in" in text and "gzaa" in text and "gzab" in text
    assert (tmp_path / "one" / "a.bin").exists()


def test_the_next_publisher_is_asked_when_the_first_has_not_the_file(server, tmp_path):
    files = (File("a.bin", (f"{server.url}/old/", f"{server.url}/new/"), MD5),)
    server.answers = [404]
    download(tmp_path, ["one"], catalogue={"one": Release(files, 1)})
    assert (tmp_path / "one" / "a.bin").exists()


@pytest.mark.parametrize("form", ["{url}/mirror", "{url}/get?file={{file}}&key=k"])
def test_a_mirror_takes_the_place_of_the_publisher(server, tmp_path, form, monkeypatch):
    nobody = {"one": Release((File("a.bin", ("https://nobody.invalid",), MD5),), 1)}
    mirror = form.format(url=server.url)
    server.files["get?file=a.bin&key=k"] = CONTENT
    download(tmp_path / "1", ["one"], mirror, catalogue=nobody)
    monkeypatch.setenv("WESP_LAP_MIRROR", mirror)
    download(tmp_path / "2", ["one"], catalogue=nobody)
    assert (tmp_path / "2" / "one" / "a.bin").read_bytes() == CONTENT


def test_credentials_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("WESP_LAP_USER", "me")
    monkeypatch.setenv("WESP_LAP_PASSWORD", "word")
    monkeypatch.setenv("WESP_LAP_HEADER", "X-Key: 1:2")
    assert credentials() == {"Authorization": "Basic bWU6d29yZA==", "X-Key": "1:2"}
    monkeypatch.setenv("WESP_LAP_HEADER", "secret")
    with pytest.raises(ConfigError, match="expected 'Name: value'") as caught:
        credentials()
    assert "secret" not in str(caught.value)


def test_secrets_go_to_the_mirror_or_to_who_asks_for_them(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WESP_LAP_USER", "me")

    def shown(folder, mirror, refused):
        """Return which addresses were asked, and whether they saw the password."""
        server.requests.clear()
        files = (File("a.bin", (f"{server.url}/publisher",), MD5),)
        catalogue = {"one": Release(files, 1, refused=refused)}
        download(tmp_path / folder, ["one"], mirror, catalogue=catalogue)
        return ["Authorization" in request for request in server.requests]

    assert shown("free", None, "") == [False]
    assert shown("on request", None, "ask them") == [True]
    assert shown("mirror", f"{server.url}/mirror", "") == [True]
    # The mirror of one corpus does not have another, which everybody may fetch.
    server.answers = [404]
    assert shown("elsewhere", f"{server.url}/mirror", "") == [True, False]
    server.answers = [404]
    with pytest.raises(DataError, match="ask them"):
        shown("nowhere", f"{server.url}/mirror", "ask them")


def test_patterns_choose_files():
    names = [file.name for _, file in choose(["librispeech"], ["dev-*", "test-*"])]
    assert names == [
        f"{one}.tar.gz" for one in ("dev-clean", "dev-other", "test-clean", "test-other")
    ]
    with pytest.raises(ConfigError, match="nothing-\\* fits none of train-clean-100"):
        choose(["librispeech"], ["nothing-*"])
    with pytest.raises(ConfigError, match=r"unknown 'musn' .did you mean 'musan'"):
        choose(["musn"], [])


def test_the_catalogue_is_well_formed():
    files = [file for release in CATALOGUE.values() for file in release.files]
    assert len({file.name for file in files}) == len(files)
    sums = [file.md5 for file in files if file.md5]
    sums += [one for release in CATALOGUE.values() for one in (release.joined or {}).values()]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in sums) and len(set(sums)) == len(sums)
    assert all(
        base.startswith("https://") and base.endswith("/") for f in files for base in f.bases
    )
    table = catalogue_table()
    assert all(file.name in table for file in files)


def test_the_command_says_what_it_fetched_and_what_it_could_not_compare(server, tmp_path):
    for name in ("veri_test2.txt", "vox2_meta.csv"):
        server.files[name] = CONTENT
    words = [sys.executable, "-m", "wesp_lap.bin.download", "--out", str(tmp_path)]
    words += ["--mirror", server.url, "--corpora", "voxceleb2", "--only", "vox2_meta.csv"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(CONTENT).hexdigest() in done.stdout
    assert "no published checksum to compare" in done.stdout
    words[-3:] = ["voxceleb1", "--only", "veri_test2.txt"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1 and "published b73110731c9223c1461fe49cb48dddfc" in done.stderr
    done = subprocess.run([*words[:3], "--list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "musan.tar.gz" in done.stdout
    done = subprocess.run(words[:3], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "give --out DIR and --corpora" in done.stderr
