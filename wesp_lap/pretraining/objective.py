"""Masked prediction: which cluster a hidden frame belongs to.

Source: docs/methods.md, section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ObjectiveSettings:
    """What is predicted how, and what else costs.

    Args:
        projected_size: Width of the space in which frames and clusters are compared.
        special_symbols: Classes beside the clusters that never occur. Fairseq's dictionaries have
            four: begin, padding, end, unknown.
        temperature: What the cosines are divided by.
        penalty: Weight of the mean square of the convolutions' output, per predicted frame.
        unmasked_weight: Weight of the frames that are not masked.
    """

    projected_size: int = 256
    special_symbols: int = 4
    temperature: float = 0.1
    penalty: float = 10.0
    unmasked_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.projected_size < 1 or self.special_symbols < 0 or self.temperature <= 0:
            raise ValueError("projected_size > 0, special_symbols >= 0, temperature > 0 are needed")
        if self.penalty < 0 or self.unmasked_weight < 0:
            raise ValueError("penalty and unmasked_weight must not be negative")


class PredictionHead(nn.Module):
    """Frames to scores of clusters: cosines with a vector per class, over a temperature.

    The cross-entropy of these scores is what fairseq computes with the right class in the first
    column and its duplicate blanked.

    Args:
        hidden_size: Width D of the frames.
        num_clusters: Number of clusters; labels are 0 to ``num_clusters`` - 1.
        settings: Sizes and temperature.
    """

    def __init__(self, hidden_size: int, num_clusters: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.num_clusters = num_clusters
        self.temperature = settings.temperature
        self.final_proj = nn.Linear(hidden_size, settings.projected_size)
        classes = num_clusters + settings.special_symbols
        self.label_embeddings = nn.Parameter(torch.rand(classes, settings.projected_size))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (n, D) to scores (n, C) in float32, also under autocast."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = F.normalize(self.final_proj(frames.float()), dim=-1)
            classes = F.normalize(self.label_embeddings.float(), dim=-1)
            return projected @ classes.t() / self.temperature


@dataclass(frozen=True)
class Prediction:
    """Sums over frames; scalars.

    Args:
        loss: Cross-entropy in nats.
        correct: Frames whose own class has the highest score.
        frames: Number of frames.
    """

    loss: Tensor
    correct: Tensor
    frames: int


def predict(head: PredictionHead, frames: Tensor, labels: Tensor) -> Prediction:
    """Compare predictions for frames (n, D) with labels (n,)."""
    scores = head(frames)
    loss = F.cross_entropy(scores, labels, reduction="sum")
    with torch.no_grad():
        correct = (scores.argmax(dim=-1) == labels).sum()
    return Prediction(loss, correct, len(labels))


def feature_penalty(features: Tensor) -> Tensor:
    """Return the mean square of the convolutions' output (B, C, T), in float32."""
    return features.float().square().mean()
