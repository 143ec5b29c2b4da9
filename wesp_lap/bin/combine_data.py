"""Make one data directory of several."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.kaldi.combine import combine_data_dirs


def combine_data(out: str, *sources: str) -> None:
    """Write the utterances of several data directories to one; equal keys must agree.

    Args:
        out: data directory to write.
        sources: data directories to combine.
    """
    print(f"{out}: {combine_data_dirs(out, sources)} utterances")


if __name__ == "__main__":
    run_command(combine_data)
