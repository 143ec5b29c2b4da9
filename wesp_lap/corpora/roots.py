"""The folder of a corpus, wherever it was unpacked, or its archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wesp_lap.corpora.archives import unpack
from wesp_lap.corpora.parts import find_archives
from wesp_lap.errors import DataError
from wesp_lap.files import PathLike


def find_root(
    source: PathLike,
    marker: str,
    names: Sequence[str],
    archives: Sequence[str],
    unpack_dir: PathLike,
) -> Path:
    """Return the folder of a corpus that is known by a file at its top.

    Args:
        source: that folder, the one above it, a folder with published archives, or an archive.
        marker: the file that the folder holds.
        names: what the folder may be called below ``source``.
        archives: names of the archives without suffix; they are unpacked when no folder is there.
        unpack_dir: where they are unpacked; what is whole there is kept.

    Raises:
        DataError: neither folder nor archives, or archives that are damaged.
    """
    place = Path(source)
    root = _below(place, marker, names)
    if root is not None:
        return root
    if place.exists():
        for archive in find_archives(place, archives):
            unpack(archive, unpack_dir)
        root = _below(Path(unpack_dir), marker, names)
    if root is None:
        raise DataError(
            f"{source}: no {marker} here or in {' or '.join(names)}, and no archive "
            f"{' or '.join(archives)}; give the folder into which it was unpacked or fetched"
        )
    return root


def _below(folder: Path, marker: str, names: Sequence[str]) -> Path | None:
    places = (folder / name for name in ("", *names))
    return next((place for place in places if (place / marker).is_file()), None)
