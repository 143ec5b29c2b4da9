"""Error rates of score files, as a table to read and as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wesp_lap.scoring.labelled import Systems, read_systems
from wesp_lap.scoring.measure import Report, Result, naming
from wesp_lap.scoring.metrics import Metrics, evaluate

__all__ = [
    "Systems",
    "evaluate_systems",
    "metrics_table",
    "metrics_values",
    "read_systems",
    "report_rows",
    "report_table",
    "report_tsv",
    "report_values",
]


def evaluate_systems(
    systems: Systems, p_targets: Sequence[float] = (0.01, 0.05), llr: bool = False
) -> dict[str, Metrics]:
    """Return the metrics of every system; an error names the system."""
    results = {}
    for name, (scores, labels) in systems.items():
        with naming(name):
            results[name] = evaluate(scores, labels, p_targets, llr)
    return results


def metrics_table(results: Mapping[str, Metrics]) -> str:
    """Return lines of aligned columns: counts, EER in per cent, and normalised costs."""
    return _aligned(
        [
            {"name": name, **_cells(Result(result.trials, result.targets, result))}
            for name, result in results.items()
        ]
    )


def report_table(reports: Mapping[str, Report]) -> str:
    """Return lines of aligned columns: a row per list, and one per group of its break-downs.

    Rates are in per cent, costs normalised. "low" and "high" are the ends of the confidence
    interval of the column before. "miss %" and "fa %" of a group are its rates at the EER
    threshold of the whole list.
    """
    return _aligned(report_rows(reports))


def report_tsv(reports: Mapping[str, Report]) -> str:
    """Return the rows of ``report_table`` with tabs between them, empty where there is nothing."""
    return "\n".join("\t".join(line) for line in _lines(report_rows(reports), ""))


def report_rows(reports: Mapping[str, Report]) -> list[dict[str, str]]:
    """Return the rows of ``report_table`` as text by column."""
    rows = []
    for name, report in reports.items():
        first = {"name": name}
        if report.groups:
            first |= {"by": "-", "group": "all"}
        rows.append({**first, **_cells(report.whole)})
        for by, groups in report.groups.items():
            for group, result in groups.items():
                rows.append({"name": name, "by": by, "group": group, **_cells(result)})
    return rows


def report_values(reports: Mapping[str, Report]) -> dict[str, dict[str, object]]:
    """Return what ``report_table`` shows as values for JSON; None where not computed."""
    return {
        name: {
            **_values(report.whole),
            **(
                {
                    "by": {
                        by: {group: _values(result) for group, result in groups.items()}
                        for by, groups in report.groups.items()
                    }
                }
                if report.groups
                else {}
            ),
        }
        for name, report in reports.items()
    }


def metrics_values(results: Mapping[str, Metrics]) -> dict[str, dict[str, object]]:
    """Return what ``metrics_table`` shows as values for JSON; None where not computed."""
    return {
        name: _values(Result(result.trials, result.targets, result))
        for name, result in results.items()
    }


def _values(result: Result) -> dict[str, object]:
    metrics, intervals = result.metrics, result.intervals
    values: dict[str, object] = {"trials": result.trials, "targets": result.targets}
    values["eer_percent"] = None if metrics is None else 100 * metrics.eer
    for name in ("min_dcf", "act_dcf"):
        values[name] = _by_name(getattr(metrics, name, None))
    for name in ("cllr", "min_cllr"):
        values[name] = getattr(metrics, name, None)
    if intervals is not None:
        values["eer_percent_interval"] = [100 * end for end in intervals.eer]
        values["min_dcf_interval"] = _by_name(intervals.min_dcf)
        values["bootstrap"] = {"resamples": intervals.resamples, "speakers": intervals.speakers}
    if result.rates is not None:
        miss, false_alarm = (None if rate != rate else 100 * rate for rate in result.rates)
        values |= {"miss_percent": miss, "fa_percent": false_alarm}
    if result.note:
        values["note"] = result.note
    return values


def _by_name(costs: Mapping[float, object] | None) -> dict[str, object] | None:
    return None if costs is None else {f"{p:g}": cost for p, cost in costs.items()}


def _cells(result: Result) -> dict[str, str]:
    cells = {"trials": str(result.trials), "targets": str(result.targets)}
    metrics, intervals = result.metrics, result.intervals
    if metrics is not None:
        cells["EER %"] = f"{100 * metrics.eer:.3f}"
        if intervals is not None:
            cells |= _ends("EER %", [100 * end for end in intervals.eer], 3)
        for p, cost in metrics.min_dcf.items():
            cells[f"minDCF({p:g})"] = f"{cost:.4f}"
            if intervals is not None:
                cells |= _ends(f"minDCF({p:g})", intervals.min_dcf[p], 4)
        for p, cost in (metrics.act_dcf or {}).items():
            cells[f"actDCF({p:g})"] = f"{cost:.4f}"
        for label, bits in (("Cllr", metrics.cllr), ("minCllr", metrics.min_cllr)):
            if bits is not None:
                cells[label] = f"{bits:.4f}"
    for label, rate in zip(("miss %", "fa %"), result.rates or (), strict=False):
        if rate == rate:
            cells[label] = f"{100 * rate:.3f}"
    if result.note:
        cells["note"] = result.note
    return cells


def _ends(column: str, ends: Sequence[float], decimals: int) -> dict[str, str]:
    sides = zip(("low", "high"), ends, strict=True)
    return {f"{column} {side}": f"{end:.{decimals}f}" for side, end in sides}


def _lines(rows: Sequence[Mapping[str, str]], empty: str) -> list[list[str]]:
    """Return a header and the cells of every row; columns in the order in which they first come."""
    header = list(dict.fromkeys(column for row in rows for column in row))
    if "note" in header:
        header = [*(column for column in header if column != "note"), "note"]
    return [header, *([row.get(column, empty) for column in header] for row in rows)]


def _aligned(rows: Sequence[Mapping[str, str]]) -> str:
    lines = _lines(rows, "-")
    words = {i for i, column in enumerate(lines[0]) if column in ("name", "by", "group", "note")}
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_justified(line, widths, words) for line in lines)


def _justified(line: Sequence[str], widths: Iterable[int], words: set[int]) -> str:
    cells = enumerate(zip(line, widths, strict=True))
    return "  ".join(
        cell.ljust(width) if i in words else cell.rjust(width) for i, (cell, width) in cells
    ).rstrip()
