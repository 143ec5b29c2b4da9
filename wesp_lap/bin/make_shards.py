"""Pack a Kaldi data directory into sharded tars with indexes."""

from __future__ import annotations

import os
from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.data.counts import format_counts
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
    vad: bool | str = False,
    allow_pipe: bool = False,
    check: Literal["full", "headers"] = "full",
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
        max_bad: Number of unusable utterances that may be left out; OUT/bad.txt lists them.
        vad: Cut out the speech and join it: the data directory's own vad, or a file.
        allow_pipe: Run the commands in wav.scp, each once, without a shell.
        check: Decode all files that are kept as they are, or believe the headers of FLAC and Ogg.
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
        vad,
        allow_pipe,
        check,
    )
    print(format_counts(list, counts))


if __name__ == "__main__":
    run_command(main)
