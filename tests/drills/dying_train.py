"""wesp_lap.bin.train that kills itself (SIGKILL) at the point that DRILL_KILL_POINT names.

``step EPOCH STEP``: when this step has been computed, before anything is made of it.
``write NAME``: within the write of this checkpoint, when most of its files are there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from wesp_lap.bin.train import main
from wesp_lap.cli import run_command
from wesp_lap.training import checkpoint_writer
from wesp_lap.training.checkpoint_files import OPTIMIZER_FILE
from wesp_lap.training.engine import Engine


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_step(epoch: int, number: int) -> None:
    whole = Engine.step

    def step(self, batch, plan):
        result = whole(self, batch, plan)
        if (plan.epoch, plan.step) == (epoch, number):
            die()
        return result

    Engine.step = step


def die_in_write(name: str) -> None:
    whole = checkpoint_writer.save_tensors

    def save(path: Path, tensors):
        whole(path, tensors)
        if path.name == OPTIMIZER_FILE and name in path.parent.name:
            die()

    checkpoint_writer.save_tensors = save


if __name__ == "__main__":
    kind, *words = os.environ["DRILL_KILL_POINT"].split()
    if kind == "step":
        die_after_step(*map(int, words))
    else:
        die_in_write(*words)
    run_command(main)
