"""Error rates of score files, as a table to read and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.scoring.metrics import Metrics, evaluate

Systems = dict[str, tuple[np.ndarray, np.ndarray]]


def read_systems(files: Sequence[PathLike]) -> Systems:
    """Read labelled score files: scores (T,) and labels (T,) by name.

    The name is the file name without ``.score``, or the path where two file names are equal.

    Raises:
        DataError: a file without labels, or one that cannot be read.
    """
    if not files:
        raise ConfigError("no score file given")
    short = [Path(path).name.removesuffix(".score") for path in files]
    systems = {}
    for path, name in zip(files, short, strict=True):
        trials, scores = read_scores(path)
        if trials.labels is None:
            raise DataError(
                f"{path}: blind scores: error rates need a target/nontarget column\n"
                "Score a labelled trial list."
            )
        systems[name if short.count(name) == 1 else str(path)] = (scores, trials.labels)
    return systems


def evaluate_systems(
    systems: Systems, p_targets: Sequence[float] = (0.01, 0.05), llr: bool = False
) -> dict[str, Metrics]:
    """Return the metrics of every system; an error names the system."""
    results = {}
    for name, (scores, labels) in systems.items():
        try:
            results[name] = evaluate(scores, labels, p_targets, llr)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return results


def metrics_table(results: Mapping[str, Metrics]) -> str:
    """Return lines of aligned columns: counts, EER in per cent, and normalised costs."""
    rows = [_cells(name, result) for name, result in results.items()]
    header = list(rows[0])
    lines = [header, *([row[column] for column in header] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def metrics_values(results: Mapping[str, Metrics]) -> dict[str, dict[str, object]]:
    """Return what ``metrics_table`` shows as values for JSON; None where not computed."""
    return {
        name: {
            "trials": result.trials,
            "targets": result.targets,
            "eer_percent": 100 * result.eer,
            "min_dcf": _by_name(result.min_dcf),
            "act_dcf": _by_name(result.act_dcf),
            "cllr": result.cllr,
            "min_cllr": result.min_cllr,
        }
        for name, result in results.items()
    }


def _by_name(costs: Mapping[float, float] | None) -> dict[str, float] | None:
    return None if costs is None else {f"{p:g}": cost for p, cost in costs.items()}


def _cells(name: str, result: Metrics) -> dict[str, str]:
    cells = {
        "name": name,
        "trials": str(result.trials),
        "targets": str(result.targets),
        "EER %": f"{100 * result.eer:.3f}",
    }
    for label, costs in (("minDCF", result.min_dcf), ("actDCF", result.act_dcf)):
        for p, cost in (costs or {}).items():
            cells[f"{label}({p:g})"] = f"{cost:.4f}"
    for label, bits in (("Cllr", result.cllr), ("minCllr", result.min_cllr)):
        if bits is not None:
            cells[label] = f"{bits:.4f}"
    return cells
