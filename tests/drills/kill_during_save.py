"""Drill: training is killed while it writes checkpoints, again and again, and loses one at most.

    python tests/drills/kill_during_save.py --times 20

One run is killed (SIGKILL) at a random instant of a write, started again by the same command,
killed again, and at last left alone. A kill passes when the checkpoint before the one that was
being written is whole and is where the next start goes on from. At the end, weights, optimizer
and losses must equal those of a run that nobody disturbed. Prints "N of TIMES"; the exit code is 1
when N is less.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stage

from wesp_lap.training.checkpoint import CheckpointFolder, Moment

WIDTH = 256  # some 10 MB per checkpoint, so that a write takes long enough to be hit
LIMIT_SECONDS = 300
SAVES_PER_EPOCH = stage.STEPS_PER_EPOCH // stage.SAVE_EVERY


def main() -> int:
    """Run the drill; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="kills within a write")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill_during_save.") as name:
        folder = Path(name)
        # A run gets two checkpoints further at most before it is killed, three when that misses.
        epochs = 4 + -(-3 * options.times // SAVES_PER_EPOCH)
        config = stage.make_stage(folder, epochs, WIDTH)
        passed, missed = kill_repeatedly(config, folder, options.times, rng)
        code = stage.start(config, folder / "killed", folder / "log").wait(LIMIT_SECONDS)
        faults = [f"the last start ended with {code}"] if code else []
        code = stage.start(config, folder / "whole", folder / "whole.log").wait(LIMIT_SECONDS)
        faults += [f"the undisturbed run ended with {code}"] if code else []
        faults = faults or stage.differences(folder / "whole", folder / "killed")
        if faults:
            print("\n".join(faults), (folder / "log").read_text()[-2000:], sep="\n")
    print(f"{missed} more kills fell between writes")
    print(f"final weights and losses {'differ' if faults else 'equal those of an undisturbed run'}")
    print(f"{0 if faults else passed} of {options.times}")
    return 0 if passed == options.times and not faults else 1


def kill_repeatedly(config: Path, folder: Path, times: int, rng: random.Random) -> tuple[int, int]:
    """Kill ``times`` times within a write; return how many went well, and how many missed."""
    exp_dir, log = folder / "killed", folder / "log"
    checkpoints = CheckpointFolder(exp_dir / "checkpoints")
    passed = hits = missed = 0
    before: Moment | None = None
    duration = 0.05  # of a write, in seconds; measured as the drill goes on
    while hits < times and missed < 5 * times:
        process = stage.start(config, exp_dir, log)
        written, took = kill_in_write(process, checkpoints.folder, rng, duration)
        if process.returncode != -signal.SIGKILL:
            print(f"a start ended with {process.returncode}: {log.read_text()[-2000:]}")
            break
        if took is not None:
            duration = took
        if written is None:
            missed += 1
            before = None
            continue
        hits += 1
        text = f"kill {hits}: while {written} was written;"
        expected = predecessor(written)
        newest = checkpoints.newest()
        resumed = before is None or f"resuming from {checkpoints.path(before)}" in log.read_text()
        good = newest == expected and resumed
        passed += good
        print(f"{text} newest whole one: {newest.name if newest else None}", flush=True)
        if not good:
            print(f"  expected {expected.name if expected else None}; went on: {resumed}")
        before = newest
    return passed, missed


def kill_in_write(
    process: subprocess.Popen, folder: Path, rng: random.Random, duration: float
) -> tuple[str | None, float | None]:
    """Kill a run at a random instant of its first, second or third write.

    Returns:
        Name of the checkpoint that was being written, None when the kill fell after the write; and
        how long the last write took that was seen from its beginning to its end.
    """
    seen = {inode for _, inode in partials(folder)}
    count, wanted = 0, rng.randint(1, 3)
    current: tuple[str, int] | None = None
    began, took = 0.0, None
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        new = [entry for entry in partials(folder) if entry[1] not in seen]
        if current is not None and current not in new:
            took, current = time.monotonic() - began, None
        if new and current is None:
            current, began = new[0], time.monotonic()
            seen -= {current[1]}
            count += 1
            if count == wanted:
                time.sleep(rng.uniform(0, took or duration))
                break
        time.sleep(0.0005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = current is not None and current in partials(folder)
    return (current[0] if left and current else None), took


def partials(folder: Path) -> list[tuple[str, int]]:
    """Return name and inode of the checkpoints that are being written, or were."""
    try:
        return [
            (entry.name[1 : -len(".partial")], entry.inode())
            for entry in os.scandir(folder)
            if re.fullmatch(r"\.epoch_[a-z_\d]+\.partial", entry.name)
        ]
    except FileNotFoundError:
        return []


def predecessor(name: str) -> Moment | None:
    """Return the moment that is saved before the one of this name."""
    _, epoch, *rest = name.split("_")
    number = int(epoch) * SAVES_PER_EPOCH + (int(rest[1]) // stage.SAVE_EVERY if rest else 0) - 1
    if number < 0:
        return None
    return Moment(number // SAVES_PER_EPOCH, number % SAVES_PER_EPOCH * stage.SAVE_EVERY)


if __name__ == "__main__":
    sys.exit(main())
