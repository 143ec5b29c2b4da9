"""Copy a data directory, with other names for utterances or speakers."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.kaldi import edit


def copy_data_dir(
    src: str,
    out: str,
    utt_prefix: str = "",
    utt_suffix: str = "",
    spk_prefix: str = "",
    spk_suffix: str = "",
) -> None:
    """Copy all tables of a data directory; audio stays where it is.

    Args:
        src: Kaldi data directory.
        out: data directory to write.
        utt_prefix: what to put before every utterance.
        utt_suffix: what to put behind every utterance.
        spk_prefix: what to put before every speaker.
        spk_suffix: what to put behind every speaker.
    """
    count = edit.copy_data_dir(src, out, utt_prefix, utt_suffix, spk_prefix, spk_suffix)
    print(f"{out}: {count} utterances")


if __name__ == "__main__":
    run_command(copy_data_dir)
