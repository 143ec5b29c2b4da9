"""Log lines, metrics.jsonl and TensorBoard: what they say, and that a resume leaves no trace."""

import json
import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wesp_lap.data.crops import Batch
from wesp_lap.errors import ConfigError
from wesp_lap.training import metrics, trainer
from wesp_lap.training.checkpoint import Moment
from wesp_lap.training.classification import SpeakerTask
from wesp_lap.training.distributed import Process
from wesp_lap.training.engine import StepResult
from wesp_lap.training.meter import Meter
from wesp_lap.training.metrics import Metrics
from wesp_lap.training.mfu import Utilisation
from wesp_lap.training.run import train
from wesp_lap.training.task import StepPlan

CPU = torch.device("cpu")
START = Moment(0)
# What depends on the machine, or on when the run was started.
TIMES = {
    "utterances_per_second",
    "audio_seconds_per_second",
    "data_wait",
    "seconds",
    "paused_seconds",
    "seconds_left",
}


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in lines]


def lasting(folder):
    return [{k: v for k, v in one.items() if k not in TIMES} for one in records(folder)]


class LoggedTask(SpeakerTask):
    """What a meter asks of a task, without anything to train."""

    def __init__(self, settings, use):
        self._settings = settings
        self._use = use

    def utilisation(self, device):
        return self._use


@pytest.fixture
def make_meter(make_settings, tmp_path):
    def make(steps_per_epoch=4, reached=START, use=None, **training):
        settings = make_settings(training=training, margin={"ramp_epochs": 0})
        task = LoggedTask(settings, use)
        return Meter(
            tmp_path, Process(0, 1, CPU), settings.training, task, steps_per_epoch, reached
        )

    return make


def plan(epoch, step):
    return StepPlan(epoch, step, steps_per_epoch=4, lr=0.001)


def result(loss, correct=0.5, norm=1.0, skipped=False):
    figures = torch.tensor([float(loss), float(correct)])
    return StepResult(figures, torch.tensor(float(norm)), skipped=skipped, leave=False)


def batch(utterances=8, samples=8000):
    waves = torch.zeros(utterances, samples)
    labels = torch.zeros(utterances, dtype=torch.long)
    return Batch(waves, labels, [""] * utterances, 1.0, None, {})


def test_a_record_holds_the_means_of_its_steps(make_meter, tmp_path):
    meter = make_meter(log_every=3)
    for step, (loss, correct, norm) in enumerate(
        [(9, 0.1, 2), (6, 0.2, 4), (3, 0.6, 6), (2, 1, 1)]
    ):
        meter.add(plan(0, step), result(loss, correct, norm), batch())
    first, last = records(tmp_path)
    assert (first["epoch"], first["step"], first["steps_per_epoch"]) == (1, 3, 4)
    assert (first["steps"], first["skipped"], last["steps"]) == (3, 0, 1)
    assert first["loss"] == 6 and first["grad_norm"] == 4
    assert first["accuracy"] == pytest.approx(0.3)
    assert (last["step"], last["loss"]) == (4, 2)
    assert first["lr"] == 0.001 and first["margin"] == 0.2
    assert first["mfu"] is None and first["memory_gib"] is None  # on a CPU
    rates = first["audio_seconds_per_second"], first["utterances_per_second"]
    assert rates[0] / rates[1] == pytest.approx(8000 / 16000, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_steps_that_are_not_finite_do_not_spoil_the_means(make_meter, tmp_path, caplog, bad):
    meter = make_meter(log_every=2)
    meter.add(plan(0, 0), result(4.0), batch())
    meter.add(plan(0, 1), result(bad, norm=bad, skipped=True), batch())
    meter.add(plan(0, 2), result(1.0, norm=bad), batch())  # fp16: the scaler leaves the step out
    meter.add(plan(0, 3), result(bad, norm=bad, skipped=True), batch())
    first, last = records(tmp_path)
    assert (first["loss"], first["grad_norm"], first["skipped"]) == (4, 1, 1)
    assert (last["loss"], last["grad_norm"], last["skipped"]) == (1, None, 1)


def test_the_share_of_the_peak(make_meter, tmp_path):
    use = Utilisation(peak=1e9, flops=lambda samples: 10.0 * samples)
    meter = make_meter(log_every=2, use=use)
    for step in range(2):
        meter.add(plan(0, step), result(1.0), batch(utterances=8, samples=8000 + 8000 * step))
    [record] = records(tmp_path)
    work = 10.0 * 8 * (8000 + 16000)
    # Both are rounded: to 0.0001 and to a millisecond.
    seconds = work / 1e9 / record["mfu"]
    assert seconds == pytest.approx(record["seconds"], abs=2e-3)


def test_saving_and_validating_is_no_time_of_training(make_meter, tmp_path, monkeypatch):
    from wesp_lap.training import meter as module

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    meter = make_meter(log_every=4, epochs=2)

    def batches():
        for _ in range(4):
            now[0] += 1  # a second is waited for each batch
            yield batch()

    for epoch in range(2):
        now[0] += 3  # the loader starts
        for step, one in meter.timed(batches(), epoch, 0):
            now[0] += 4
            meter.add(plan(epoch, step), result(1.0), one)
            if step == 1:
                with meter.paused():
                    now[0] += 100
    found = records(tmp_path)
    assert [(r["epoch"], r["step"]) for r in found] == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert [r["seconds"] for r in found] == [10, 10, 10, 10]
    assert [r["paused_seconds"] for r in found] == [0, 100, 0, 100]
    assert [r["data_wait"] for r in found] == [0.2] * 4
    assert [r["utterances_per_second"] for r in found] == [1.6] * 4
    # 6 steps of 5 s; then what the pauses and the start of the loader cost is known.
    assert found[0]["seconds_left"] == 30
    assert found[1]["seconds_left"] == 4 * 110 / 2
    assert found[-1]["seconds_left"] == 0


class Synchronisations(TorchDispatchMode):
    """Counts tensors that are turned into Python numbers, for which a GPU must have finished."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_without_a_line_asks_the_device_for_nothing(make_meter):
    meter = make_meter(steps_per_epoch=100, log_every=100)
    shown = result(1.0)
    with Synchronisations() as seen:
        meter.add(plan(0, 0), shown, batch())
    assert seen.count == 0
    with Synchronisations() as seen:
        float(shown.norm)
    assert seen.count == 1  # it does count


def test_a_step_asks_the_device_once(make_settings, tmp_path, monkeypatch):
    """Whether loss and gradient are finite: the update waits for that."""
    found = []
    whole = trainer.Engine.step

    def step(engine, *arguments):
        with Synchronisations() as seen:
            done = whole(engine, *arguments)
        found.append(seen.count)
        return done

    monkeypatch.setattr(trainer.Engine, "step", step)
    # Adam keeps the number of its steps in tensors on the CPU, and reads them.
    train(make_settings(optimizer={"name": "sgd"}, training={"grad_clip": 1.0}), tmp_path)
    assert found == [1] * 8


@pytest.mark.parametrize("stop", [1, 3, 5, 6])
def test_after_a_resume_no_step_is_missing_and_none_is_there_twice(
    make_settings, tmp_path, monkeypatch, stop
):
    settings = make_settings(training={"log_every": 4, "checkpoint_every": 3})
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        steps = iter(range(stop, -1, -1))
        whole = trainer.Trainer._step

        def step(self, *arguments):
            if next(steps) == 0:
                raise InterruptedError
            return whole(self, *arguments)

        patch.setattr(trainer.Trainer, "_step", step)
        with pytest.raises(InterruptedError):
            train(settings, tmp_path / "parts")
    train(settings, tmp_path / "parts")
    expected = lasting(tmp_path / "whole")
    assert [(r["epoch"], r["step"], r["steps"]) for r in expected] == [
        (1, 3, 3),
        (1, 4, 1),
        (2, 3, 3),
        (2, 4, 1),
    ]
    assert lasting(tmp_path / "parts") == expected
    assert (tmp_path / "parts" / "train.2.log").exists()


LINES = [
    {"epoch": 0, "validation": {"eer": 50.0}},
    {"epoch": 1, "step": 2},
    {"epoch": 1, "step": 4},
    {"epoch": 1, "validation": {"eer": 9.0}},
    {"epoch": 2, "step": 2},
    {"epoch": 2, "step": 4},
    {"epoch": 2, "validation": None},
]


@pytest.mark.parametrize(
    ("reached", "kept"),
    [
        (Moment(0), 0),  # also what is known of the start is found again
        (Moment(0, 1), 1),
        (Moment(0, 2), 2),
        (Moment(0, 4), 3),
        (Moment(1), 4),
        (Moment(1, 2), 5),
        (Moment(2), 7),
    ],
)
def test_what_lies_behind_the_checkpoint_is_removed(tmp_path, reached, kept):
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text + '{"epoch": 2, "st')
    Metrics(tmp_path, reached, steps_per_epoch=4)
    assert records(tmp_path) == LINES[:kept]


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }


def test_tensorboard_has_the_scalars_of_the_records(tmp_path):
    pytest.importorskip("tensorboard")

    def record(epoch, step, loss):
        return {"epoch": epoch, "step": step, "steps_per_epoch": 4, "loss": loss, "mfu": None}

    first = Metrics(tmp_path, Moment(0), 4, tensorboard=True)
    first.add_validation(0, {"eer": 50.0})
    first.add(record(1, 4, 3.0))
    first.add_validation(1, {"eer": 9.0})
    first.add(record(2, 2, 2.5))  # lost
    first.add(record(2, 4, 2.25))  # lost
    second = Metrics(tmp_path, Moment(1), 4, tensorboard=True)
    second.add(record(2, 4, 2.0))
    second.add_validation(2, None)
    found = scalars(tmp_path)
    assert found == {"train/loss": [(4, 3), (8, 2)], "validation/eer": [(0, 50), (4, 9)]}
    third = Metrics(tmp_path, Moment(0), 4, tensorboard=True)  # trained anew
    third.add(record(1, 4, 5.0))
    assert scalars(tmp_path) == {"train/loss": [(4, 5)]}


def test_a_run_writes_for_tensorboard_what_its_records_hold(make_settings, tmp_path):
    pytest.importorskip("tensorboard")
    train(make_settings(training={"tensorboard": True}), tmp_path)
    found, lines = scalars(tmp_path), records(tmp_path)
    for name in ("loss", "accuracy", "lr", "margin", "grad_norm", "data_wait"):
        assert [step for step, _ in found[f"train/{name}"]] == [2, 4, 6, 8]
        values = [value for _, value in found[f"train/{name}"]]
        assert values == pytest.approx([line[name] for line in lines])


def test_without_the_package_the_setting_is_refused(make_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tensorboard package: pip install 'wesp_lap\[tensorb"):
        train(make_settings(training={"tensorboard": True}), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_a_bar_is_shown_on_a_terminal_only(make_settings, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    train(make_settings(), tmp_path)
    output = capsys.readouterr()
    text = output.out + output.err
    assert ("epoch 2/2:" in text and "step/s" in text) == terminal
    # The lines are there in any case, and in the file without the bar.
    log = (tmp_path / "train.log").read_text()
    assert "epoch 2/2 step 4/4 | lr " in text and "epoch 2/2 step 4/4 | lr " in log
    assert "step/s" not in log


def test_a_line_says_what_matters(make_meter, tmp_path, monkeypatch):
    from wesp_lap.training import meter as module

    lines = []
    monkeypatch.setattr(
        module.get_logger(), "info", lambda form, *words: lines.append(form % words)
    )
    meter = make_meter(log_every=1, epochs=3, use=Utilisation(1e15, lambda samples: 1.0))
    meter.add(plan(1, 0), result(2.5, correct=0.125, norm=3.0), batch())
    [line] = lines
    assert line.startswith(
        "epoch 2/3 step 1/4 | lr 1.00e-03 | margin 0.200 | loss 2.500 | accuracy 12.5 % | "
        "gradient 3 | "
    )
    assert " utt/s | " in line and " s audio/s | data wait 0 % | MFU 0.0 % | " in line
    assert line.endswith("0:00:00 left")
