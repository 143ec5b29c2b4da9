"""Shards made by hand, and a web server whose faults can be chosen."""

from __future__ import annotations

import io
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import soundfile

from wesp_lap.data.index import BLOCK, Entry, sums_path, write_index

KINDS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}


def encoded(wave: np.ndarray, kind: str) -> bytes:
    """Return int16 samples (S,) as a file."""
    buffer = io.BytesIO()
    container, subtype = KINDS[kind]
    soundfile.write(buffer, wave, 16000, format=container, subtype=subtype)
    return buffer.getvalue()


def write_sums(tar: Path) -> None:
    """Write the block sums of a tar, word by word as docs/formats.md says."""
    content = tar.read_bytes()
    content += bytes(-len(content) % BLOCK)
    sums = []
    for first in range(0, len(content), BLOCK):
        words = (content[at : at + 8] for at in range(first, first + BLOCK, 8))
        sums.append(sum(int.from_bytes(word, "little") for word in words) % 2**64)
    Path(sums_path(tar)).write_bytes(b"".join(value.to_bytes(8, "little") for value in sums))


def write_shard(tar: Path, files: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """Write a tar of ``KEY.SUFFIX`` files, its sums and index; return first and last byte."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    entries = []
    with tarfile.open(tar) as archive:
        for member in archive:
            content = files[member.name]
            key, _, suffix = member.name.rpartition(".")
            samples = soundfile.info(io.BytesIO(content)).frames
            place = (member.offset_data, member.size, samples, zlib.crc32(content), 16000)
            entries.append(Entry(key, key[0], *place, 44 if suffix == "wav" else -1))
    write_sums(tar)
    write_index(tar, "digest", entries)
    return {entry.key: (entry.offset, entry.offset + entry.size) for entry in entries}


class Server:
    """Serves a folder; ``fault(path, number)`` says what goes wrong with a file's n-th request.

    Faults: a status as text ("404", "503"), "stops" (in the middle of the body), "hangs", "short"
    (a whole answer with too few bytes), "whole" (pays no regard to ranges).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fault: Callable[[str, int], str] = lambda path, number: ""
        self.requests: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self.end = threading.Event()


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Serve ``folder`` on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_error(405)

        def do_GET(self) -> None:
            _answer(self, folder, server)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.end.set()
        http.shutdown()
        http.server_close()


def _answer(request: BaseHTTPRequestHandler, folder: Path, server: Server) -> None:
    server.requests.append(request.path)
    fault = server.fault(request.path, server.requests.count(request.path))
    path = folder / request.path.lstrip("/")
    if fault.isdigit() or not path.is_file():
        request.send_error(int(fault or 404))
        return
    if fault == "hangs":
        server.end.wait(20)
        return
    content, status = path.read_bytes(), 200
    asked = request.headers.get("Range")
    if asked and fault != "whole":
        first, last = asked.removeprefix("bytes=").split("-")
        content, status = content[int(first) : int(last) + 1], 206
        server.ranges.append((int(first), int(last) + 1))
    if fault == "short":
        content = content[: len(content) // 2]
    request.send_response(status)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if fault == "stops":
        content = content[: len(content) // 2]
        request.close_connection = True
    if fault == "slow":
        for at in range(0, len(content), 65536):
            request.wfile.write(content[at : at + 65536])
            time.sleep(0.05)
        return
    request.wfile.write(content)
