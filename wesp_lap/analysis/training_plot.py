"""Curves of loss, accuracy, learning rate and so on over the phases of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wesp_lap.files import PathLike, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]
Validations = Mapping[int, Mapping[str, float]]
Points = tuple[list[float], list[float]]

_PANELS = (
    ("loss", "loss", 1.0),
    ("accuracy", "accuracy (%)", 100.0),
    ("lr", "learning rate", 1.0),
    ("margin", "margin (rad)", 1.0),
)
_OPTIONAL = ("grad_norm", "norm of the gradient", 1.0)


def plot_training(
    logs: Mapping[str, Records],
    path: PathLike,
    validations: Mapping[str, Validations] | None = None,
) -> None:
    """Draw panels over the epochs of all phases in a row, phases divided by lines.

    Args:
        logs: Records of each phase, as read_training_log returns them, in training order.
        path: PNG file to write.
        validations: Results by phase, as read_validations returns them; their EER gets a panel if
            there is any.
    """
    from matplotlib.figure import Figure

    panels = _panels(logs, validations or {})
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(8.0, 2.5 * rows), layout="constrained")
    axes_of = figure.subplots(rows, 2, sharex=True).flatten()
    for axes, (label, points) in zip(axes_of, panels.items(), strict=False):
        _draw(axes, logs, label, points)
    for axes in axes_of[len(panels) :]:
        axes.remove()
    for axes in axes_of[len(panels) - 2 : len(panels)]:
        axes.set_xlabel("epoch, counted over all phases")
        axes.tick_params(labelbottom=True)
    axes_of[0].legend(frameon=False, fontsize=9)
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=150)


def _panels(
    logs: Mapping[str, Records], validations: Mapping[str, Validations]
) -> dict[str, Callable[[str], Points]]:
    """Return by label what gives the epochs and values of a phase."""

    def of_steps(key: str, factor: float) -> Callable[[str], Points]:
        def points(phase: str) -> Points:
            records = [r for r in logs[phase] if r.get(key) is not None]
            epochs = [r["epoch"] - 1 + r["step"] / r["steps_per_epoch"] for r in records]
            return epochs, [factor * r[key] for r in records]

        return points

    def of_validations(phase: str) -> Points:
        found = {
            e: v["eer"] for e, v in validations.get(phase, {}).items() if v.get("eer") is not None
        }
        return [float(epoch) for epoch in found], list(found.values())

    panels = {label: of_steps(key, factor) for key, label, factor in _PANELS}
    if any(of_validations(phase)[0] for phase in logs):
        panels["EER of the validation (%)"] = of_validations
    key, label, factor = _OPTIONAL
    if any(of_steps(key, factor)(phase)[0] for phase in logs):
        panels[label] = of_steps(key, factor)
    return panels


def _draw(
    axes: Axes, logs: Mapping[str, Records], label: str, points: Callable[[str], Points]
) -> None:
    start = 0.0
    for number, (name, records) in enumerate(logs.items()):
        epochs, values = points(name)
        axes.plot(
            [start + epoch for epoch in epochs],
            values,
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
