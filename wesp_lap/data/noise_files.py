"""Where noises and room impulse responses lie: folders, Kaldi data directories, LMDB databases.

WeSpeaker's LMDB databases map keys to encoded audio files, beside ``__keys__``, a pickled list.
That list is never read: unpickling runs whatever the file says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wesp_lap.audio.ffmpeg import decode_to_wav, needs_ffmpeg
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import locate
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.tables import read_table
from wesp_lap.log import get_logger

NOISE_CATEGORIES = ("noise", "music", "speech")
RESPONSE_CATEGORIES = ("rir", "simulated_rir")
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_CATEGORY_PREFIX = re.compile(rf"({'|'.join(NOISE_CATEGORIES)})[^a-zA-Z0-9]")
# Folders of the simulated part of RIRS_NOISES; WeSpeaker's keys begin with them.
_SIMULATED = re.compile(r"simulated_rir|(^|[/ ])(small|medium|large)room/", re.IGNORECASE)
_KEY_LIST = b"__keys__"


class NoiseFile(NamedTuple):
    """One recording: a file, or with ``key`` an entry of the LMDB at ``path``."""

    category: str
    path: Path
    size: int
    key: str | None = None

    @property
    def name(self) -> str:
        """What messages call the recording."""
        return str(self.path) if self.key is None else f"{self.path}: {self.key}"


def list_noises(path: PathLike) -> list[NoiseFile]:
    """List the noises under a folder laid out as MUSAN, in a data directory or in an LMDB.

    Raises:
        DataError: what is missing or of no category, all at once.
    """
    folder = Path(path)
    keyed = _keyed_files(folder, responses=False)
    if keyed is not None:
        return keyed
    _say(folder, "a folder laid out as MUSAN")
    found = {name: list(_audio_under(folder / name)) for name in NOISE_CATEGORIES}
    empty = [f"no audio for '{name}' under {path}" for name in found if not found[name]]
    mend = (
        "Expected are MUSAN's folders noise/ music/ speech/, a Kaldi data directory with wav.scp, "
        "or an LMDB database."
    )
    raise_problems("no noise bank", empty, mend)
    return [NoiseFile(name, file, _size(file)) for name, files in found.items() for file in files]


def list_responses(path: PathLike) -> list[NoiseFile]:
    """List room impulse responses laid out as RIRS_NOISES, in a data directory or in an LMDB."""
    folder = Path(path)
    keyed = _keyed_files(folder, responses=True)
    if keyed is not None:
        return keyed
    _say(folder, "a folder of room responses")
    files = _response_files(folder)
    mend = (
        "Expected are the layout of RIRS_NOISES, a Kaldi data directory with wav.scp, or an LMDB "
        "database."
    )
    raise_problems("no noise bank", [] if files else [f"no audio for 'rir' under {path}"], mend)
    return [NoiseFile(_response_category(_inside(folder, f)), f, _size(f)) for f in files]


def read_recording(file: NoiseFile, database: Any = None) -> tuple[np.ndarray, int]:
    """Decode to float32 (channels, S) and the sampling rate; ``database`` is from open_lmdb.

    Raises:
        DataError: unreadable, empty, or not finite.
    """
    import soundfile

    source: io.BytesIO | Path = file.path
    if file.key is not None:
        with database.begin() as transaction:
            source = io.BytesIO(transaction.get(file.key.encode(errors="surrogateescape")))
    elif not file.path.is_file():
        raise DataError("no such file")
    elif needs_ffmpeg(file.path):
        source = io.BytesIO(decode_to_wav(file.path))
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise DataError(f"cannot be read as audio: {error}") from error
    if not len(samples):
        raise DataError("no samples")
    if not np.isfinite(samples).all():
        raise DataError("NaN or infinite samples")
    return np.ascontiguousarray(samples.T), int(rate)


def is_lmdb(path: Path) -> bool:
    """Say whether a path is an LMDB database: a folder with data.mdb, or such a file itself."""
    return (path / "data.mdb").is_file() or (path.suffix in (".mdb", ".lmdb") and path.is_file())


def open_lmdb(path: Path) -> Any:
    """Open a database for reading; use it in a with statement.

    Raises:
        DataError: the package lmdb is not there, or the database cannot be opened.
    """
    try:
        import lmdb
    except ImportError as error:
        raise DataError(
            f"{path}: an LMDB database needs the package lmdb: pip install 'wesp_lap[lmdb]'"
        ) from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir())
    except lmdb.Error as error:
        raise DataError(f"{path}: not a readable LMDB database: {error}") from error


def inputs(path: PathLike, files: Sequence[NoiseFile]) -> list[Path]:
    """Return every file that a list of recordings was made from."""
    tables = [Path(path) / name for name in ("wav.scp", "utt2category")]
    paths = [file.path / "data.mdb" if file.path.is_dir() else file.path for file in files]
    return [*filter(Path.is_file, tables), *dict.fromkeys(paths)]


def _keyed_files(folder: Path, responses: bool) -> list[NoiseFile] | None:
    """List an LMDB or a data directory; None for any other folder."""
    if is_lmdb(folder):
        _say(folder, "an LMDB database")
        entries = _database_entries(folder)
    elif (folder / "wav.scp").is_file():
        _say(folder, "a Kaldi data directory")
        entries = {key: NoiseFile("", path, _size(path)) for key, path in _files(folder).items()}
    else:
        return None
    table = folder / "utt2category"
    given = read_table(table) if table.is_file() else {}
    for key, file in entries.items():
        told = _response_category(f"{key} {file.path}") if responses else _noise_category(key)
        entries[key] = file._replace(category=given.get(key, told))
    _check(folder, entries, RESPONSE_CATEGORIES if responses else NOISE_CATEGORIES)
    return [entries[key] for key in sorted(entries)]


def _database_entries(path: Path) -> dict[str, NoiseFile]:
    entries = {}
    with open_lmdb(path) as database, database.begin(buffers=True) as transaction:
        for name, value in transaction.cursor():
            if bytes(name) != _KEY_LIST:
                key = bytes(name).decode(errors="surrogateescape")
                entries[key] = NoiseFile("", path, len(value), key)
    return entries


def _check(folder: Path, entries: dict[str, NoiseFile], allowed: tuple[str, ...]) -> None:
    names = ", ".join(allowed)
    if not entries:
        raise DataError(f"{folder}: no recordings")
    strange = [
        f"{key}: category '{file.category}'" if file.category else f"{key}: no category"
        for key, file in entries.items()
        if file.category not in allowed
    ]
    mend = (
        f"Categories are {names}: let keys start with them (noise/..., music-...), or list "
        "'key category' in utt2category."
    )
    raise_problems(f"{folder}: recordings of no known category", strange, mend)


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of wav.scp."""
    table = read_table(folder / "wav.scp")
    problems = [f"{key}: '{entry}' is a command" for key, entry in table.items() if is_pipe(entry)]
    if (folder / "segments").exists():
        problems.append("segments are not cut out of recordings here")
    mend = "Write the audio to files first: python -m wesp_lap.bin.prepare_data --allow_pipe"
    raise_problems(f"{folder}: no noises as files", problems, mend)
    return {key: locate(entry, folder) for key, entry in table.items()}


def _noise_category(key: str) -> str:
    found = _CATEGORY_PREFIX.match(key)
    return found[1] if found else ""


def _response_category(name: str) -> str:
    return "simulated_rir" if _SIMULATED.search(name) else "rir"


def _inside(folder: Path, file: Path) -> str:
    """Return a file's path from its folder on: what lies above tells nothing about it."""
    return f"{folder.name}/{file.relative_to(folder)}" if folder in file.parents else str(file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _say(folder: Path, what: str) -> None:
    get_logger().info("%s: %s", folder, what)


def _audio_under(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            yield path


def _response_files(folder: Path) -> list[Path]:
    """List what a rir_list names and all simulated responses; without either, all there is."""
    lists = [folder / "real_rirs_isotropic_noises" / "rir_list", folder / "rir_list"]
    named = {
        _beside(folder, line.split()[-1])
        for path in lists
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    simulated = set((folder / "simulated_rirs").rglob("*.wav"))
    return sorted(named | simulated) or sorted(folder.rglob("*.wav"))


def _beside(folder: Path, name: str) -> Path:
    """Resolve a path of a rir_list: as given, inside the folder, or beside it (RIRS_NOISES/...)."""
    for candidate in (Path(name), folder / name, folder.parent / name):
        if candidate.is_file():
            return candidate
    return folder / name
