"""Measure the utterances of a data directory."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.kaldi.durations import write_utt2dur


def get_utt2dur(data: str) -> None:
    """Write DATA/utt2dur from segments or audio headers; an older one is replaced.

    Args:
        data: Kaldi data directory.
    """
    print(f"{data}/utt2dur: {write_utt2dur(data):.2f} h")


if __name__ == "__main__":
    run_command(get_utt2dur)
