"""The initialisation shared by all backends."""

from __future__ import annotations

from torch import nn


def xavier_init(module: nn.Module) -> None:
    """Initialise a whole backend: matrices named "weight" Xavier-uniform, "bias" zero.

    One-dimensional weights (batch-norm scales) and parameters of other names (layer logits) keep
    their values. Source: docs/methods.md, section 2.
    """
    for name, parameter in module.named_parameters():
        if "weight" in name and parameter.dim() >= 2:
            nn.init.xavier_uniform_(parameter)
        elif "bias" in name:
            nn.init.zeros_(parameter)
