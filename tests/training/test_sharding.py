"""Training with weights cut among the processes (FSDP2)."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

from wesp_lap.config import save_yaml
from wesp_lap.errors import ConfigError
from wesp_lap.tensors import load_tensors, whole
from wesp_lap.training.run import train


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "it takes at least 2 processes"),
        ({"frontend": {"layerdrop": 0.1}}, "frontend.layerdrop and frontend.spec_augment"),
        ({"frontend": {"lora": {"rank": 2}}}, "frontend.lora"),
        ({"training": {"freeze_frontend": True}}, "training.freeze_frontend"),
        ({"training": {"ema_decay": 0.9}}, "training.ema_decay is not supported"),
        ({"training": {"compile": True}}, "training.compile is not supported"),
        ({"pull": {"weight": 0.1}}, "pull.weight is not supported"),
    ],
)
def test_what_does_not_go_together_is_refused(make_settings, tmp_path, changes, message):
    changes = {**changes, "training": {**changes.get("training", {}), "sharding": "full"}}
    with pytest.raises(ConfigError, match=rf"training\.sharding full: .*{message}"):
        train(make_settings(**changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_whole_tensor_is_what_it_is():
    tensor = torch.ones(2)
    assert whole(tensor) is tensor


WORKER = """
import os, signal, sys
from wesp_lap.cli import run_command
from wesp_lap.training.engine import Engine
from wesp_lap.training.run import train
from wesp_lap.training.settings import load_settings

marker, step, steps = sys.argv.pop(1), Engine.step, []

def faulty(self, *arguments):
    steps.append(1)
    if len(steps) == 6 and os.environ["RANK"] == "1" and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

Engine.step = faulty

def main(config: str, exp_dir: str, **overrides: str) -> None:
    train(load_settings(config, overrides), exp_dir)

run_command(main)
"""


def losses(exp_dir):
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.slow
def test_sharded_training_is_that_of_whole_copies_and_survives_a_kill(make_settings, tmp_path):
    settings = make_settings(
        frontend={"dropout": 0.0, "frozen_below": 1},
        # Adam makes noise of gradients that are 0 but for rounding.
        optimizer={"name": "sgd"},
        lr_schedule={"max_lr": 1e-5},
        validation={"speakers": 2, "utterances": 4},
        groups={"layer_decay": 0.9},
        training={"checkpoint_every": 2, "log_every": 1, "accumulate": 2, "grad_clip": 1.0},
    )
    save_yaml(tmp_path / "settings.yaml", settings)
    (tmp_path / "worker.py").write_text(WORKER)

    def run(name, sharding, killed=False):
        marker = tmp_path / f"{name}.killed"
        if not killed:
            marker.touch()
        command = [sys.executable, "-m", "wesp_lap.bin.launch", "--standalone"]
        command += ["--nproc_per_node=2", "--max_restarts=1", tmp_path / "worker.py", marker]
        command += ["--config", tmp_path / "settings.yaml", "--exp_dir", tmp_path / name]
        command += ["--training.sharding", sharding]
        ended = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            timeout=240,
        )
        assert ended.returncode == 0, ended.stderr
        assert ("resuming from" in ended.stderr) == killed
        files = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")
        return {file: load_tensors(tmp_path / name / "final" / file) for file in files}

    copies, sharded = run("copies", "none"), run("sharded", "full")
    for file, tensors in copies.items():
        assert tensors.keys() == sharded[file].keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(sharded[file][key], tensor, rtol=1e-3, atol=1e-4, msg=key)
    of_copies, of_pieces = (losses(tmp_path / name) for name in ("copies", "sharded"))
    assert len(of_copies) == 6
    assert of_pieces == pytest.approx(of_copies, rel=1e-5)
    killed = run("killed", "full", killed=True)
    for file, tensors in sharded.items():
        assert all(torch.equal(killed[file][key], tensor) for key, tensor in tensors.items())
