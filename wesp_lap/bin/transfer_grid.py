"""Print and plot the error rates of encoders across corpora."""

from __future__ import annotations

from wesp_lap.analysis.transfer import make_transfer_grid
from wesp_lap.cli import run_command


def main(
    cells: str,
    out: str,
    baseline: str | None = None,
    trials: str | None = None,
    method: str = "cosine",
) -> None:
    """Print the grid of CELLS/PRETRAINED/TUNED/results.tsv; write OUT/grid.tsv and OUT/grid.png.

    Args:
        cells: Folder with a folder per encoder, each with an experiment per corpus.
        out: Where the table and the heat map go.
        baseline: Encoder that the others are compared with: gain in per cent of its error rate.
        trials: Trial list; the first one of each experiment by default.
        method: Method of the results: cosine, asnorm, qmf of the last phase, or with a phase before
            it, such as "joint cosine".
    """
    print(make_transfer_grid(cells, out, baseline, trials, method))


if __name__ == "__main__":
    run_command(main)
