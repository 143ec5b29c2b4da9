"""An exponential moving average of a model's weights during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wesp_lap.errors import DataError
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import read_extra
from wesp_lap.training.phase import Phase

# Its name among the extra tensors of a checkpoint.
EMA = "ema"


def open_average(decay: float, phase: Phase, checkpoints: CheckpointFolder) -> WeightAverage | None:
    """Return the moving average of a phase as it was at the phase's moment.

    Args:
        decay: See WeightAverage; 0 for none.
        phase: Where training is.
        checkpoints: Where the average is when training goes on.
    """
    if decay == 0:
        return None
    average = WeightAverage(phase.model, decay)
    if phase.moment != Moment(0):
        source = checkpoints.path(phase.moment)
        average.restore(read_extra(source, EMA), str(source))
    return average


class WeightAverage:
    """The moving average of everything in a model that training changes.

    Batch norm statistics are averaged like the weights; counters are not, they stay the model's.
    The first averages are short, as in Adam's bias correction: the weight of the old average is
    ``min(decay, (1 + step) / (10 + step))``, so what training starts from is soon forgotten.

    Args:
        model: The model, on the device that it is trained on.
        decay: Weight of the old average in a step, at least 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = {
            name: tensor.detach()
            for name, tensor in model.state_dict(keep_vars=True).items()
            if tensor.is_floating_point()
            and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        }
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step.

        Args:
            step: Steps of the phase before this one.
        """
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), share)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by their names in the model's state."""
        return self._mean

    def restore(self, tensors: Mapping[str, Tensor] | None, source: str) -> None:
        """Go on from saved averages.

        Args:
            tensors: What ``state`` returned, or None for nothing.
            source: What an error calls them.

        Raises:
            DataError: they are missing, or those of another model.
        """
        shapes = {name: tensor.shape for name, tensor in self._mean.items()}
        if tensors is None or {name: t.shape for name, t in tensors.items()} != shapes:
            raise DataError(f"{source}: no moving averages of this model's weights")
        for name, mean in self._mean.items():
            mean.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the model hold the averages for a while, then its own weights again, bit for bit."""
        live, mean = list(self._live.values()), list(self._mean.values())
        own = [tensor.clone() for tensor in live]
        with torch.no_grad():
            torch._foreach_copy_(live, mean)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)
