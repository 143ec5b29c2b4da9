"""Losses: speaker embeddings and labels to a scalar, and the margin as a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from wesp_lap.losses.margin_softmax import AamSoftmax, AmSoftmax
from wesp_lap.losses.softmax import Softmax

LOSSES: Mapping[str, Callable[..., nn.Module]] = {
    "aam": AamSoftmax,
    "am": AmSoftmax,
    "softmax": Softmax,
}
