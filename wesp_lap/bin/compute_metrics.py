"""Print error rates of score files: python -m wesp_lap.bin.compute_metrics --help."""

from __future__ import annotations

from json import dumps

from wesp_lap.analysis.plots import plot_systems
from wesp_lap.cli import run_command
from wesp_lap.scoring.report import evaluate_systems, metrics_table, metrics_values, read_systems


def compute_metrics(
    *files: str,
    p_target: tuple[float, ...] = (0.01, 0.05),
    llr: bool = False,
    json: bool = False,
    plot: str | None = None,
) -> None:
    """Print EER and normalised minDCF of score files with labels, one line per file.

    Args:
        files: score files, "enroll test score target|nontarget".
        p_target: target priors of the detection costs, with commas between them.
        llr: the scores are log-likelihood ratios: print actDCF, Cllr and minCllr too.
        json: print JSON instead of a table.
        plot: directory for det.png (all files) and <name>.hist.png (one per file).
    """
    systems = read_systems(files)
    results = evaluate_systems(systems, p_target, llr)
    print(dumps(metrics_values(results), indent=2) if json else metrics_table(results))
    if plot is not None:
        plot_systems(systems, plot)


if __name__ == "__main__":
    run_command(compute_metrics)
