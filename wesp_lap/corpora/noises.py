"""MUSAN and RIRS_NOISES: where they lie, unpacked if need be, and what is missing of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wesp_lap.corpora.archives import unpack
from wesp_lap.corpora.parts import find_archives
from wesp_lap.corpora.scan import scan_audio
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.problems import Level, Problem, some
from wesp_lap.kaldi.tables import read_lines

_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_REAL = "real_rirs_isotropic_noises"
_REAL_RESPONSES = 325


@dataclass(frozen=True)
class _Layout:
    """Folders of a collection and how many recordings were published in each."""

    title: str
    archive: str
    roots: tuple[str, ...]
    folders: Mapping[str, int]


MUSAN = _Layout("MUSAN", "musan", ("musan", "MUSAN"), {"noise": 930, "music": 660, "speech": 426})
RIRS = _Layout(
    "RIRS_NOISES",
    "rirs_noises",
    ("RIRS_NOISES", "rirs_noises"),
    {f"simulated_rirs/{room}room": 20_000 for room in ("small", "medium", "large")},
)


def noise_folder(path: PathLike, unpack_dir: PathLike, layout: _Layout = MUSAN) -> Path:
    """Return the folder that the noise bank reads: ``path``, or what an archive there unpacks to.

    Args:
        path: folder of the collection or above it, folder with its archive, or the archive; Kaldi
            data directories, LMDB databases and folders of one's own are returned as they are.
        unpack_dir: where an archive is unpacked.
        layout: MUSAN or RIRS.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"{place}: no such file or folder")
    root = _root(place, layout)
    if _is_keyed(place):
        return place
    if root is not None:
        return root
    archives = find_archives(place, [layout.archive])
    if not archives:
        return place
    folder = unpack(archives[0], Path(unpack_dir) / layout.archive)
    return _root(folder, layout) or folder


def check_musan(path: PathLike) -> list[Problem]:
    """Say what is missing of MUSAN; an archive is checked when it is unpacked."""
    return _check(Path(path), MUSAN)


def check_rirs(path: PathLike) -> list[Problem]:
    """Say what is missing of RIRS_NOISES: simulated responses, and real ones of rir_list."""
    place = Path(path)
    root = None if _is_keyed(place) else _root(place, RIRS)
    return _check(place, RIRS) + ([] if root is None else _real_responses(root))


def _check(place: Path, layout: _Layout) -> list[Problem]:
    mend = f"give the folder of {layout.title}, or its archive"
    if not place.exists():
        return [Problem("error", f"{place}: no such file or folder", mend)]
    if _is_keyed(place):
        return []
    try:
        root = _root(place, layout)
        if root is None:
            return _without_layout(place, layout, mend)
        found = {name: _count(root / name) for name in layout.folders}
    except DataError as error:
        return [Problem("error", str(error), mend)]
    problems = []
    empty = [name for name, count in found.items() if not count]
    if empty:
        # The noise bank needs all categories of noise; of responses, any will do.
        level: Level = "error" if layout is MUSAN else "warning"
        text = f"{root}: no recordings in {', '.join(f'{name}/' for name in empty)}"
        problems.append(Problem(level, text, f"unpack {layout.title} again"))
    less = [
        f"{count:,} of {layout.folders[name]:,} in {name}/"
        for name, count in found.items()
        if 0 < count < layout.folders[name]
    ]
    if less:
        text = f"{root}: smaller than {layout.title} was published: {', '.join(less)}"
        mend = "nothing to do for a collection of your own; otherwise unpack it again"
        problems.append(Problem("warning", text, mend))
    return problems


def _without_layout(place: Path, layout: _Layout, mend: str) -> list[Problem]:
    if find_archives(place, [layout.archive]):
        return []
    if layout is RIRS and _count(place):
        return []  # any folder of responses will do
    folders = ", ".join(f"{name}/" for name in layout.folders)
    text = f"{place}: not laid out as {layout.title}: none of {folders}, and no archive of it"
    return [Problem("error", text, mend)]


def _real_responses(root: Path) -> list[Problem]:
    tables = (root / _REAL / "rir_list", root / "rir_list")
    table = next((path for path in tables if path.is_file()), tables[0])
    if not table.is_file():
        text = f"{table}: no such file, so only simulated rooms are used"
        return [Problem("warning", text, "unpack RIRS_NOISES again to use the real ones too")]
    names = [line.decode().split()[-1] for line in read_lines(table) if line.strip()]
    places = (Path(), root, root.parent)
    lost = [name for name in names if not any((place / name).is_file() for place in places)]
    if lost:
        text = f"{table}: {len(lost)} of {len(names)} responses are not there: {some(lost)}"
        return [Problem("error", text, "unpack RIRS_NOISES again, or take these lines out")]
    if len(names) < _REAL_RESPONSES:
        text = f"{table}: {len(names)} responses, {_REAL_RESPONSES} were published"
        return [Problem("warning", text, "nothing to do for a collection of your own")]
    return []


def _is_keyed(place: Path) -> bool:
    """Return True for what the noise bank reads by key: data directories and LMDB databases."""
    if place.is_file():
        return place.suffix in (".mdb", ".lmdb")
    return any((place / name).is_file() for name in ("wav.scp", "data.mdb"))


def _root(place: Path, layout: _Layout) -> Path | None:
    """Return the folder with the collection's folders in it: ``place``, one below it, or None."""
    candidates = [place, *(place / name for name in layout.roots)]
    return next((one for one in candidates if _has_layout(one, layout)), None)


def _has_layout(folder: Path, layout: _Layout) -> bool:
    names = {name.split("/")[0] for name in layout.folders}
    if layout is RIRS:
        names.add(_REAL)
    return any((folder / name).is_dir() for name in names)


def _count(folder: Path) -> int:
    return len(scan_audio(folder, suffixes=_SUFFIXES)) if folder.is_dir() else 0
