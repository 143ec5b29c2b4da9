"""Additive angular margin softmax with sub-centres and Inter-TopK penalty."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LossOutput(NamedTuple):
    """Loss of a batch and what accuracy is computed from."""

    loss: Tensor
    """Mean cross-entropy, scalar."""
    cosine: Tensor
    """Cosine of each embedding to its nearest sub-centre of each class, (B, C), no margin."""


class AamSoftmax(nn.Module):
    """AAM-Softmax (ArcFace) with K sub-centres and the Inter-TopK penalty.

    Margin and penalty are arguments of the call, since they follow the step. Everything is
    computed in the weights' type (float32), whatever the autocast. Source: LAP paper, training;
    docs/methods.md, section 3.1.

    Args:
        embed_dim: Size E of the embeddings.
        num_classes: Number of classes C.
        scale: Factor s on the cosines.
        sub_centers: Centres K per class; the nearest counts.
        topk: Number of highest non-target classes that the penalty raises; 0 switches it off.
        fallback: What replaces cos(theta + m) where that stops falling: "mm" cos - m sin(pi - m),
            or "mmm" the continuous cos - (1 + cos(pi - m)).
        easy_margin: Apply the margin only where the cosine is positive.
        clamp_eps: Least value of 1 - cos^2 under the root; 0 gives NaN gradients where an
            embedding meets its centre.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        scale: float = 30.0,
        sub_centers: int = 3,
        topk: int = 5,
        fallback: Literal["mm", "mmm"] = "mm",
        easy_margin: bool = False,
        clamp_eps: float = 1e-7,
    ) -> None:
        super().__init__()
        if sub_centers < 1 or topk < 0:
            raise ValueError(f"sub_centers >= 1 and topk >= 0, got {sub_centers} and {topk}")
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        self.scale = scale
        self.topk = topk
        self.fallback = fallback
        self.easy_margin = easy_margin
        self.clamp_eps = clamp_eps
        self.weight = nn.Parameter(torch.empty(sub_centers, embed_dim, num_classes))
        nn.init.xavier_uniform_(self.weight)

    def forward(
        self, embeddings: Tensor, labels: Tensor, margin: float = 0.0, penalty: float = 0.0
    ) -> LossOutput:
        """Return the loss of embeddings (B, E) with class indices (B,).

        Args:
            embeddings: Any length, (B, E).
            labels: Class indices in [0, C), (B,).
            margin: Angle m in radians added to the target's.
            penalty: Angle m' in radians taken off the ``topk`` nearest other classes.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = self.cosine(embeddings.to(self.weight.dtype))
            logits = self.scale * self._with_margin(cosine, labels, margin, penalty)
            return LossOutput(F.cross_entropy(logits, labels), cosine)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """Return the cosine to the nearest sub-centre of each class, (B, C)."""
        centers = F.normalize(self.weight, dim=1)
        return torch.matmul(F.normalize(embeddings, dim=-1), centers).amax(dim=0)

    def _with_margin(self, cosine: Tensor, labels: Tensor, margin: float, penalty: float) -> Tensor:
        sine = (1 - cosine.square()).clamp(min=self.clamp_eps).sqrt()
        rows = labels.unsqueeze(1)
        target = self._target(cosine.gather(1, rows), sine.gather(1, rows), margin)
        if self.topk > 0 and penalty > 0:
            raised = cosine * math.cos(penalty) + sine * math.sin(penalty)
            others = cosine.detach().scatter(1, rows, -3.0)
            nearest = others.topk(min(self.topk, cosine.shape[1] - 1), dim=1).indices
            cosine = cosine.scatter(1, nearest, raised.gather(1, nearest))
        return cosine.scatter(1, rows, target)

    def _target(self, cosine: Tensor, sine: Tensor, margin: float) -> Tensor:
        moved = cosine * math.cos(margin) - sine * math.sin(margin)
        if self.easy_margin:
            return torch.where(cosine > 0, moved, cosine)
        if self.fallback == "mm":
            beyond = cosine - margin * math.sin(math.pi - margin)
        else:
            beyond = cosine - (1 + math.cos(math.pi - margin))
        return torch.where(cosine > math.cos(math.pi - margin), moved, beyond)
