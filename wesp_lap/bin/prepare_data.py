"""Make a clean copy of a Kaldi data directory."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.kaldi.prepare import prepare_data_dir


def prepare_data(
    src: str,
    out: str,
    sample_rate: int = 16000,
    audio: Literal["headers", "none"] = "headers",
    allow_pipe: bool = False,
) -> None:
    """Copy a data directory with checked tables, sorted keys, absolute paths and utt2dur.

    Args:
        src: Kaldi data directory with wav.scp and utt2spk.
        out: data directory to write; nothing is done when it is up to date.
        sample_rate: sampling rate of the audio files in Hz.
        audio: headers checks the header of every audio file; none leaves audio alone when
            utt2dur is complete.
        allow_pipe: run the commands of wav.scp and keep their output as files.
    """
    prepare_data_dir(src, out, sample_rate, audio, allow_pipe)


if __name__ == "__main__":
    run_command(prepare_data)
