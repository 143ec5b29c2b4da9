"""Print error rates of score files: python -m wesp_lap.bin.compute_metrics --help."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Literal

from wesp_lap.analysis.plots import plot_groups, plot_systems
from wesp_lap.cli import run_command
from wesp_lap.errors import ConfigError
from wesp_lap.scoring.bootstrap import Resampling
from wesp_lap.scoring.labelled import as_systems, read_scored
from wesp_lap.scoring.measure import Maps, Measures, measure_systems
from wesp_lap.scoring.report import report_table, report_tsv, report_values


def compute_metrics(
    *files: str,
    p_target: tuple[float, ...] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    llr: bool = False,
    eer: Literal["crossing", "convex_hull"] = "crossing",
    utt2spk: str | None = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    by: list[str] | None = None,
    bins: tuple[float, ...] = (),
    json: bool = False,
    tsv: bool = False,
    plot: str | None = None,
) -> None:
    """Print EER and normalised minDCF of score files with labels, one line per file.

    Args:
        files: score files, "enroll test score target|nontarget".
        p_target: target priors of the detection costs, with commas between them.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        llr: the scores are log-likelihood ratios: print actDCF, Cllr and minCllr too.
        eer: the point nearest to equal rates on the curve (crossing), or on its convex hull.
        utt2spk: speaker of every id of the trials; for --bootstrap, and for --by maps by speaker.
        bootstrap: confidence intervals from this many resamples of the speakers; 0 for none.
        confidence: share of resamples that an interval covers.
        seed: seed of the resamples.
        by: maps "id value", with commas between them, such as utt2dur or spk2gender: a line per
            pair of values follows the line of each file.
        bins: rising edges for maps of numbers, with commas between them: 5,10.
        json: print JSON instead of a table.
        tsv: print tab-separated columns instead of a table.
        plot: directory for det.png (all files), <name>.hist.png (one per file) and, with --by,
            <name>.<map>.det.png.
    """
    if json and tsv:
        raise ConfigError("give --json or --tsv, not both")
    scored = read_scored(files)
    resampling = Resampling(bootstrap, confidence, seed) if bootstrap else None
    measures = Measures(p_target, c_miss, c_fa, llr, eer, resampling)
    reports = measure_systems(scored, measures, Maps(utt2spk, by or (), bins))
    if json:
        print(dumps(report_values(reports), indent=2))
    else:
        print(report_tsv(reports) if tsv else report_table(reports))
    if plot is not None:
        systems = as_systems(scored)
        plot_systems(systems, plot)
        for name, report in reports.items():
            for key, rows in report.rows.items():
                path = Path(plot) / f"{name.replace('/', '_')}.{key}.det.png"
                plot_groups(systems[name], rows, path)


if __name__ == "__main__":
    run_command(compute_metrics)
