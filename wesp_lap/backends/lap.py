"""Layer attentive pooling (LAP): scores per frame and head say which layer speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from wesp_lap.backends.checks import check_dropout, check_sizes
from wesp_lap.backends.init import xavier_init
from wesp_lap.backends.lap_kernel import Options, pool_layers
from wesp_lap.backends.lap_projection import ProjectionParameters
from wesp_lap.backends.lap_scores import Excitation, activate
from wesp_lap.backends.pooling import AttentiveStatisticsPooling
from wesp_lap.backends.state_norm import state_statistics


class LayerScores(NamedTuple):
    """What LAP computes before it pools over layers."""

    latent: Tensor
    """Projected states, (N, B, T, h, d)."""
    weights: Tensor
    """Score of each layer per frame and head, (N, B, T, h)."""


class LayerAttentivePooling(nn.Module):
    """Pool N layer states to one sequence by squeeze-excited layer scores.

    Each head projects the states to d = D/h channels, takes mean and maximum over them, scores the
    layers from both with a squeeze-excitation over the layer axis whose weights the two share, and
    pools the weighted states over layers. Source: LAP paper, Eq. 2-8; docs/methods.md, section 2.1,
    which also lists where the published code departs from the paper (the switches below).

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state; a multiple of ``heads``.
        heads: Number of heads h. With one head there is no input projection.
        output_dim: Width R of the result.
        score: Activation of the scores.
        pool: How the weighted layers are joined: "max" per channel, or "sum".
        input_bn: Batch-normalise the states first, with statistics shared by all layers.
        bias: Biases in the input projection and the squeeze-excitation.
        score_dropout: Dropout on the scores in training.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 12,
        output_dim: int = 512,
        score: Literal["sigmoid", "softmax"] = "sigmoid",
        pool: Literal["max", "sum"] = "max",
        input_bn: bool = True,
        bias: bool = True,
        score_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"layer pooling needs at least 2 layer states, got {num_layers}")
        if heads < 1 or input_dim % heads:
            raise ValueError(f"heads ({heads}) must divide the layer width ({input_dim})")
        check_sizes(**{"pooled width": output_dim})
        check_dropout(score_dropout=score_dropout)
        self.output_dim = output_dim
        self.heads = heads
        self.score = score
        self.pool = pool
        self.score_dropout = score_dropout
        squeezed = num_layers // 2
        self.input_norm = nn.BatchNorm1d(input_dim) if input_bn else None
        self.input = nn.Linear(input_dim, input_dim, bias=bias) if heads > 1 else None
        self.squeeze_weight = nn.Parameter(torch.empty(heads, num_layers, squeezed))
        self.excite_weight = nn.Parameter(torch.empty(heads, squeezed, num_layers))
        self.squeeze_bias = nn.Parameter(torch.empty(heads, 1, squeezed)) if bias else None
        self.excite_bias = nn.Parameter(torch.empty(heads, 1, num_layers)) if bias else None
        self.output = nn.Linear(input_dim, output_dim)
        self.output_norm = nn.BatchNorm1d(output_dim)
        xavier_init(self)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Pool N layer states (B, T, D) to (B, T, R)."""
        pooled = self.output(self.pool_layers(states))
        return self.output_norm(pooled.flatten(0, 1)).view_as(pooled)

    def pool_layers(self, states: Sequence[Tensor]) -> Tensor:
        """Score and pool the layers, without the output projection: (B, T, D)."""
        norm = self.input_norm
        options = Options(
            heads=self.heads,
            score=self.score,
            pool=self.pool,
            dtype=_product_type(self.output.weight),
            statistics=None if norm is None else state_statistics(norm, states),
        )
        projection = ProjectionParameters(
            weight=None if self.input is None else self.input.weight,
            bias=None if self.input is None else self.input.bias,
            gamma=None if norm is None else norm.weight,
            beta=None if norm is None else norm.bias,
        )
        return pool_layers(states, self._excitation(), projection, self._dropout(states), options)

    def layer_scores(self, states: Sequence[Tensor]) -> LayerScores:
        """Return the projected states and the weight of each layer per frame and head.

        It holds the projected states of all layers, which ``forward`` does without.
        """
        x = torch.stack(tuple(states))
        if self.input_norm is not None:
            x = self.input_norm(x.flatten(0, -2)).view_as(x)
        if self.input is not None:
            x = self.input(x)
        latent = x.unflatten(-1, (self.heads, -1))
        scores = self._excitation().scores(latent.mean(dim=-1), latent.amax(dim=-1))
        weights = activate(scores, self.score)
        keep = self._dropout(states)
        return LayerScores(latent, weights if keep is None else weights * keep)

    def _excitation(self) -> Excitation:
        return Excitation(
            self.squeeze_weight, self.squeeze_bias, self.excite_weight, self.excite_bias
        )

    def _dropout(self, states: Sequence[Tensor]) -> Tensor | None:
        """Draw the factors of the layer weights, (N, B, T, h)."""
        if not self.training or self.score_dropout == 0:
            return None
        kept = 1 - self.score_dropout
        shape = (len(states), *states[0].shape[:2], self.heads)
        full = torch.promote_types(self.squeeze_weight.dtype, torch.float32)
        keep = torch.empty(shape, dtype=full, device=states[0].device)
        return keep.bernoulli_(kept).div_(kept)


def _product_type(weight: Tensor) -> torch.dtype:
    """Return the type in which a linear layer with this weight computes here."""
    device = weight.device.type
    if weight.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return weight.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class LapAstp(nn.Module):
    """LAP + attentive statistics pooling, the LAP paper's speaker model.

    Args:
        num_layers: Number N of layer states.
        input_dim: Width D of a layer state.
        heads: Heads of LAP (paper: 12 for base, 16 for large frontends).
        pooled_dim: Width R between the two poolings.
        embed_dim: Size E of the embedding.
        score: See LayerAttentivePooling.
        pool: See LayerAttentivePooling.
        input_bn: See LayerAttentivePooling.
        bias: See LayerAttentivePooling.
        score_dropout: See LayerAttentivePooling.
        frame_dropout: See AttentiveStatisticsPooling.
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 12,
        pooled_dim: int = 512,
        embed_dim: int = 192,
        score: Literal["sigmoid", "softmax"] = "sigmoid",
        pool: Literal["max", "sum"] = "max",
        input_bn: bool = True,
        bias: bool = True,
        score_dropout: float = 0.1,
        frame_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.layer_pool = LayerAttentivePooling(
            num_layers, input_dim, heads, pooled_dim, score, pool, input_bn, bias, score_dropout
        )
        self.time_pool = AttentiveStatisticsPooling(pooled_dim, embed_dim, frame_dropout)
        xavier_init(self)

    def forward(self, states: Sequence[Tensor], frames: Sequence[int] | None = None) -> Tensor:
        """Map N layer states (B, T, D) to embeddings (B, E).

        Args:
            states: The layer states.
            frames: Frames of each row, at least 2, when rows are padded; in evaluation mode only.
        """
        return self.time_pool(self.layer_pool(states), frames)
