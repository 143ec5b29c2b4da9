"""Drill: training that was killed and started again equals training in one go, bit for bit.

    python tests/drills/resume_identity.py
    python tests/drills/resume_identity.py --points first write --workers 0 --processes 1

Training runs as its commands run it and is killed (SIGKILL) at the given point of its second epoch;
then the same command is given again. Compared are weights, classifier, optimizer state and the loss
of every step in metrics.jsonl. One row per case; the exit code is 1 when anything differs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import stage

EPOCHS = 2
POINTS = {
    "first": "step 1 0",
    "middle": f"step 1 {stage.STEPS_PER_EPOCH // 2}",
    "last": f"step 1 {stage.STEPS_PER_EPOCH - 1}",
    "write": f"write epoch_001_step_{stage.SAVE_EVERY:05d}",
}
LIMIT_SECONDS = 300


def main() -> int:
    """Run the grid; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    failed = 0
    print(f"{'killed':8} {'workers':>7} {'processes':>9}  identical", flush=True)
    with tempfile.TemporaryDirectory(prefix="resume_identity.") as name:
        folder = Path(name)
        config = stage.make_stage(folder, EPOCHS)
        for processes in options.processes:
            whole = folder / f"whole_{processes}"
            finish(config, whole, processes, 0)
            for workers, point in itertools.product(options.workers, options.points):
                faults = kill_and_resume(config, whole, processes, workers, point)
                failed += bool(faults)
                row = f"{point:8} {workers:7} {processes:9}  {'; '.join(faults) or 'yes'}"
                print(row, flush=True)
    print(f"{failed} cases differ" if failed else "all cases are identical")
    return 1 if failed else 0


def kill_and_resume(
    config: Path, whole: Path, processes: int, workers: int, point: str
) -> list[str]:
    """Return what differs from the run in one go, or what else went wrong."""
    exp_dir = whole.with_name(f"{point}_{workers}_{processes}")
    log = exp_dir.with_suffix(".log")
    process = stage.start(config, exp_dir, log, processes, workers, POINTS[point])
    code = process.wait(LIMIT_SECONDS)
    if code not in (-9, 137):
        return [f"was not killed, but ended with {code}: {tail(log)}"]
    if (exp_dir / "final").exists():
        return ["had come to its end when it was killed"]
    try:
        finish(config, exp_dir, processes, workers)
    except RuntimeError as error:
        return [str(error)]
    if "resuming from" not in log.read_text():
        return ["began anew"]
    return stage.differences(whole, exp_dir)


def finish(config: Path, exp_dir: Path, processes: int, workers: int) -> None:
    """Train to the end."""
    log = exp_dir.with_suffix(".log")
    code = stage.start(config, exp_dir, log, processes, workers).wait(LIMIT_SECONDS)
    if code:
        raise RuntimeError(f"{exp_dir.name} ended with {code}: {tail(log)}")


def tail(log: Path) -> str:
    """Return the end of a log file on one line."""
    return " | ".join(log.read_text().splitlines()[-5:])


if __name__ == "__main__":
    sys.exit(main())
