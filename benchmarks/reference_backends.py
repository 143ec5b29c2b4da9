"""Backends written straight from their formulas, one module per step, to measure against.

The formulas are those of docs/methods.md, sections 2.1 to 2.4. Features are channel-first, 1x1
convolutions are convolutions, and autograd keeps what it wants; nothing is done for speed. LAP can
lay its stack of states, (B, D, T, N), in memory as its modules like it best (``channels_last``).
Parameters stand in the order of the backend of the same name in wesp_lap, whatever their shapes, so
that a copy from one to the other is a loop over both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_VARIANCE = 1e-4


class Lap(nn.Module):
    """Layer attentive pooling, N states (B, T, D) to (B, R, T)."""

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 12,
        output_dim: int = 512,
        score: str = "sigmoid",
        pool: str = "max",
        input_bn: bool = True,
        bias: bool = True,
        score_dropout: float = 0.1,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.score, self.pool = heads, score, pool
        self.channels_last = channels_last
        squeezed = num_layers // 2
        self.squeeze_weight = nn.Parameter(torch.empty(heads, num_layers, squeezed))
        self.excite_weight = nn.Parameter(torch.empty(heads, squeezed, num_layers))
        self.squeeze_bias = nn.Parameter(torch.empty(heads, 1, squeezed)) if bias else None
        self.excite_bias = nn.Parameter(torch.empty(heads, 1, num_layers)) if bias else None
        self.input_norm = nn.BatchNorm2d(input_dim) if input_bn else nn.Identity()
        self.input = nn.Conv2d(input_dim, input_dim, 1, bias=bias) if heads > 1 else nn.Identity()
        self.dropout = nn.Dropout(score_dropout)
        self.output = nn.Conv1d(input_dim, output_dim, 1)
        self.output_norm = nn.BatchNorm1d(output_dim)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Pool the layers of every frame."""
        if self.channels_last:
            x = torch.stack(tuple(states), dim=2).permute(0, 3, 1, 2)  # (B, D, T, N)
        else:
            x = torch.stack([state.transpose(1, 2) for state in states], dim=-1)
        x = self.input(self.input_norm(x))
        batch, _, frames, layers = x.shape
        x = x.reshape(batch, self.heads, -1, frames, layers).permute(0, 3, 1, 2, 4)
        mean, top = x.mean(dim=3, keepdim=True), x.max(dim=3, keepdim=True).values
        scores = self._squeeze_excite(mean) + self._squeeze_excite(top)  # (B, T, h, 1, N)
        weights = scores.sigmoid() if self.score == "sigmoid" else scores.softmax(dim=-1)
        weighted = self.dropout(weights) * x
        y = weighted.max(dim=-1).values if self.pool == "max" else weighted.sum(dim=-1)
        return self.output_norm(self.output(y.flatten(2).transpose(1, 2)))

    def _squeeze_excite(self, z: Tensor) -> Tensor:
        """Score (B, T, h, 1, N) over its last axis."""
        hidden = torch.matmul(z.flatten(0, 1), self.squeeze_weight)
        hidden = F.relu(hidden if self.squeeze_bias is None else hidden + self.squeeze_bias)
        scores = torch.matmul(hidden, self.excite_weight)
        scores = scores if self.excite_bias is None else scores + self.excite_bias
        return scores.view_as(z)


class Astp(nn.Module):
    """Attentive statistics pooling, (B, C, T) to embeddings (B, E)."""

    def __init__(self, input_dim: int, embed_dim: int = 192, frame_dropout: float = 0.1) -> None:
        super().__init__()
        self.frame_dropout = frame_dropout
        self.squeeze = nn.Conv1d(3 * input_dim, input_dim // 2, 1)
        self.squeeze_norm = nn.BatchNorm1d(input_dim // 2)
        self.score = nn.Conv1d(input_dim // 2, input_dim, 1)
        self.statistics_norm = nn.BatchNorm1d(2 * input_dim)
        self.embedding = nn.Linear(2 * input_dim, embed_dim)
        self.embedding_norm = nn.BatchNorm1d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Pool over time."""
        mean, std = x.mean(dim=2, keepdim=True), x.std(dim=2, keepdim=True)
        context = torch.cat([x, mean.expand_as(x), std.expand_as(x)], dim=1)
        scores = self.score(self.squeeze_norm(F.relu(self.squeeze(context))))
        if self.training and self.frame_dropout > 0:
            dropped = torch.rand(len(x), 1, x.shape[2], device=x.device) < self.frame_dropout
            scores = scores.masked_fill(dropped, torch.finfo(scores.dtype).min)
        attention = scores.softmax(dim=2)
        mean = (attention * x).sum(dim=2)
        variance = (attention * x**2).sum(dim=2) - mean**2
        statistics = torch.cat([mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=1)
        return self.embedding_norm(self.embedding(self.statistics_norm(statistics)))


class LapAstp(nn.Module):
    """LAP, then attentive statistics."""

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 12,
        pooled_dim: int = 512,
        embed_dim: int = 192,
        frame_dropout: float = 0.1,
        **options: object,
    ) -> None:
        super().__init__()
        self.layer_pool = Lap(num_layers, input_dim, heads, pooled_dim, **options)  # type: ignore[arg-type]
        self.time_pool = Astp(pooled_dim, embed_dim, frame_dropout)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Map N states (B, T, D) to embeddings (B, E)."""
        return self.time_pool(self.layer_pool(states))


class WeightedSum(nn.Module):
    """SUPERB's weighted sum, N states (B, T, D) to (B, T, D)."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((num_layers,), 1 / num_layers))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Weigh and add."""
        weights = self.logits.softmax(dim=0)
        return (weights.view(-1, 1, 1, 1) * torch.stack(tuple(states))).sum(dim=0)


class SuperbAstp(nn.Module):
    """SUPERB's weighted sum, then attentive statistics."""

    def __init__(
        self, num_layers: int, input_dim: int, embed_dim: int = 192, frame_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layer_pool = WeightedSum(num_layers)
        self.time_pool = Astp(input_dim, embed_dim, frame_dropout)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Map N states (B, T, D) to embeddings (B, E)."""
        return self.time_pool(self.layer_pool(states).transpose(1, 2))


class Mhfa(nn.Module):
    """Multi-head factorised attentive pooling over two weighted sums."""

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        heads: int = 64,
        compressed_dim: int = 128,
        embed_dim: int = 256,
    ) -> None:
        super().__init__()
        self.key_pool = WeightedSum(num_layers)
        self.value_pool = WeightedSum(num_layers)
        self.key = nn.Linear(input_dim, compressed_dim)
        self.value = nn.Linear(input_dim, compressed_dim)
        self.attention = nn.Linear(compressed_dim, heads)
        self.embedding = nn.Linear(heads * compressed_dim, embed_dim)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Map N states (B, T, D) to embeddings (B, E)."""
        keys, values = self.key(self.key_pool(states)), self.value(self.value_pool(states))
        attention = self.attention(keys).softmax(dim=1)  # (B, T, H)
        heads = (attention.unsqueeze(-1) * values.unsqueeze(2)).sum(dim=1)  # (B, H, C)
        return self.embedding(heads.flatten(1))


REFERENCES = {"lap_astp": LapAstp, "superb_astp": SuperbAstp, "mhfa": Mhfa}


@torch.no_grad()
def copy_tensors(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` the parameters and buffers of ``source``, a backend of the other kind."""
    for kind in ("parameters", "buffers"):
        pairs = zip(getattr(source, kind)(), getattr(target, kind)(), strict=True)
        for value, place in pairs:
            place.copy_(value.view_as(place))
