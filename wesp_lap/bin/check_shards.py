"""Read shards from beginning to end and compare them with their indexes and sums."""

from __future__ import annotations

import os

from wesp_lap.cli import run_command
from wesp_lap.data.checking import check_shards
from wesp_lap.data.counts import format_counts


def main(list: str, nj: int = 0) -> None:
    """Audit all shards of a list; all faults are named, and any makes the command fail.

    Args:
        list: shard.list or raw.list.
        nj: Processes; 0 means one per core.
    """
    counts = check_shards(list, nj or len(os.sched_getaffinity(0)))
    print(format_counts(list, counts) + ": all is well")


if __name__ == "__main__":
    run_command(main)
