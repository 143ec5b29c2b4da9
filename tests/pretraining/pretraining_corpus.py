"""Labels of the tiny corpus, and settings that pre-train on it within seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wesp_lap.coerce import from_mapping
from wesp_lap.config import merge
from wesp_lap.data.index import load_utterances
from wesp_lap.data.shards import make_shards
from wesp_lap.extraction.sources import open_source
from wesp_lap.pretraining.clusters import KMeansSettings
from wesp_lap.pretraining.features import FeatureSettings
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.labelling import make_labels
from wesp_lap.pretraining.labels import LabelStore
from wesp_lap.pretraining.learning import Sampling, learn_clusters
from wesp_lap.pretraining.settings import PretrainSettings

ENCODER = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "conv_channels": 8,
    "position_kernel": 8,
    "position_groups": 2,
}
TREE = {
    "encoder": {"name": "hubert", **ENCODER},
    "optimizer": {"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01},
    "lr_schedule": {"name": "polynomial", "max_lr": 1e-2, "warmup_steps": 2},
    "head": {"projected_size": 8},
    "masking": {"length": 4},
    "data": {
        "num_workers": 0,
        "sampling": {
            "name": "lengths",
            "max_seconds": 4.0,
            "shortest_seconds": 0.5,
            "longest_seconds": 2.0,
        },
    },
    "training": {"epochs": 2, "log_every": 2},
    "validation": {"share": 0.1},
}


def make_corpus(data: Path, folder: Path, clusters: int = 8, seed: int = 0) -> tuple[Path, Path]:
    """Return the shard list and the labels of a data directory."""
    shards = folder / "shard.list"
    if not shards.exists():
        make_shards(data, folder / "shards", shards, 16)
    labels = folder / f"labels_{clusters}_{seed}"
    source, features = open_source(None, str(shards)), FeatureSettings()
    settings = KMeansSettings(clusters, seed, n_init=1)
    learn_clusters(source, folder / "clusters", features, settings, Sampling(1.0), Workers(jobs=1))
    make_labels(source, folder / "clusters", labels, Workers(jobs=1))
    return shards, labels


def settings_of(shards: Path, labels: Path, **changes) -> PretrainSettings:
    """Return checked settings."""
    tree = merge(TREE, {"labels": str(labels), "data": {"shards": str(shards)}})
    settings = from_mapping(PretrainSettings, merge(tree, changes))
    settings.check()
    return settings


def whole_labels(store: LabelStore, shards: Path) -> dict[str, np.ndarray]:
    """Return the labels of every utterance by key."""
    utterances = load_utterances(shards)
    return {
        utterances.key(row): store.labels(utterances.key(row)) for row in range(len(utterances))
    }


def as_mask(indices: np.ndarray, frames: int) -> np.ndarray:
    """Return what masked_frames has drawn as a bool array (B, T)."""
    mask = np.zeros((len(indices), frames), dtype=bool)
    np.put_along_axis(mask, indices, True, axis=1)
    return mask
