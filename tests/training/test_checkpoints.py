"""Checkpoints hold the moment they were asked for, are whole or absent, and the right ones stay."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from wesp_lap.coerce import from_mapping
from wesp_lap.errors import WespError
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.tensors import load_tensors
from wesp_lap.training import checkpoint_writer
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import (
    STATE_FILE,
    damage,
    read_extra,
    read_notes,
    read_speakers,
    restore,
    speaker_content,
)
from wesp_lap.training.run import train

FILES = (
    "README.md",
    "classifier.safetensors",
    "config.json",
    "model.safetensors",
    "optimizer.safetensors",
    "speakers.txt",
)


class State:
    """What a checkpoint is made of, after one step of Adam."""

    def __init__(self, settings):
        torch.manual_seed(0)
        self.model = SpeakerModel(from_mapping(ModelSettings, settings))
        self.classifier = nn.Linear(16, 3)
        modules = [*self.model.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.Adam(modules, lr=1e-3)
        self.scaler = GradScaler("cpu", enabled=False)
        self.speakers = {"anna": 0, "bob": 1, "carl": 2}
        for parameter in modules:
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def save(self, folder, moment, wait=True, **more):
        content = speaker_content(self.model, self.classifier, self.speakers)
        folder.save(moment, content, self.optimizer, self.scaler, **more)
        return folder.wait() if wait else None

    def change(self):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 1


@pytest.fixture
def state(tiny_model_settings):
    return State(tiny_model_settings)


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", keep=2, keep_best=2)


def copies(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Gate:
    """Holds the writer before its first file until it is opened."""

    def __init__(self, patch):
        self.reached, self.open = threading.Event(), threading.Event()
        whole = checkpoint_writer.save_tensors

        def save(*arguments):
            self.reached.set()
            assert self.open.wait(30)
            whole(*arguments)

        patch.setattr(checkpoint_writer, "save_tensors", save)


def test_what_is_saved_can_be_restored(state, folder, tiny_model_settings):
    extra = {"ema": {"weight": torch.arange(3.0)}}
    state.save(folder, Moment(1), extra=extra, notes={"bad_steps": 2})
    path = folder.path(Moment(1))
    assert sorted(p.name for p in path.iterdir()) == sorted([*FILES, "ema.safetensors", STATE_FILE])
    other = State(tiny_model_settings)
    other.change()
    modules = {"model.safetensors": other.model, "classifier.safetensors": other.classifier}
    restore(path, modules, other.optimizer, other.scaler)
    assert all(torch.equal(t, other.model.state_dict()[n]) for n, t in copies(state.model).items())
    ours, theirs = (s.optimizer.state_dict()["state"] for s in (state, other))
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in ours for k in ours[i])
    assert torch.equal(read_extra(path, "ema")["weight"], torch.arange(3.0))
    assert read_extra(path, "other") is None
    assert read_notes(path) == {"bad_steps": 2}
    assert read_speakers(path) == state.speakers
    wave = torch.randn(8000)
    loaded = SpeakerModel.from_pretrained(path)
    assert torch.equal(loaded.embed(wave), state.model.embed(wave))


def test_training_goes_on_while_the_state_that_was_is_written(state, folder, monkeypatch):
    gate = Gate(monkeypatch)
    before = copies(state.model)
    state.save(folder, Moment(1), wait=False)
    assert gate.reached.wait(30)
    state.change()  # here training is one step further
    assert folder.moments() == []
    folder.check()  # does not wait
    gate.open.set()
    assert folder.wait()
    saved = load_tensors(folder.path(Moment(1)) / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in before.items())


def test_the_next_checkpoint_waits_for_the_one_before(state, folder, monkeypatch):
    gate = Gate(monkeypatch)
    before = copies(state.model)
    state.save(folder, Moment(1), wait=False)
    assert gate.reached.wait(30)
    threading.Timer(0.2, gate.open.set).start()
    state.change()
    state.save(folder, Moment(2), wait=False)
    assert gate.open.is_set()
    assert damage(folder.path(Moment(1))) is None
    assert folder.wait()
    first, second = (load_tensors(folder.path(Moment(n)) / "model.safetensors") for n in (1, 2))
    assert all(torch.equal(tensor, first[name]) for name, tensor in before.items())
    assert all(torch.equal(t, second[name]) for name, t in copies(state.model).items())


def test_everything_is_on_the_disk_before_it_gets_its_name(state, folder, monkeypatch):
    """Records what the system is asked for: no rename of what was not synced, pointers last."""
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_replace(source, target):
        events.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    state.save(folder, Moment(1), validation={"eer": 5.0})
    path = folder.path(Moment(1))
    partial = path.with_name(".epoch_001.partial")
    named = events.index(("rename", str(path)))
    synced = [Path(where).name for what, where in events[:named] if what == "sync"]
    for name in (*FILES, STATE_FILE):
        assert any(name in file for file in synced), name
    assert events[named - 1] == ("sync", str(partial))
    assert events[named + 1] == ("sync", str(folder.folder))
    pointers = [str(folder.folder / "latest"), str(folder.folder.parent / "best")]
    assert [where for what, where in events[named + 1 :] if what == "rename"] == pointers
    assert (folder.folder / "latest").resolve() == path
    assert (folder.folder.parent / "best").resolve() == path


def test_the_last_the_best_and_the_newest_two_stay(state, folder):
    values = {1: 9.0, 2: 3.0, 3: None, 4: 7.0, 5: 2.0, 6: 8.0, 7: None, 8: 6.0}
    state.save(folder, Moment(0), validation={"eer": 1.0})  # no end of an epoch
    for epoch, eer in values.items():
        state.save(folder, Moment(epoch), validation=eer and {"eer": eer, "min_dcf_0.01": 0.5})
    assert folder.best(9) == [Moment(5), Moment(2), Moment(8)]
    assert folder.best() == [Moment(5)]
    assert [m.epoch for m in folder.moments()] == [0, 2, 5, 7, 8]
    assert (folder.folder.parent / "best").resolve() == folder.path(Moment(5))
    assert (folder.folder / "latest").resolve() == folder.path(Moment(8))
    state.save(folder, Moment(8, 2))
    state.save(folder, Moment(8, 4))
    state.save(folder, Moment(8, 6))
    names = [m.name for m in folder.moments()]
    assert names[-3:] == ["epoch_008", "epoch_008_step_00004", "epoch_008_step_00006"]
    assert (folder.folder / "latest").resolve() == folder.path(Moment(8, 6))


def test_equal_values_are_sorted_by_min_dcf_and_then_by_age(state, tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=9)
    for epoch, cost in ((1, 0.4), (2, 0.2), (3, 0.2)):
        state.save(folder, Moment(epoch), validation={"eer": 2.0, "min_dcf_0.01": cost})
    assert folder.best(3) == [Moment(2), Moment(3), Moment(1)]


def test_without_keep_best_there_is_no_best(state, tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=1, keep_best=0)
    for epoch, eer in ((1, 1.0), (2, 5.0), (3, 6.0)):
        state.save(folder, Moment(epoch), validation={"eer": eer})
    assert not (tmp_path / "best").exists()
    assert [m.epoch for m in folder.moments()] == [2, 3]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def flip(path, position=None, bit=2):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncate, empty, flip, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, STATE_FILE])
def test_a_damaged_checkpoint_is_passed_over_and_named(state, folder, caplog, name, spoil):
    state.save(folder, Moment(1))
    state.save(folder, Moment(2))
    spoil(folder.path(Moment(2)) / name)
    assert folder.newest() == Moment(1)
    if (name, spoil) != (STATE_FILE, Path.unlink):  # without it there is no checkpoint
        assert damage(folder.path(Moment(2))).startswith(str(folder.path(Moment(2)) / name))


def test_no_flipped_bit_in_the_state_goes_unseen(state, folder):
    state.save(folder, Moment(1), validation={"eer": 2.5})
    path = folder.path(Moment(1)) / STATE_FILE
    whole = path.read_bytes()
    right = json.loads(whole)
    for position in range(0, len(whole), 3):
        flip(path, position, position % 7)
        if damage(path.parent) is None:
            assert json.loads(path.read_bytes()) == right  # 1e-08 became 1E-08
        path.write_bytes(whole)


def test_what_was_found_damaged_goes_when_training_gets_on(state, folder):
    for moment in (Moment(1), Moment(2), Moment(2, 3)):
        state.save(folder, moment, validation={"eer": 1.0})
    for moment in (Moment(2), Moment(2, 3)):
        truncate(folder.path(moment) / "model.safetensors")
    assert folder.newest() == Moment(1)
    state.save(folder, Moment(1, 3))
    assert folder.moments() == [Moment(1), Moment(1, 3)]


def test_a_checkpoint_is_replaced_whole(state, folder):
    state.save(folder, Moment(1))
    state.change()
    state.save(folder, Moment(1))
    assert damage(folder.path(Moment(1))) is None
    saved = load_tensors(folder.path(Moment(1)) / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in copies(state.model).items())
    assert [p.name for p in folder.folder.iterdir() if p.name.startswith(".")] == []


def test_what_a_kill_has_left_is_swept_away(state, folder):
    state.save(folder, Moment(1))
    left = folder.folder / ".epoch_001_step_00002.partial"
    shutil.copytree(folder.path(Moment(1)), left)
    assert folder.moments() == [Moment(1)]
    state.save(folder, Moment(2))
    assert not left.exists()


def test_weights_that_are_not_finite_are_never_saved(state, folder):
    state.save(folder, Moment(1))
    with torch.no_grad():
        state.classifier.weight[0, 0] = float("nan")
    with pytest.raises(WespError, match=r"1 tensors hold NaN.*weight.*nothing was saved"):
        state.save(folder, Moment(2))
    assert folder.moments() == [Moment(1)]


def test_a_run_goes_on_before_its_damaged_end_and_gets_there(make_settings, tmp_path):
    settings = make_settings()
    assert train(settings, tmp_path / "exp")
    end = tmp_path / "exp" / "checkpoints" / "epoch_002"
    whole = load_tensors(end / "model.safetensors")
    flip(end / "optimizer.safetensors")
    assert train(settings, tmp_path / "exp")
    again = load_tensors(tmp_path / "exp" / "final" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert damage(end) is None


def test_another_number_of_processes_is_allowed_and_said(make_settings, tmp_path):
    settings = make_settings()
    assert train(settings, tmp_path)
    for name in ("checkpoints/epoch_002", "checkpoints/epoch_001"):
        shutil.rmtree(tmp_path / name)
    record = json.loads((tmp_path / "origin.json").read_text())
    (tmp_path / "origin.json").write_text(json.dumps({**record, "processes": 2}))
    assert train(settings, tmp_path)
    log = (tmp_path / "train.2.log").read_text()
    assert "was started on 2 processes and goes on with 1" in log
