"""Speed of extraction: utterances one by one beside batches of similar length.

    python benchmarks/extraction.py [--model base] [--device cuda] [--utterances 2000] [--rounds 5]

Random weights; noise of 4 s and more with a mean of 8.2 s, as in VoxCeleb, in WAV files in the page
cache. Both candidates load, embed and gather through the same code and differ in --batch_seconds
only; they are run in turn, round after round, after one round that does not count. On a CPU one
thread is used, as each process of the command does. Printed are medians, the share of padding, and
how far the embeddings of the batches are from those made one by one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import torch

from wesp_lap.coerce import Section
from wesp_lap.extraction import ExtractionSettings, open_source
from wesp_lap.extraction.embedder import Embedder
from wesp_lap.model import ModelSettings, SpeakerModel

RATE = 16000
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "conv_dim": [64] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
}


def main() -> None:
    """Run both candidates and print the table."""
    options = _options()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="extraction-benchmark-") as folder:
        seconds = _make_corpus(Path(folder), options.utterances)
        _make_model(options.model, Path(folder) / "model")
        embedders = {
            name: Embedder(
                Path(folder) / "model",
                open_source(Path(folder)),
                ExtractionSettings(batch_seconds=seconds_at_once),
                options.device,
                options.threads,
            )
            for name, seconds_at_once in (
                ("one by one", 0.0),
                (f"batches of {options.batch_seconds:g} s", options.batch_seconds),
            )
        }
        times, results = _run(embedders, options)
    device = options.device
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {device}, {options.threads} loader threads")
    print(f"WavLM {options.model}, {options.utterances} utterances, {seconds:.0f} s of audio\n")
    print(f"{'':22}{'utt/s':>10}{'x real time':>14}{'padding':>10}")
    for name, embedder in embedders.items():
        wall = statistics.median(times[name])
        padded, valid = embedder.samples
        rates = f"{options.utterances / wall:>10.2f}{seconds / wall:>14.1f}"
        print(f"{name:22}{rates}{1 - valid / padded:>10.1%}")
    single, batched = results.values()
    cosines = (single * batched).sum(1) / np.linalg.norm(single, axis=1)
    cosines /= np.linalg.norm(batched, axis=1)
    largest = np.abs(single - batched).max() / np.abs(single).max()
    print(f"\nlargest |1 - cos| {np.abs(1 - cosines).max():.1e}, ", end="")
    print(f"largest difference {largest:.1e} of the largest value")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument("--model", choices=("tiny", "base"), default="tiny")
    parser.add_argument("--utterances", type=int)
    parser.add_argument("--batch_seconds", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="that load ahead; 0 on a CPU, else 8")
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    options.utterances = options.utterances or (40 if on_cpu else 2000)
    options.batch_seconds = options.batch_seconds or (30.0 if on_cpu else 120.0)
    if options.threads is None:
        options.threads = 0 if on_cpu else min(8, len(os.sched_getaffinity(0)))
    return options


def _make_corpus(folder: Path, utterances: int) -> float:
    rng = np.random.default_rng(0)
    lengths = 4 + rng.exponential(4.2, utterances).clip(max=140)
    lines = []
    for number, length in enumerate(lengths):
        path = folder / f"{number:06d}.wav"
        soundfile.write(path, rng.normal(0, 0.1, round(length * RATE)), RATE)
        lines.append(f"u{number:06d} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"{line.split()[0]} s\n" for line in lines))
    return float(lengths.sum())


def _make_model(size: str, folder: Path) -> None:
    torch.manual_seed(0)
    config = {"model_type": "wavlm", **(TINY if size == "tiny" else {})}
    heads = {"heads": 4, "pooled_dim": 128} if size == "tiny" else {}
    settings = ModelSettings(
        Section("transformer", {"config": config}), Section("lap_astp", {"embed_dim": 192, **heads})
    )
    SpeakerModel(settings).save_pretrained(folder)


def _run(
    embedders: dict[str, Embedder], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Return the seconds of each round, and embeddings (n, E)."""
    times: dict[str, list[float]] = {name: [] for name in embedders}
    found = {}
    for round_number in range(options.rounds + 1):
        for name, embedder in embedders.items():
            embedder.samples = [0, 0]
            start = time.perf_counter()
            results = list(embedder([range(options.utterances)]))
            if round_number:
                times[name].append(time.perf_counter() - start)
            found[name] = np.stack([result.embedding for result in results]).astype(np.float64)
    return times, found


if __name__ == "__main__":
    main()
