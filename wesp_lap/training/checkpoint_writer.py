"""How a checkpoint gets from the training device to the disk while training goes on.

The tensors are copied to host memory, which is all that training waits for; a thread writes them.
Files are written beside, synced and hashed, their folder is synced and renamed, and pointers are
moved last, so that a kill at any instant leaves the checkpoint before as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from wesp_lap.errors import WespError
from wesp_lap.files import sha256, sync_folder, write_json
from wesp_lap.log import get_logger
from wesp_lap.tensors import save_tensors, whole
from wesp_lap.training.checkpoint_files import STATE_FILE, state_digest

PARTIAL_SUFFIX = ".partial"


@dataclass
class Snapshot:
    """What a checkpoint will hold, by file name, on the host and out of training's reach.

    Args:
        tensors: Of each ``.safetensors`` file.
        others: What writes each other file, given its path.
        state: Content of ``state.json`` but for the digests.
        finite: Files in which a number that is not finite means that training has failed.
    """

    tensors: dict[str, dict[str, Tensor]]
    others: dict[str, Callable[[Path], None]]
    state: dict[str, Any]
    finite: frozenset[str] = field(default_factory=frozenset)

    def write(self, target: Path) -> None:
        """Write the checkpoint ``target``; until it is whole, it does not exist.

        Raises:
            WespError: weights are not finite; nothing is written.
            OSError: the disk is full, or another fault of the system.
        """
        self._refuse_not_finite()
        partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._write_files(partial)
            sync_folder(partial)
            _replace_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(target.parent)

    def _write_files(self, folder: Path) -> None:
        for name, tensors in self.tensors.items():
            save_tensors(folder / name, tensors)
        for name, write in self.others.items():
            write(folder / name)
        state = {**self.state, "files": {p.name: sha256(p) for p in sorted(folder.iterdir())}}
        write_json(folder / STATE_FILE, {**state, "digest": state_digest(state)})

    def _refuse_not_finite(self) -> None:
        bad = [
            name
            for file in sorted(self.finite)
            for name, tensor in self.tensors[file].items()
            if tensor.is_floating_point() and not torch.isfinite(tensor).all()
        ]
        if bad:
            raise WespError(
                f"{len(bad)} tensors hold NaN or infinite numbers ({', '.join(bad[:3])}, ...); "
                "nothing was saved. Lower the learning rate or use precision fp32; the same "
                "command goes on from the checkpoint before"
            )


def _replace_folder(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; what is there is moved away first, as folders need."""
    old = target.with_name(f".{target.name}.old{PARTIAL_SUFFIX}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


class HostCopies:
    """Copies of tensors in host memory that are kept and filled again by every checkpoint.

    One copy of all that is saved, pinned where the tensors are on a GPU. A new allocation each
    time would cost more than the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def fill(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copy tensors by file and name; they may change once this returns."""
        copies = {
            file: {name: self._copy((file, name), tensor) for name, tensor in tensors.items()}
            for file, tensors in files.items()
        }
        if any(t.is_cuda for tensors in files.values() for t in tensors.values()):
            torch.cuda.synchronize()
        return copies

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        tensor = whole(tensor)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer.copy_(tensor, non_blocking=tensor.is_cuda)


class BackgroundSaver:
    """Runs one write at a time in a thread, and says in the training thread what became of it.

    A write that fails for want of space or another fault of the system is warned about, and
    training goes on, until several in a row have failed. Anything else is raised at once.

    Args:
        max_failed: Failed writes in a row that end training.
    """

    def __init__(self, max_failed: int) -> None:
        self._max_failed = max_failed
        self._failed = 0
        self._name = ""
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, name: str, write: Callable[[], None]) -> None:
        """Begin to write the checkpoint ``name``; the one before must have been waited for."""
        assert self._thread is None
        self._name, self._error = name, None
        # No daemon: an error elsewhere lets the write come to its end.
        self._thread = Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Deal with a write that has ended; return at once when one is still under way.

        Raises:
            WespError: weights are not finite, or ``max_failed`` writes in a row have failed.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> bool:
        """Wait for the write under way, if any; return False when it has failed.

        Raises:
            WespError: as ``check``.
        """
        if self._thread is None:
            return self._failed == 0
        self._thread.join()
        self._thread = None
        if self._error is None:
            self._failed = 0
            return True
        if not isinstance(self._error, OSError):
            raise self._error
        self._count(self._error)
        return False

    def _count(self, error: OSError) -> None:
        self._failed += 1
        text = f"checkpoint {self._name} could not be written: {_reason(error)}"
        if self._failed >= self._max_failed:
            raise WespError(
                f"{text}; {self._failed} in a row have failed (training.max_failed_saves). The "
                "checkpoint before is whole: the same command goes on from there"
            ) from error
        get_logger().warning(
            "%s. The checkpoint before is whole; training goes on and tries again at the next one "
            "(failure %d, training.max_failed_saves is %d)",
            text,
            self._failed,
            self._max_failed,
        )


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left ({error}); free some"
    return str(error)
