"""A run that was stopped in the middle of an epoch ends as one that was not, bit for bit."""

import signal

import pytest
import torch
from pretraining_corpus import ENCODER

from wesp_lap.pretraining.run import pretrain
from wesp_lap.tensors import load_tensors
from wesp_lap.training import trainer

FILES = ("network.safetensors", "optimizer.safetensors")


class StoppedError(Exception):
    pass


def stop_after(monkeypatch, steps, how):
    """Have the trainer stop behind so many steps."""
    whole, done = trainer.Trainer._step, []

    def step(self, *arguments):
        if len(done) == steps:
            how(self)
        done.append(1)
        return whole(self, *arguments)

    monkeypatch.setattr(trainer.Trainer, "_step", step)


def kill(_):
    raise StoppedError


def ask_to_leave(_):
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("encoder", ["hubert", "conformer"])
@pytest.mark.parametrize("stop", [kill, ask_to_leave])
def test_a_resumed_run_equals_one_that_was_not_stopped(
    pretrain_settings, tmp_path, monkeypatch, encoder, stop
):
    settings = pretrain_settings(
        encoder={"name": encoder, **ENCODER, "layerdrop": 0.2},
        mixing={"prob": 0.5},
        data={"sampling": {"epoch_steps": 10}},
        training={"epochs": 2, "checkpoint_every": 4},
    )
    assert pretrain(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 17, stop)
        if stop is kill:
            with pytest.raises(StoppedError):
                pretrain(settings, tmp_path / "parts")
        else:
            assert not pretrain(settings, tmp_path / "parts")
    left = (tmp_path / "parts" / "checkpoints" / "latest").resolve().name
    assert left == ("epoch_001_step_00004" if stop is kill else "epoch_001_step_00008")
    assert not (tmp_path / "parts" / "encoder").exists()
    assert pretrain(settings, tmp_path / "parts")
    for name in FILES:
        whole, parts = (load_tensors(tmp_path / run / "final" / name) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name
    one, other = (
        (tmp_path / run / "encoder" / "model.safetensors").read_bytes()
        for run in ("whole", "parts")
    )
    assert one == other
