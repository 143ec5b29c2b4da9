"""Split a data directory into parts of nearly equal size."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.kaldi.edit import split_data_dir


def split_data(data: str, parts: int, per_utt: bool = False) -> None:
    """Write DATA/splitN/1 to N, or DATA/splitNutt/1 to N; each utterance is in one part.

    Args:
        data: Kaldi data directory.
        parts: number N of parts.
        per_utt: let the utterances of a speaker fall into several parts.
    """
    folders = split_data_dir(data, parts, per_utt)
    print(f"{folders[0].parent}: {len(folders)} parts")


if __name__ == "__main__":
    run_command(split_data)
