"""Figures: that they are PNG files of what was asked for, and that odd scores draw too."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import norm as normal

from wesp_lap.analysis import plots
from wesp_lap.errors import DataError


@pytest.fixture
def figures(monkeypatch):
    """Catch the figures that are saved, so that a test can look at their axes."""
    caught = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (caught.append(self), save(self, *a, **k))
    )
    return caught


def trials(shift, seed=0, count=4000):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return random.normal(size=count) + shift * labels, labels


def test_det_curve_of_normal_scores_is_a_line_of_slope_minus_one(tmp_path, figures):
    plots.plot_det({"one": trials(3), "two": trials(2, 1)}, tmp_path / "det.png")
    axes = figures[0].axes[0]
    curves = [line for line in axes.lines if line.get_label().startswith(("one", "two"))]
    for curve, shift in zip(curves, (3, 2), strict=True):
        x, y = curve.get_data()
        middle = (np.abs(x - y) < 1) & (x > -2) & (y > -2)
        np.testing.assert_allclose((x + y)[middle], -shift, atol=0.25)
    assert [curve.get_label().split(" (")[0] for curve in curves] == ["one", "two"]
    # Ticks are percentages at their normal deviates.
    for place, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert normal.cdf(place) * 100 == pytest.approx(float(text.get_text()))
    assert "%" in axes.get_xlabel() and "%" in axes.get_ylabel()
    height, width = imread(tmp_path / "det.png").shape[:2]
    assert height > 800 and width > 800


def test_eer_points_lie_on_the_diagonal(tmp_path, figures):
    plots.plot_det({"one": trials(3)}, tmp_path / "det.png")
    (marker,) = [line for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    x, y = marker.get_xydata()[0]
    assert x == pytest.approx(y, abs=0.02) == pytest.approx(-1.5, abs=0.1)


@pytest.mark.parametrize(
    "scores, labels",
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]),
        ([0.5, 0.5, 0.6], [0, 1, 1]),
        ([1e6, -1e6], [1, 0]),
    ],
)
def test_odd_scores_draw_too(tmp_path, scores, labels, figures):
    system = np.array(scores), np.array(labels)
    plots.plot_systems({"odd/name": system}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["det.png", "odd_name.hist.png"]
    for figure in figures:
        (axes,) = figure.axes
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_histogram_areas_are_one_per_class(tmp_path, figures):
    scores, labels = trials(3)
    plots.plot_histogram(scores, labels, tmp_path / "hist.png", "a list")
    axes = figures[0].axes[0]
    assert axes.get_title() == "a list"
    for patch in axes.patches:
        outline = patch.get_xy()
        x, y = outline[:, 0], outline[:, 1]
        area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
        assert area == pytest.approx(1, abs=1e-6)
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert names[:2] == ["non-target (2,000 trials)", "target (2,000 trials)"]


def test_blind_scores_are_a_named_error_and_leave_no_file(tmp_path):
    with pytest.raises(DataError, match="no labels"):
        plots.plot_histogram(np.zeros(3), None, tmp_path / "hist.png")
    assert not list(tmp_path.iterdir())
