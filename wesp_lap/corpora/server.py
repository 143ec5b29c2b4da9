"""Ask a server for a file: encrypted, without showing keys, with every refusal in a sentence."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from wesp_lap.errors import DataError

_TIMEOUT = 60.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
_PASSING = (408, 425, 429)  # and those of 500 and above
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: where it lies; may hold a key, so it is never shown whole.
        name: file name here.
        md5: published checksum, or None.
        size: published number of bytes, or None.
        headers: sent to this server only, not where it redirects to; never shown.
        refused: what to do when the server refuses.
    """

    url: str
    name: str
    md5: str | None = None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    refused: str = ""

    @property
    def shown(self) -> str:
        """The address without user, password and key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class NotServedError(DataError):
    """The server does not have the file, or does not give it; another one may."""


class AgainError(Exception):
    """The connection failed in a way that may pass."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from an encrypted connection to an open one."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, url: str
    ) -> Any:
        if req.full_url.startswith("https:") and not url.startswith("https:"):
            raise urllib.error.URLError("redirected from https to an unencrypted address")
        return super().redirect_request(req, fp, code, msg, headers, url)


def check_scheme(remote: Remote) -> None:
    """Refuse addresses where somebody on the way could change the file or read a password."""
    parts = urlsplit(remote.url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL):
        return
    if parts.scheme == "http" and remote.md5 is not None and not remote.headers:
        return  # anybody on the way can change it, which the checksum tells
    raise DataError(
        f"{remote.name}: {remote.shown}: not an https address, which a file without a published "
        "checksum and a request with a password need"
    )


class CompleteError(Exception):
    """The server says that there is nothing behind the bytes that are here."""


class StartOverError(AgainError):
    """The server has no part that begins where the bytes that are here end."""


def open_remote(remote: Remote, have: int, validator: str) -> Any:
    """Ask for a file from byte ``have`` on, or for all of it when it has changed.

    Args:
        remote: what to ask for.
        have: bytes that are here already.
        validator: ETag or date of the file that these bytes are of.

    Raises:
        CompleteError: all bytes are here.
        AgainError: a failure that may pass.
        NotServedError: the server refuses.
        DataError: its certificate is not valid.
    """
    request = urllib.request.Request(remote.url, headers={"User-Agent": "wesp_lap"})
    for name, value in remote.headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _Redirects())
    try:
        return opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        found = _RANGE.fullmatch(error.headers.get("Content-Range", ""))
        if error.code == 416 and have:
            if found and int(found[2]) == have:
                raise CompleteError from error
            raise StartOverError("the server has another file now") from error
        if error.code in _PASSING or error.code >= 500:
            raise AgainError(f"the server answered {error.code} {error.reason}") from error
        mend = f". {remote.refused}" if remote.refused else ""
        raise NotServedError(
            f"{remote.name}: {remote.shown}: the server answered {error.code} {error.reason}{mend}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"{remote.name}: {remote.shown}: the server's certificate is not valid: "
                f"{reason.verify_message}; use another --mirror. Certificates are always checked."
            ) from error
        raise AgainError(f"no connection: {reason or type(error).__name__}") from error


def range_start(response: Any) -> int | None:
    """Return the first byte of the part that a server sends."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found[1]) if found and found[1] else None
