"""Write WeSpeaker's raw.list of a data directory, and the index that training needs of it."""

from __future__ import annotations

import os

from wesp_lap.cli import run_command
from wesp_lap.data.counts import format_counts
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.raw_list import make_raw_list


def main(data: str, list: str, vad: bool | str = False, nj: int = 0) -> None:
    """List the files of a data directory as JSON lines.

    Args:
        data: Kaldi data directory without segments.
        list: File to write (raw.list).
        vad: Name the pieces of speech: the data directory's own vad, or a file.
        nj: Processes that read the files for the index; 0 means one per core.
    """
    if make_raw_list(data, list, vad):
        counts = index_shards(list, nj or len(os.sched_getaffinity(0)))
        print(format_counts(list, counts))
    else:
        print(f"{list}: for WeSpeaker; commands and pieces of speech are for make_shards here")


if __name__ == "__main__":
    run_command(main)
