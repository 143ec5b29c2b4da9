"""Layer attentive pooling over pieces of frames: the projected stack never exists as a whole.

Per frame and head, for projected states y_n, n = 1..N (docs/methods.md, section 2.1),

    e_n = SE(mean y_n) + SE(max y_n),  a_n = keep_n act(e_n),  p = max_n a_n y_n  or  sum_n a_n y_n

Of a piece, p is kept, with the mean and the maximum of its heads, the channel of that maximum and,
per channel, the layer that won. With g = dL/dp the backward pass needs y_n no more. Let
S_n = a_n dL/da_n, added up over the channels of a head. For the maximum it is the sum of g p over
the channels that layer n won, since p = a_n y_n there; for the sum it is a_n times g'y_n, which
lap_projection.py takes from the states. A dropped layer has S_n = 0, as it must. From S,
lap_scores.py has the gradients m_n of the mean and t_n of the maximum of a head of d channels, and

    dL/dy_n = a_n g  (maximum: where n won)  + m_n / d  + t_n  (in the channel that is largest)

from which lap_projection.py has the gradients of its parameters and of the states. A training step
takes two products of the projection's size, three if the states need gradients. Autograd on the
formulas takes as many, but reads and writes the projected stack many times and keeps copies of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wesp_lap.backends.first_order import first_order_only
from wesp_lap.backends.lap_projection import Projection, ProjectionGrads, ProjectionParameters
from wesp_lap.backends.lap_scores import Excitation, ScoresAgain, activate
from wesp_lap.backends.state_norm import Piece, Statistics, pieces


class Options(NamedTuple):
    """What gets no gradient."""

    heads: int
    score: str
    pool: str
    dtype: torch.dtype
    """Type of the large products and of the result."""
    statistics: Statistics | None
    """What the states are normalised with, if they are."""


def pool_layers(
    states: Sequence[Tensor],
    excitation: Excitation,
    projection: ProjectionParameters,
    keep: Tensor | None,
    options: Options,
) -> Tensor:
    """Score and pool N states (B, T, D) of any layout to (B, T, D), without output projection.

    Statistics, scores and weights are in float32, or in float64 if the parameters are.

    Args:
        states: The layer states.
        excitation: Parameters that score.
        projection: Parameters of batch norm and input projection.
        keep: Dropout, as factors of the weights, (N, B, T, h).
        options: Everything else.
    """
    full = torch.promote_types(excitation.squeeze_weight.dtype, torch.float32)
    parameters = [p if p is None else p.to(full) for p in (*excitation, *projection)]
    tensors = (keep, *parameters, *states)
    with _no_autocast(states[0].device):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            result: Tensor = _PoolLayers.apply(options, *tensors)
            return result
        return _pool(_Inputs.of(tensors), options)


class _Inputs(NamedTuple):
    keep: Tensor | None
    excitation: Excitation
    projection: ProjectionParameters
    states: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> _Inputs:
        """Sort tensors that came in one row."""
        first = 1 + len(Excitation._fields)
        second = first + len(ProjectionParameters._fields)
        return cls(
            tensors[0],
            Excitation(*tensors[1:first]),
            ProjectionParameters(*tensors[first:second]),
            tensors[second:],
        )


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    mean: Tensor
    top: Tensor
    """Mean and maximum of each head, (N, B, T, h)."""
    largest: Tensor
    """The channel of that maximum, (N, B, T, h)."""
    winner: Tensor
    """The layer that won, (B, T, D)."""

    @classmethod
    def empty(cls, states: Sequence[Tensor], heads: int, full: torch.dtype) -> _Trace:
        batch, frames, dim = states[0].shape
        new, shape = states[0].new_empty, (len(states), batch, frames, heads)
        return cls(
            new(shape, dtype=full),
            new(shape, dtype=full),
            new(shape, dtype=_index_type(dim // heads)),
            new((batch, frames, dim), dtype=_index_type(len(states))),
        )


class _PoolLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: Options, *tensors: Any) -> Tensor:
        inputs = _Inputs.of(tensors)
        full = inputs.excitation.squeeze_weight.dtype
        trace = _Trace.empty(inputs.states, options.heads, full)
        pooled = _pool(inputs, options, trace)
        ctx.options = options
        ctx.save_for_backward(pooled, *trace, *tensors)
        return pooled

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pooled, *rest = ctx.saved_tensors
        count = len(_Trace._fields)
        trace, inputs = _Trace(*rest[:count]), _Inputs.of(rest[count:])
        with _no_autocast(grad.device):
            backward = _Backward(inputs, ctx.options, trace)
            parameter_grads = backward.parameter_grads(pooled, grad)
            needed = ctx.needs_input_grad[-len(inputs.states) :]
            return None, None, *parameter_grads, *backward.state_grads(needed)


def _pool(inputs: _Inputs, options: Options, trace: _Trace | None = None) -> Tensor:
    """Pool piece by piece; leave in ``trace`` what the backward pass needs."""
    states, projection = inputs.states, _projection(inputs, options)
    pooled = states[0].new_empty(states[0].shape, dtype=options.dtype)
    for piece in pieces(states):
        where = (slice(None), *piece)
        latent = projection.latent(projection.centred(states, piece))
        mean = latent.mean(dim=-1)
        top = latent.amax(dim=-1)
        if trace is not None:
            trace.mean[where], trace.top[where] = mean, top
            trace.largest[where] = _first_index(latent, top, dim=-1)
        weights = activate(inputs.excitation.scores(mean, top), options.score)
        if inputs.keep is not None:
            weights = weights * inputs.keep[where]
        weighted = latent.mul_(weights.unsqueeze(-1)).flatten(-2)
        joined = weighted.amax(dim=0) if options.pool == "max" else weighted.sum(dim=0)
        pooled[piece] = joined
        if trace is not None and options.pool == "max":
            trace.winner[piece] = _first_index(weighted, joined, dim=0)
    return pooled


class _Backward:
    """One backward pass: first the gradients of the parameters, then those of the states."""

    def __init__(self, inputs: _Inputs, options: Options, trace: _Trace) -> None:
        self._states, self._options, self._trace = inputs.states, options, trace
        self._projection = _projection(inputs, options)
        self._projection_grads = ProjectionGrads(self._projection, inputs.states[0])
        self._scores = ScoresAgain(inputs.excitation, trace.mean, trace.top, options.score)
        activation = self._scores.activation
        self._weights = activation if inputs.keep is None else activation * inputs.keep

    def parameter_grads(self, pooled: Tensor, grad: Tensor) -> list[Tensor | None]:
        """Return the gradients of excitation and projection from that of the result."""
        self._grad = grad.to(self._projection.full)
        excitation_grads, mean_grad, self._top_grad = self._scores.grads(self._shares(pooled))
        self._mean_grad = mean_grad * (self._options.heads / pooled.shape[-1])
        for piece in pieces(self._states):
            x = self._projection.centred(self._states, piece)
            self._projection_grads.add(self._latent_grad(piece), x)
        return [*excitation_grads, *self._projection_grads.of_parameters()]

    def state_grads(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients of those states that need one."""
        grads = [
            torch.empty_like(state) if need else None
            for state, need in zip(self._states, needed, strict=True)
        ]
        chosen = [n for n, need in enumerate(needed) if need]
        if not chosen:
            return grads
        through_statistics = self._projection_grads.through_statistics()
        for piece in pieces(self._states):
            latent_grad = self._latent_grad(piece)
            if len(chosen) < len(needed):
                latent_grad = latent_grad[chosen]
            result = self._projection.back(latent_grad)
            if through_statistics is not None:
                offset, scale = through_statistics
                x = self._projection.centred([self._states[n] for n in chosen], piece)
                result = result.to(scale.dtype).addcmul_(x, scale).add_(offset)
            for n, values in zip(chosen, result, strict=True):
                grads[n][piece] = values  # type: ignore[index]
        return grads

    def _shares(self, pooled: Tensor) -> Tensor:
        """Return S of the module's docstring, (N, B, T, h)."""
        shares = torch.empty_like(self._weights)
        heads = (self._options.heads, -1)
        product = self._grad * pooled
        for piece in pieces(self._states):
            where = (slice(None), *piece)
            if self._options.pool == "max":
                shares[where] = self._spread(product, piece).unflatten(-1, heads).sum(dim=-1)
            else:
                x = self._projection.centred(self._states, piece)
                grad = self._grad[piece].unflatten(-1, heads)
                products = self._projection.products_by_head(grad, x)
                shares[where] = products * self._weights[where]
        return shares

    def _latent_grad(self, piece: Piece) -> Tensor:
        """Return the gradient of the projected states of a piece, (N, rows, frames, D)."""
        where = (slice(None), *piece)
        spread = self._spread(self._grad, piece).unflatten(-1, (self._options.heads, -1))
        mean_grad, weights, largest, top_grad = (
            t[where].unsqueeze(-1)
            for t in (self._mean_grad, self._weights, self._trace.largest, self._top_grad)
        )
        grad = torch.addcmul(mean_grad, spread, weights)
        grad.scatter_add_(-1, largest.long(), top_grad)
        return grad.flatten(-2)

    def _spread(self, values: Tensor, piece: Piece) -> Tensor:
        """Give each layer (N, rows, frames, D) its part of values (B, T, D)."""
        values = values[piece]
        shape = (len(self._states), *values.shape)
        if self._options.pool == "sum":
            return values.expand(shape)
        winner = self._trace.winner[piece].long().unsqueeze(0)
        return values.new_zeros(shape).scatter_(0, winner, values.unsqueeze(0))


def _projection(inputs: _Inputs, options: Options) -> Projection:
    full = inputs.excitation.squeeze_weight.dtype
    return Projection(inputs.projection, options.statistics, options.heads, options.dtype, full)


def _first_index(values: Tensor, largest: Tensor, dim: int) -> Tensor:
    """Return the first index along ``dim`` at which ``values`` reach their maximum.

    On a CPU it is several times faster than the indices that max() gives. Where there are infinite
    values or NaN, it is any index.
    """
    last = values.shape[dim] - 1
    ranks = torch.arange(last, -1, -1, dtype=values.dtype, device=values.device)
    if dim == 0:
        ranks = ranks.view(-1, *[1] * largest.dim())
    below = torch.sub(values, largest.unsqueeze(dim)).sign_()  # 0 at the maximum, else -1
    return (last - below.add_(1).mul_(ranks).amax(dim=dim)).long().clamp_(0, last)


def _index_type(count: int) -> torch.dtype:
    return torch.uint8 if count <= 256 else torch.int16


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
