"""What the training loop asks of that which it trains: speakers, or masked frames.

The loop (trainer, engine, meter, memory probe, checkpoints) is the same for all tasks. A task
computes what a chunk of a batch costs, completes the gradient of a step, and says what stands in
the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.coerce import Section
from wesp_lap.data.crops import Batch
from wesp_lap.training.checkpoint import Moment
from wesp_lap.training.checkpoint_files import Content
from wesp_lap.training.distributed import Process
from wesp_lap.training.mfu import Utilisation
from wesp_lap.training.settings import CommonLoopSettings


class RunSettings(Protocol):
    """The settings that the loop itself reads."""

    @property
    def training(self) -> CommonLoopSettings:
        """How long and how."""

    @property
    def optimizer(self) -> Section:
        """Optimizer."""

    @property
    def lr_schedule(self) -> Section:
        """Learning rates."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""


class State(Protocol):
    """Everything that training changes, and the moment it has reached."""

    optimizer: Optimizer
    scaler: GradScaler
    moment: Moment
    resumed: bool

    @property
    def modules(self) -> Sequence[nn.Module]:
        """What is trained."""

    def content(self) -> Content:
        """Return what a checkpoint holds of them."""


@dataclass(frozen=True)
class StepPlan:
    """Where a step lies and what the schedule says about it.

    Args:
        epoch: Whole epochs done before.
        step: Steps done before in this epoch.
        steps_per_epoch: Length of an epoch.
        lr: Learning rate before the factors of the groups.
    """

    epoch: int
    step: int
    steps_per_epoch: int
    lr: float

    @property
    def done(self) -> int:
        """Steps of the run before this one."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def progress(self) -> float:
        """Epochs done before, with the part of the one that runs."""
        return self.done / self.steps_per_epoch


class Outcome(NamedTuple):
    """What a chunk of a batch has shown.

    Attributes:
        loss: Mean over its utterances, with gradient; a scalar.
        figures: Means over its utterances (F,), without gradient; see Task.record.
    """

    loss: Tensor
    figures: Tensor


class Task:
    """What is trained, and how; a task of training overrides what differs.

    Attributes:
        network: What DDP wraps: every forward pass of training is a call of it.
        evaluated: What a validation is given.
        state: What training changes.
        figures: Number F of the figures of an outcome.
        has_random_depth: True when parameters may take no part in a step.
        fewest: Utterances that a chunk must have.
        checkpointing_name: The setting that computes activations again, to save memory.
        can_checkpoint: True when it would save memory and is off.
        is_sharded: Weights and gradients are cut among the processes.
    """

    network: nn.Module
    evaluated: nn.Module
    state: State
    figures: int
    has_random_depth: bool = False
    fewest: int = 2  # which batch norm needs
    checkpointing_name: str = "frontend.gradient_checkpointing"
    can_checkpoint: bool = False
    is_sharded: bool = False

    def compute(
        self, network: nn.Module, waves: Tensor, labels: Tensor, plan: StepPlan | None
    ) -> Outcome:
        """Return what a chunk costs.

        Args:
            network: ``self.network``, possibly wrapped.
            waves: Crops (B, S).
            labels: Their classes (B,) or (B, T).
            plan: Where the step lies; None for the costliest that the task has.
        """
        raise NotImplementedError

    def finish(self, loss: Tensor, figures: Tensor, process: Process) -> None:
        """Complete the gradient of a step, which is that of the mean loss over all utterances.

        Args:
            loss: Mean over this process's utterances, scaled by the weight of the batch.
            figures: The same of the figures.
            process: For means over all processes.
        """

    def noise(self, rows: int, samples: int, device: torch.device) -> Batch:
        """Return a batch of noise with labels, to try the memory with."""
        raise NotImplementedError

    def smaller_batches(self, share: float) -> str:
        """Return what makes batches smaller, with a value for a share of the present size."""
        raise NotImplementedError

    def utilisation(self, device: torch.device) -> Utilisation | None:
        """Return what computes the MFU, where that is known."""
        return None

    def fixed_state(self) -> Mapping[str, Tensor]:
        """Return what training must not change, by name."""
        return {}

    def record(self, plan: StepPlan, sums: list[float], counts: list[float]) -> dict[str, Any]:
        """Return what the log holds of some steps, beside what it holds of every task.

        Args:
            plan: Of the last one.
            sums: Sum of each figure over the steps in which it was finite.
            counts: Number of these steps.
        """
        raise NotImplementedError

    def describe(self, record: Mapping[str, Any]) -> list[str]:
        """Return what a log line says of a record, part by part."""
        raise NotImplementedError

    def shard(self, process: Process) -> None:
        """Cut what is trained among the processes."""
        raise NotImplementedError

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, each process may call the modules as often as it likes, for evaluation."""
        return contextlib.nullcontext()

    def help_saving(self) -> None:
        """Take part in the saving of a checkpoint in a process that does not write it."""


def smaller_batches(sampling: Section, batch_size: int, share: float) -> str:
    """Return the setting that makes batches smaller, and its value for a share of the present."""
    if sampling.name == "lengths":
        longest = sampling.options.get("max_seconds", 87.5)
        return f"lower data.sampling.max_seconds to {longest * share:.4g}"
    return f"lower data.batch_size to {int(batch_size * share)}"
