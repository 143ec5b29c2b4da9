"""A disk that is full costs checkpoints, never those that are there; training says so."""

import builtins
import errno
import os
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_checkpoints import State

from wesp_lap.errors import WespError
from wesp_lap.log import get_logger
from wesp_lap.tensors import load_tensors, save_tensors
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import damage
from wesp_lap.training.engine import Engine
from wesp_lap.training.run import train

# What a checkpoint may ask the system for.
CALLS = (
    (builtins, "open"),
    (os, "open"),
    (os, "mkdir"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "symlink"),
    (os, "chmod"),
    (safetensors.torch, "save_file"),
)


class FullDisk:
    """Counts calls that write, and has the one with a certain number fail as a full disk does."""

    def __init__(self, patch, fail_at=None):
        self.count = 0
        self.fail_at = fail_at
        for owner, name in CALLS:
            patch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, function):
        def call(*arguments, **keywords):
            mode = keywords.get("mode") or (arguments[1] if len(arguments) > 1 else "r")
            if function is builtins_open and not set(str(mode)) & set("wax"):
                return function(*arguments, **keywords)
            self.count += 1
            if self.count - 1 == self.fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **keywords)

        return call


builtins_open = builtins.open


@pytest.fixture
def state(tiny_model_settings):
    return State(tiny_model_settings)


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Text of the log, which has handlers of its own after a training run."""
    monkeypatch.setattr(get_logger(), "propagate", True)
    return caplog


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.startswith(".") or p.suffix == ".partial"]


def test_the_disk_may_be_full_at_any_call(state, tmp_path, monkeypatch, warnings):
    checkpoints = CheckpointFolder(tmp_path / "all" / "checkpoints")
    state.save(checkpoints, Moment(1))
    with monkeypatch.context() as patch:
        disk = FullDisk(patch)
        assert state.save(checkpoints, Moment(2), validation={"eer": 1.0})
    total = disk.count
    assert total > 30
    failed = 0
    for number in range(total):
        checkpoints = CheckpointFolder(tmp_path / str(number) / "checkpoints")
        state.save(checkpoints, Moment(1))
        warnings.clear()
        with monkeypatch.context() as patch:
            FullDisk(patch, fail_at=number)
            written = state.save(checkpoints, Moment(2), validation={"eer": 1.0})
        if not written:  # some calls may fail, such as making a folder that is there
            failed += 1
            assert "checkpoint epoch_002 could not be written: no space is left" in warnings.text
            assert "The checkpoint before is whole" in warnings.text
        assert checkpoints.newest() == Moment(2) or not written
        assert not any(damage(checkpoints.path(moment)) for moment in checkpoints.moments())
        assert damage((checkpoints.folder / "latest").resolve()) is None
        assert leftovers(checkpoints.folder.parent) == []
        assert state.save(checkpoints, Moment(3), validation={"eer": 1.0})
        assert checkpoints.newest() == Moment(3)
        assert leftovers(checkpoints.folder.parent) == []
    assert failed > total / 2


def test_only_failures_in_a_row_end_training(state, tmp_path, monkeypatch):
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", max_failed=2)
    for epoch in (1, 3):
        with monkeypatch.context() as patch:
            FullDisk(patch, fail_at=8)
            assert not state.save(checkpoints, Moment(epoch))
        assert state.save(checkpoints, Moment(epoch + 1))
    with monkeypatch.context() as patch:
        FullDisk(patch, fail_at=8)
        assert not state.save(checkpoints, Moment(5))
    with monkeypatch.context() as patch:
        FullDisk(patch, fail_at=8)
        with pytest.raises(WespError, match=r"epoch_006 .*2 in a row.*max_failed_saves"):
            state.save(checkpoints, Moment(6))
    assert checkpoints.newest() == Moment(4)


def test_the_end_must_be_on_the_disk(state, tmp_path, monkeypatch):
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    state.save(checkpoints, Moment(1))
    with monkeypatch.context() as patch:
        FullDisk(patch, fail_at=8)
        state.save(checkpoints, Moment(2), wait=False)
        with pytest.raises(WespError, match=r"epoch_002: the checkpoint of the end.*same command"):
            checkpoints.finish(Moment(2))
    assert not (tmp_path / "final").exists()


@pytest.fixture
def file_limit():
    """Return a function that sets the largest size of files that this process may write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_of_the_system_is_a_fault_of_the_system(tmp_path, file_limit):
    file_limit(10_000)
    with pytest.raises(OSError, match="File too large") as caught:
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(10_000)})
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def limited_from_step(number, file_limit, patch):
    whole, steps = Engine.step, iter(range(number, -1, -1))

    def step(self, *arguments):
        if next(steps, None) == 0:
            file_limit(60_000)  # logs are smaller, weights are larger
        return whole(self, *arguments)

    patch.setattr(Engine, "step", step)


def test_training_goes_on_without_checkpoints_for_a_while(
    make_settings, tmp_path, monkeypatch, file_limit
):
    """2 steps per checkpoint, 12 in all; from the fourth step on, nothing can be written."""
    settings = make_settings(training={"epochs": 3, "checkpoint_every": 2})
    assert train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        limited_from_step(3, file_limit, patch)
        with pytest.raises(WespError, match=r"3 in a row have failed \(training.max_failed_saves"):
            train(settings, tmp_path / "exp")
        file_limit(resource.RLIM_INFINITY)
    folder = CheckpointFolder(tmp_path / "exp" / "checkpoints")
    assert folder.newest() == Moment(0, 2)
    assert all(damage(folder.path(moment)) is None for moment in folder.moments())
    log = (tmp_path / "exp" / "train.log").read_text()
    assert "checkpoint epoch_001 could not be written" in log
    assert "training goes on and tries again at the next one (failure 2" in log
    assert train(settings, tmp_path / "exp")
    whole, again = (
        load_tensors(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "exp")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_read_only_folder_is_said(state, tmp_path, warnings):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    checkpoints.folder.mkdir()
    Path(checkpoints.folder).chmod(0o500)
    assert not state.save(checkpoints, Moment(1))
    assert "Permission denied" in warnings.text
