"""A signal makes a run save its state and leave; the same command goes on, to the same weights."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from wesp_lap.config import save_yaml
from wesp_lap.data.stream import SampleStream
from wesp_lap.data.workers import outlive_signals
from wesp_lap.tensors import load_tensors
from wesp_lap.training import checkpoint_writer
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import damage, read_validation
from wesp_lap.training.engine import Engine
from wesp_lap.training.interruption import REQUEUE_EXIT_CODE, SIGNALS, Interruption
from wesp_lap.training.run import train
from wesp_lap.training.validation import Validator

NAMES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")


@pytest.fixture
def settings(make_settings):
    return make_settings(data={"augment": {"speed_perturb": True}})


@pytest.fixture
def whole(settings, tmp_path):
    assert train(settings, tmp_path / "whole")
    return tmp_path / "whole"


def assert_same_end(one, other):
    for name in NAMES:
        ours, theirs = (load_tensors(run / "final" / name) for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name


def signalled(owner, name, when, patch, number=signal.SIGTERM):
    """Have a method send this process a signal at its call number ``when``, counted from 0."""
    calls = iter(range(when, -1, -1))
    original = getattr(owner, name)

    def method(*arguments, **keywords):
        if next(calls, None) == 0:
            os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    patch.setattr(owner, name, method)


def newest(exp_dir):
    folder = CheckpointFolder(exp_dir / "checkpoints")
    moment = folder.newest()
    assert damage(folder.path(moment)) is None
    return moment


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_saves_at_the_end_of_the_step(settings, whole, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        signalled(Engine, "step", 2, patch, number)
        assert not train(settings, tmp_path / "parts")
    assert newest(tmp_path / "parts") == Moment(0, 3)
    assert not (tmp_path / "parts" / "final").exists()
    log = (tmp_path / "parts" / "train.log").read_text()
    assert f"{number.name}: saved as epoch_000_step_00003; leaving with exit code 75" in log
    assert train(settings, tmp_path / "parts")
    assert_same_end(tmp_path / "parts", whole)


@pytest.mark.parametrize(
    ("step", "moment"), [(0, Moment(0, 1)), (3, Moment(0, 4)), (7, Moment(1, 4))]
)
def test_first_and_last_steps(settings, whole, tmp_path, monkeypatch, step, moment):
    with monkeypatch.context() as patch:
        signalled(Engine, "step", step, patch)
        assert not train(settings, tmp_path / "parts")
    assert newest(tmp_path / "parts") == moment
    assert train(settings, tmp_path / "parts")
    assert_same_end(tmp_path / "parts", whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_while_a_batch_is_waited_for(settings, whole, tmp_path, monkeypatch, workers):
    data = dataclasses.replace(settings.data, num_workers=workers)
    settings = dataclasses.replace(settings, data=data)
    with monkeypatch.context() as patch:
        signalled(SampleStream, "_on_device", 1, patch)
        assert not train(settings, tmp_path / "parts")
    assert newest(tmp_path / "parts") == Moment(0, 2)
    assert train(settings, tmp_path / "parts")
    assert_same_end(tmp_path / "parts", whole)


def test_a_signal_during_the_write_of_a_checkpoint(settings, whole, tmp_path, monkeypatch):
    settings = dataclasses.replace(
        settings, training=dataclasses.replace(settings.training, checkpoint_every=2)
    )
    with monkeypatch.context() as patch:
        signalled(checkpoint_writer, "save_tensors", 4, patch)  # the first file is of epoch_000
        assert not train(settings, tmp_path / "parts")
    assert newest(tmp_path / "parts").step in (2, 3, 4)  # the thread is not in step with training
    assert train(settings, tmp_path / "parts")
    assert_same_end(tmp_path / "parts", whole)


def test_a_signal_during_validation(make_settings, tmp_path, monkeypatch):
    settings = make_settings(validation={"speakers": 2, "utterances": 3})
    assert train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        signalled(Validator, "__call__", 1, patch)
        assert not train(settings, tmp_path / "parts")
    folder = CheckpointFolder(tmp_path / "parts" / "checkpoints")
    assert "eer" in read_validation(folder.path(Moment(1)))
    assert train(settings, tmp_path / "parts")
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once():
    with Interruption().watch() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_as_before_after_the_block():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption().watch():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_alone():
    faults = []

    def run():
        try:
            with Interruption().watch() as interruption:
                assert not interruption.requested
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not faults


def test_a_loader_process_ends_by_its_parent_alone():
    pid = os.fork()
    if pid == 0:
        outlive_signals()
        time.sleep(60)
        os._exit(1)
    time.sleep(0.3)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)
    time.sleep(0.3)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def start(config, exp_dir, processes, *options):
    words = [sys.executable, "-m", "wesp_lap.bin.launch", "--standalone"]
    words += [f"--nproc_per_node={processes}", *options, "-m"]
    if processes == 0:
        words = [sys.executable, "-m"]
    words += ["wesp_lap.bin.train", "--config", config, "--exp_dir", exp_dir]
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def children_of(parent):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            if f"PPid:\t{parent}\n" in status:
                found.append(int(folder.name))
    return sorted(found)


def wait_for(process, path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("processes", "number"),
    [(0, signal.SIGUSR1), (1, signal.SIGTERM), pytest.param(2, signal.SIGUSR2)],
    ids=["alone", "one_process", "two_processes"],
)
def test_commands_leave_with_the_code_for_starting_again(
    make_settings, tmp_path, processes, number
):
    settings = make_settings(training={"epochs": 200, "log_every": 1}, data={"num_workers": 1})
    save_yaml(tmp_path / "settings.yaml", settings)
    # A restart would be one too many.
    process = start(tmp_path / "settings.yaml", tmp_path / "exp", processes, "--max_restarts=1")
    wait_for(process, tmp_path / "exp" / "checkpoints" / "epoch_001")
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == REQUEUE_EXIT_CODE, output
    assert time.monotonic() - began < 30
    assert f"{number.name}: saved as" in output
    assert "Traceback" not in output
    assert "resuming" not in output
    assert newest(tmp_path / "exp") > Moment(1)


def test_a_signal_to_one_of_two_processes_ends_both(make_settings, tmp_path):
    settings = make_settings(training={"epochs": 200, "log_every": 1})
    save_yaml(tmp_path / "settings.yaml", settings)
    process = start(tmp_path / "settings.yaml", tmp_path / "exp", 2, "--max_restarts=1")
    wait_for(process, tmp_path / "exp" / "checkpoints" / "epoch_001")
    os.kill(children_of(process.pid)[-1], signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == REQUEUE_EXIT_CODE, output
    assert "saved as" in output
    assert newest(tmp_path / "exp") > Moment(1)
