"""A pull of the frontend towards the weights that its training began with.

The loss of a step becomes

    CE / sg(CE) + weight * R / (sg(R) + 1e-5),    R = sum over the tensors of |theta - theta_0|

with sg for "as a constant" and | | for the length (not squared), over the frontend's trained
tensors. Both terms have a constant value, so their gradients are known once that of the
cross-entropy is. Source: docs/methods.md, section 3.3.

theta_0 is kept in ``EXP_DIR/pull.safetensors``, with its digest in ``pull.json``. A phase that
starts from one that has this file takes theta_0 from there, as the fine-tuning on long crops does
in the published code; any other phase takes the weights that it starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wesp_lap.errors import DataError
from wesp_lap.files import read_json, sha256, write_json
from wesp_lap.log import get_logger
from wesp_lap.tensors import load_tensors, save_tensors

PULL_FILE = "pull.safetensors"
_DIGEST_FILE = "pull.json"
_EPS = 1e-5
# Cross-entropies below this are not scaled up to 1 any more.
_LEAST_LOSS = 1e-8


class Pull:
    """Adds the pull to the gradient of a step.

    Args:
        weight: Factor on the second term of the loss.
        parameters: What is pulled, by name.
        start: theta_0 of each, on any device.
    """

    def __init__(
        self, weight: float, parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]
    ) -> None:
        self._weight = weight
        self._names = list(parameters)
        self._parameters: list[Tensor] = list(parameters.values())
        self._start = [start[name].to(p.device, p.dtype) for name, p in parameters.items()]

    def state(self) -> dict[str, Tensor]:
        """Return theta_0 by name."""
        return dict(zip(self._names, self._start, strict=True))

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Return R, the sum of the distances of all tensors from where they began."""
        return self._distances(self._differences()).sum()

    @torch.no_grad()
    def apply(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Turn the gradient of the cross-entropy into that of the loss with the pull.

        Args:
            loss: The cross-entropy that the gradient is of: the mean over all processes.
            parameters: Everything that is trained, with gradients that are not scaled.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_div_(gradients, loss.clamp(min=_LEAST_LOSS))
        differences = self._differences()
        distances = self._distances(differences)
        # The gradient of a length at 0 is 0, as the difference is.
        lengths = torch.where(distances > 0, distances, 1)
        factors = self._weight / (distances.sum() + _EPS) / lengths
        for parameter, difference, factor in zip(
            self._parameters, differences, factors.unbind(), strict=True
        ):
            pull = difference * factor
            parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)

    def _differences(self) -> list[Tensor]:
        return [p - start for p, start in zip(self._parameters, self._start, strict=True)]

    def _distances(self, differences: list[Tensor]) -> Tensor:
        return torch.stack(list(torch._foreach_norm(differences)))


def begin_pull(
    weight: float, frontend: nn.Module, folder: Path, before: Path | None, writes: bool
) -> Pull | None:
    """Return the pull of a phase that is at its first step; None when there is nothing to pull.

    Args:
        weight: Factor; 0 for no pull.
        frontend: With the weights that the phase starts from.
        folder: Experiment directory; theta_0 is written there.
        before: Experiment directory of the phase before, if there is one.
        writes: True in the one process that writes files.
    """
    parameters = _trained(frontend)
    if weight == 0 or not parameters:
        return None
    start = {name: p.detach().clone() for name, p in parameters.items()}
    if before is not None and (before / PULL_FILE).exists():
        get_logger().info("pull: towards the weights of %s", before / PULL_FILE)
        earlier = _read(before)
        # What was not trained before is still what it was at the beginning.
        start |= {n: t for n, t in earlier.items() if n in start and t.shape == start[n].shape}
    if writes:
        save_tensors(folder / PULL_FILE, start)
        write_json(folder / _DIGEST_FILE, {"sha256": sha256(folder / PULL_FILE)})
    return Pull(weight, parameters, start)


def resume_pull(weight: float, frontend: nn.Module, folder: Path) -> Pull | None:
    """Return the pull of a phase that goes on, towards the same weights as before.

    Raises:
        DataError: they are missing, damaged, or of another model.
    """
    parameters = _trained(frontend)
    if weight == 0 or not parameters:
        return None
    start = _read(folder)
    shapes = {name: p.shape for name, p in parameters.items()}
    if {name: t.shape for name, t in start.items()} != shapes:
        raise DataError(f"{folder / PULL_FILE}: not the weights that this phase trains")
    return Pull(weight, parameters, start)


def _trained(frontend: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in frontend.named_parameters() if p.requires_grad}


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / PULL_FILE
    tensors = load_tensors(path)
    if read_json(folder / _DIGEST_FILE).get("sha256") != sha256(path):
        raise DataError(
            f"{path} does not match its digest; bring it back from a copy, or remove "
            f"{folder} to train again"
        )
    return tensors
