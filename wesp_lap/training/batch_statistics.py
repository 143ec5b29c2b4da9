"""Batch norm statistics of a model whose weights were not trained as they are, such as a mean."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wesp_lap.errors import ConfigError


@torch.no_grad()
def estimate_statistics(model: nn.Module, parts: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics of batch norms by their means over batches.

    Stochastic weight averaging needs it, since the statistics of the averaged weights are not the
    averaged statistics (Izmailov et al., "Averaging weights leads to wider optima and better
    generalization", UAI 2018). Everything else of the model is in evaluation mode, as it will be
    when it is used: no dropout, no masks. The model ends in evaluation mode.

    Args:
        model: Waveforms (B, S) to embeddings.
        parts: The model or a part of it, whose batch norms are estimated; others stay as they are.
        batches: Waveforms, on the device of the model.

    Returns:
        Number of batches.

    Raises:
        ConfigError: there is no batch norm, or no batch.
    """
    norms = [m for m in parts.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise ConfigError("the model has no batch norm whose statistics could be estimated")
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    count = 0
    for waves in batches:
        model(waves)
        count += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    if count == 0:
        raise ConfigError("statistics need at least one batch")
    return count
