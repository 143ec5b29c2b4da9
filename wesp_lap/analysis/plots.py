"""Figures of verification scores: detection error trade-off and score histograms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wesp_lap.files import PathLike, atomic_write
from wesp_lap.scoring.curve import ErrorCurve, crossing_point, error_curve
from wesp_lap.scoring.metrics import curve_eer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Percentages that get a tick and may end an axis.
_TICKS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99])
# Colours that readers with any colour vision can tell apart (Okabe and Ito), then other strokes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STROKES = ("-", "--", "-.", ":")
_MOST_CURVES = 12
_TARGET, _NONTARGET = _COLOURS[0], _COLOURS[1]


def plot_systems(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray | None]], folder: PathLike
) -> None:
    """Write ``det.png`` with all systems and ``NAME.hist.png`` of each; see below for both."""
    plot_det(systems, Path(folder) / "det.png")
    for name, (scores, labels) in systems.items():
        plot_histogram(scores, labels, Path(folder) / f"{name.replace('/', '_')}.hist.png", name)


def plot_groups(
    system: tuple[np.ndarray, np.ndarray], groups: Mapping[str, np.ndarray], path: PathLike
) -> None:
    """Draw the DET curves of groups of one system's trials, the largest ones that have a curve.

    Args:
        system: scores (T,) and labels (T,).
        groups: rows of the trials by group.
        path: PNG file to write; none is written when no group has a curve.
    """
    scores, labels = system
    parts = {name: (scores[rows], labels[rows]) for name, rows in groups.items()}
    drawable = {
        name: part
        for name, part in parts.items()
        if 0 < part[1].sum() < len(part[1]) and part[0].min() < part[0].max()
    }
    largest = sorted(drawable, key=lambda name: -len(groups[name]))[:_MOST_CURVES]
    if largest:
        plot_det({name: drawable[name] for name in drawable if name in largest}, path)


def plot_det(systems: Mapping[str, tuple[np.ndarray, np.ndarray | None]], path: PathLike) -> None:
    """Draw the DET curves of several systems into one PNG, with their EER points.

    Both axes are normal deviates of the error rate, so that normal scores give straight lines.

    Args:
        systems: scores (T,) and labels (T,) by name; drawn in this order.
        path: PNG file to write.
    """
    curves = {name: error_curve(*trials) for name, trials in systems.items()}
    figure, axes = _figure(5.0, 4.8 + 0.2 * len(curves))
    low, high = _det_limits(list(curves.values()))
    for number, (name, curve) in enumerate(curves.items()):
        _draw_det(axes, number, name, curve, (low, high))
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    _deviate_axes(axes, low, high)
    # Above the frame: inside, it would hide a curve sooner or later.
    figure.legend(loc="outside upper center", frameon=False, handlelength=2.4, fontsize=9)
    _save(figure, path)


def plot_histogram(
    scores: np.ndarray, labels: np.ndarray | None, path: PathLike, title: str = ""
) -> None:
    """Draw target and non-target score densities and the EER threshold into a PNG.

    Args:
        scores: (T,) numbers.
        labels: (T,) 1 target, 0 non-target.
        path: PNG file to write.
        title: heading, usually the name of the list.
    """
    curve = error_curve(scores, labels)
    targets = np.asarray(labels) == 1
    figure, axes = _figure(6.4, 4.0)
    edges = _bin_edges(scores, targets)
    for kept, colour, name in ((~targets, _NONTARGET, "non-target"), (targets, _TARGET, "target")):
        axes.hist(
            scores[kept],
            edges.tolist(),
            density=True,
            histtype="stepfilled",
            facecolor=(colour, 0.35),
            edgecolor=colour,
            linewidth=1.2,
            label=f"{name} ({kept.sum():,} trials)",
        )
    point = crossing_point(curve)
    threshold = curve.thresholds[point]
    if np.isfinite(threshold):
        label = f"EER {100 * curve_eer(curve):.2f} % at {threshold:.3g}"
        axes.axvline(threshold, color="0.2", linewidth=1.0, linestyle="--", label=label)
    axes.set_xlabel("score")
    axes.set_ylabel("density")
    axes.set_title(title)
    axes.set_xlim(edges[0], edges[-1])
    # Outside the frame, as in the other figure.
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # The object interface: no global state, and PNG output needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: PathLike) -> None:
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=200)


def _deviates(rates: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(rates)


def _det_limits(curves: list[ErrorCurve]) -> tuple[float, float]:
    """Return the ends of both axes as deviates: what the trials can resolve, and some room."""
    finest = min(min(1 / curve.targets, 1 / curve.nontargets) for curve in curves)
    eers = [curve_eer(curve) for curve in curves]
    ticks = _TICKS.tolist()
    wanted = 100 * max(finest, min(eers) / 20), max(20, 250 * max(eers))
    low = max((tick for tick in ticks if tick <= min(wanted[0], 1)), default=ticks[0])
    high = min((tick for tick in ticks if tick >= wanted[1]), default=ticks[-1])
    ends = _deviates(np.array([low, high]) / 100)
    return float(ends[0]), float(ends[1])


def _draw_det(
    axes: Axes, number: int, name: str, curve: ErrorCurve, limits: tuple[float, float]
) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    stroke = _STROKES[number // len(_COLOURS) % len(_STROKES)]
    # Rates of 0 and 1 lie at infinity: they are drawn just outside the frame.
    x = np.clip(_deviates(curve.fpr), limits[0] - 1, limits[1] + 1)
    y = np.clip(_deviates(curve.fnr), limits[0] - 1, limits[1] + 1)
    point = crossing_point(curve)
    label = f"{name} (EER {100 * curve_eer(curve):.2f} %)"
    axes.plot(x, y, color=colour, linestyle=stroke, linewidth=1.6, label=label, zorder=3)
    # An EER beyond the frame is marked on its edge.
    axes.plot(
        np.clip(x[point], *limits),
        np.clip(y[point], *limits),
        "o",
        color=colour,
        markersize=6,
        markeredgecolor="white",
        zorder=4,
        clip_on=False,
    )


def _deviate_axes(axes: Axes, low: float, high: float) -> None:
    ends = np.array([low, high])
    deviates = _deviates(_TICKS / 100)
    shown = (deviates >= ends[0] - 1e-9) & (deviates <= ends[1] + 1e-9)
    names = [f"{tick:g}" for tick in _TICKS[shown]]
    axes.set_xticks(deviates[shown], names)
    axes.set_yticks(deviates[shown], names)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)
    axes.set_xlabel("false alarm rate (%)")
    axes.set_ylabel("miss rate (%)")


def _bin_edges(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the edges of bins fine enough for the smaller class, 20 to 100 of them."""
    fewer = min(targets.sum(), (~targets).sum())
    bins = int(np.clip(4 * np.sqrt(fewer), 20, 100))
    return np.histogram_bin_edges(scores, bins)
