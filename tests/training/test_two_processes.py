"""Training by torchrun in two processes: killed and resumed; what it says when it cannot run."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from wesp_lap.config import save_yaml
from wesp_lap.tensors import load_tensors

NAMES = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")


@pytest.fixture
def config(make_settings, tmp_path):
    settings = make_settings(
        data={"augment": {"speed_perturb": True}, "batch_size": 8},
        training={"epochs": 12, "checkpoint_every": 2, "log_every": 1},
    )
    save_yaml(tmp_path / "settings.yaml", settings)
    return tmp_path / "settings.yaml"


def launch(config, exp_dir, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "wesp_lap.bin.launch", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "wesp_lap.bin.train", "--config", config, "--exp_dir", exp_dir, *words]
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


def kill_once_there(process, exp_dir, path):
    """SIGKILL launcher and workers, which have sessions of their own, as soon as a path exists."""
    deadline = time.monotonic() + 120
    while not (exp_dir / path).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(exp_dir) in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
    process.communicate()


def test_killed_and_resumed_equals_uninterrupted(config, tmp_path):
    code, output = finish(launch(config, tmp_path / "whole"))
    assert code == 0, output
    assert "2 x cpu" in output
    exp_dir = tmp_path / "parts"
    kill_once_there(launch(config, exp_dir), exp_dir, "checkpoints/epoch_001")
    assert not (tmp_path / "parts" / "final").exists()
    code, output = finish(launch(config, tmp_path / "parts"))
    assert code == 0, output
    assert "resuming from" in output
    for name in NAMES:
        whole, parts = (load_tensors(tmp_path / run / "final" / name) for run in ("whole", "parts"))
        for key, tensor in whole.items():
            assert torch.equal(tensor, parts[key]), f"{name}: {key}"


def test_what_is_wrong_is_said_once_without_a_traceback(config, tmp_path):
    code, output = finish(launch(config, tmp_path / "exp", "--data.batch_size", "7"))
    assert code == 1
    assert output.count("error:") == 1
    assert "must be a multiple of their number (2)" in output
    assert "Traceback" not in output
