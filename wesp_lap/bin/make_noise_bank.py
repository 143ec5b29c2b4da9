"""Gather noises and room impulse responses into one memory-mapped bank."""

from __future__ import annotations

import os
from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.corpora.noises import MUSAN, RIRS, noise_folder
from wesp_lap.data.noise_bank import make_noise_bank


def main(
    out: str,
    musan: str | None = None,
    rirs: str | None = None,
    noise: str | None = None,
    nj: int = 0,
) -> None:
    """Build a noise bank; one made from the same files is kept.

    Args:
        out: Directory of the bank.
        musan: Noises: a folder laid out as MUSAN (noise/ music/ speech/) or its archive, a Kaldi
            data directory whose keys start with these names, or an LMDB database as WeSpeaker
            makes it. Archives are unpacked beside OUT, into unpacked/.
        rirs: Room responses: a folder laid out as RIRS_NOISES or its archive, a data directory, or
            an LMDB.
        noise: More noises, in any form of --musan.
        nj: Processes; 0 means one per core.
    """
    unpacked = Path(out).absolute().parent / "unpacked"
    musan, rirs = (
        None if path is None else str(noise_folder(path, unpacked, layout))
        for path, layout in ((musan, MUSAN), (rirs, RIRS))
    )
    counts = make_noise_bank(out, musan, rirs, noise, nj or len(os.sched_getaffinity(0)))
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main)
