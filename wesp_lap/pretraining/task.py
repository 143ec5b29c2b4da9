"""Training by masked prediction; see docs/methods.md, sections 6.2 and 6.3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from wesp_lap.config import to_plain
from wesp_lap.data.crops import Batch
from wesp_lap.files import write_json
from wesp_lap.pretraining.network import PretrainNetwork
from wesp_lap.pretraining.operations import open_utilisation
from wesp_lap.pretraining.settings import PretrainSettings
from wesp_lap.training.checkpoint import Moment
from wesp_lap.training.checkpoint_files import Content
from wesp_lap.training.distributed import Process
from wesp_lap.training.meter import number
from wesp_lap.training.mfu import Utilisation
from wesp_lap.training.task import Outcome, StepPlan, Task, smaller_batches

NETWORK_FILE = "network.safetensors"
RECORD_FILE = "pretraining.json"
# Sums over the frames of a batch, as PretrainNetwork names them; "penalty" times "frames".
FIGURES = (
    "frames",
    "masked",
    "correct",
    "cross_entropy",
    "unmasked",
    "unmasked_correct",
    "penalty",
)


@dataclass
class PretrainState:
    """Everything that pre-training changes, and the moment it has reached; see training's State."""

    network: PretrainNetwork
    settings: PretrainSettings
    optimizer: Optimizer
    scaler: GradScaler
    moment: Moment
    resumed: bool = False

    @property
    def modules(self) -> Sequence[nn.Module]:
        """What is trained."""
        return (self.network,)

    def content(self) -> Content:
        """Return what a checkpoint holds: the network, and what it was built from."""
        record = {
            "encoder": to_plain(self.settings.encoder),
            "head": asdict(self.settings.head),
            "num_clusters": self.network.head.num_clusters,
        }
        return Content(
            weights={NETWORK_FILE: self.network.state_dict()},
            others={RECORD_FILE: partial(write_json, value=record)},
        )


class PretrainTask(Task):
    """Masked prediction of clusters.

    The gradient of a step is that of the sum over all predicted frames of all processes, divided
    by their number.

    Args:
        settings: Checked settings.
        state: What is trained.
        majority: Share of the commonest label: the accuracy of one who always says it.
    """

    figures = len(FIGURES)
    fewest = 1  # batch norm, where there is any, sees frames
    checkpointing_name = "training.gradient_checkpointing"

    def __init__(self, settings: PretrainSettings, state: PretrainState, majority: float) -> None:
        self.state = self._state = state
        self.network = self.evaluated = state.network
        self.has_random_depth = state.network.has_random_depth
        self.can_checkpoint = not settings.training.gradient_checkpointing
        self._settings = settings
        self._majority = majority

    def compute(
        self, network: nn.Module, waves: Tensor, labels: Tensor, plan: StepPlan | None
    ) -> Outcome:
        """See Task."""
        # The global generator is seeded anew for every step and process.
        rng = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))
        sums = network(waves, labels, rng, count_unmasked=True)
        return Outcome(sums["loss"] / len(waves), figures_of(sums) / len(waves))

    def finish(self, loss: Tensor, figures: Tensor, process: Process) -> None:
        """Divide the gradient, so far that of a mean over utterances, by the frames of each."""
        frames = process.mean(figures[FIGURES.index("frames")].clone())
        parameters = [p for group in self._state.optimizer.param_groups for p in group["params"]]
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], frames)

    def noise(self, rows: int, samples: int, device: torch.device) -> Batch:
        """See Task."""
        waves = 0.1 * torch.randn(rows, samples, device=device)
        frames = self._state.network.output_lengths(samples)
        labels = torch.zeros(rows, frames, dtype=torch.int64, device=device)
        return Batch(waves, labels, [""] * rows, 1.0, None, {})

    def smaller_batches(self, share: float) -> str:
        """See Task."""
        return smaller_batches(self._settings.data.sampling, 0, share)

    def utilisation(self, device: torch.device) -> Utilisation | None:
        """See Task."""
        options = self._settings.training
        again = options.gradient_checkpointing
        return open_utilisation(self._state.network, device, options.precision, again)

    def record(self, plan: StepPlan, sums: list[float], counts: list[float]) -> dict[str, Any]:
        """See Task; the loss is in bits per masked frame."""
        return {"update": plan.done + 1, **rates(sums), "majority": round(self._majority, 6)}

    def describe(self, record: Mapping[str, Any]) -> list[str]:
        """See Task."""
        return [
            f"update {record['update']}",
            f"loss {number(record['loss'], '.3f')} bits",
            f"masked {_percent(record['accuracy'])} (commonest {_percent(record['majority'])})",
            f"unmasked {_percent(record['unmasked_accuracy'])}",
            f"penalty {number(record['penalty'], '.3g')}",
        ]


def figures_of(sums: Mapping[str, Tensor]) -> Tensor:
    """Return what PretrainNetwork has counted (F,), NaN when the loss is not finite."""
    values = {**sums, "penalty": sums["penalty"] * sums["frames"]}
    figures = torch.stack([values[name].detach().float() for name in FIGURES])
    return torch.where(values["loss"].detach().isfinite(), figures, torch.nan)


def rates(sums: Sequence[float]) -> dict[str, float | None]:
    """Return what sums of the figures mean; None where there is no frame.

    Returns:
        ``loss`` in bits per masked frame; ``accuracy`` in masked frames and
        ``unmasked_accuracy`` in others, from 0 to 1; ``penalty``, the mean square of the
        convolutions' output.
    """
    total = dict(zip(FIGURES, sums, strict=True))
    return {
        "loss": _ratio(total["cross_entropy"], total["masked"] * math.log(2)),
        "accuracy": _ratio(total["correct"], total["masked"]),
        "unmasked_accuracy": _ratio(total["unmasked_correct"], total["unmasked"]),
        "penalty": _ratio(total["penalty"], total["frames"]),
    }


def _ratio(value: float, count: float) -> float | None:
    return round(value / count, 6) if count else None


def _percent(value: float | None) -> str:
    return number(value, ".1%").replace("%", " %")
