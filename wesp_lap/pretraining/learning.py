"""Clusters from a corpus: some of its utterances, their frames in a file, k-means, figures."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.extraction.sources import Source
from wesp_lap.files import PathLike, Stamp
from wesp_lap.log import get_logger, progress
from wesp_lap.pretraining.clusters import (
    CENTROIDS_FILE,
    RECORD_FILE,
    Clusters,
    KMeansSettings,
    fit,
    inertia,
)
from wesp_lap.pretraining.features import FeatureSettings, load_features
from wesp_lap.pretraining.frames import Framed, Workers, framing
from wesp_lap.pretraining.quality import compare, measure, write_quality
from wesp_lap.seeding import generator

_PART = 64  # utterances among whose frames some are drawn when all are too many
_MEASURED = 200_000  # frames that figures are computed from
_NAMED = 5
_THINNING, _MEASURING = 1, 2  # keys of random draws


@dataclass(frozen=True)
class Sampling:
    """What k-means gets to see of a corpus.

    Attributes:
        fraction: Share of the utterances; which ones depends on the seed and their keys alone.
        max_frames: Most frames; of more, as many are drawn evenly from every 64 utterances.
        seed: Of both draws.
    """

    fraction: float = 0.1
    max_frames: int = 2_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction must be above 0 and at most 1, got {self.fraction}")
        if self.max_frames < 1:
            raise ConfigError(f"--max_frames must be at least 1, got {self.max_frames}")


def choose(keys: Sequence[str], sampling: Sampling) -> list[int]:
    """Return the rows of the utterances that are taken, rising.

    Raises:
        DataError: none is.
    """
    least = round(sampling.fraction * 2**64)
    rows = [row for row, key in enumerate(keys) if _place(sampling.seed, key) < least]
    if not rows:
        raise DataError(
            f"--fraction {sampling.fraction} takes none of {len(keys)} utterances; raise it"
        )
    return rows


def _place(seed: int, key: str) -> int:
    """Return a number below 2**64 that depends on seed and key."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "little")


def learn_clusters(
    source: Source,
    out: PathLike,
    features: FeatureSettings,
    settings: KMeansSettings,
    sampling: Sampling,
    workers: Workers,
    stability: bool = False,
) -> Clusters:
    """Write ``out``: clusters.safetensors, clusters.json, quality.json and quality.txt.

    Clusters that were learnt from the same audio with the same settings are kept. While frames are
    collected, they lie in a file in ``out``: at most ``max_frames`` rows of float32.

    Args:
        source: The corpus.
        out: Directory.
        features: Which features.
        settings: Of k-means.
        sampling: What k-means gets to see.
        workers: Who computes the features.
        stability: Fit a second time with another seed, and say how far both agree.

    Raises:
        ConfigError: settings out of range, or an encoder that cannot be used.
        DataError: utterances without features, all of them named, or fewer frames than clusters.
    """
    features.check()
    rows = choose(source.keys, sampling)
    folder = Path(out)
    identity = {
        "features": features.identity(),
        "kmeans": asdict(settings),
        "sampling": asdict(sampling),
        "stability": stability,
        "audio": source.digest(rows),
    }
    stamp = Stamp(folder / "done.json", identity)
    if stamp.is_fresh():
        get_logger().info("%s: up to date", folder)
        return Clusters.load(folder)
    with _scratch(folder / ".frames") as scratch:
        collected = _collect(source, rows, features, sampling, workers, scratch / "frames")
        data = {"name": source.name, "utterances": len(rows), **collected.record}
        clusters = _fit(collected, features, settings, {"fitted_on": data})
        outputs = _write(folder, clusters, collected, settings, sampling, stability)
    stamp.write(outputs)
    return clusters


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give an empty folder, also when a run that was killed has left one, and remove it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Collected:
    """Frames in a file (n, D) and what is worth keeping of how they came there."""

    frames: np.ndarray
    record: dict[str, object]


def _collect(
    source: Source,
    rows: Sequence[int],
    features: FeatureSettings,
    sampling: Sampling,
    workers: Workers,
    path: Path,
) -> _Collected:
    parts = [rows[first : first + _PART] for first in range(0, len(rows), _PART)]
    digest, seen, kept, width = hashlib.sha256(), 0, 0, 0
    problems: list[str] = []
    constant: list[str] = []
    with framing(source, features, parts, workers) as results, open(path, "wb") as stream:
        shown = progress(results, f"features of {Path(source.name).name}", len(rows))
        for number, part in enumerate(parts):
            found = _good(shown, len(part), problems, constant)
            # Nothing is kept of frames that cannot be used anyway.
            if problems or not found:
                continue
            frames = np.concatenate(found)
            most = sampling.max_frames * (number + 1) // len(parts) - kept
            seen, width = seen + len(frames), frames.shape[1]
            frames = _thinned(frames, most, (sampling.seed, _THINNING, number))
            kept += len(frames)
            content = np.ascontiguousarray(frames, "<f4").tobytes()
            digest.update(content)
            stream.write(content)
        next(shown, None)
    mend = "Mend these files or take them out of the corpus; learn_clusters starts again"
    raise_problems(f"{source.name}: utterances without features", problems, mend)
    _log_constant(constant)
    record = {
        "frames_seen": seen,
        "frames": kept,
        "frames_sha256": digest.hexdigest(),
        "constant_utterances": len(constant),
    }
    return _Collected(np.memmap(path, np.dtype("<f4"), "r", shape=(kept, width)), record)


def _good(
    results: Iterator[Framed], count: int, problems: list[str], constant: list[str]
) -> list[np.ndarray]:
    """Return the frames of the next utterances, and note those with problems."""
    found = []
    for _ in range(count):
        framed = next(results)
        if framed.values is None:
            problems.append(f"{framed.key}: {framed.problem}")
            continue
        if framed.constant:
            constant.append(framed.key)
        found.append(framed.values)
    return found


def _thinned(frames: np.ndarray, most: int, key: tuple[int, ...]) -> np.ndarray:
    """Return at most so many of the frames, drawn evenly, in their order."""
    if len(frames) <= most:
        return frames
    return frames[np.sort(generator(*key).choice(len(frames), most, replace=False))]


def _log_constant(keys: Sequence[str]) -> None:
    if keys:
        get_logger().warning(
            "%d utterances have the same features in all frames, as silence has: %s%s",
            len(keys),
            ", ".join(keys[:_NAMED]),
            " ..." if len(keys) > _NAMED else "",
        )


def _fit(
    collected: _Collected,
    features: FeatureSettings,
    settings: KMeansSettings,
    record: dict[str, object],
) -> Clusters:
    frames = collected.frames
    get_logger().info("k-means of %d frames, %d clusters", len(frames), settings.num_clusters)
    centroids, run = fit(frames, settings)
    model = os.path.abspath(features.model) if features.model else None
    return Clusters(
        centroids,
        features.identity(),
        load_features(features).framing,
        {"model": model, "kmeans": {**asdict(settings), **run}, **record},
    )


def _write(
    folder: Path,
    clusters: Clusters,
    collected: _Collected,
    settings: KMeansSettings,
    sampling: Sampling,
    stability: bool,
) -> list[Path]:
    """Measure the clusters on some of the frames, and write everything."""
    frames = _thinned(collected.frames, _MEASURED, (sampling.seed, _MEASURING))
    labels = clusters.assign(np.array(frames))
    quality = measure(np.bincount(labels, minlength=settings.num_clusters))
    if quality.dead:
        get_logger().warning(
            "%d of %d clusters have none of %d frames; fewer clusters would do",
            len(quality.dead),
            quality.num_clusters,
            quality.frames,
        )
    agreements = {}
    if stability:
        other = dataclasses.replace(settings, seed=settings.seed + 1)
        again = dataclasses.replace(clusters, centroids=fit(collected.frames, other)[0])
        agreements[f"seed {other.seed}"] = compare(labels, again.assign(np.array(frames)))
    clusters.record["inertia_per_frame"] = inertia(frames, clusters, labels)
    clusters.save(folder)
    return [
        *(folder / name for name in (CENTROIDS_FILE, RECORD_FILE)),
        *write_quality(folder, quality, agreements),
    ]
