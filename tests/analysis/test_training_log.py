import json

import matplotlib.figure
import numpy as np
import pytest

from wesp_lap.analysis.training_log import read_training_log
from wesp_lap.analysis.training_plot import plot_training
from wesp_lap.errors import DataError


def record(epoch, step, loss, lr=0.001):
    return {
        "epoch": epoch,
        "step": step,
        "steps_per_epoch": 10,
        "loss": loss,
        "accuracy": 0.5,
        "lr": lr,
        "margin": 0.2,
    }


def write(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_after_a_resume_the_later_record_of_a_step_counts(tmp_path):
    records = [
        record(1, 5, 9.0),
        record(1, 10, 8.0),
        record(2, 5, 7.0),  # lost: the run died here and went on from the end of epoch 1
        record(2, 5, 6.5),
        record(2, 10, 6.0),
    ]
    read = read_training_log(write(tmp_path, *records))
    assert read == [records[0], records[1], records[3], records[4]]


def test_records_come_in_the_order_of_training(tmp_path):
    read = read_training_log(write(tmp_path, record(10, 5, 1), record(2, 10, 2), record(2, 5, 3)))
    assert [(one["epoch"], one["step"]) for one in read] == [(2, 5), (2, 10), (10, 5)]


@pytest.mark.parametrize("line", ['{"epoch": 1, "st', '{"epoch": 1}', "[1, 2]", "3", ""])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    write(tmp_path, record(1, 5, 9.0), line, record(1, 10, 8.0))
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a training record"):
        read_training_log(tmp_path)


def test_a_phase_that_was_not_trained_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: no such file; has this phase been"):
        read_training_log(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match=r"metrics\.jsonl: holds no record"):
        read_training_log(tmp_path)


def test_the_phases_are_drawn_one_after_the_other(tmp_path, monkeypatch):
    drawn = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    logs = {
        "1_frozen": [record(1, 5, 9.0), record(1, 10, 8.0), record(2, 10, 7.0)],
        "2_joint": [record(1, 10, 3.0, lr=1e-5)],
    }
    plot_training(logs, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    [figure] = drawn
    curves = {
        axes.get_ylabel(): [line.get_xydata() for line in axes.lines if len(line.get_xdata()) != 2]
        for axes in figure.axes
    }
    assert list(curves) == ["loss", "accuracy (%)", "learning rate", "margin (rad)"]
    np.testing.assert_allclose(curves["loss"][0], [[0.5, 9], [1, 8], [2, 7]])
    np.testing.assert_allclose(curves["loss"][1], [[3, 3]])
    np.testing.assert_allclose(curves["accuracy (%)"][0][:, 1], 50)
    np.testing.assert_allclose(curves["learning rate"][1], [[3, 1e-5]])
