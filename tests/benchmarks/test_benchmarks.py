"""Every benchmark runs, on inputs so small that its figures mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT

SMALL = {
    "backends": ["--rounds", "1", "--batch", "2", "--frames", "30", "--layers", "3", "--dim", "96"],
    "stream": ["--utterances", "80", "--rounds", "1", "--formats", "flac"],
    "packing": ["--utterances", "12", "--rounds", "1"],
    "extraction": ["--utterances", "4", "--rounds", "1"],
    "frontends": ["--model", "small", "--seconds", "1", "--rounds", "1"],
    "scoring": ["--scale", "0.01", "--rounds", "1", "--loop_trials", "50"],
    "plda": ["--utterances", "200", "--speakers", "20", "--dim", "8", "--rounds", "1"],
}
LAST_WORDS = {"stream": "resume_seconds", "packing": "ratio"}


def test_all_benchmarks_are_here():
    parts = {"corpus", "peer", "reference_backends", "scoring_inputs"}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == SMALL.keys() | parts


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_its_table(name, tmp_path):
    words = SMALL[name]
    if name == "plda":
        words = [*words, "--test_utterances", "50", "--trials", "100"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 3 and LAST_WORDS.get(name, "") in done.stdout
