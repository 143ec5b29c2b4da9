"""Softmax over cosines with a margin on the target: additive angular (AAM) and additive (AM).

Source: docs/methods.md, section 3.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.losses.output import LossOutput

Init = Literal["lap", "wespeaker", "mhfa"]


class _CosineSoftmax(nn.Module):
    """Cross-entropy of scaled cosines to K sub-centres per class; the nearest one counts.

    Margin and penalty are arguments of the call, since they follow the step. Everything is
    computed in the weights' type (float32), whatever the autocast.
    """

    def __init__(
        self, embed_dim: int, num_classes: int, scale: float, sub_centers: int, init: Init
    ) -> None:
        super().__init__()
        if sub_centers < 1:
            raise ValueError(f"sub_centers must be at least 1, got {sub_centers}")
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(sub_centers, embed_dim, num_classes))
        _initialize(self.weight, init)

    def forward(
        self, embeddings: Tensor, labels: Tensor, margin: float = 0.0, penalty: float = 0.0
    ) -> LossOutput:
        """Return the loss of embeddings (B, E) with class indices (B,).

        Args:
            embeddings: Any length, (B, E).
            labels: Class indices in [0, C), (B,).
            margin: What makes the target harder: radians in AAM, a difference of cosines in AM.
            penalty: Angle in radians taken off the nearest other classes; AM has no use for it.
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
        raise NotImplementedError


class AamSoftmax(_CosineSoftmax):
    """AAM-Softmax (ArcFace) with K sub-centres and the Inter-TopK penalty.

    The target's cosine becomes that of an angle which is ``margin`` wider; those of the ``topk``
    nearest other classes, classified rightly or not, that of an angle ``penalty`` narrower.

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
        init: Whose first weights: LAP's (Xavier on the tensor of K matrices, which makes them very
            small), WeSpeaker's (Xavier on one matrix) or MHFA's (the same, normally distributed).
            Lengths do not change the cosines, but how far a step turns a centre.
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
        init: Init = "lap",
    ) -> None:
        super().__init__(embed_dim, num_classes, scale, sub_centers, init)
        if topk < 0 or clamp_eps < 0:
            raise ValueError(f"topk and clamp_eps must not be negative, got {topk}, {clamp_eps}")
        self.topk = topk
        self.fallback = fallback
        self.easy_margin = easy_margin
        self.clamp_eps = clamp_eps

    def _with_margin(self, cosine: Tensor, labels: Tensor, margin: float, penalty: float) -> Tensor:
        rows = labels.unsqueeze(1)
        target = self._target(cosine.gather(1, rows), margin)
        if self.topk > 0 and penalty > 0:
            others = cosine.detach().scatter(1, rows, -3.0)
            nearest = others.topk(min(self.topk, cosine.shape[1] - 1), dim=1).indices
            raised = self._turned(cosine.gather(1, nearest), -penalty)
            cosine = cosine.scatter(1, nearest, raised)
        return cosine.scatter(1, rows, target)

    def _target(self, cosine: Tensor, margin: float) -> Tensor:
        moved = self._turned(cosine, margin)
        if self.easy_margin:
            return torch.where(cosine > 0, moved, cosine)
        if self.fallback == "mm":
            beyond = cosine - margin * math.sin(math.pi - margin)
        else:
            beyond = cosine - (1 + math.cos(math.pi - margin))
        return torch.where(cosine > math.cos(math.pi - margin), moved, beyond)

    def _turned(self, cosine: Tensor, angle: float) -> Tensor:
        """Return cos(theta + angle) for cos(theta)."""
        sine = (1 - cosine.square()).clamp(min=self.clamp_eps).sqrt()
        return cosine * math.cos(angle) - sine * math.sin(angle)


class AmSoftmax(_CosineSoftmax):
    """AM-Softmax (CosFace): the target's cosine less the margin. There is no penalty.

    Args:
        embed_dim: Size E of the embeddings.
        num_classes: Number of classes C.
        scale: Factor s on the cosines.
        sub_centers: Centres K per class; the nearest counts.
        init: First weights, as of AamSoftmax.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        scale: float = 30.0,
        sub_centers: int = 1,
        init: Init = "wespeaker",
    ) -> None:
        super().__init__(embed_dim, num_classes, scale, sub_centers, init)

    def _with_margin(self, cosine: Tensor, labels: Tensor, margin: float, penalty: float) -> Tensor:
        rows = labels.unsqueeze(1)
        return cosine.scatter(1, rows, cosine.gather(1, rows) - margin)


def _initialize(weight: Tensor, init: Init) -> None:
    if init == "lap":
        nn.init.xavier_uniform_(weight)
        return
    centers, embed_dim, num_classes = weight.shape
    std = math.sqrt(2 / (embed_dim + centers * num_classes))
    if init == "wespeaker":
        nn.init.uniform_(weight, -math.sqrt(3) * std, math.sqrt(3) * std)
    else:
        nn.init.normal_(weight, std=std)
