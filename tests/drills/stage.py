"""What the drills share: a miniature training set, runs of the real commands, and comparisons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import soundfile
import torch
from helpers import ROOT, tiny_frontend

from wesp_lap.config import save_yaml
from wesp_lap.data.shards import make_shards
from wesp_lap.tensors import load_tensors

STEPS_PER_EPOCH = 4
SAVE_EVERY = 2
_SPEAKERS, _UTTERANCES, _RATE = 8, 4, 16000
_WEIGHTS = ("model.safetensors", "classifier.safetensors", "optimizer.safetensors")


def make_stage(folder: Path, epochs: int, width: int = 32) -> Path:
    """Write a training set of noise and the settings of a phase on it; return the YAML file.

    Everything that draws random numbers is on: dropout, LayerDrop, SpecAugment, perturbed speeds.

    Args:
        folder: Where everything goes.
        epochs: Epochs of STEPS_PER_EPOCH steps, with a checkpoint after every SAVE_EVERY.
        width: Width of the network; larger ones take longer to write.
    """
    shards = folder / "shard.list"
    _make_shards(folder, shards)
    frontend = tiny_frontend(
        hidden_size=width,
        intermediate_size=2 * width,
        layerdrop=0.3,
        apply_spec_augment=True,
        mask_time_length=2,
    )
    settings = {
        "frontend": {"name": "transformer", "config": frontend},
        "backend": {"name": "lap_astp", "heads": 4, "pooled_dim": 32, "embed_dim": 16},
        "loss": {"name": "aam"},
        "margin": {"final": 0.2, "ramp_epochs": 1},
        "data": {
            "shards": str(shards),
            "batch_size": _SPEAKERS * _UTTERANCES // STEPS_PER_EPOCH,
            "crop_seconds": 0.5,
            "num_workers": 0,
            "augment": {"speed_perturb": True},
        },
        "optimizer": {"name": "adam"},
        "lr_schedule": {"name": "warmup_cosine", "max_lr": 1e-3},
        "training": {"epochs": epochs, "log_every": 1, "checkpoint_every": SAVE_EVERY},
    }
    save_yaml(folder / "settings.yaml", settings)
    return folder / "settings.yaml"


def _make_shards(folder: Path, shards: Path) -> None:
    rng = np.random.default_rng(1)
    data = folder / "data"
    data.mkdir(parents=True)
    tables: dict[str, list[str]] = {"wav.scp": [], "utt2spk": [], "spk2utt": []}
    for speaker in (f"s{number}" for number in range(_SPEAKERS)):
        keys = [f"{speaker}-{number}" for number in range(_UTTERANCES)]
        tables["spk2utt"].append(f"{speaker} {' '.join(keys)}")
        for key in keys:
            path = data / f"{key}.wav"
            soundfile.write(path, 0.1 * rng.standard_normal(_RATE), _RATE)
            tables["wav.scp"].append(f"{key} {path}")
            tables["utt2spk"].append(f"{key} {speaker}")
    for name, lines in tables.items():
        (data / name).write_text("\n".join(lines) + "\n")
    make_shards(data, folder / "shards", shards, _SPEAKERS * _UTTERANCES // 2)


def start(
    config: Path, exp_dir: Path, log: Path, processes: int = 1, workers: int = 0, point: str = ""
) -> subprocess.Popen:
    """Start training, with one process or more; what it says is added to ``log``.

    Args:
        config: Settings.
        exp_dir: Experiment directory.
        log: File for standard output and standard error.
        processes: More than one are started by the launcher.
        workers: Loader processes of each.
        point: Where the processes shall kill themselves, see dying_train.py.
    """
    words: list[str | Path] = [sys.executable]
    if processes > 1:
        words += ["-m", "wesp_lap.bin.launch", "--standalone", f"--nproc_per_node={processes}"]
    if point:
        words += [Path(__file__).with_name("dying_train.py")]
    else:
        words += ["-m", "wesp_lap.bin.train"]
    words += ["--config", config, "--exp_dir", exp_dir, "--data.num_workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DRILL_KILL_POINT": point}
    with open(log, "a", encoding="utf-8") as stream:
        return subprocess.Popen(
            words, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between the ends of two runs: weights, optimizer, losses of all steps."""
    faults = []
    for name in _WEIGHTS:
        ours, theirs = (load_tensors(run / "final" / name) for run in (one, other))
        if ours.keys() != theirs.keys():
            faults.append(f"{name}: other tensors")
            continue
        bad = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        if bad:
            faults.append(f"{name}: {len(bad)} of {len(ours)} tensors, such as {bad[0]}")
    losses = [_losses(run / "metrics.jsonl") for run in (one, other)]
    faults += [fault for _, found in losses for fault in found]
    if losses[0][0] != losses[1][0]:
        faults.append("metrics.jsonl: other losses")
    return faults


def _losses(path: Path) -> tuple[dict[tuple[int, int], float], list[str]]:
    """Return the losses by epoch and step, and which steps had another one when repeated."""
    losses: dict[tuple[int, int], float] = {}
    faults = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "loss" not in record:
            continue
        where = record["epoch"], record["step"]
        if losses.setdefault(where, record["loss"]) != record["loss"]:
            faults.append(f"{path}: epoch {where[0]} step {where[1]} had two losses")
    return losses, faults
