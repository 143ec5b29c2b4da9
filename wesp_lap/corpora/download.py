"""Fetch corpora: every published file into its corpus's folder, compared with its checksum."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from wesp_lap.coerce import check_names
from wesp_lap.corpora.archives import check_space
from wesp_lap.corpora.catalogue import CATALOGUE, File, Release
from wesp_lap.corpora.fetch import fetch
from wesp_lap.corpora.parts import JoinedFile
from wesp_lap.corpora.server import NotServedError, Remote
from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike, Stamp
from wesp_lap.log import get_logger

MIRROR, USER, PASSWORD, HEADER = (
    f"WESP_LAP_{name}" for name in ("MIRROR", "USER", "PASSWORD", "HEADER")
)
_BLOCK = 1 << 20


def download(
    out: PathLike,
    corpora: Sequence[str],
    mirror: str | None = None,
    only: Sequence[str] = (),
    jobs: int = 3,
    catalogue: Mapping[str, Release] = CATALOGUE,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[Path, str | None]:
    """Fetch the files of corpora into ``out/CORPUS``.

    A second call goes on where the first one stopped, and costs nothing when all is there.

    Args:
        out: folder for all corpora.
        corpora: names of the catalogue.
        mirror: address of a folder with the files, or with ``{file}`` in the place of their names;
            by default what the environment variable WESP_LAP_MIRROR says. Without one, and for
            free corpora that it does not have, the publishers are asked.
        only: patterns such as ``dev-*``; other files are left out.
        jobs: files at a time.
        catalogue: what there is.
        sleep: how to wait between attempts.

    Returns:
        The files, each with its SHA-256 when no published checksum was there to compare.

    Raises:
        ConfigError: an unknown corpus, or patterns that fit none of its files.
        DataError: what could not be fetched, all files at once; the others are there.
    """
    folder = Path(out)
    chosen = choose(corpora, only, catalogue)
    mirror = mirror or os.environ.get(MIRROR)
    headers = credentials()
    folder.mkdir(parents=True, exist_ok=True)
    there = [(folder / name / one.name).exists() for name, one in chosen]
    left = sum(one.size or 0 for (_, one), known in zip(chosen, there, strict=True) if not known)
    check_space(folder, left, there.count(False), "the downloads")

    def work(item: tuple[str, File]) -> tuple[Path, str | None] | DataError:
        corpus, file = item
        try:
            place = folder / corpus
            servers = _servers(file, catalogue[corpus], mirror, headers)
            return place / file.name, _fetch(file, place, servers, catalogue[corpus].refused, sleep)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(work, chosen))
    problems = [str(one) for one in results if isinstance(one, DataError)]
    for corpus in dict.fromkeys(name for name, _ in chosen):
        problems += _joined_faults(folder / corpus, catalogue[corpus])
    done = len(chosen) - sum(isinstance(one, DataError) for one in results)
    raise_problems(f"{done} of {len(chosen)} files are in {folder}", problems)
    return dict(one for one in results if not isinstance(one, DataError))


def choose(
    corpora: Sequence[str], only: Sequence[str], catalogue: Mapping[str, Release] = CATALOGUE
) -> list[tuple[str, File]]:
    """Return (corpus, file) for all files that are asked for."""
    check_names(corpora, catalogue, "corpora")
    files = [(name, file) for name in dict.fromkeys(corpora) for file in catalogue[name].files]
    if not only:
        return files
    chosen = [(name, file) for name, file in files if any(fnmatch(file.name, one) for one in only)]
    idle = [one for one in only if not any(fnmatch(file.name, one) for _, file in files)]
    if idle:
        known = ", ".join(file.name for _, file in files)
        raise ConfigError(f"only: {', '.join(idle)} fits none of {known}")
    return chosen


def credentials() -> dict[str, str]:
    """Return the headers that the environment asks for: a user's password, or any other one."""
    headers = {}
    if os.environ.get(USER):
        pair = f"{os.environ[USER]}:{os.environ.get(PASSWORD, '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    text = os.environ.get(HEADER)
    if text:
        name, colon, value = text.partition(":")
        if not (colon and name.strip() and value.strip()):
            raise ConfigError(f"{HEADER}: expected 'Name: value'")  # which may be a secret
        headers[name.strip()] = value.strip()
    return headers


def _servers(
    file: File, release: Release, mirror: str | None, headers: Mapping[str, str]
) -> list[tuple[str, Mapping[str, str]]]:
    """Return addresses to ask for a file, in turn, and what each of them gets to see.

    Secrets are for the mirror, or for publishers who give a corpus on request: not for servers that
    anybody may read. What everybody may have need not be on the mirror of something else.
    """
    asks = bool(release.refused)
    publishers = [(base, headers if asks and not mirror else {}) for base in file.bases]
    if not mirror:
        return publishers
    return [(mirror, headers), *([] if asks else publishers)]


def _fetch(
    file: File,
    folder: Path,
    servers: Sequence[tuple[str, Mapping[str, str]]],
    refused: str,
    sleep: Callable[[float], None],
) -> str | None:
    """Fetch from the first server that has the file."""
    for number, (base, headers) in enumerate(servers, 1):
        if "{file}" in base:
            url = base.replace("{file}", file.name)
        else:
            url = f"{base.rstrip('/')}/{file.name}"
        remote = Remote(url, file.name, file.md5, file.size, headers, refused)
        try:
            return fetch(remote, folder, sleep)
        except NotServedError as error:
            if number == len(servers):
                raise
            get_logger().info("%s; asking the next server", error)
    raise DataError(f"{file.name}: no address is known")


def _joined_faults(folder: Path, release: Release) -> list[str]:
    """Compare the checksum of parts put together, once all of them are there."""
    faults = []
    for prefix, wanted in (release.joined or {}).items():
        files = [one for one in release.files if one.name.startswith(prefix)]
        paths = [folder / one.name for one in files]
        if all(one.md5 for one in files) or not all(path.exists() for path in paths):
            continue
        stamp = Stamp(folder / f".{prefix}.joined.json", {"md5": wanted}, media=paths)
        if stamp.is_fresh():
            continue
        digest = hashlib.md5(usedforsecurity=False)
        with JoinedFile(paths) as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(block)
        if digest.hexdigest() == wanted:
            stamp.write(paths)
            continue
        for path in paths:
            path.replace(path.with_name(f"{path.name}.bad"))
        faults.append(
            f"{paths[0]} to {paths[-1].name}: MD5 {digest.hexdigest()} together, published "
            f"{wanted}: at least one part is not the published one; they are kept as .bad"
        )
    return faults


def catalogue_table(catalogue: Mapping[str, Release] = CATALOGUE) -> str:
    """Return what can be fetched, one line a file, with sizes and checksums."""
    lines = []
    for corpus, release in catalogue.items():
        lines.append(f"{corpus}: {len(release.files)} files, about {release.about_gb:g} GB")
        for file in release.files:
            size = f"{file.size:,} bytes" if file.size else ""
            sums = f"MD5 {file.md5}" if file.md5 else "no published checksum"
            lines.append(f"  {file.name:24} {sums:38} {size:21} {file.bases[0]}".rstrip())
    return "\n".join(lines)


def free_gb(folder: PathLike) -> float:
    """Return the free space of the disk that holds a folder, in units of 10^9 bytes."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / 1e9
