"""Unpack the archives of a corpus, whole or in parts."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.corpora.archives import unpack
from wesp_lap.corpora.parts import find_archives
from wesp_lap.errors import DataError


def main(source: str, out: str) -> None:
    """Unpack every zip and tar.gz of SOURCE into OUT; what is whole there is kept.

    The parts of a split archive are read in place, without joining them on the disk.

    Args:
        source: An archive, one of its parts, or a folder with archives.
        out: Folder to unpack into.
    """
    archives = find_archives(source)
    if not archives:
        raise DataError(f"{source}: no zip or tar.gz, nor parts of one, here")
    for archive in archives:
        print(f"{unpack(archive, out)}: {archive.stem} is unpacked")


if __name__ == "__main__":
    run_command(main)
