"""Scores of layer attentive pooling: squeeze-excitation over the layers, and its activation.

Their tensors are small, (N, B, T, h), and autograd differentiates the squeeze-excitation. Weights
a_n = keep_n act(e_n) reach the result of the pooling only as factors, so that their gradients are
known as S_n = a_n dL/da_n, without a division by weights that may be zero. Then

    dL/de_n = S_n (1 - act(e_n))  for sigmoid,  S_n - act(e_n) sum_m S_m  for softmax
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Excitation(NamedTuple):
    """Weights of the squeeze-excitation of each head, (h, N, N/2), (h, 1, N/2) and back."""

    squeeze_weight: Tensor
    squeeze_bias: Tensor | None
    excite_weight: Tensor
    excite_bias: Tensor | None

    def scores(self, mean: Tensor, top: Tensor) -> Tensor:
        """Score layers by mean and maximum of each head; all are (N, B, T, h)."""
        return self.branch(mean) + self.branch(top)

    def branch(self, z: Tensor) -> Tensor:
        """Return what one of the two statistics adds to the scores."""
        x = z.flatten(1, 2).permute(2, 1, 0)
        x = torch.bmm(x, self.squeeze_weight.to(z.dtype))
        x = F.relu(x if self.squeeze_bias is None else x + self.squeeze_bias)
        x = torch.bmm(x, self.excite_weight.to(x.dtype))
        x = x if self.excite_bias is None else x + self.excite_bias
        return x.permute(2, 1, 0).reshape(z.shape)


class ScoresAgain:
    """The scores of a forward pass, computed once more for its backward pass.

    Args:
        excitation: The weights.
        mean: Means of the heads, (N, B, T, h).
        top: Maxima of the heads.
        kind: Activation, "sigmoid" or "softmax".
    """

    def __init__(self, excitation: Excitation, mean: Tensor, top: Tensor, kind: str) -> None:
        self._kind = kind
        with torch.enable_grad():
            self._leaves = [
                t if t is None else t.detach().requires_grad_() for t in (*excitation, mean, top)
            ]
            again: Any = self._leaves
            self._scores = Excitation(*again[:4]).scores(*again[4:])
        self.activation = activate(self._scores.detach(), kind)

    def grads(self, shares: Tensor) -> tuple[list[Tensor | None], Tensor, Tensor]:
        """Turn S, (N, B, T, h), into the gradients of the excitation, of means and of maxima."""
        if self._kind == "sigmoid":
            grad = shares * (1 - self.activation)
        else:
            grad = shares - self.activation * shares.sum(dim=0)
        wanted = [leaf for leaf in self._leaves if leaf is not None]
        found = iter(torch.autograd.grad(self._scores, wanted, grad))
        *excitation, mean, top = (None if t is None else next(found) for t in self._leaves)
        assert mean is not None and top is not None
        return excitation, mean, top


def activate(scores: Tensor, kind: str) -> Tensor:
    """Turn scores (N, ...) into weights of the layers."""
    return scores.sigmoid() if kind == "sigmoid" else scores.softmax(dim=0)
