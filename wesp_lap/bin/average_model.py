"""Average the newest checkpoints of a phase into one model."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.training.average import average_models, last_epochs


def main(exp_dir: str, out: str, num: int = 3) -> None:
    """Write the mean of the last checkpoints as a speaker model directory.

    Args:
        exp_dir: Experiment directory of a phase.
        out: Directory for the averaged model.
        num: Epoch-end checkpoints to average, counted from the newest; fewer when there are fewer.
    """
    folders = last_epochs(exp_dir, num)
    average_models(folders).save_pretrained(out)
    print(f"{out}: mean of {', '.join(folder.name for folder in folders)}")


if __name__ == "__main__":
    run_command(main)
