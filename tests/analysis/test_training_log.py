import json

import matplotlib.figure
import numpy as np
import pytest

from wesp_lap.analysis.training_log import read_training_log, read_validations
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


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as curves by the label of their panel."""
    found = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        found.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return found


def curves_of(figure):
    return {
        axes.get_ylabel(): [line.get_xydata() for line in axes.lines if line.get_linestyle() != ":"]
        for axes in figure.axes
    }


def test_records_of_steps_and_of_validations_stand_side_by_side(tmp_path):
    steps = [record(1, 10, 9.0), record(2, 10, 8.0)]
    validations = [
        {"epoch": 0, "validation": {"eer": 50.0, "trials": 9}},
        {"epoch": 1, "validation": {"eer": 9.0}},
        {"epoch": 2, "validation": None},
        {"epoch": 1, "validation": {"eer": 8.0}},
    ]
    write(tmp_path, validations[0], steps[0], validations[1], steps[1], *validations[2:])
    assert read_training_log(tmp_path) == steps
    found = read_validations(tmp_path)
    assert list(found.items()) == [(0, {"eer": 50.0, "trials": 9}), (1, {"eer": 8.0})]


def test_a_phase_without_validation_has_none(tmp_path):
    assert read_validations(write(tmp_path, record(1, 10, 9.0))) == {}


@pytest.mark.parametrize("line", ['{"validation": {"eer": 1}}', '{"epoch": 1, "validation": 3}'])
def test_a_line_that_is_no_validation_is_named(tmp_path, line):
    write(tmp_path, record(1, 5, 9.0), line)
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a record of a validation"):
        read_validations(tmp_path)


def test_validations_and_gradients_are_drawn_where_there_are_any(tmp_path, drawn):
    logs = {
        "1_frozen": [record(1, 10, 9.0), {**record(2, 10, 8.0), "grad_norm": 3.0}],
        "2_joint": [{**record(1, 10, None), "grad_norm": None}],
    }
    validations = {"1_frozen": {1: {"eer": 9.0}, 2: {"eer": 8.0}}, "2_joint": {1: {"eer": 7.0}}}
    plot_training(logs, tmp_path / "training.png", validations)
    curves = curves_of(drawn[0])
    assert list(curves)[4:] == ["EER of the validation (%)", "norm of the gradient"]
    np.testing.assert_allclose(curves["EER of the validation (%)"][0], [[1, 9], [2, 8]])
    np.testing.assert_allclose(curves["EER of the validation (%)"][1], [[3, 7]])
    np.testing.assert_allclose(curves["norm of the gradient"][0], [[2, 3]])
    np.testing.assert_allclose(curves["loss"][0], [[1, 9], [2, 8]])
    assert len(curves["loss"][1]) == 0
    plot_training(logs, tmp_path / "training.png", {"1_frozen": {}, "2_joint": {}})
    assert list(curves_of(drawn[1]))[4:] == ["norm of the gradient"]


def test_the_phases_are_drawn_one_after_the_other(tmp_path, drawn):
    logs = {
        "1_frozen": [record(1, 5, 9.0), record(1, 10, 8.0), record(2, 10, 7.0)],
        "2_joint": [record(1, 10, 3.0, lr=1e-5)],
    }
    plot_training(logs, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    [figure] = drawn
    curves = curves_of(figure)
    assert list(curves) == ["loss", "accuracy (%)", "learning rate", "margin (rad)"]
    np.testing.assert_allclose(curves["loss"][0], [[0.5, 9], [1, 8], [2, 7]])
    np.testing.assert_allclose(curves["loss"][1], [[3, 3]])
    np.testing.assert_allclose(curves["accuracy (%)"][0][:, 1], 50)
    np.testing.assert_allclose(curves["learning rate"][1], [[3, 1e-5]])
