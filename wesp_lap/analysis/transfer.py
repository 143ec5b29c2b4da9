"""The grid of encoders by the corpus they were pre-trained on and the one they were tuned on.

Source: docs/methods.md, section 6.6: self-pre-training paper, figure 2.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TransferGrid:
    """Equal error rates of encoders (rows) after tuning on corpora (columns).

    Attributes:
        rows: What the encoders were pre-trained on.
        columns: What they were tuned on.
        eer: EER in per cent by (row, column).
        baseline: The row that the others are compared with, or None.
    """

    rows: list[str]
    columns: list[str]
    eer: dict[tuple[str, str], float]
    baseline: str | None = None

    def gain(self, row: str, column: str) -> float | None:
        """Return (EER of the baseline - EER) / EER of the baseline in per cent; above 0 is better.

        None without a baseline, for the baseline itself, and where its EER is 0.
        """
        if self.baseline is None or row == self.baseline:
            return None
        reference = self.eer[self.baseline, column]
        return 100 * (reference - self.eer[row, column]) / reference if reference else None

    def table(self) -> str:
        """Return the grid as aligned Markdown, EER per cent with the gain behind it."""
        lines = [["pre-trained on", *(f"tuned on {column}" for column in self.columns)]]
        lines += [[row, *(self._cell(row, column) for column in self.columns)] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(text)

    def _cell(self, row: str, column: str) -> str:
        gain = self.gain(row, column)
        return f"{self.eer[row, column]:.2f}" + ("" if gain is None else f" ({gain:+.1f} %)")


def read_transfer_grid(
    cells: PathLike,
    baseline: str | None = None,
    trials: str | None = None,
    method: str = "cosine",
) -> TransferGrid:
    """Read CELLS/ROW/COLUMN/results.tsv of all cells; every row must have the same columns.

    Args:
        cells: Folder of the cells.
        baseline: Row to compare with.
        trials: Trial list to take; the first one of each file by default.
        method: Method to take: as the results name it, or without the phase before it; then that of
            the last phase, which must be the same one in all cells.

    Raises:
        DataError: no cells, holes in the grid, or files without such a line; all at once.
    """
    files = sorted(Path(cells).glob("*/*/results.tsv"))
    if not files:
        raise DataError(f"{cells}: no ROW/COLUMN/results.tsv below this folder")
    rows = list(dict.fromkeys(path.parts[-3] for path in files))
    columns = list(dict.fromkeys(path.parts[-2] for path in files))
    eer: dict[tuple[str, str], float] = {}
    taken: dict[str, Path] = {}
    problems = []
    for row in rows:
        for column in columns:
            path = Path(cells) / row / column / "results.tsv"
            found = _result(path, trials, method) if path.is_file() else "missing"
            if isinstance(found, str):
                problems.append(f"{path}: {found}")
            else:
                name, eer[row, column] = found
                taken.setdefault(name, path)
    raise_problems("cells of the grid without result", problems, "Finish these experiments.")
    if len(taken) > 1:
        ends = ", ".join(f"{name} ({path})" for name, path in taken.items())
        raise DataError(f"--method {method} is another one in some cells: {ends}; name one of them")
    if baseline is not None and baseline not in rows:
        raise DataError(f"--baseline {baseline}: no such row; rows: {', '.join(rows)}")
    ordered = sorted(rows, key=lambda row: (row != baseline, row))
    return TransferGrid(ordered, sorted(columns), eer, baseline)


def _result(path: Path, trials: str | None, method: str) -> tuple[str, float] | str:
    """Return method and EER of a results file, or what is wrong with it."""
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream, delimiter="\t"))
    chosen = trials or (lines[0].get("trials") if lines else None)
    named = [(line.get("method", ""), line) for line in lines if line.get("trials") == chosen]
    found = [one for one in named if one[0] == method]
    found = found or [one for one in named if one[0].endswith(f" {method}")]
    if found:
        name, line = found[-1]
        return name, float(line["eer"])
    known = sorted({f"{line.get('trials')} {line.get('method')}" for line in lines})
    return f"no line '{trials or 'any list'} {method}'; there are: {', '.join(known) or 'none'}"


def write_tsv(grid: TransferGrid, path: PathLike) -> None:
    """Write a line per cell: pretrained, tuned, eer, gain."""
    lines = ["pretrained\ttuned\teer\tgain"]
    for row in grid.rows:
        for column in grid.columns:
            gain = grid.gain(row, column)
            text = "" if gain is None else f"{gain:.2f}"
            lines.append(f"{row}\t{column}\t{grid.eer[row, column]:.3f}\t{text}")
    with atomic_write(path) as stream:
        stream.write("\n".join(lines) + "\n")


def plot_grid(grid: TransferGrid, path: PathLike) -> None:
    """Draw the heat map: EER in the cells, coloured by gain, or by EER without a baseline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = [[_shade(grid, row, column) for column in grid.columns] for row in grid.rows]
    size = 2.2 + 1.4 * len(grid.columns), 1.4 + 0.8 * len(grid.rows)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    limit = max((abs(v) for line in values for v in line), default=1.0) or 1.0
    by_gain = grid.baseline is not None
    image = axes.imshow(
        values,
        cmap="RdBu" if by_gain else "viridis_r",
        vmin=-limit if by_gain else None,
        vmax=limit if by_gain else None,
        aspect="auto",
    )
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel("tuned on")
    axes.set_ylabel("pre-trained on")
    _annotate(axes, grid)
    label = f"gain over {grid.baseline} (%)" if by_gain else "EER (%)"
    figure.colorbar(image, ax=axes, label=label)
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=150)
    pyplot.close(figure)


def _shade(grid: TransferGrid, row: str, column: str) -> float:
    if grid.baseline is None:
        return grid.eer[row, column]
    return grid.gain(row, column) or 0.0


def _annotate(axes: Axes, grid: TransferGrid) -> None:
    for y, row in enumerate(grid.rows):
        for x, column in enumerate(grid.columns):
            gain = grid.gain(row, column)
            text = f"{grid.eer[row, column]:.2f}" + ("" if gain is None else f"\n{gain:+.1f} %")
            box = {"facecolor": "white", "alpha": 0.7}
            axes.text(x, y, text, ha="center", va="center", bbox=box)


def make_transfer_grid(
    cells: PathLike, out: PathLike, baseline: str | None, trials: str | None, method: str
) -> str:
    """Write ``grid.tsv`` and ``grid.png`` to ``out`` and return the table."""
    grid = read_transfer_grid(cells, baseline, trials, method)
    write_tsv(grid, Path(out) / "grid.tsv")
    plot_grid(grid, Path(out) / "grid.png")
    return grid.table()
