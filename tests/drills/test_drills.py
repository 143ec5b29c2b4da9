"""The drills, on a small part of their grids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRILLS = Path(__file__).parent


def drill(name: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(DRILLS / name), *words],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_kills_during_saves_cost_one_checkpoint_at_most():
    done = drill("kill_during_save.py", "--times", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n3 of 3\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "workers", "processes"), [("last write", "2", "1"), ("middle", "0", "2")]
)
def test_killed_and_resumed_training_is_identical(points, workers, processes):
    words = ["--points", *points.split(), "--workers", workers, "--processes", processes]
    done = drill("resume_identity.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all cases are identical\n")
