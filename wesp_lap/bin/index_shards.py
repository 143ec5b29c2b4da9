"""Write the indexes that training needs beside shards of WeSpeaker, or for a raw.list."""

from __future__ import annotations

import os
from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.data.counts import format_counts
from wesp_lap.data.indexing import index_shards


def main(
    list: str, nj: int = 0, max_bad: int = 0, check: Literal["headers", "full"] = "headers"
) -> None:
    """Index the tars of a list that lack it, from the tars alone.

    Args:
        list: shard.list or raw.list.
        nj: Processes; 0 means one per core.
        max_bad: Number of unusable utterances that may be left out.
        check: Believe the headers of FLAC and Ogg, or decode all audio.
    """
    counts = index_shards(list, nj or len(os.sched_getaffinity(0)), max_bad, check)
    print(format_counts(list, counts))


if __name__ == "__main__":
    run_command(main)
