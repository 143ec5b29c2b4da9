"""Gather noises and room impulse responses into one memory-mapped bank."""

from __future__ import annotations

import os

from wesp_lap.cli import run_command
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
        musan: Noises: a folder laid out as MUSAN (noise/ music/ speech/), a Kaldi data directory
            whose keys start with these names, or an LMDB database as WeSpeaker makes it.
        rirs: Room responses: a folder laid out as RIRS_NOISES, a data directory, or an LMDB.
        noise: More noises, in any form of --musan.
        nj: Processes; 0 means one per core.
    """
    counts = make_noise_bank(out, musan, rirs, noise, nj or len(os.sched_getaffinity(0)))
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main)
