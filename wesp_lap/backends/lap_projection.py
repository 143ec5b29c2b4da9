"""Batch norm and input projection of layer attentive pooling as one product per piece of frames.

For states x, centred by the mean mu of all layers and frames (docs/methods.md, section 2.1),

    y = W (gamma r (x - mu) + beta) + b = A (x - mu) + c
        with r = 1 / sqrt(var + eps), s = gamma r, A = W diag(s), c = W beta + b

Centring first keeps the product as precise in bfloat16 as that of normalised states. Everything
that gradients of y give follows from two sums over layers and frames, dA = sum dy (x - mu)' and
dc = sum dy, without another large product:

    dW = dA diag(s) + dc beta',  db = dc,  dbeta = W' dc,  dgamma = r colsum(dA * W)
    dx = A' dy - s (dbeta + r (x - mu) dgamma) / M

The last term belongs to mu and var that are statistics of these M vectors x; when several processes
share them, dbeta and dgamma in it are sums over the processes. Without a projection W is the
identity, A is diag(s) and the products are elementwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from wesp_lap.backends.state_norm import Piece, Statistics


class ProjectionParameters(NamedTuple):
    """Parameters in float32 or float64; None where there is none."""

    weight: Tensor | None
    """W, (D, D)."""
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None


class Projection:
    """The map from states to latent channels, and back for gradients.

    Args:
        parameters: W, b, gamma, beta.
        statistics: mu and r; None without a batch norm.
        heads: Number of heads h that the D channels are split into.
        dtype: Type of the product; results and gradients are in that of the parameters, ``full``.
        full: Type of everything else.
    """

    def __init__(
        self,
        parameters: ProjectionParameters,
        statistics: Statistics | None,
        heads: int,
        dtype: torch.dtype,
        full: torch.dtype,
    ) -> None:
        weight, bias, gamma, beta = self.parameters = parameters
        self.statistics, self.heads, self.full = statistics, heads, full
        self.dtype = full if weight is None else dtype
        self.scale = None if statistics is None or gamma is None else gamma * statistics.rstd
        shift = beta if beta is None or weight is None else weight @ beta
        offset = shift if bias is None else bias if shift is None else shift + bias
        matrix = weight if weight is None or self.scale is None else weight * self.scale
        self.matrix = None if matrix is None else matrix.to(self.dtype)
        self.offset = None if offset is None else offset.to(self.dtype)

    def centred(self, states: Sequence[Tensor], piece: Piece) -> Tensor:
        """Return x - mu of a piece, (N, rows, frames, D), in the type of the product."""
        shape = states[0][piece].shape
        x = states[0].new_empty((len(states), *shape), dtype=self.dtype)
        for target, state in zip(x, states, strict=True):
            if self.statistics is None:
                target.copy_(state[piece])
            else:
                torch.sub(state[piece], self.statistics.mean, out=target)
        return x

    def latent(self, x: Tensor) -> Tensor:
        """Project centred states (..., D) to (..., h, d)."""
        if self.matrix is not None:
            y = F.linear(x.flatten(0, -2), self.matrix, self.offset).view_as(x)
        else:
            y = x if self.scale is None else x * self.scale
            y = y if self.offset is None else y + self.offset
        return y.to(self.full).unflatten(-1, (self.heads, -1))

    def back(self, grad: Tensor) -> Tensor:
        """Multiply gradients of y, (..., D), by A'."""
        if self.matrix is not None:
            return (grad.flatten(0, -2).to(self.dtype) @ self.matrix).view_as(grad)
        return grad if self.scale is None else grad * self.scale

    def products_by_head(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return g'y per head, (N, rows, frames, h), for g (rows, frames, h, d) and centred x.

        It is (A'g)'(x - mu) + g'c; A'g is the same for all layers, which makes it cheaper than y.
        """
        if self.matrix is not None:
            matrices = self.matrix.unflatten(0, (self.heads, -1))
            back = torch.einsum("rthd,hdi->rthi", grad.to(self.dtype), matrices)
        else:
            back = self.back(grad)
        products = torch.einsum("nrti,rthi->nrth", x, back).to(self.full)
        if self.offset is not None:
            products += (grad * self.offset.view_as(grad[0, 0])).sum(dim=-1)
        return products


class ProjectionGrads:
    """Gradients of a projection from those of y: ``add`` every piece, then ask for them.

    Args:
        projection: The projection.
        state: Any state (B, T, D).
    """

    def __init__(self, projection: Projection, state: Tensor) -> None:
        self._projection = projection
        dim, full = state.shape[-1], projection.full
        shape = (dim,) if projection.matrix is None else (dim, dim)
        self._matrix = state.new_zeros(shape, dtype=full)
        self._offset = state.new_zeros(dim, dtype=full)

    def add(self, grad: Tensor, x: Tensor) -> None:
        """Add dy and centred states of a piece, both (N, rows, frames, D)."""
        grad, x = grad.flatten(0, -2), x.flatten(0, -2)
        self._offset += grad.sum(dim=0)
        if self._projection.matrix is None:
            self._matrix += (grad * x).sum(dim=0)
        elif grad.dtype == x.dtype:
            self._matrix.addmm_(grad.T, x)
        else:
            self._matrix += grad.to(x.dtype).T @ x

    def of_parameters(self) -> ProjectionParameters:
        """Return the gradients of W, b, gamma and beta."""
        weight, bias, gamma, beta = self._projection.parameters
        statistics = self._projection.statistics
        weight_grad, gamma_grad, beta_grad = self._matrix, None, None
        if statistics is not None and gamma is not None and beta is not None:
            columns, beta_grad = self._matrix, self._offset
            if weight is not None:
                columns, beta_grad = (self._matrix * weight).sum(dim=0), self._offset @ weight
                weight_grad = self._matrix * (gamma * statistics.rstd)
                weight_grad.addr_(self._offset, beta)
            gamma_grad = columns * statistics.rstd
        return ProjectionParameters(
            None if weight is None else weight_grad,
            None if bias is None else self._offset,
            gamma_grad,
            beta_grad,
        )

    def through_statistics(self) -> tuple[Tensor, Tensor] | None:
        """Return u and v (D,): through mu and var a state gets u + v (x - mu), on top of A'dy."""
        statistics, scale = self._projection.statistics, self._projection.scale
        if statistics is None or statistics.count is None or scale is None:
            return None
        grads = self.of_parameters()
        assert grads.gamma is not None and grads.beta is not None
        sums = torch.stack([grads.beta, grads.gamma * statistics.rstd])
        if statistics.group is not None:
            dist.all_reduce(sums, group=statistics.group)
        u, v = -scale * sums / statistics.count
        return u, v
