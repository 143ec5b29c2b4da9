"""Mend a data directory in place: drop what is not whole, sort, keep a backup."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.kaldi import fix


def fix_data_dir(
    data: str,
    audio: Literal["none", "headers"] = "none",
    min_utterances: int = 1,
    min_seconds: float = 0.0,
) -> None:
    """Keep only utterances that have everything; replaced tables go to DATA/.backup.

    Args:
        data: Kaldi data directory with wav.scp and utt2spk.
        audio: headers also drops utterances whose audio file is missing or cannot be read.
        min_utterances: drop speakers with fewer utterances.
        min_seconds: drop shorter utterances.
    """
    print(fix.fix_data_dir(data, audio, min_utterances, min_seconds))


if __name__ == "__main__":
    run_command(fix_data_dir)
