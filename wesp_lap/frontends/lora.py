"""Low-rank adapters (LoRA) in a frontend's layers, by the peft library.

An adapter adds ``alpha / rank * B A x`` to the output of a linear map, with A (rank, in) random
and B (out, rank) zero at the start. The map itself stays as it is until the adapter is merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wesp_lap.coerce import check_names
from wesp_lap.errors import ConfigError


@dataclass(frozen=True)
class LoraSettings:
    """Size and place of the adapters.

    Args:
        rank: Inner width of an adapter.
        alpha: Scale of its output, which is divided by the rank.
        dropout: Dropout on its input, in training.
        targets: Names of the linear maps of a layer that get one; null takes the projections of
            query and value.
    """

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError("rank >= 1, alpha > 0 and 0 <= dropout < 1 are needed")
        if self.targets is not None and not self.targets:
            raise ValueError("targets is empty; leave it out, or lora altogether")


def add_adapters(model: nn.Module, layers: Iterable[nn.Module], settings: LoraSettings) -> None:
    """Put an adapter on each linear map of the layers whose name is among the targets.

    Raises:
        ConfigError: peft is not installed, or a target is no linear map of the layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "frontend.lora needs the peft package: pip install 'wesp_lap[lora]'"
        ) from error
    inside = {module for layer in layers for module in layer.modules()}
    linear = {
        name: name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module in inside and isinstance(module, nn.Linear)
    }
    targets = settings.targets or ()
    check_names(targets, sorted(set(linear.values())), "frontend.lora.targets")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=[name for name, last in linear.items() if last in targets],
    )
    inject_adapter_in_model(config, model)


def adapters(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of the adapters, without the maps that they stand on."""
    for module in _adapted(model):
        yield from (module.lora_A, module.lora_B, module.lora_dropout)


@torch.no_grad()
def merge_adapters(model: Any) -> None:
    """Add the adapters' products to the maps that they stand on, and remove them."""
    adapted = set(_adapted(model))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in adapted:
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
    del model.peft_config


def _adapted(model: nn.Module) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))
