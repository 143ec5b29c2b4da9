"""Clusters of frames: k-means, assignment, and the directory they are kept in.

Source: docs/methods.md, section 6.1; MiniBatchKMeans of scikit-learn.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike, read_json, sha256, write_json
from wesp_lap.pretraining.features import Framing
from wesp_lap.tensors import load_tensors, save_tensors

CENTROIDS_FILE = "clusters.safetensors"
RECORD_FILE = "clusters.json"
MOST_CLUSTERS = 1 << 16  # labels are kept in 16 bits
_BLOCK = 8192  # frames that are compared together, and most distances that are kept at once
_DISTANCES = 1 << 22
# Distances that differ by less than this share of the numbers they come from are equal: products
# are rounded in another way from one block of a matrix to the next.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class KMeansSettings:
    """Settings of MiniBatchKMeans, by its own names; the defaults are HuBERT's.

    Attributes:
        num_clusters: Number of clusters.
        seed: Seed of the starts and of the batches.
        max_iter: Most passes over the frames.
        batch_size: Frames per step.
        tol: Stop when the centroids move less; 0 does not.
        max_no_improvement: Stop after so many steps in which the smoothed inertia has not fallen.
        n_init: Starts, of which the best one on a part of the frames is taken.
        reassignment_ratio: Clusters smaller than this share of the largest one start anew.
    """

    num_clusters: int = 100
    seed: int = 0
    max_iter: int = 100
    batch_size: int = 10_000
    tol: float = 0.0
    max_no_improvement: int = 100
    n_init: int = 20
    reassignment_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.num_clusters <= MOST_CLUSTERS:
            raise ConfigError(
                f"--num_clusters must be from 2 to {MOST_CLUSTERS}, got {self.num_clusters}"
            )
        if min(self.max_iter, self.batch_size, self.max_no_improvement, self.n_init) < 1:
            raise ConfigError("k-means: steps, batches and starts must be at least 1")
        if min(self.seed, self.tol, self.reassignment_ratio) < 0:
            raise ConfigError("k-means: seed, tol and reassignment_ratio must not be negative")


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids, and what they are centroids of.

    Attributes:
        centroids: (C, D) float32.
        features: What FeatureSettings.identity says of the features.
        framing: Which samples a frame hears.
        record: What else is kept for those who look: settings, data, inertia, dead clusters.
    """

    centroids: np.ndarray
    features: dict[str, Any]
    framing: Framing
    record: dict[str, Any]
    _on_device: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def digest(self) -> str:
        """Digest of centroids and features: equal ones give equal labels."""
        text = json.dumps([self.features, list(self.centroids.shape)], sort_keys=True)
        content = np.ascontiguousarray(self.centroids, "<f4").tobytes()
        return hashlib.sha256(text.encode() + content).hexdigest()

    def assign(self, frames: np.ndarray | Tensor) -> np.ndarray:
        """Return the label of each frame (T, D): its nearest centroid, uint16 (T,).

        Nearest by squared Euclidean distance, |x|^2 - 2 x.c + |c|^2; of equally near centroids
        the first. Computed in float64 on the frames' device.
        """
        given = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
        if given.ndim != 2 or given.shape[1] != self.centroids.shape[1]:
            dim = self.centroids.shape[1]
            raise ValueError(f"frames must be (T, {dim}), got {tuple(given.shape)}")
        centre, centroids, norms = self._centred(given.device)
        rows = max(1, min(_BLOCK, _DISTANCES // len(centroids)))
        blocks = [
            _nearest(block.double() - centre, centroids, norms) for block in given.split(rows)
        ]
        return torch.cat(blocks).cpu().numpy().astype(np.uint16)

    def _centred(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the centroids' mean, the centroids less it, and their squared norms.

        Distances do not depend on the origin, but their rounding does.
        """
        if device not in self._on_device:
            centroids = torch.from_numpy(self.centroids).to(device, torch.float64)
            centre = centroids.mean(dim=0)
            centroids = centroids - centre
            self._on_device[device] = centre, centroids, centroids.square().sum(dim=1)
        return self._on_device[device]

    def save(self, folder: PathLike) -> None:
        """Write the directory: centroids as safetensors, everything else as JSON."""
        path = Path(folder)
        save_tensors(path / CENTROIDS_FILE, {"centroids": torch.from_numpy(self.centroids)})
        count, dim = self.centroids.shape
        write_json(
            path / RECORD_FILE,
            {
                "num_clusters": count,
                "dim": dim,
                "features": self.features,
                "framing": asdict(self.framing),
                "rate": self.framing.rate,
                "sha256": sha256(path / CENTROIDS_FILE),
                **self.record,
            },
        )

    @classmethod
    def load(cls, folder: PathLike) -> Clusters:
        """Read a directory that ``save`` wrote.

        Raises:
            DataError: a file is missing or damaged, or they do not belong together.
        """
        path = Path(folder)
        if not path.is_dir():
            raise DataError(f"{path}: no such directory; learn_clusters writes one")
        record = read_json(path / RECORD_FILE)
        centroids = load_tensors(path / CENTROIDS_FILE).get("centroids")
        try:
            shape = [record.pop("num_clusters"), record.pop("dim")]
            features, digest = dict(record.pop("features")), record.pop("sha256")
            framing = Framing(**record.pop("framing"))
            record.pop("rate")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path / RECORD_FILE}: not a record of clusters") from error
        if centroids is None or list(centroids.shape) != shape:
            raise DataError(f"{path}: {CENTROIDS_FILE} and {RECORD_FILE} are of other clusters")
        if sha256(path / CENTROIDS_FILE) != digest or not bool(torch.isfinite(centroids).all()):
            raise DataError(
                f"{path / CENTROIDS_FILE}: damaged, or not the one {RECORD_FILE} was written for; "
                "learn the clusters again or take another copy"
            )
        return cls(centroids.float().numpy(), features, framing, record)


def _nearest(frames: Tensor, centroids: Tensor, norms: Tensor) -> Tensor:
    """Return the first of the nearest centroids of each frame; |x|^2 is the same for all."""
    distances = norms - 2 * frames @ centroids.T
    scale = frames.square().sum(dim=1, keepdim=True) + norms.max()
    close = distances <= distances.amin(dim=1, keepdim=True) + _ROUNDING * scale
    places = torch.arange(len(centroids), device=frames.device)
    return torch.where(close, places, len(centroids)).amin(dim=1)


def fit(frames: np.ndarray, settings: KMeansSettings) -> tuple[np.ndarray, dict[str, Any]]:
    """Run mini-batch k-means.

    Args:
        frames: (n, D) float32, finite; may be a memory map.
        settings: How.

    Returns:
        Centroids (C, D) float32, and what is worth keeping of the run: steps and version.

    Raises:
        DataError: fewer frames than clusters.
    """
    if len(frames) < settings.num_clusters:
        raise DataError(
            f"{len(frames)} frames for {settings.num_clusters} clusters: at least as many frames "
            "are needed, and hundreds per cluster to be of use; raise --fraction or lower "
            "--num_clusters"
        )
    import sklearn  # slow to load
    from sklearn.cluster import MiniBatchKMeans

    options = asdict(settings)
    options["n_clusters"] = options.pop("num_clusters")
    options["random_state"] = options.pop("seed")
    model = MiniBatchKMeans(init="k-means++", compute_labels=False, **options)
    _quietly(model, frames)
    centroids = np.ascontiguousarray(model.cluster_centers_, np.float32)
    return centroids, {"steps": int(model.n_steps_), "sklearn": sklearn.__version__}


def _quietly(model: Any, frames: np.ndarray) -> None:
    """Fit without scikit-learn's warnings of fewer distinct frames than clusters.

    Clusters without frames are counted and named afterwards. One thread: the products of a batch
    are small, and threads that wait for each other took ten times as long on a busy machine.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(frames)


def inertia(frames: np.ndarray, clusters: Clusters, labels: np.ndarray) -> float:
    """Return the mean squared distance of frames (T, D) to their centroids."""
    total = 0.0
    for first in range(0, len(frames), _BLOCK):
        rows = slice(first, first + _BLOCK)
        gap = frames[rows].astype(np.float64) - clusters.centroids[labels[rows]]
        total += float(np.square(gap).sum())
    return total / max(1, len(frames))
