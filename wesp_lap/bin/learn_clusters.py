"""Learn clusters of frames: the targets of pre-training."""

from __future__ import annotations

from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.extraction import open_source
from wesp_lap.pretraining.clusters import KMeansSettings
from wesp_lap.pretraining.features import FeatureSettings
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.learning import Sampling, learn_clusters
from wesp_lap.pretraining.quality import TABLE_FILE


def main(
    out: str,
    data: str | None = None,
    shards: str | None = None,
    features: Literal["mfcc", "layer"] = "mfcc",
    model: str | None = None,
    layer: int = 6,
    num_clusters: int | None = None,
    fraction: float = 0.1,
    max_frames: int = 2_000_000,
    seed: int = 0,
    stability: bool = False,
    device: str | None = None,
    nj: int = 0,
) -> None:
    """Run k-means on frames of some utterances, and say how the clusters are used.

    Args:
        out: Directory for clusters.safetensors, clusters.json, quality.json and quality.txt.
        data: Kaldi data directory.
        shards: shard.list or raw.list instead of a data directory.
        features: mfcc, 100 frames per second, or layer, 50 frames per second of an encoder.
        model: Directory of the encoder (config.json, model.safetensors).
        layer: Output of this Transformer layer, counted from 1.
        num_clusters: By default 100 for mfcc and 500 for layer.
        fraction: Share of the utterances that are looked at.
        max_frames: Most frames that k-means gets; of more, so many are drawn.
        seed: Seed of k-means, and of the choice of utterances and frames.
        stability: Fit again with another seed, and say how far both agree.
        device: cpu or cuda, for an encoder; a GPU when there is one by default.
        nj: Processes on a CPU; 0 means one per core.
    """
    if num_clusters is None:
        num_clusters = 100 if features == "mfcc" else 500
    learn_clusters(
        open_source(data, shards),
        out,
        FeatureSettings(features, model, layer),
        KMeansSettings(num_clusters, seed),
        Sampling(fraction, max_frames, seed),
        Workers(device, nj),
        stability,
    )
    with open(f"{out}/{TABLE_FILE}", encoding="utf-8") as stream:
        print(f"{out}\n{stream.read()}", end="")


if __name__ == "__main__":
    run_command(main)
