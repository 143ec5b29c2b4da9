"""Which parts of a model are removed, fixed, or computed twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wesp_lap.frontends.family import Family

Boundary = Literal["convolutions", "projection"] | int
Part = nn.Module | nn.Parameter


def parts_below(family: Family, model: Any, boundary: Boundary | None) -> list[Part]:
    """Return everything up to and with a named part, or before a layer counted from 0.

    Raises:
        ValueError: the model has no such part or layer.
    """
    if boundary is None:
        return []
    before = dict(family.before_layers(model))
    if isinstance(boundary, str):
        names = [name for name in before if name != "rest"]
        if boundary not in names:
            raise ValueError(
                f"frozen_below: a {model.config.model_type} model has no {boundary}; give "
                f"{' or '.join([*names, 'a number of layers'])}"
            )
        return [part for name in names[: names.index(boundary) + 1] for part in before[name]]
    layers = family.layers(model)
    if not 0 <= boundary <= len(layers):
        raise ValueError(f"frozen_below: {boundary}, but the model has {len(layers)} layers")
    return [*(part for parts in before.values() for part in parts), *layers[:boundary]]


def parameter_layers(family: Family, model: Any) -> dict[nn.Parameter, int]:
    """Return the layer of each parameter, from 1 to L.

    What comes before the layers is 0, and what follows them belongs to the last one.
    """
    layers = family.layers(model)
    found = dict.fromkeys(model.parameters(), len(layers))
    for part in (part for parts in family.before_layers(model).values() for part in parts):
        found |= dict.fromkeys(part.parameters() if isinstance(part, nn.Module) else [part], 0)
    for number, layer in enumerate(layers, start=1):
        found |= dict.fromkeys(layer.parameters(), number)
    return found


def drop_layers_above(family: Family, model: Any, keep: int) -> None:
    """Remove all layers but the first ones.

    Raises:
        ValueError: the model has fewer.
    """
    layers = len(family.layers(model))
    if not 1 <= keep <= layers:
        raise ValueError(f"keep_layers: {keep}, but the model has {layers} layers")
    if keep < layers:
        family.drop_layers(model, keep)


def evaluation_mode(parts: Iterable[Part]) -> None:
    """Bring all modules among the parts into evaluation mode."""
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()


def keep_statistics(model: nn.Module) -> None:
    """Have batch norms use their running statistics and leave them as they are."""
    evaluation_mode(module for module in model.modules() if isinstance(module, _BatchNorm))


def recompute_activations(model: Any) -> None:
    """Keep the inputs of the layers only, and compute the rest again in the backward pass."""
    # The library's older name for it is the only one in its earlier versions.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    # The other way takes many times the memory with WavLM.
    options: dict[str, Any] = {"use_reentrant": False}
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        options["context_fn"] = lambda: (contextlib.nullcontext(), _CountedBefore(model))
    enable(options)


class _CountedBefore(contextlib.AbstractContextManager[None]):
    """Inside, batch norms in training mode leave their running statistics as they are.

    What is computed again has been counted in them the first time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._momenta: dict[_BatchNorm, float | None] = {}

    def __enter__(self) -> None:
        norms = [module for module in self._model.modules() if isinstance(module, _BatchNorm)]
        self._momenta = {norm: norm.momentum for norm in norms}
        for norm in norms:
            norm.momentum = 0.0

    def __exit__(self, *exception: object) -> None:
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum


def recompute_in_evaluation_mode(layers: Iterable[nn.Module]) -> None:
    """Have layers whose parts are in evaluation mode compute their activations again.

    They look at their own mode to decide. Layers whose dropout is a number instead of a module do
    so for their dropout, too; they are left alone.
    """
    for layer in layers:
        if not isinstance(getattr(layer, "dropout", None), float):
            layer.training = True
