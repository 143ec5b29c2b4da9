"""Checkpoints: a directory per moment, written whole, verified when read.

``checkpoints/epoch_003`` is the state after 3 epochs, ``epoch_003_step_00040`` one 40 steps later;
``epoch_000`` is the state before the first step. Each holds what is trained,
``optimizer.safetensors`` and, written last, ``state.json`` with the digests. Of a phase of speaker
training that is a SpeakerModel directory (config.json, model.safetensors, README.md),
``classifier.safetensors`` and ``speakers.txt`` (class index by speaker).
``checkpoints/latest`` points to the newest, ``EXP_DIR/best`` to the one with the lowest EER.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.errors import WespError
from wesp_lap.files import PathLike, point_link
from wesp_lap.log import get_logger
from wesp_lap.training.checkpoint_files import (
    OPTIMIZER_FILE,
    Content,
    damage,
    read_validation,
    split_optimizer,
)
from wesp_lap.training.checkpoint_writer import (
    PARTIAL_SUFFIX,
    STATE_FILE,
    BackgroundSaver,
    HostCopies,
    Snapshot,
)

_NAME = re.compile(r"epoch_(\d{3,})(?:_step_(\d{5,}))?$")
# Checkpoints that stay whatever the settings say: one to fall back on when the newest is damaged.
_ALWAYS_KEPT = 2


@dataclass(frozen=True, order=True)
class Moment:
    """How far training is: whole epochs done, and steps into the next one."""

    epoch: int
    step: int = 0

    @property
    def name(self) -> str:
        """Directory name; names sort as moments do."""
        return f"epoch_{self.epoch:03d}" + (f"_step_{self.step:05d}" if self.step else "")


class CheckpointFolder:
    """The checkpoints of one phase.

    Args:
        folder: ``EXP_DIR/checkpoints``.
        keep: Epoch-end checkpoints to keep, beside epoch_000.
        keep_best: Epoch-end checkpoints with the lowest EER to keep beside those.
        max_failed: Writes in a row that may fail, for want of space or such, until training ends.
    """

    def __init__(
        self, folder: PathLike, keep: int = 5, keep_best: int = 1, max_failed: int = 3
    ) -> None:
        self.folder = Path(folder)
        self._keep = keep
        self._keep_best = keep_best
        self._saver = BackgroundSaver(max_failed)
        self._copies = HostCopies()

    def save(
        self,
        moment: Moment,
        content: Content,
        optimizer: Optimizer,
        scaler: GradScaler,
        *,
        validation: Mapping[str, float] | None = None,
        extra: Mapping[str, Mapping[str, Tensor]] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the state of training and write it in the background.

        Waits for the checkpoint before, if that is still being written. A thread then removes the
        checkpoints that are no longer needed, after this one is whole.

        Args:
            moment: How far training is.
            content: What has been trained.
            optimizer: Its state is written.
            scaler: Its state is written.
            validation: Results at the end of the epoch, see Validation.as_dict.
            extra: More tensors by name; each name becomes ``NAME.safetensors``, which
                ``read_extra`` reads.
            notes: More plain values for ``state.json``, under "notes".

        Raises:
            WespError: the write before has failed, see ``check``.
        """
        self.wait()
        tensors, plain = split_optimizer(optimizer)
        more = {f"{name}.safetensors": states for name, states in (extra or {}).items()}
        state = {
            "epoch": moment.epoch,
            "step": moment.step,
            "optimizer": plain,
            "scaler": scaler.state_dict(),
            "validation": dict(validation) if validation is not None else None,
            "notes": dict(notes or {}),
        }
        snapshot = Snapshot(
            tensors=self._copies.fill({**content.weights, OPTIMIZER_FILE: tensors, **more}),
            others=dict(content.others),
            state=state,
            finite=frozenset(content.weights),
        )
        self._saver.start(moment.name, partial(self._write, moment, snapshot))

    def check(self) -> None:
        """Say what became of the last write if it has ended; cheap enough for every step.

        Raises:
            WespError: weights were not finite, or as many writes in a row as allowed have failed.
        """
        self._saver.check()

    def wait(self) -> bool:
        """Wait until the last checkpoint is on the disk; return False when it could not be written.

        Raises:
            WespError: as ``check``.
        """
        return self._saver.wait()

    def settle(self) -> None:
        """Wait as ``wait`` does, but only warn of faults: another error may be on its way."""
        try:
            self.wait()
        except WespError as error:
            get_logger().warning("%s", error)

    def finish(self, moment: Moment) -> None:
        """Wait for the checkpoint of the end of training and point ``EXP_DIR/final`` at it.

        Raises:
            WespError: it could not be written.
        """
        if not self.wait() or moment not in self.moments():
            raise WespError(
                f"{self.path(moment)}: the checkpoint of the end could not be written; free some "
                "space and give the same command again, it goes on from the checkpoint before"
            )
        point_link(self.folder.parent / "final", self.path(moment))

    def moments(self) -> list[Moment]:
        """Return the moments that are saved, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / STATE_FILE).is_file():
                found.append(Moment(int(match[1]), int(match[2] or 0)))
        return sorted(found)

    def path(self, moment: Moment) -> Path:
        """Return the directory of a saved moment."""
        return self.folder / moment.name

    def newest(self) -> Moment | None:
        """Return the newest moment whose files are undamaged; warn about any that are not."""
        for moment in reversed(self.moments()):
            problem = damage(self.path(moment))
            if problem is None:
                return moment
            get_logger().warning("%s; falling back to the checkpoint before it", problem)
        return None

    def best(self, num: int = 1) -> list[Moment]:
        """Return the ends of epochs with the lowest EER on the validation list, best first.

        Equal ones are sorted by minDCF, then by age. Epochs without a value do not count.
        """
        values = []
        for moment in self._ends():
            results = read_validation(self.path(moment))
            if "eer" in results:
                values.append((results["eer"], results.get("min_dcf_0.01", 0.0), moment))
        return [moment for _, _, moment in sorted(values)[:num]]

    def epoch_ends(self) -> list[Path]:
        """Return the directories of whole epochs, oldest first, without epoch_000."""
        return [self.path(moment) for moment in self._ends()]

    def _ends(self) -> list[Moment]:
        return [m for m in self.moments() if m.step == 0 and m.epoch > 0]

    def _write(self, moment: Moment, snapshot: Snapshot) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".epoch_*{PARTIAL_SUFFIX}"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        snapshot.write(self.path(moment))
        point_link(self.folder / "latest", self.path(moment))
        # What is later was found damaged when the run was resumed.
        self._remove([m for m in self.moments() if m > moment])
        best = self.best(self._keep_best)
        if best:
            point_link(self.folder.parent / "best", self.path(best[0]))
        saved = self.moments()
        kept = {Moment(0), *saved[-_ALWAYS_KEPT:], *self._ends()[-self._keep :], *best}
        self._remove([m for m in saved if m not in kept])

    def _remove(self, moments: list[Moment]) -> None:
        for moment in moments:
            shutil.rmtree(self.path(moment), ignore_errors=True)
