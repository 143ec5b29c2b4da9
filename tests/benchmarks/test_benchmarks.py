"""Every benchmark runs, on inputs so small that its figures mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT

SMALL = {
    "backends": ["--rounds", "1", "--batch", "2", "--dim", "96", "--backends", "lap_astp"],
    "stream": ["--utterances", "80", "--rounds", "1", "--formats", "flac"],
    "learning": [
        "--backends",
        "superb_astp",
        "--seeds",
        "1",
        "--phases",
        "joint",
        "--joint_epochs",
        "1",
    ],
    "checkpoints": ["--model", "tiny", "--rounds", "1"],
    "clusters": [
        "--utterances",
        "20",
        "--rounds",
        "1",
        "--frames",
        "5000",
        "--store_utterances",
        "100",
    ],
    "conversion": ["--utterances", "12", "--rounds", "1", "--seconds", "1"],
    "packing": ["--utterances", "12", "--rounds", "1"],
    "extraction": ["--utterances", "4", "--rounds", "1"],
    "frontends": ["--model", "small", "--seconds", "1", "--rounds", "1"],
    "scoring": ["--scale", "0.01", "--rounds", "1", "--loop_trials", "50"],
    "plda": ["--utterances", "200", "--speakers", "20", "--dim", "8", "--rounds", "1"],
    "pretraining": ["--rounds", "1"],
    "training": ["--batch", "4", "--rounds", "1", "--classes", "20"],
}
LAST_WORDS = {
    "checkpoints": "busy",
    "clusters": "x real time",
    "conversion": "x real time",
    "learning": "superb_astp",
    "packing": "ratio",
    "pretraining": "conformer  bare",
    "stream": "resume_seconds",
    "training": "data wait of the other steps",
}


def test_all_benchmarks_are_here():
    parts = {"corpus", "peer", "plain_training", "reference_backends", "scoring_inputs"}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == SMALL.keys() | parts


def learning_data(folder) -> list[str]:
    """Make a corpus of 80 utterances, two of each speaker, and trials; return the options."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import corpus
    finally:
        sys.path.pop(0)
    data = corpus.make_corpus(folder / "data", 80, 4.0, "wav")
    keys = sorted((data / "utt2spk").read_text().split()[::2])
    trials = [
        f"{one} {other} {'target' if one[:7] == other[:7] else 'nontarget'}\n"
        for one in keys[:20]
        for other in keys
        if one < other
    ]
    (folder / "trials").write_text("".join(trials))
    pairs = {"train": data, "eval": data, "trials": folder / "trials", "out": folder / "out"}
    return [word for name, path in pairs.items() for word in (f"--{name}", str(path))]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_its_table(name, tmp_path):
    words = SMALL[name]
    if name == "plda":
        words = [*words, "--test_utterances", "50", "--trials", "100"]
    if name == "learning":
        words = [*words, *learning_data(tmp_path)]
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
