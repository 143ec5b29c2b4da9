"""Fetch one file over HTTP: on from where it stopped, compared with its checksum, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from wesp_lap.corpora.archives import check_space
from wesp_lap.corpora.server import (
    AgainError,
    CompleteError,
    NotServedError,
    Remote,
    StartOverError,
    check_scheme,
    open_remote,
    range_start,
)
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike, Stamp, read_json, write_json
from wesp_lap.log import get_logger

TRIES = 8
_LONGEST_WAIT = 60.0
_BLOCK = 1 << 20
_SAY_SECONDS = 30.0


def fetch(
    remote: Remote,
    folder: PathLike,
    sleep: Callable[[float], None] = time.sleep,
    tries: int = TRIES,
) -> str | None:
    """Fetch a file into a folder.

    What arrives is kept in ``NAME.part``; a later call goes on there, if the server says that its
    file is still the same one. A file that was fetched and compared before costs nothing.

    Returns:
        The SHA-256 of the file when there is no published checksum to compare; else None.

    Raises:
        NotServedError: the server does not have the file or refuses.
        DataError: a wrong checksum (the file is kept as NAME.bad), too little space, a server
            that cannot be reached ``tries`` times in a row without a byte, or is not who it says.
    """
    target = Path(folder) / remote.name
    stamp = Stamp(
        target.with_name(f".{target.name}.fetched.json"), {"md5": remote.md5}, media=[target]
    )
    if target.exists():
        if stamp.is_fresh():
            get_logger().info("%s: there already", target)
            return None
        return _compare_existing(remote, target)
    check_scheme(remote)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as stream:
        digest = _transfer(remote, stream, part, sleep, tries)
        if remote.md5 is not None and digest != remote.md5:
            bad = target.with_name(f"{target.name}.bad")
            part.replace(bad)
            _state_path(part).unlink(missing_ok=True)
            raise DataError(
                f"{remote.name}: MD5 {digest}, published {remote.md5}: the file from "
                f"{remote.shown} is not the published one or was damaged on its way; it is kept "
                f"as {bad}. Run the command again; if the sum stays the same, use another --mirror."
            )
        part.replace(target)
    _state_path(part).unlink(missing_ok=True)
    _mark(remote, target)
    get_logger().info("%s: %.2f GB", target, target.stat().st_size / 1e9)
    return None if remote.md5 else digest


def _mark(remote: Remote, target: Path) -> None:
    stamp = target.with_name(f".{target.name}.fetched.json")
    Stamp(stamp, {"md5": remote.md5}, media=[target]).write([target])


def _compare_existing(remote: Remote, target: Path) -> str | None:
    with open(target, "rb") as stream:
        digest = _update(_new_digest(remote), stream).hexdigest()
    if remote.md5 is not None and digest != remote.md5:
        raise DataError(
            f"{target}: is there, but has MD5 {digest}, published {remote.md5}; move it away to "
            "fetch it again"
        )
    _mark(remote, target)
    return None if remote.md5 else digest


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    with open(part, "ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{part}: another process is fetching this file") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield stream
        finally:
            if part.exists() and not _size(stream):
                part.unlink()


def _transfer(
    remote: Remote, stream: IO[bytes], part: Path, sleep: Callable[[float], None], tries: int
) -> str:
    """Fetch all bytes, in as many connections as it takes; return the checksum."""
    failures = 0
    while True:
        before = _size(stream)
        try:
            return _attempt(remote, stream, part)
        except AgainError as error:
            failures = 1 if _size(stream) > before else failures + 1
            if failures >= tries:
                # Without a byte of the file here, another server may do as well.
                raise (DataError if _size(stream) else NotServedError)(
                    f"{remote.name}: {remote.shown}: {error}, {tries} times in a row; "
                    f"{_size(stream)} bytes are kept in {part}: run the same command to go on"
                ) from error
            wait = min(_LONGEST_WAIT, 2.0**failures)
            get_logger().info("%s: %s; again in %.0f s", remote.name, error, wait)
            sleep(wait)


def _size(stream: IO[bytes]) -> int:
    return stream.seek(0, 2)


def _attempt(remote: Remote, stream: IO[bytes], part: Path) -> str:
    validator = _validator(remote, part)
    have = _size(stream)
    if have and not validator:
        stream.truncate(0)
        have = 0
    try:
        response = open_remote(remote, have, validator)
    except StartOverError:
        stream.truncate(0)
        raise
    except CompleteError:
        stream.seek(0)
        return _update(_new_digest(remote), stream).hexdigest()
    with response:
        if response.status != 206:  # the whole file: it has changed, or the server has no ranges
            stream.truncate(0)
            have = 0
        elif range_start(response) != have:
            stream.truncate(0)
            raise AgainError("the server sent another part than was asked for")
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if None not in (total, remote.size) and total != remote.size:
            raise DataError(
                f"{remote.name}: {remote.shown} has {total} bytes, published are {remote.size}"
            )
        check_space(part.parent, (total or have) - have, 1, remote.name)
        write_json(_state_path(part), _state(remote, response))
        stream.seek(0)
        digest = _update(_new_digest(remote), stream)
        _receive(remote, response, stream, digest, total)
    return digest.hexdigest()


def _receive(
    remote: Remote, response: Any, stream: IO[bytes], digest: Any, total: int | None
) -> None:
    said = time.monotonic()
    while True:
        try:
            block = response.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            stream.flush()
            raise AgainError(f"the connection broke: {error or type(error).__name__}") from error
        if not block:
            break
        stream.write(block)
        digest.update(block)
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            of = f" of {total / 1e9:.2f}" if total else ""
            get_logger().info("%s: %.2f%s GB", remote.name, stream.tell() / 1e9, of)
    stream.flush()
    if total is not None and _size(stream) < total:
        raise AgainError(f"the connection ended after {_size(stream)} of {total} bytes")


def _state_path(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def _state(remote: Remote, response: Any) -> dict[str, str]:
    """Return what tells later whether the server's file is still the same one."""
    tag = response.headers.get("ETag", "")
    strong = tag if tag.startswith('"') else ""
    validator = strong or response.headers.get("Last-Modified", "")
    return {"source": _source(remote), "validator": validator}


def _validator(remote: Remote, part: Path) -> str:
    """Return ETag or date of the file that a part is of; empty when unknown."""
    path = _state_path(part)
    state = read_json(path) if path.is_file() else {}
    return state.get("validator", "") if state.get("source") == _source(remote) else ""


def _source(remote: Remote) -> str:
    return hashlib.sha256(remote.shown.encode()).hexdigest()


def _new_digest(remote: Remote) -> Any:
    return hashlib.md5(usedforsecurity=False) if remote.md5 else hashlib.sha256()


def _update(digest: Any, stream: IO[bytes]) -> Any:
    for block in iter(lambda: stream.read(_BLOCK), b""):
        digest.update(block)
    return digest
