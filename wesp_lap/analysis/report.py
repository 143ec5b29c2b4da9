"""The results of a recipe: a table for programs, a page for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import wesp_lap
from wesp_lap.analysis.plots import plot_det
from wesp_lap.analysis.training_log import read_training_log, read_validations
from wesp_lap.analysis.training_plot import plot_training
from wesp_lap.errors import ConfigError, raise_problems
from wesp_lap.files import PathLike, atomic_write
from wesp_lap.scoring.labelled import Scored, Systems, read_labelled_scores
from wesp_lap.scoring.measure import Maps, Measures, measure_systems
from wesp_lap.scoring.report import evaluate_systems, report_table

# Suffix of the score file and name of the method, in the order of the table.
METHODS = {"": "cosine", ".asnorm": "asnorm", ".qmf": "qmf"}
_DETAILS = (
    "low and high are the ends of the confidence interval of the column before, from resampled "
    "speakers. miss and fa of a group are its error rates at the EER threshold of the whole list."
)
COLUMNS = ("trials", "method", "eer", "mindcf01", "mindcf05")


class Row(NamedTuple):
    """One line of the results table; EER in per cent, minDCF normalised."""

    trials: str
    method: str
    eer: float
    mindcf01: float
    mindcf05: float

    def cells(self) -> list[str]:
        """Return the row as text."""
        costs = f"{self.mindcf01:.4f}", f"{self.mindcf05:.4f}"
        return [self.trials, self.method, f"{self.eer:.3f}", *costs]


def named_folders(words: Sequence[str]) -> dict[str, str]:
    """Turn "NAME=FOLDER" and "FOLDER" into what ``score_files`` takes.

    Raises:
        ConfigError: two folders with the same name, or two without.
    """
    folders: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or "/" in name:
            name, folder = "", word
        label = f"{name} " if name else ""
        if label in folders:
            raise ConfigError(
                f"--scores: {folders[label]} and {folder} need different names: NAME=FOLDER"
            )
        folders[label] = folder
    return folders


def score_files(trials: Sequence[PathLike], folders: Mapping[str, PathLike]) -> dict[str, Path]:
    """Find the score files of trial lists: "list method" to path, in the order of the table.

    Args:
        trials: Trial lists.
        folders: Directories of score files; the key goes before the method's name.

    Raises:
        DataError: trial lists without any score file, all of them named.
    """
    found: dict[str, Path] = {}
    missing = []
    for trial_list in trials:
        name = Path(trial_list).name
        before = len(found)
        for label, folder in folders.items():
            for suffix, method in METHODS.items():
                path = Path(folder) / f"{name}{suffix}.score"
                if path.is_file():
                    found[f"{name}\t{label}{method}"] = path
        if len(found) == before:
            missing.append(f"{name}.score")
    title = f"no score files in {', '.join(map(str, folders.values()))}"
    raise_problems(title, missing, "Score these trial lists or leave them out.")
    return found


def results_rows(systems: Systems) -> list[Row]:
    """Evaluate score files named "list<TAB>method"."""
    rows = []
    for name, result in evaluate_systems(systems).items():
        trials, method = name.split("\t")
        costs = result.min_dcf[0.01], result.min_dcf[0.05]
        rows.append(Row(trials, method, 100 * result.eer, *costs))
    return rows


def write_tsv(rows: Sequence[Row], path: PathLike) -> None:
    """Write the results for programs: a header line, then tab-separated lines."""
    lines = ["\t".join(COLUMNS), *("\t".join(row.cells()) for row in rows)]
    with atomic_write(path) as stream:
        stream.write("\n".join(lines) + "\n")


def results_table(rows: Sequence[Row]) -> str:
    """Return the results as aligned Markdown."""
    header = ["trials", "method", "EER %", "minDCF(0.01)", "minDCF(0.05)"]
    cells = [header, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def load_scored(files: Mapping[str, Path]) -> Scored:
    """Read score files under the names of ``score_files``."""
    return {name: read_labelled_scores(path) for name, path in files.items()}


def details_table(scored: Scored, measures: Measures, maps: Maps) -> str:
    """Return the confidence intervals and groups of score files that ``load_scored`` read."""
    spaced = {name.replace("\t", " "): trials for name, trials in scored.items()}
    return report_table(measure_systems(spaced, measures, maps))


def write_page(
    folder: PathLike,
    rows: Sequence[Row],
    systems: Systems,
    phases: Sequence[PathLike],
    note: str = "",
    details: str = "",
) -> Path:
    """Write ``results.md`` with the table, DET curves, training curves and the environment.

    Args:
        folder: Where the page and its figures go.
        rows: The results.
        systems: Scores and labels behind them.
        phases: Experiment directories of the training phases, in order.
        note: A paragraph below the table.
        details: What ``details_table`` returned, or nothing.
    """
    target = Path(folder)
    figures = []
    for name in dict.fromkeys(row.trials for row in rows):
        parts = {key.split("\t")[1]: value for key, value in systems.items() if _of(key, name)}
        plot_det(parts, target / f"det_{name}.png")
        figures.append(f"![DET curves of {name}](det_{name}.png)")
    logs = {Path(phase).name: read_training_log(phase) for phase in phases}
    validations = {Path(phase).name: read_validations(phase) for phase in phases}
    plot_training(logs, target / "training.png", validations)
    sections = [
        "# Results\n",
        results_table(rows) + "\n",
        note + "\n" if note else "",
        f"## Intervals and groups\n\n{_DETAILS}\n\n```\n{details}\n```\n" if details else "",
        "## Detection error trade-off\n\n" + "\n\n".join(figures) + "\n",
        "## Training\n\n"
        + _training_table(logs, validations)
        + "\n\n![Training curves](training.png)\n",
        "## Environment\n\n" + _environment() + "\n",
    ]
    with atomic_write(target / "results.md") as stream:
        stream.write("\n".join(section for section in sections if section))
    return target / "results.md"


def _of(key: str, name: str) -> bool:
    return key.split("\t")[0] == name


def _training_table(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    validations: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> str:
    validated = any(validations.values())
    extra = " validation EER % (best) |" if validated else ""
    lines = [
        f"| phase | epochs | time | loss | accuracy | utt/s |{extra}",
        f"|---|---|---|---|---|---|{'---|' if validated else ''}",
    ]
    for name, records in logs.items():
        seconds = sum(r["seconds"] + r.get("paused_seconds", 0) for r in records)
        last = records[-1]
        rates = sorted(record["utterances_per_second"] for record in records)
        line = (
            f"| {name} | {last['epoch']} | {seconds / 60:.1f} min | {_cell(last['loss'], '.3f')} | "
            f"{_cell(last['accuracy'], '.1%')} | {rates[len(rates) // 2]:.0f} |"
        )
        eers = [v["eer"] for v in validations[name].values() if v.get("eer") is not None]
        if validated:
            line += f" {eers[-1]:.2f} ({min(eers):.2f}) |" if eers else " - |"
        lines.append(line)
    lines.append(
        "\nAccuracy is that of the nearest class centre without margin, on training crops. The "
        "loss grows with the margin, so it cannot be compared between phases."
    )
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form).replace("%", " %")


def _environment() -> str:
    names = ("torch", "transformers", "numpy", "scikit-learn", "soundfile")
    versions = [f"wesp_lap {wesp_lap.__version__}", f"Python {platform.python_version()}"]
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return f"{', '.join(versions)}; {os.cpu_count()} cores, {platform.platform()}"
