"""egs/voxceleb/slurm.sh with a scheduler that only writes down what it is told."""

import os
import subprocess

import pytest
from helpers import ROOT

SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$LOG"
if [ "$1 $2" = "show hostnames" ]; then printf '%s\\n' node7 node9; fi
"""
SRUN = """#!/usr/bin/env bash
printf 'srun' >>"$LOG"; printf ' <%s>' "$@" >>"$LOG"; echo >>"$LOG"
exit "$CODE"
"""


@pytest.fixture
def submit(tmp_path):
    """Return a function that runs the script; the exit code of srun is given."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(code, *words, cwd=ROOT):
        log = tmp_path / "log"
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "LOG": str(log),
            "CODE": str(code),
            "SLURM_JOB_NODELIST": "node[7,9]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_ID": "12034",
        }
        script = ROOT / "egs/voxceleb/slurm.sh"
        ended = subprocess.run(
            ["bash", script, *words], cwd=cwd, env=environment, capture_output=True, text=True
        )
        return ended, log.read_text().splitlines() if log.exists() else []

    return run


def test_all_nodes_run_the_training_stage_and_meet_at_the_first(submit):
    ended, log = submit(0, "--exp_dir", "my exp")
    assert ended.returncode == 0, ended.stderr
    assert log == [
        "scontrol show hostnames node[7,9]",
        "srun <--wait=120> <bash> <egs/voxceleb/run.sh> <--stage> <3> <--stop_stage> <3> "
        "<--num_nodes> <2> <--HOST_NODE_ADDR> <node7:29434> <--exp_dir> <my exp>",
    ]


def test_only_a_run_that_saved_and_left_is_queued_again(submit):
    ended, log = submit(75)
    assert ended.returncode == 75
    assert log[-1] == "scontrol requeue 12034"
    for code in (1, 137):
        (ended, log) = submit(code)
        assert ended.returncode == code
        assert log[-1].startswith("srun")


def test_elsewhere_than_in_the_clone_it_says_so(submit, tmp_path):
    ended, log = submit(0, cwd=tmp_path)
    assert ended.returncode == 2
    assert "submit this from the root of the clone" in ended.stderr
    assert log == []
