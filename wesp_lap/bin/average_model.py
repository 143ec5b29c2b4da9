"""Average the newest checkpoints of a phase into one model."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.cli import run_command
from wesp_lap.errors import DataError
from wesp_lap.training.average import average_models
from wesp_lap.training.checkpoint import CheckpointFolder, damage


def main(exp_dir: str, out: str, num: int = 3) -> None:
    """Write the mean of the last checkpoints as a speaker model directory.

    Args:
        exp_dir: Experiment directory of a phase.
        out: Directory for the averaged model.
        num: Epoch-end checkpoints to average, counted from the newest; fewer when there are fewer.
    """
    if num < 1:
        raise DataError(f"--num must be at least 1, got {num}")
    folders = CheckpointFolder(Path(exp_dir) / "checkpoints").epoch_ends()[-num:]
    broken = [fault for folder in folders if (fault := damage(folder))]
    if broken or not folders:
        raise DataError(broken[0] if broken else f"{exp_dir}: no epoch has been finished yet")
    average_models(folders).save_pretrained(out)
    print(f"{out}: mean of {', '.join(folder.name for folder in folders)}")


if __name__ == "__main__":
    run_command(main)
