"""Print the results table of a recipe and write results.tsv and results.md."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.analysis.report import (
    load_systems,
    results_rows,
    results_table,
    score_files,
    write_page,
    write_tsv,
)
from wesp_lap.cli import run_command


def main(
    trials: list[str],
    scores_dir: str,
    out: str,
    untrained_scores_dir: str | None = None,
    phases: list[str] | None = None,
    note: str = "",
) -> None:
    """Evaluate all score files of the trial lists.

    Args:
        trials: Trial lists, with commas between them.
        scores_dir: Directory with <list>.score, <list>.asnorm.score, <list>.qmf.score.
        out: Directory for results.tsv and, with --phases, results.md and its figures.
        untrained_scores_dir: Scores of the network before training, for comparison.
        phases: Experiment directories of the training phases: FIRST,SECOND,...
        note: Text below the table of results.md.
    """
    folders = {"untrained ": untrained_scores_dir} if untrained_scores_dir else {}
    files = score_files(trials, {**folders, "": scores_dir})
    systems = load_systems(files)
    rows = results_rows(systems)
    write_tsv(rows, Path(out) / "results.tsv")
    if phases:
        write_page(out, rows, systems, phases, note)
    print(results_table(rows))


if __name__ == "__main__":
    run_command(main)
