"""A training process that is stuck or dies is named, and what was saved is as it was."""

import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from helpers import ROOT

from wesp_lap.config import save_yaml
from wesp_lap.tensors import load_tensors
from wesp_lap.training import watch
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.watch import Watch


class SharedStore:
    """Stands for torch's store: values that all processes see."""

    def __init__(self):
        self.values = {}
        self.lost = False

    def set(self, key, value):
        if self.lost:
            raise RuntimeError("Connection reset by peer")
        self.values[key] = value.encode()

    def multi_get(self, keys):
        return [self.values[key] for key in keys]


@pytest.fixture
def run(monkeypatch):
    """Return a function that makes the watches of a run on a clock that the test moves."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    store = SharedStore()

    def make(world_size, limit=60.0):
        return [Watch(store, rank, world_size, limit) for rank in range(world_size)]

    def go_on(seconds):
        clock[0] += seconds

    make.store, make.go_on = store, go_on
    return make


def look(*watches):
    for one in watches:
        one._look()
    for one in watches:
        one._look()


def test_a_process_that_does_not_go_on_is_named_after_the_limit(run):
    first, second, third = watches = run(3)
    for one in watches:
        one.at("epoch 1 step 1, forward and backward")
    first.at("epoch 1 step 1, update")
    third.at("epoch 1 step 1, update")
    look(*watches)
    run.go_on(59)
    look(*watches)
    assert [one._fault() for one in watches] == [None] * 3
    run.go_on(2)
    look(*watches)
    for one in watches:
        text, ranks = one._fault()
        assert ranks == [1]
        assert text.startswith("training process 1 (node ")
        assert "pid" in text and "last at: epoch 1 step 1, forward and backward (" in text
        assert text.endswith(" did not go on for 60 s")
    second.at("epoch 1 step 1, update")
    look(*watches)
    assert [one._fault() for one in watches] == [None] * 3


def test_a_process_without_a_sign_of_life_is_named_whatever_it_has_done(run):
    first, second, _ = watches = run(3)
    for one in watches:
        one.at("epoch 2 step 7, update")
    look(*watches)
    look(first, second)
    run.go_on(59)
    look(first, second)
    assert first._fault() is None
    run.go_on(2)
    look(first, second)
    text, ranks = first._fault()
    assert ranks == [2]
    assert "training process 2" in text and "gave no sign of life for 60 s" in text


def test_of_processes_at_the_same_point_the_one_that_does_not_wait_is_named(run, monkeypatch):
    waiting = [True, True, False]
    watches = run(3)
    monkeypatch.setattr(watch, "_place", lambda thread: ("there", waiting[thread]))
    for rank, one in enumerate(watches):
        one._main = rank
        one.at("epoch 1 step 1, forward and backward")
    look(*watches)
    run.go_on(61)
    look(*watches)
    assert [one._fault()[1] for one in watches] == [[2]] * 3
    waiting[2] = True  # now nobody can be told from the others
    look(*watches)
    assert [one._fault() for one in watches] == [None] * 3


def test_processes_that_all_take_long_are_left_alone(run):
    watches = run(2)
    for one in watches:
        one.at("saving")
    for _ in range(10):
        run.go_on(30)
        look(*watches)
        assert [one._fault() for one in watches] == [None, None]


def test_a_store_that_is_gone_is_the_first_process(run):
    watches = run(2)
    look(*watches)
    run.store.lost = True
    assert not watches[1]._look()
    assert watches[1]._fault() is None
    run.go_on(61)
    text, ranks = watches[1]._fault()
    assert ranks == [0] and "training process 0, which all others meet at, is gone" in text


def test_the_diagnosis_of_a_lost_connection(monkeypatch):
    store = SharedStore()
    watches = [Watch(store, rank, 3, 1.0) for rank in range(3)]
    watches[0].at("epoch 1 step 2, update")
    watches[2].at("epoch 1 step 2, update")
    over = threading.Event()

    def live(one):
        while not over.wait(0.005):
            one._look()

    threads = [threading.Thread(target=live, args=[watches[rank]]) for rank in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        text = watches[0].diagnosis()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert "training process 1" in text and "did not come along" in text
    text = watches[0].diagnosis()
    assert "training process 1" in text and "training process 2" in text
    assert "gave no sign of life any more" in text


WORKER = """
import os, signal, sys, time
from wesp_lap.cli import run_command
from wesp_lap.training.engine import Engine
from wesp_lap.training.run import train
from wesp_lap.training.settings import load_settings

fault, marker = sys.argv.pop(1), sys.argv.pop(1)
forward, steps = Engine._accumulate, []

def faulty(self, *arguments):
    steps.append(1)
    if len(steps) == 6 and os.environ["RANK"] == "1" and not os.path.exists(marker):
        open(marker, "w").close()
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "sleep":
            time.sleep(600)
    return forward(self, *arguments)

Engine._accumulate = faulty

def main(config: str, exp_dir: str) -> None:
    train(load_settings(config), exp_dir)

run_command(main)
"""


@pytest.fixture
def start(make_settings, tmp_path):
    """Return a function that starts training processes, the second with a fault in its 6th step."""
    (tmp_path / "worker.py").write_text(WORKER)

    def launch(fault, exp_dir, *words, **training):
        options = {"epochs": 3, "checkpoint_every": 2, "log_every": 1, **training}
        # LayerDrop: parameters without a gradient, others in each process.
        drop = {"config": {"layerdrop": 0.3}}
        save_yaml(tmp_path / "settings.yaml", make_settings(frontend=drop, training=options))
        exp_dir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "wesp_lap.bin.launch", *words]
        command += [tmp_path / "worker.py", fault, exp_dir / "fault"]
        command += ["--config", tmp_path / "settings.yaml", "--exp_dir", exp_dir]
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    return launch


ONE_NODE = ("--standalone", "--nproc_per_node=2")


def output_of(process, code=0):
    output = process.communicate(timeout=240)[0]
    assert process.returncode == code, output
    return output


def assert_same_end(one, other):
    for name in ("model.safetensors", "classifier.safetensors", "optimizer.safetensors"):
        left, right = (load_tensors(exp_dir / "final" / name) for exp_dir in (one, other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.mark.slow
def test_of_two_processes_the_stuck_one_is_named(start, tmp_path):
    output = output_of(start("sleep", tmp_path / "exp", *ONE_NODE, timeout_minutes=0.05), code=1)
    assert output.count("error:") == 1
    assert "error: training process 1 (node " in output
    place = r"last at: epoch 2 step 2, forward and backward \(worker.py:\d+ faulty\)"
    assert re.search(place + " did not go on for 3 s while others waited", output)
    assert CheckpointFolder(tmp_path / "exp" / "checkpoints").newest() == Moment(1)


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_two_nodes_are_as_one(start, tmp_path):
    whole, parts, nodes = tmp_path / "whole", tmp_path / "parts", tmp_path / "nodes"
    output_of(start("none", whole, *ONE_NODE))

    output = output_of(start("kill", parts, *ONE_NODE, "--max_restarts=2"))
    assert "resuming from" in output
    assert_same_end(whole, parts)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=7"]
    words.append(f"--rdzv_endpoint=127.0.0.1:{port}")
    both = [start("none", nodes, *words) for _ in range(2)]
    outputs = [output_of(process) for process in both]
    assert sum("2 x cpu" in output for output in outputs) == 1
    assert_same_end(whole, nodes)


@pytest.mark.slow
def test_a_node_that_stays_alone_says_where_it_waited(start, tmp_path):
    words = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=7"]
    words += ["--rdzv_endpoint=localhost:29417", "--rdzv_conf=join_timeout=1"]
    output = output_of(start("none", tmp_path / "exp", *words), code=1)
    assert "error: the nodes cannot meet at localhost:29417: RendezvousTimeoutError." in output
    assert "Traceback" not in output
