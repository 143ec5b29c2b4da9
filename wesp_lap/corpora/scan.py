"""Find the audio files of a corpus, and write what was found as a data directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from operator import itemgetter
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, write_json
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tableset import table_files

AUDIO_SUFFIXES = (".wav", ".flac", ".m4a")
# No corpus is deeper; it is what ends a walk around a circle of links.
DEPTH = 8
_MARK = "made.json"
_THREADS = 16
_TOGETHER = 64


class AudioFile(NamedTuple):
    """One file: its path as text (a corpus has a million of them) and its size in bytes."""

    path: str
    size: int


class _Found(NamedTuple):
    folders: list[str]
    files: list[AudioFile]
    faults: list[str]


def scan_audio(
    folders: PathLike | Iterable[PathLike],
    depth: int = DEPTH,
    suffixes: Sequence[str] = AUDIO_SUFFIXES,
) -> list[AudioFile]:
    """List the audio files below folders in one pass, sorted by path.

    Hidden files and folders are left out, and with them the ``._NAME`` files of macOS, and so is
    ``__MACOSX``. Links are followed. Every file's size is asked for, which tells empty ones; many
    folders are read at a time, as a network file system answers slowly but many at once.

    Args:
        folders: one folder or several; a file below two of them is listed once.
        depth: how many names a path may have below its folder.
        suffixes: what counts as audio, in small letters with the dot.

    Raises:
        DataError: folders that are missing or cannot be read, or empty files; all together.
    """
    one = isinstance(folders, (str, os.PathLike))
    level = [os.fspath(folder) for folder in ([folders] if one else folders)]  # type: ignore
    missing = [f"{folder}: no such folder" for folder in level if not os.path.isdir(folder)]
    raise_problems("audio files cannot be listed", missing)
    wanted = tuple(suffixes)
    files: list[AudioFile] = []
    faults: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in range(depth):
            groups = [level[at : at + _TOGETHER] for at in range(0, len(level), _TOGETHER)]
            found = list(pool.map(lambda group: [_read(name, wanted) for name in group], groups))
            parts = list(chain.from_iterable(found))
            files += chain.from_iterable(part.files for part in parts)
            faults += chain.from_iterable(part.faults for part in parts)
            level = list(chain.from_iterable(part.folders for part in parts))
            if not level:
                break
    empty = [f"{file.path}: empty file" for file in files if not file.size]
    mend = "Fetch or unpack these files again; nothing has been written."
    raise_problems("audio files cannot be listed", sorted(faults) + sorted(empty), mend)
    # By path alone: comparing pairs takes several times as long.
    return sorted(set(files) if not one else files, key=itemgetter(0))


def audio_files(
    folder: PathLike, depth: int = DEPTH, suffixes: Sequence[str] = AUDIO_SUFFIXES
) -> list[Path]:
    """Return the paths that ``scan_audio`` lists below one folder; the same errors."""
    return [Path(file.path) for file in scan_audio(folder, depth, suffixes)]


def _read(folder: str, suffixes: tuple[str, ...]) -> _Found:
    found = _Found([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or name == "__MACOSX":
                    continue
                if name.lower().endswith(suffixes):
                    _note(entry, found)
                elif entry.is_dir():
                    found.folders.append(entry.path)
    except OSError as error:
        found.faults.append(f"{folder}: cannot be read: {error.strerror}")
    return found


def _note(entry: os.DirEntry[str], found: _Found) -> None:
    try:
        status = entry.stat()
        if S_ISDIR(status.st_mode):
            found.folders.append(entry.path)
        else:
            found.files.append(AudioFile(entry.path, status.st_size))
    except OSError as error:  # a link to nothing
        found.faults.append(f"{entry.path}: cannot be read: {error.strerror}")


def write_data_dir(
    folder: PathLike,
    wav: Mapping[str, str],
    utt2spk: Mapping[str, str],
    utt2dur: Mapping[str, float] | None = None,
) -> DataDir:
    """Write wav.scp, utt2spk and spk2utt (and utt2dur) with absolute paths, each file atomically.

    wav.scp comes last and the one of an earlier run goes first: a folder with wav.scp is whole.
    Tables of an earlier run that are not written now are removed, as they belong to other files.

    Raises:
        DataError: nothing to write, or audio without speaker, or speakers without audio; or the
            folder is a data directory that somebody else has made.
    """
    target = Path(folder)
    if not wav:
        raise DataError(f"{target}: there is nothing to write: no audio files were found")
    odd = sorted(wav.keys() ^ utt2spk.keys())
    if odd:
        raise DataError(f"{target}: {len(odd)} keys are not in both tables: {some(odd)}")
    if (target / "wav.scp").exists() and not (target / _MARK).exists():
        raise DataError(
            f"{target}: a data directory that was not made from a corpus here; give another "
            "folder, or move it away first"
        )
    write_json(target / _MARK, {"made_by": __name__})
    paths = {key: os.path.abspath(path) for key, path in wav.items()}
    data = DataDir(target, paths, dict(utt2spk), dict(utt2dur or {}), {})
    (target / "wav.scp").unlink(missing_ok=True)
    if target.is_dir():
        for table in table_files(target):
            table.unlink()
    data.write(target)
    return data
