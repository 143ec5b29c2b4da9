"""How clusters are used: entropy, dead clusters, agreement with other labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wesp_lap.files import PathLike, atomic_write, write_json

QUALITY_FILE = "quality.json"
TABLE_FILE = "quality.txt"
_LISTED = 10


@dataclass(frozen=True)
class Agreement:
    """How much two labellings of the same frames say about each other.

    Attributes:
        frames: Number of frames.
        mutual_information: In bits.
        normalised: Mutual information over the mean of both entropies: 1 for the same partition.
        adjusted: The same, less what labels drawn by chance share: 0 by chance, 1 for the same.
        purity: Share of frames whose second label is the commonest one in their cluster.
        class_purity: Share of frames whose cluster is the commonest one of their second label.
    """

    frames: int
    mutual_information: float
    normalised: float
    adjusted: float
    purity: float
    class_purity: float


@dataclass(frozen=True)
class Quality:
    """Use of the clusters.

    Attributes:
        frames: Number of frames.
        num_clusters: C.
        dead: Clusters without a frame.
        entropy: Of a frame's label, in bits.
        normalised_entropy: Share of log2 C, which equally large clusters have.
        perplexity: 2 to the entropy: of how many equally large clusters it is the entropy.
        largest_share: Share of frames in the largest cluster.
        counts: Frames of each cluster.
    """

    frames: int
    num_clusters: int
    dead: list[int]
    entropy: float
    normalised_entropy: float
    perplexity: float
    largest_share: float
    counts: list[int]


def measure(counts: np.ndarray) -> Quality:
    """Return the quality of clusters with these numbers of frames, (C,) with C > 1."""
    counts = np.asarray(counts, np.int64)
    total = int(counts.sum())
    shares = counts[counts > 0] / max(total, 1)
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0
    return Quality(
        frames=total,
        num_clusters=len(counts),
        dead=np.flatnonzero(counts == 0).tolist(),
        entropy=entropy,
        normalised_entropy=entropy / math.log2(len(counts)),
        perplexity=2.0**entropy,
        largest_share=float(shares.max(initial=0.0)),
        counts=counts.tolist(),
    )


def compare(labels: np.ndarray, others: np.ndarray) -> Agreement:
    """Compare labels (T,) with others (T,) of the same frames: of other clusters, or of speakers.

    Raises:
        ValueError: not the same number of frames, or none.
    """
    if len(labels) != len(others) or not len(labels):
        raise ValueError(f"labels of the same frames are needed: {len(labels)}, {len(others)}")
    from sklearn.metrics import adjusted_mutual_info_score  # slow to load
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, others).astype(np.float64)
    joint = table / table.sum()
    sides = joint.sum(axis=1), joint.sum(axis=0)
    entropies = [float(-(side * np.log2(side)).sum()) for side in sides]
    held = joint > 0
    information = float((joint[held] * np.log2(joint[held] / np.outer(*sides)[held])).sum())
    mean = sum(entropies) / 2
    return Agreement(
        frames=len(labels),
        mutual_information=information,
        normalised=information / mean if mean else 1.0,
        adjusted=float(adjusted_mutual_info_score(labels, others)),
        purity=float(joint.max(axis=1).sum()),
        class_purity=float(joint.max(axis=0).sum()),
    )


def write_quality(
    folder: PathLike, quality: Quality, agreements: dict[str, Agreement] | None = None
) -> list[Path]:
    """Write ``folder``/quality.json and a table for people, quality.txt; return both."""
    record = asdict(quality)
    record["agreement"] = {name: asdict(value) for name, value in (agreements or {}).items()}
    paths = [Path(folder) / name for name in (QUALITY_FILE, TABLE_FILE)]
    write_json(paths[0], record)
    with atomic_write(paths[1]) as stream:
        stream.write("\n".join(table_lines(quality, agreements or {})) + "\n")
    return paths


def table_lines(quality: Quality, agreements: dict[str, Agreement]) -> list[str]:
    """Return the figures as lines for people."""
    counts = np.array(quality.counts)
    order = np.argsort(-counts, kind="stable")
    most = [f"{label}: {counts[label] / max(quality.frames, 1):.2%}" for label in order[:_LISTED]]
    lines = [
        f"frames               {quality.frames}",
        f"clusters             {quality.num_clusters}, {len(quality.dead)} without frames"
        f"{_named(quality.dead)}",
        f"entropy              {quality.entropy:.3f} bits, {quality.normalised_entropy:.1%} of "
        f"log2 {quality.num_clusters}",
        f"perplexity           {quality.perplexity:.1f}",
        f"frames per cluster   {counts.min()} to {counts.max()}, median {np.median(counts):.0f}",
        f"largest clusters     {', '.join(most)}",
    ]
    for name, agreement in agreements.items():
        lines += [
            f"with {name} ({agreement.frames} frames)",
            f"  mutual information {agreement.mutual_information:.3f} bits, normalised "
            f"{agreement.normalised:.3f}, adjusted for chance {agreement.adjusted:.3f}",
            f"  purity             {agreement.purity:.3f}, the other way "
            f"{agreement.class_purity:.3f}",
        ]
    return lines


def _named(labels: Sequence[int]) -> str:
    if not labels:
        return ""
    shown = ", ".join(map(str, labels[:_LISTED]))
    return f": {shown}{' ...' if len(labels) > _LISTED else ''}"
