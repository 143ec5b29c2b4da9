"""Average checkpoints of a phase into one model."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.training.average import average_models, best_epochs, last_epochs, renew_statistics


def main(
    exp_dir: str,
    out: str,
    num: int = 3,
    best: int = 0,
    ema: bool = False,
    shards: str | None = None,
    batches: int = 0,
) -> None:
    """Write the mean of the last or of the best checkpoints as a speaker model directory.

    Args:
        exp_dir: Experiment directory of a phase.
        out: Directory for the averaged model.
        num: Epoch-end checkpoints to average, counted from the newest; fewer when there are fewer.
        best: Average this many with the lowest EER in validation instead.
        ema: Average the moving averages that training.ema_decay keeps, instead of the weights.
        shards: List of shards, or raw list, for the statistics; that of the phase by default.
        batches: Estimate the batch norm statistics of the mean anew on so many training batches; 0
            averages those of the checkpoints. 100 when only shards are given.
    """
    folders = best_epochs(exp_dir, best) if best else last_epochs(exp_dir, num)
    model = average_models(folders, ema)
    names = ", ".join(folder.name for folder in folders)
    line = f"{out}: mean of {'moving averages of ' if ema else ''}{names}"
    if batches or shards is not None:
        count = renew_statistics(model, exp_dir, shards, batches or 100)
        line += f"; batch norm statistics of {count} batches"
    model.save_pretrained(out)
    print(line)


if __name__ == "__main__":
    run_command(main)
