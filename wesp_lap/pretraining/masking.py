"""Which frames are hidden from the encoder: spans at random places, as HuBERT masks them.

Source: docs/methods.md, section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaskSettings:
    """How spans are drawn.

    Args:
        prob: Share of the frames that would be masked if no two spans overlapped.
        length: Frames of a span.
        min_spans: Least number of spans of a row.
    """

    prob: float = 0.8
    length: int = 10
    min_spans: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.prob <= 1 or self.length < 1 or self.min_spans < 1:
            raise ValueError("0 < prob <= 1, length >= 1 and min_spans >= 1 are needed")

    @property
    def min_frames(self) -> int:
        """Fewest frames of which not all are masked."""
        return self.length + 1


def masked_frames(
    rows: int, frames: int, settings: MaskSettings, rng: np.random.Generator
) -> np.ndarray:
    """Draw the frames that are masked, as many in every row.

    Each row gets ``int(prob * T / length + u)`` spans, u uniform in [0, 1) for the row, but at
    least ``min_spans``. Their starts are drawn without replacement from 0 to T - length - 1, so
    the last frame is never masked; where there are fewer starts than spans, all are taken. Spans
    may overlap. Rows with more masked frames than another lose some of them, drawn at random.

    Args:
        rows: Number B of rows.
        frames: Frames T of each row.
        settings: How spans are drawn.
        rng: Where the random numbers come from.

    Returns:
        int64 (B, M), ascending in each row, 0 < M < T.

    Raises:
        ValueError: a span would take all frames.
    """
    places = frames - settings.length
    if places < 1:
        raise ValueError(
            f"{frames} frames are too few for masks of {settings.length} frames; crops of at least "
            f"{settings.min_frames} are needed"
        )
    spans = (settings.prob * frames / settings.length + rng.random(rows)).astype(np.int64)
    spans = np.maximum(spans, settings.min_spans)
    order = rng.random((rows, places)).argsort(axis=1)
    starts = np.zeros((rows, places), dtype=bool)
    np.put_along_axis(starts, order, np.arange(places) < spans[:, None], axis=1)
    return _thinned(_covered(starts, settings.length), rng)


def _covered(starts: np.ndarray, length: int) -> np.ndarray:
    """Return (B, T): the frames of all spans that begin at the starts (B, T - length)."""
    begun = np.pad(starts, ((0, 0), (0, length))).cumsum(axis=1)
    ended = np.pad(begun, ((0, 0), (length, 0)))[:, : begun.shape[1]]
    return begun > ended


def _thinned(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (B, M): as many masked frames of each row as the row with the fewest has."""
    keys = rng.random(mask.shape)
    keys[~mask] = 2.0  # behind all others
    least = mask.sum(axis=1).min()
    return np.sort(keys.argsort(axis=1)[:, :least], axis=1)
