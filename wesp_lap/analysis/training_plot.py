"""Curves of loss, accuracy, learning rate and margin over the phases of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wesp_lap.files import PathLike, atomic_write

_PANELS = (
    ("loss", "loss", 1.0),
    ("accuracy", "accuracy (%)", 100.0),
    ("lr", "learning rate", 1.0),
    ("margin", "margin (rad)", 1.0),
)


def plot_training(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: PathLike) -> None:
    """Draw four panels over the epochs of all phases in a row, phases divided by lines.

    Args:
        logs: Records of each phase, as read_training_log returns them, in training order.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flatten()
    for axes, (key, label, factor) in zip(panels, _PANELS, strict=True):
        start = 0.0
        for number, (name, records) in enumerate(logs.items()):
            epochs = [start + r["epoch"] - 1 + r["step"] / r["steps_per_epoch"] for r in records]
            axes.plot(
                epochs,
                [factor * r[key] for r in records],
                color=f"C{number}",
                linewidth=1.4,
                marker="." if len(epochs) < 30 else None,
                label=name.replace("_", " "),
            )
            start += records[-1]["epoch"]
            axes.axvline(start, color="0.7", linewidth=0.8, linestyle=":")
        axes.set_ylabel(label)
        axes.grid(True, color="0.9", linewidth=0.6)
        axes.set_xlim(0, start)
    for axes in panels[2:]:
        axes.set_xlabel("epoch, counted over all phases")
    panels[0].legend(frameon=False, fontsize=9)
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=150)
