"""Fetch corpora from their publishers or from a mirror."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.corpora.download import catalogue_table, download, free_gb
from wesp_lap.errors import ConfigError


def main(
    out: str | None = None,
    corpora: list[str] | None = None,
    mirror: str | None = None,
    only: list[str] | None = None,
    jobs: int = 3,
    list: bool = False,
) -> None:
    """Fetch files into OUT/CORPUS and compare them with their published checksums.

    A second call goes on where the first one stopped. Secrets are taken from the environment, so
    that no command line shows them: WESP_LAP_USER and WESP_LAP_PASSWORD, WESP_LAP_HEADER
    ("Name: value"), and WESP_LAP_MIRROR in place of --mirror when the address holds a key.

    Args:
        out: Folder for all corpora.
        corpora: Names, such as voxceleb1,musan,rirs; --list shows all.
        mirror: Address of a folder that holds the files, or with {file} for their names.
        only: Patterns of file names, such as "dev-*"; other files are left out.
        jobs: Files fetched at a time.
        list: Show what can be fetched, with sizes and checksums, and do nothing else.
    """
    if list:
        print(catalogue_table())
        return
    if out is None or not corpora:
        raise ConfigError("give --out DIR and --corpora NAME[,NAME...]; --list shows the names")
    for path, digest in download(out, corpora, mirror, only or (), jobs).items():
        note = f", SHA-256 {digest}: no published checksum to compare it with" if digest else ""
        print(f"{path}: there{note}")
    print(f"{free_gb(out):.0f} GB are free in {out}")


if __name__ == "__main__":
    run_command(main)
