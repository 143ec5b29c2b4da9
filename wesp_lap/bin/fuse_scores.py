"""Fuse the scores of several systems: python -m wesp_lap.bin.fuse_scores --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.fusion import fuse_files


def fuse_scores(
    scores: list[str],
    out: str,
    dev: list[str] | None = None,
    fusion: str | None = None,
    weights: list[float] | None = None,
    prior: float = 0.5,
    save: str | None = None,
) -> None:
    """Write one score per trial, made from the score files of several systems, to OUT.

    Args:
        scores: score files of one list, one per system, with commas between them. The trials must
            be the same, in any order.
        out: score file to write.
        dev: labelled score files of another list, the same systems in the same order: weights and
            bias are fitted on them by logistic regression, and the scores are LLRs.
        fusion: JSON file of an earlier fusion, instead of dev.
        weights: one number per system with commas between them, instead of dev; by default the
            mean.
        prior: target prior that the fit is weighted for.
        save: JSON file to keep the fusion in.
    """
    fitted = fuse_files(scores, out, dev or (), fusion, weights, prior, save)
    numbers = " ".join(f"{weight:.4f}" for weight in fitted.weights)
    print(f"{out}: weights {numbers}, bias {fitted.bias:.4f}")


if __name__ == "__main__":
    run_command(fuse_scores)
