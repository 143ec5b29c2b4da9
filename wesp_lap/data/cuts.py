"""Cuts of an epoch into batches and shares, as even as can be."""

from __future__ import annotations

import numpy as np

from wesp_lap.errors import ConfigError, DataError


def even_cuts(total: int, parts: int) -> np.ndarray:
    """Return the borders (parts + 1,) that cut ``total`` into parts that differ by one at most."""
    return np.arange(parts + 1) * total // parts


def shares(sizes: np.ndarray, parts: int) -> np.ndarray:
    """Cut each of ``sizes`` (n,) evenly: (n, parts)."""
    return np.diff(np.arange(parts + 1) * sizes[:, None] // parts, axis=1)


def border(sizes: np.ndarray) -> np.ndarray:
    """Return where blocks of these sizes begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


def check_cap(max_per_speaker: int | None) -> None:
    """Refuse a cap that leaves nothing."""
    if max_per_speaker is not None and max_per_speaker < 1:
        raise ConfigError(
            f"data.sampling.max_per_speaker must be at least 1, got {max_per_speaker}; leave it "
            "out to take all utterances"
        )


def check_shares(sizes: np.ndarray, least: int, batch_size: int, world_size: int) -> None:
    """Refuse batches of ``sizes`` that leave a process with less than ``least``."""
    if batch_size % world_size or int(sizes.min()) < least * world_size:
        raise DataError(
            f"data.batch_size ({batch_size}) is the batch over all processes: it must be a "
            f"multiple of their number ({world_size}) and give each at least 2 utterances; the "
            f"smallest of the {len(sizes)} batches of an epoch has {int(sizes.min())}. Choose "
            "another size, or add data"
        )


def side_by_side(rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Read the parts of ``rows`` at once: from each, step by step, what ``shares`` says.

    Args:
        rows: The parts one after the other (n,), n at least the sum of shares.
        shares: How much of each part a step takes (steps, parts).
    """
    sizes = shares.reshape(-1)
    begin = np.cumsum(shares, axis=0) - shares + border(shares.sum(axis=0))[:-1]
    offset = np.repeat(begin.reshape(-1) - border(sizes)[:-1], sizes)
    return rows[offset + np.arange(len(offset))]


def capped(speaker: np.ndarray, cap: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most ``cap`` utterances of each speaker."""
    order = np.lexsort((rng.random(len(speaker)), speaker))
    return np.sort(order[count_within(speaker[order]) < cap])


def count_within(groups: np.ndarray) -> np.ndarray:
    """Number the members of each run of equal values: 7 7 3 3 3 gives 0 1 0 1 2."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(begins, np.diff(np.append(begins, len(groups))))


def fit_groups(groups: np.ndarray, per_batch: int) -> tuple[np.ndarray, int]:
    """Limit the groups of each speaker to one per step, and return the steps this makes."""
    speakers = int(np.count_nonzero(groups))
    if speakers < per_batch:
        raise DataError(
            f"a batch takes {per_batch} speakers with enough utterances, there are {speakers}; "
            "lower data.batch_size or raise data.sampling.per_speaker"
        )
    while True:
        steps = -(-int(groups.sum()) // per_batch)
        if int(groups.max()) <= steps:
            return groups, steps
        groups = np.minimum(groups, steps)


def length_cuts(
    lengths: np.ndarray, buckets: np.ndarray, limit: int, world_size: int
) -> np.ndarray:
    """Cut falling ``lengths`` into batches of at most ``limit`` samples within buckets.

    The number of batches is made a multiple of ``world_size`` by cutting more finely.

    Args:
        lengths: In samples (n,).
        buckets: Their borders (buckets + 1,).
        limit: Samples of a batch.
        world_size: Number of processes.
    """
    sizes = np.diff(buckets)
    longest = lengths[buckets[:-1]]
    batches = -(-sizes // (limit // longest))
    while lack := -int(batches.sum()) % world_size:
        able = np.flatnonzero(batches < sizes)[:lack]
        if not len(able):
            raise DataError(
                f"{len(lengths)} utterances, one per batch, cannot be shared evenly by "
                f"{world_size} processes; raise data.sampling.max_seconds or add data"
            )
        batches[able] += 1
    cuts = [
        first + even_cuts(size, count)[:-1]
        for first, size, count in zip(buckets, sizes, batches, strict=False)
    ]
    return np.append(np.concatenate(cuts), len(lengths))
