"""Cohort cosines on a torch device: the same as ``cohort_numpy`` to 1e-5."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from wesp_lap.errors import ConfigError
from wesp_lap.scoring.cohort import Cohort

_BUFFER_BYTES = 512 << 20  # cosines on the device at a time


def largest(
    unit: np.ndarray,
    cohort: Cohort,
    top_n: int,
    excluded: np.ndarray | None,
    device: str,
) -> np.ndarray:
    """Return the ``top_n`` largest cosines of every row; arguments as in ``cohort_numpy``."""
    found = torch.full((len(unit), top_n), -torch.inf, device=_checked(device))
    for rows, cosines, before in _cosines(unit, cohort, top_n, device):
        if excluded is not None:
            places = excluded[rows] - before
            row, column = np.nonzero((places >= 0) & (places < cosines.shape[1]))
            cosines[torch.from_numpy(row), torch.from_numpy(places[row, column])] = -torch.inf
        candidates = torch.cat([found[rows], cosines], dim=1)
        found[rows] = candidates.topk(top_n, dim=1, sorted=False).values
    return found.cpu().numpy()


def moments(unit: np.ndarray, cohort: Cohort, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sum of squared deviations of all cosines of every row, (n,) float64."""
    mean = torch.zeros(len(unit), dtype=torch.float64, device=_checked(device))
    squares = torch.zeros_like(mean)
    for rows, cosines, before in _cosines(unit, cohort, 0, device):
        count = cosines.shape[1]
        variance, here = torch.var_mean(cosines.double(), dim=1, correction=0)
        gap = here - mean[rows]
        mean[rows] += gap * (count / (before + count))
        squares[rows] += variance * count + gap**2 * (before * count / (before + count))
    return mean.cpu().numpy(), squares.cpu().numpy()


def _cosines(
    unit: np.ndarray, cohort: Cohort, room: int, device: str
) -> Iterator[tuple[slice, torch.Tensor, int]]:
    """Yield rows, their cosines with a block, and how many cohort entries came before it."""
    all_rows = torch.from_numpy(unit).to(device)
    before = 0
    with _full_precision():
        for block in cohort.blocks():
            columns = torch.from_numpy(np.ascontiguousarray(block)).to(device).T
            height = max(1, _BUFFER_BYTES // (4 * (room + len(block))))
            for first in range(0, len(unit), height):
                rows = slice(first, first + height)
                yield rows, all_rows[rows] @ columns, before
            before += len(block)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products in float32: TF32 has three decimal digits."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


def _checked(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {device}: {reason}. Give cpu, or cuda with a GPU") from error
