"""Batch-norm statistics that all layer states share, taken without a stack of the states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Piece = tuple[slice, slice]
"""Rows and frames of a piece of a state (B, T, D)."""

# Elements of a piece of all states. On a CPU a piece shall stay in the cache; other devices want
# enough of them to be busy.
_PIECE_ON_CPU = 1 << 20
_PIECE_ELSEWHERE = 1 << 26


@dataclass(frozen=True)
class Statistics:
    """What the channels of the states are normalised with."""

    mean: Tensor
    rstd: Tensor
    """1 / sqrt(variance + eps)."""
    count: Tensor | None
    """Number of values behind each; None for constants, as in evaluation mode."""
    group: Any
    """Processes among which the values are spread; None for this one alone."""


@torch.no_grad()
def state_statistics(norm: nn.Module, states: Sequence[Tensor]) -> Statistics:
    """Return what a batch norm would normalise all states with, as if they were laid end to end.

    In training its running statistics are updated. Means and squared deviations are taken piece by
    piece and merged, so that large means cost no precision. When ``norm`` is a SyncBatchNorm, those
    of all processes are merged, too; other than in SyncBatchNorm itself, on CPUs as well.

    Args:
        norm: A BatchNorm1d, or what SyncBatchNorm.convert_sync_batchnorm makes of one.
        states: N tensors (B, T, D) of any layout.
    """
    assert isinstance(norm, nn.BatchNorm1d | nn.SyncBatchNorm)
    assert norm.running_mean is not None and norm.running_var is not None
    if not norm.training:
        full = torch.promote_types(norm.running_var.dtype, torch.float32)
        rstd = torch.rsqrt(norm.running_var.to(full) + norm.eps)
        return Statistics(norm.running_mean.to(full), rstd, None, None)
    count, mean, squares = _merge(_moments(states))
    group = _process_group(norm)
    if group is not None:
        count, mean, squares = _merge(_gathered(torch.cat([count, mean, squares]), group))
    _update(norm, mean, squares / (count - 1))
    return Statistics(mean, torch.rsqrt(squares / count + norm.eps), count, group)


def pieces(states: Sequence[Tensor]) -> Iterator[Piece]:
    """Cut N states (B, T, D) into pieces of equal rows and frames that suit their device."""
    batch, frames, dim = states[0].shape
    elements = _PIECE_ON_CPU if states[0].device.type == "cpu" else _PIECE_ELSEWHERE
    largest = max(1, elements // (len(states) * dim))
    parts = -(-frames // largest)
    rows, length = max(1, largest // frames), -(-frames // parts)
    for row in range(0, batch, rows):
        for frame in range(0, frames, length):
            yield slice(row, row + rows), slice(frame, frame + length)


def _moments(states: Sequence[Tensor]) -> Tensor:
    """Return count, mean and squared deviations from it of every piece, (pieces, 1 + D + D)."""
    full = torch.promote_types(states[0].dtype, torch.float32)
    moments = []
    for piece in pieces(states[:1]):
        for state in states:
            x = state[piece].flatten(0, 1).to(full)
            mean = x.mean(dim=0)
            squares = (x - mean).square_().sum(dim=0)
            moments.append(torch.cat([mean.new_full((1,), len(x)), mean, squares]))
    return torch.stack(moments)


def _merge(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge rows of count, mean and squared deviations into the three of all values."""
    counts, rest = moments[:, :1], moments[:, 1:]
    means, squares = rest.chunk(2, dim=1)
    count = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / count
    return count, mean, squares.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0)


def _process_group(norm: nn.Module) -> Any:
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_available():
        return None
    if not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def _gathered(vector: Tensor, group: Any) -> Tensor:
    parts = [torch.empty_like(vector) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, vector, group)
    return torch.stack(parts)


def _update(norm: nn.BatchNorm1d | nn.SyncBatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as torch's batch norms do."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum
    if share is None:
        share = 1 / int(norm.num_batches_tracked)
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert running is not None
        running.mul_(1 - share).add_(value * share)
