"""Make what training on VoxCeleb1 or 2 is validated with from VoxCeleb2's test set."""

from __future__ import annotations

import os
from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.corpora.paper_trials import SEED, VOX2_TRIALS, write_vox2_validation
from wesp_lap.data.shards import make_shards
from wesp_lap.kaldi.lint import describe


def make_validation(
    data: str, out: str, per_label: int = VOX2_TRIALS, seed: int = SEED, nj: int = 0
) -> None:
    """Write OUT/trials.kaldi and OUT/shard.list, for validation.trials_list and validation.shards.

    The trials are those of the Universal Pooling paper: 32,096 target trials, half of them of one
    video, and 34,515 non-target trials.

    Args:
        data: Data directory of VoxCeleb2's test set, such as vox2_test of prepare_data.
        out: Folder to write.
        per_label: Trials of each kind, raised until all speakers have as many.
        seed: Seed of the draw.
        nj: Processes that make shards; 0 for one per core.
    """
    trials = write_vox2_validation(data, Path(out) / "trials.kaldi", per_label, seed)
    print(f"{out}/trials.kaldi: {describe(trials)}")
    shards, shard_list = Path(out) / "shards", Path(out) / "shard.list"
    make_shards(data, shards, shard_list, jobs=nj or len(os.sched_getaffinity(0)))
    print(
        f"train with: --validation.speakers 0 --validation.shards {shard_list} "
        f"--validation.trials_list {out}/trials.kaldi"
    )


if __name__ == "__main__":
    run_command(make_validation)
