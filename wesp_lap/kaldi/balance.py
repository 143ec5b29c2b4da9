"""Cut a list into consecutive parts of nearly equal weight; needs no other module."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise


def cut(weights: Sequence[int], parts: int) -> list[range]:
    """Return the indexes of ``parts`` consecutive, non-empty parts of nearly equal weight.

    Every cut lies where the weight before it is nearest to its share, so no part exceeds an equal
    share by more than the largest single weight.

    Args:
        weights: positive weight of each item.
        parts: number of parts, from 1 to the number of items.
    """
    if not 1 <= parts <= len(weights):
        raise ValueError(f"{len(weights)} items cannot be cut into {parts} parts")
    before = [0, *accumulate(weights)]
    cuts = [0]
    for part in range(1, parts):
        share = before[-1] * part / parts
        place = bisect_left(before, share)
        if place and share - before[place - 1] <= before[place] - share:
            place -= 1
        # Every part keeps at least one item, this one and those that follow.
        cuts.append(min(max(place, cuts[-1] + 1), len(weights) - parts + part))
    cuts.append(len(weights))
    return [range(start, end) for start, end in pairwise(cuts)]
