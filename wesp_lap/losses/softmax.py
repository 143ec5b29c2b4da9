"""Plain softmax cross-entropy on a linear map of the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wesp_lap.losses.output import LossOutput


class Softmax(nn.Module):
    """Cross-entropy of a linear layer; lengths of embeddings and weights count.

    In the weights' type (float32), whatever the autocast. Source: docs/methods.md, section 3.1.

    Args:
        embed_dim: Size E of the embeddings.
        num_classes: Number of classes C.
        bias: Add a number to each class.
    """

    def __init__(self, embed_dim: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        self.weight = nn.Parameter(torch.empty(embed_dim, num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(
        self, embeddings: Tensor, labels: Tensor, margin: float = 0.0, penalty: float = 0.0
    ) -> LossOutput:
        """Return the loss of embeddings (B, E) with class indices (B,).

        Margin and penalty have no effect here; they are accepted so that a phase can change its
        loss and leave its other settings as they are.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = embeddings.to(self.weight.dtype) @ self.weight
            if self.bias is not None:
                logits = logits + self.bias
            return LossOutput(F.cross_entropy(logits, labels), logits)
