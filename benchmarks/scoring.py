"""Speed and memory of scoring at the size of VoxCeleb1-E, beside the least that could do it.

    python benchmarks/scoring.py [--scale 1] [--rounds 3] [--wespeaker DIR] [--threads 2]

145,160 embeddings of 256 numbers, 579,818 trials and a cohort of 5,994 speaker means, all seeded.
Every candidate is a process of its own. Candidates of a row run in turn, round after round; medians
count. Columns: seconds of the work itself, its processor seconds (which a busy machine changes
less), seconds of the whole process with its imports, peak memory of the process (largest resident
set), and the work's seconds and processor seconds as multiples of the first candidate's.

* scoring: the library function of the score command, from files to score file; beside it a Python
  loop that calls scikit-learn's cosine_similarity for every trial, on --loop_trials of them,
  scaled to all (its time without reading and imports)
* AS-norm: the function of score_norm, from files to score file; beside it, on arrays that are in
  memory already, the bare product in blocks with numpy's partition, mean and std
* metrics: EER and two minDCF of as many scores, from arrays
* growth: scoring of ten times as many trials
* wespeaker: its bin/score.py and bin/score_norm.py on the same files
* large cohort (only when named by --only): S-norm and AS-norm of 2,000 utterances against 1,090,000
  utterances one by one, which must not need memory for all of them
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scoring_inputs

TOP_N = 300
Times = dict[str, float]
_BLOCK_ROWS = 2048


def main() -> None:
    """Make the inputs, run everything and print the table."""
    options = _options()
    peer = {"wespeaker": str(options.wespeaker.absolute())} if options.wespeaker else {}
    rows: dict[str, dict[str, dict[str, Any]]] = {
        "scoring": {"score": {}, "sklearn_loop": {"trials": options.loop_trials}},
        "AS-norm": {"score_norm": {}, "bare_norm": {}},
        "metrics": {"metrics": {}},
        "growth": {"score": {}, "score_10x": {}},
        "large cohort": {"large_asnorm": {}, "large_snorm": {"method": "snorm"}},
    }
    if peer:
        rows["scoring"]["wespeaker_score"] = rows["AS-norm"]["wespeaker_norm"] = peer
    chosen = options.only.split(",") if options.only else list(rows)[:-1]
    with tempfile.TemporaryDirectory(prefix="scoring-benchmark-") as folder:
        work = Path(folder)
        scoring_inputs.make_inputs(work, options.scale)
        if "large cohort" in chosen:
            scoring_inputs.make_large_cohort(work, options.scale)
        print(f"{os.cpu_count()} cores, {options.threads} threads, numpy {np.__version__}")
        print(f"scale {options.scale}, medians of {options.rounds} rounds\n")
        _print_row("job", "candidate", "seconds", "cpu", "process", "peak MB", "ratio", "cpu ratio")
        for name in chosen:
            _compare(name, rows[name], work, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="part of all sizes but the cohort")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--loop_trials", type=int, default=20_000)
    parser.add_argument("--only", default="", help="names of rows with commas between them")
    parser.add_argument("--wespeaker", type=Path, help="a WeSpeaker checkout to compare with")
    return parser.parse_args()


def _compare(
    name: str, jobs: Mapping[str, Mapping[str, Any]], work: Path, options: argparse.Namespace
) -> None:
    results: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for _ in range(options.rounds):
        for job, extra in jobs.items():
            results[job].append(_run(job, work, options.threads, extra))
    columns = ("seconds", "cpu", "process", "peak_mb")
    first: list[float] = []
    for job, runs in results.items():
        middle = [statistics.median(run[column] for run in runs) for column in columns]
        first = first or middle
        ratios = [mine / base for mine, base in zip(middle[:2], first[:2], strict=True)]
        cells = [f"{value:.2f}" for value in middle[:3]] + [f"{middle[3]:.0f}"]
        _print_row(name, job, *cells, *(f"{ratio:.2f}" for ratio in ratios))


def _run(job: str, work: Path, threads: int, extra: Mapping[str, Any]) -> dict[str, float]:
    """Run one job in a process of its own."""
    command = [sys.executable, __file__, "--job", job, str(work), json.dumps(dict(extra))]
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    start = time.perf_counter()
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **limits},
    )
    whole = time.perf_counter() - start
    return {"process": whole, **json.loads(done.stdout.splitlines()[-1])}


def _print_row(*cells: str) -> None:
    print("  ".join(f"{cell:>12}" for cell in cells), flush=True)


def score(work: Path, trials: str = "E") -> Times:
    """Score a list, from files to file."""
    from wesp_lap.scoring.lists import TrialFiles, score_lists

    files = TrialFiles(work / "test/xvector.scp", mean_scp=work / "cohort/xvector.scp")
    return _timed(lambda: score_lists([work / trials], files, work / "scores"))


def score_10x(work: Path) -> Times:
    """Score ten times as many trials."""
    return score(work, "E10")


def score_norm(work: Path) -> Times:
    """Normalise a scored list, from files to file."""
    from wesp_lap.scoring.lists import TrialFiles, normalise_lists

    files = TrialFiles(work / "test/xvector.scp", mean_scp=work / "cohort/xvector.scp")
    if not (work / "scores/E.score").exists():
        score(work)
    return _timed(
        lambda: normalise_lists(
            [work / "E"], work / "scores", files, work / "cohort/xvector.scp", top_n=TOP_N
        )
    )


def large_asnorm(work: Path, method: Any = "asnorm") -> Times:
    """Normalise against a cohort of utterances."""
    from wesp_lap.scoring.lists import TrialFiles, normalise_lists

    files, cohort = TrialFiles(work / "few/xvector.scp"), work / "large/xvector.scp"
    return _timed(
        lambda: normalise_lists(
            [work / "few/list"], work / "few", files, cohort, top_n=TOP_N, method=method
        )
    )


def large_snorm(work: Path, method: Any) -> Times:
    """Do the same with all cohort scores."""
    return large_asnorm(work, method)


def sklearn_loop(work: Path, trials: int) -> Times:
    """Call cosine_similarity once per trial, for some trials; return the time for all."""
    from sklearn.metrics.pairwise import cosine_similarity

    from wesp_lap.kaldi.ark import read_vectors
    from wesp_lap.kaldi.trials import read_trials

    vectors = dict(zip(*read_vectors(work / "test/xvector.scp"), strict=True))
    listed = read_trials(work / "E")
    pairs = list(zip(listed.enroll, listed.test, strict=True))
    part = pairs[:trials]

    def loop() -> None:
        for one, other in part:
            cosine_similarity(vectors[one].reshape(1, -1), vectors[other].reshape(1, -1))

    return {name: value * len(pairs) / len(part) for name, value in _timed(loop).items()}


def bare_norm(work: Path) -> Times:
    """Multiply, partition, average: arrays in, arrays out."""
    from wesp_lap.kaldi.ark import read_vectors

    rows, cohort = (
        read_vectors(work / name)[1] for name in ("test/xvector.scp", "cohort/xvector.scp")
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cohort /= np.linalg.norm(cohort, axis=1, keepdims=True)

    def loop() -> None:
        for start in range(0, len(rows), _BLOCK_ROWS):
            cosines = rows[start : start + _BLOCK_ROWS] @ cohort.T
            top = np.partition(cosines, len(cohort) - TOP_N, axis=1)[:, -TOP_N:]
            top.mean(axis=1)
            top.std(axis=1)

    return _timed(loop)


def metrics(work: Path) -> Times:
    """Compute error rates from arrays."""
    from wesp_lap.scoring.metrics import evaluate

    rng, count = np.random.default_rng(0), scoring_inputs.TRIALS
    labels = rng.integers(2, size=count).astype(np.int8)
    scores = rng.standard_normal(count) + 2 * labels
    return _timed(lambda: evaluate(scores, labels))


def wespeaker_score(work: Path, wespeaker: str) -> Times:
    """Run its score.py."""
    cohort = str(work / "cohort")
    arguments = [str(work), str(work / "test/xvector.scp"), "True", cohort, str(work / "E")]
    return _timed(lambda: _script(wespeaker, "score.py", arguments))


def wespeaker_norm(work: Path, wespeaker: str) -> Times:
    """Run its score_norm.py."""
    if not (work / "cohort/mean_vec.npy").exists():
        from wesp_lap.kaldi.ark import read_vectors

        np.save(work / "cohort/mean_vec.npy", read_vectors(work / "cohort/xvector.scp")[1].mean(0))
    names = ["scores/E.score", "scores/E.wespeaker", "cohort/xvector.scp", "test/xvector.scp"]
    arguments = ["asnorm", str(TOP_N), *(str(work / name) for name in names)]
    arguments.append(str(work / "cohort/mean_vec.npy"))
    return _timed(lambda: _script(wespeaker, "score_norm.py", arguments))


def _script(checkout: str, name: str, arguments: list[str]) -> None:
    package = types.ModuleType("wespeaker")  # its own one imports what scoring does not need
    package.__path__ = [f"{checkout}/wespeaker"]
    sys.modules["wespeaker"] = package
    sys.argv = [name, *arguments]
    runpy.run_path(f"{checkout}/wespeaker/bin/{name}", run_name="__main__")


def _timed(work: Callable[[], object]) -> Times:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def _job(name: str, work: str, extra: str) -> None:
    times = globals()[name](Path(work), **json.loads(extra))
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak too
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    print(f"\n{json.dumps({**times, 'peak_mb': peak})}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        _job(*sys.argv[2:])
    else:
        main()
