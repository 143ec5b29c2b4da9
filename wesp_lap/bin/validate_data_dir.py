"""Check a data directory and, when given, trial lists: all problems at once."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.kaldi.problems import format_problems, has_errors
from wesp_lap.kaldi.validate import inspect


def validate_data_dir(
    data: str,
    trials: list[str] | None = None,
    disjoint_from: str | None = None,
    sample_rate: int = 16000,
    audio: Literal["headers", "none"] = "headers",
    require_two_utterances: bool = False,
    allow_pipe: bool = False,
) -> int:
    """Check a Kaldi data directory; exit 0 only when it has no error.

    Args:
        data: data directory with wav.scp and utt2spk.
        trials: trial lists on these utterances: FILE[,FILE...].
        disjoint_from: data directory that should share no speaker with this one.
        sample_rate: sampling rate of the audio files in Hz.
        audio: headers reads the header of every audio file, none leaves audio alone.
        require_two_utterances: make a speaker with a single utterance an error.
        allow_pipe: accept commands in wav.scp.
    """
    report = inspect(
        data,
        trials or (),
        disjoint_from,
        sample_rate,
        audio,
        require_two_utterances,
        allow_pipe,
    )
    if report.problems:
        print(format_problems(report.problems))
    print(report.summary())
    return int(has_errors(report.problems))


if __name__ == "__main__":
    run_command(validate_data_dir)
