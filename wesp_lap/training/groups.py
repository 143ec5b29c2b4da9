"""Parameter groups: learning rate, weight decay and the first epoch of each part of the model.

Source: docs/methods.md, section 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from wesp_lap.errors import ConfigError
from wesp_lap.log import get_logger
from wesp_lap.model import SpeakerModel

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class GroupSettings:
    """How parts of the model are trained differently from each other.

    Layers are counted from 1 to L, those that are left by ``keep_layers``. What comes before them
    (convolutions, projection, position embedding) is layer 0; a norm behind them belongs to L.

    Args:
        frontend_lr_factor: Learning rate of the frontend relative to the schedule's.
        backend_lr_factor: The same for the backend.
        classifier_lr_factor: The same for the classifier.
        layer_decay: Layer l of the frontend learns with a factor of ``layer_decay ** (L - l)`` on
            that of the frontend; 1 makes no difference.
        frontend_weight_decay: Weight decay of the frontend; null takes the optimizer's.
        backend_weight_decay: The same for the backend.
        classifier_weight_decay: The same for the classifier.
        no_decay_norms: No weight decay for the scales of norms and for biases.
        unfreeze_after: Epochs in which nothing of the frontend is trained.
        unfreeze_every: Epochs between layer L, trained from ``unfreeze_after`` on, and layer
            L - 1, and so on down to layer 0; 0 begins with all of them at once.
    """

    frontend_lr_factor: float = 1.0
    backend_lr_factor: float = 1.0
    classifier_lr_factor: float = 1.0
    layer_decay: float = 1.0
    frontend_weight_decay: float | None = None
    backend_weight_decay: float | None = None
    classifier_weight_decay: float | None = None
    no_decay_norms: bool = False
    unfreeze_after: float = 0.0
    unfreeze_every: float = 0.0

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if value is not None}
        negative = [name for name, value in numbers.items() if value < 0]
        if negative:
            raise ValueError(f"{', '.join(negative)} must not be negative")
        if self.layer_decay == 0:
            raise ValueError(
                "layer_decay must be positive; to fix layers give frontend.frozen_below"
            )

    @property
    def by_layer(self) -> bool:
        """True when the layers of the frontend differ."""
        return self.layer_decay != 1 or self.unfreeze_every > 0


@dataclass(frozen=True)
class _Group:
    """What the parameters of a group have in common."""

    name: str
    lr_factor: float
    weight_decay: float | None
    first_epoch: float = 0.0


def parameter_groups(
    settings: GroupSettings, model: SpeakerModel, classifier: nn.Module
) -> list[dict[str, Any]]:
    """Divide everything that is trained; each parameter is in one group.

    A group says by ``name`` what it is, by ``lr_factor`` how fast it learns relative to the
    schedule, by ``first_epoch`` since when, and by ``weight_decay`` what differs from the
    optimizer's.

    Args:
        settings: What is trained how.
        model: What does not require a gradient is left out.
        classifier: The loss.

    Raises:
        ConfigError: layers shall differ, but the frontend has none.
    """
    backend = _Group("backend", settings.backend_lr_factor, settings.backend_weight_decay)
    classes = _Group("classifier", settings.classifier_lr_factor, settings.classifier_weight_decay)
    parts: list[tuple[nn.Module, Callable[[nn.Parameter], _Group]]] = [
        (model.backend, lambda _: backend),
        (classifier, lambda _: classes),
        (model.frontend, _frontend_group(settings, model.frontend)),
    ]
    members: dict[_Group, list[nn.Parameter]] = {}
    for module, group_of in parts:
        undecayed = set(_norms_and_biases(module)) if settings.no_decay_norms else set()
        for parameter in module.parameters():
            if not parameter.requires_grad:
                continue
            group = group_of(parameter)
            if parameter in undecayed:
                group = replace(group, name=f"{group.name}.no_decay", weight_decay=0.0)
            members.setdefault(group, []).append(parameter)
    return [_as_torch_wants(group, parameters) for group, parameters in members.items()]


def warn_of_untrained(optimizer: Optimizer, epochs: int) -> None:
    """Log which groups begin after the end of a phase of so many epochs."""
    late = [group["name"] for group in optimizer.param_groups if group["first_epoch"] >= epochs]
    if late:
        get_logger().warning(
            "groups.unfreeze_after, unfreeze_every: never trained in %d epochs: %s",
            epochs,
            ", ".join(late),
        )


def set_learning_rates(optimizer: Optimizer, lr: float, epoch: float) -> None:
    """Give each group its learning rate.

    Args:
        optimizer: One made with groups of ``parameter_groups``.
        lr: What the schedule says.
        epoch: Epochs done, counted from 0, with the part of the one that runs.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"] if epoch >= group["first_epoch"] else 0.0


def drop_early_gradients(optimizer: Optimizer, epoch: float) -> None:
    """Remove the gradients of groups whose first epoch is still to come.

    An optimizer passes over parameters without a gradient: no weight decay, no momentum, no state.
    The gradients are computed nevertheless, the same in all processes, so that
    DistributedDataParallel can wait for them.
    """
    for group in optimizer.param_groups:
        if epoch < group["first_epoch"]:
            for parameter in group["params"]:
                parameter.grad = None


def _frontend_group(settings: GroupSettings, frontend: Any) -> Callable[[nn.Parameter], _Group]:
    """Return what tells the group of each parameter of the frontend."""
    lr_factor, decay = settings.frontend_lr_factor, settings.frontend_weight_decay
    whole = _Group("frontend", lr_factor, decay, settings.unfreeze_after)
    if not settings.by_layer or not any(p.requires_grad for p in frontend.parameters()):
        return lambda _: whole
    if not hasattr(frontend, "parameter_layers"):
        raise ConfigError(
            f"groups: {frontend.kind} has no layers; leave out layer_decay and unfreeze_every"
        )
    layers: dict[nn.Parameter, int] = frontend.parameter_layers()
    last = max(layers.values())

    def group(parameter: nn.Parameter) -> _Group:
        layer = layers[parameter]
        return replace(
            whole,
            name=f"frontend.layer_{layer:02d}",
            lr_factor=lr_factor * settings.layer_decay ** (last - layer),
            first_epoch=settings.unfreeze_after + settings.unfreeze_every * (last - layer),
        )

    return group


def _norms_and_biases(module: nn.Module) -> Iterator[nn.Parameter]:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            # Some backends keep the norms of several layers as one parameter.
            if isinstance(part, _NORMS) or name.startswith("norm_") or name.endswith("bias"):
                yield parameter


def _as_torch_wants(group: _Group, parameters: list[nn.Parameter]) -> dict[str, Any]:
    entries = {"params": parameters, **vars(group)}
    if group.weight_decay is None:
        del entries["weight_decay"]  # the optimizer's own
    return entries
