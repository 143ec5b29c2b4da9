"""Print the results table of a recipe and write results.tsv and results.md."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.analysis.report import (
    details_table,
    load_scored,
    named_folders,
    results_rows,
    results_table,
    score_files,
    write_page,
    write_tsv,
)
from wesp_lap.cli import run_command
from wesp_lap.scoring.bootstrap import Resampling
from wesp_lap.scoring.labelled import as_systems
from wesp_lap.scoring.measure import Maps, Measures


def main(
    trials: list[str],
    scores: list[str],
    out: str,
    phases: list[str] | None = None,
    note: str = "",
    utt2spk: str | None = None,
    bootstrap: int = 0,
    by: list[str] | None = None,
    bins: tuple[float, ...] = (),
) -> None:
    """Evaluate all score files of the trial lists.

    Args:
        trials: Trial lists, with commas between them.
        scores: Directories with <list>.score, <list>.asnorm.score, <list>.qmf.score, with commas
            between them; each may have a name that goes before the method's: frozen=DIR,joint=DIR.
        out: Directory for results.tsv and, with --phases, results.md and its figures.
        phases: Experiment directories of the training phases: FIRST,SECOND,...
        note: Text below the table of results.md.
        utt2spk: Speaker of every id of the trials; for --bootstrap, and for --by maps by speaker.
        bootstrap: 95 % confidence intervals from this many resamples of the speakers; 0 for none.
        by: Maps "id value", with commas between them: results of every pair of values too.
        bins: Rising edges for maps of numbers, with commas between them: 5,10.
    """
    files = score_files(trials, named_folders(scores))
    scored = load_scored(files)
    systems = as_systems(scored)
    rows = results_rows(systems)
    details = ""
    if bootstrap or by:
        measures = Measures(resampling=Resampling(bootstrap) if bootstrap else None)
        details = details_table(scored, measures, Maps(utt2spk, by or (), bins))
    write_tsv(rows, Path(out) / "results.tsv")
    if phases:
        write_page(out, rows, systems, phases, note, details)
    print(results_table(rows))
    if details:
        print(f"\n{details}")


if __name__ == "__main__":
    run_command(main)
