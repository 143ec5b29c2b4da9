"""Extract speaker embeddings of a data directory or of shards."""

from __future__ import annotations

import os
from typing import Literal

from wesp_lap.cli import run_command
from wesp_lap.extraction import ExtractionSettings, extract, open_source


def main(
    model: str,
    out: str,
    data: str | None = None,
    shards: str | None = None,
    device: str | None = None,
    nj: int = 0,
    batch_seconds: float | None = None,
    chunk_seconds: float = 240.0,
    crop_seconds: float = 0.0,
    seed: int = 42,
    vad: Literal["none", "energy", "silero", "table"] = "none",
    max_bad: int = 0,
) -> None:
    """Write OUT/xvector.{ark,scp,json}, one embedding per utterance, whole ones by default.

    Args:
        model: Directory of a speaker model (config.json, model.safetensors).
        out: Directory for the embeddings.
        data: Kaldi data directory.
        shards: shard.list or raw.list instead of a data directory.
        device: cpu or cuda; a GPU when there is one by default.
        nj: Processes on a CPU; 0 means one per core.
        batch_seconds: Most padded seconds of a batch; 0 takes utterances one by one. By default 120
            on a GPU and 0 on a CPU.
        chunk_seconds: Longer utterances are embedded in overlapping chunks of this length, and the
            chunks' embeddings averaged; 0 never cuts.
        crop_seconds: Embed one random crop of this length per utterance; 0 takes whole ones.
        seed: Seed of the crops.
        vad: Keep only speech, found by energy, by silero (pip install silero-vad), or by the table
            DATA/vad.
        max_bad: Go on without up to this many utterances, listed in OUT/bad.txt.
    """
    settings = ExtractionSettings(batch_seconds, chunk_seconds, crop_seconds, seed, vad, max_bad)
    count = extract(model, open_source(data, shards), out, device, nj, settings)
    if os.environ.get("RANK", "0") == "0":
        print(f"{out}/xvector.scp: {count} embeddings")


if __name__ == "__main__":
    run_command(main)
