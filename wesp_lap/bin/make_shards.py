"""Pack a Kaldi data directory into sharded tars with indexes."""

from __future__ import annotations

import os
from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.data.shards import make_shards


def main(
    data: str,
    out: str,
    list: str,
    utterances_per_shard: int = 1000,
    prefix: str = "shards",
    audio_format: Literal["keep", "flac", "wav"] = "keep",
    sample_rate: int = 16000,
    seed: int = 42,
    nj: int = 0,
    max_bad: int = 0,
) -> None:
    """Pack a data directory into tars; a run that was stopped continues.

    Args:
        data: Kaldi data directory with wav.scp and utt2spk.
        out: Directory for PREFIX_NNNNNNNNN.tar and their indexes.
        list: File to write the names of the tars to (shard.list).
        utterances_per_shard: Utterances in one tar.
        prefix: First part of the tars' names.
        audio_format: Re-encode all audio, or keep the files' bytes where they fit.
        sample_rate: Sampling rate of the shards in Hz.
        seed: Seed of the order of utterances.
        nj: Processes; 0 means one per core.
        max_bad: Number of unusable utterances that may be left out.
    """
    counts = make_shards(
        data,
        out,
        list,
        utterances_per_shard,
        prefix,
        audio_format,
        sample_rate,
        seed,
        nj or len(os.sched_getaffinity(0)),
        max_bad,
    )
    print(
        f"{list}: {counts['shards']} shards, {counts['utterances']} utterances, "
        f"{counts['speakers']} speakers, {counts['seconds'] / 3600:.2f} h"
    )


if __name__ == "__main__":
    run_command(main)
