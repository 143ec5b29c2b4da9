"""Training of a speaker model: each crop is to be told its speaker."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from wesp_lap.data.crops import Batch
from wesp_lap.losses.output import LossOutput
from wesp_lap.training import sharding
from wesp_lap.training.distributed import Process
from wesp_lap.training.meter import means, number
from wesp_lap.training.mfu import Utilisation, open_utilisation
from wesp_lap.training.phase import Phase
from wesp_lap.training.pull import Pull
from wesp_lap.training.settings import TrainSettings
from wesp_lap.training.task import Outcome, StepPlan, Task, smaller_batches


class TrainingStep(nn.Module):
    """Model and classifier as one module, so that DDP sees one forward call.

    Args:
        model: Waveforms to embeddings.
        classifier: Embeddings and labels to a LossOutput.
        compiled: Run ``model`` through torch.compile. The classifier, whose margin changes from
            step to step, is not; nor is the model where others call it, as validation does.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self._embed = torch.compile(model.forward) if compiled else model

    def forward(self, waves: Tensor, labels: Tensor, margin: float, penalty: float) -> LossOutput:
        """Return the loss of crops (B, S) with class labels (B,)."""
        return self.classifier(self._embed(waves), labels, margin, penalty)


class SpeakerTask(Task):
    """Classification of speakers with a margin that grows.

    The figures of an outcome are the mean cross-entropy and the share of utterances whose speaker
    has the highest score.

    Args:
        settings: Checked settings.
        phase: What is trained.
        process: This process among all.
        pull: What draws the frontend back, if anything.

    Raises:
        ConfigError: sharding does not go together with other settings.
    """

    figures = 2

    def __init__(
        self, settings: TrainSettings, phase: Phase, process: Process, pull: Pull | None = None
    ) -> None:
        self.state = self._phase = phase
        self.evaluated = phase.model
        self.network = TrainingStep(phase.model, phase.classifier, settings.training.compile)
        self.has_random_depth = phase.model.frontend.has_random_depth
        self.is_sharded = settings.training.sharding == "full"
        frontend: Any = phase.model.frontend
        trained = any(p.requires_grad for p in frontend.parameters())
        checkpoints = getattr(frontend, "gradient_checkpointing", True)
        self.can_checkpoint = trained and checkpoints is False
        self._settings = settings
        self._pull = pull
        if self.is_sharded:
            sharding.check(settings, phase, process)

    def compute(
        self, network: nn.Module, waves: Tensor, labels: Tensor, plan: StepPlan | None
    ) -> Outcome:
        """See Task."""
        margin = self._margin(plan)
        output = network(waves, labels, margin, self._settings.margin.penalty_for(margin))
        hits = output.scores.detach().argmax(dim=1) == labels
        loss = output.loss.detach()
        return Outcome(output.loss, torch.stack([loss, hits.to(loss.dtype).mean()]))

    def finish(self, loss: Tensor, figures: Tensor, process: Process) -> None:
        """Draw the frontend back."""
        if self._pull is not None:
            groups = self._phase.optimizer.param_groups
            trained = [p for group in groups for p in group["params"]]
            self._pull.apply(process.mean(loss.clone()), trained)

    def noise(self, rows: int, samples: int, device: torch.device) -> Batch:
        """See Task."""
        waves = 0.1 * torch.randn(rows, samples, device=device)
        classes = next(self._phase.classifier.parameters()).shape[-1]
        labels = torch.arange(rows, device=device) % classes
        return Batch(waves, labels, [""] * rows, 1.0, None, {})

    def smaller_batches(self, share: float) -> str:
        """See Task."""
        data = self._settings.data
        return smaller_batches(data.sampling, data.batch_size, share)

    def utilisation(self, device: torch.device) -> Utilisation | None:
        """See Task."""
        phase, settings = self._phase, self._settings
        precision, samples = settings.training.precision, settings.data.crop_samples
        return open_utilisation(phase.model, phase.classifier, device, precision, samples)

    def fixed_state(self) -> Mapping[str, Tensor]:
        """See Task."""
        return self._phase.model.frontend.fixed_state()

    def record(self, plan: StepPlan, sums: list[float], counts: list[float]) -> dict[str, Any]:
        """See Task."""
        values = means(("loss", "accuracy"), sums, counts)
        return {"margin": round(self._margin(plan), 6), **values}

    def describe(self, record: Mapping[str, Any]) -> list[str]:
        """See Task."""
        return [
            f"margin {record['margin']:.3f}",
            f"loss {number(record['loss'], '.3f')}",
            f"accuracy {number(record['accuracy'], '.1%')}".replace("%", " %"),
        ]

    def shard(self, process: Process) -> None:
        """See Task."""
        sharding.shard(self._phase, process)

    def whole_weights(self) -> AbstractContextManager[None]:
        """See Task."""
        return sharding.whole_weights(self._phase) if self.is_sharded else super().whole_weights()

    def help_saving(self) -> None:
        """See Task."""
        if self.is_sharded:
            sharding.take_part(self._phase)

    def _margin(self, plan: StepPlan | None) -> float:
        margin = self._settings.margin
        return margin.final if plan is None else margin.margin(plan.done, plan.steps_per_epoch)
