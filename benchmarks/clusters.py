"""Speed of pre-training's targets: MFCC labels, k-means, and finding labels by key.

    python benchmarks/clusters.py [--data DIR] [--utterances 400] [--rounds 5] [--frames 1000000]

* Labels: decoding, MFCC with differences and assignment to 100 clusters, in one process with one
  thread and files in the page cache, beside a loop that does the same with soundfile, torchaudio
  and torch.cdist. Both run in turn, round after round, after one round that does not count; medians
  of processor time, so that other programs on the machine count less. The parts of our way are then
  timed alone. The corpus is synthetic, or a data directory.
* k-means: MiniBatchKMeans with the settings of learn_clusters on synthetic frames, all cores; wall
  clock and processor time.
* The store: making and opening the index of 1.1 million utterances, and crops from random ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import corpus
import numpy as np
import soundfile
import torch

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.extraction import open_source
from wesp_lap.extraction.batches import Batch
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.pretraining.clusters import Clusters, KMeansSettings, fit
from wesp_lap.pretraining.features import FeatureSettings, MfccFeatures
from wesp_lap.pretraining.frames import Extractor
from wesp_lap.pretraining.labels import LABEL_TYPE, LabelStore, digest_of, index_of

RATE = 16000
LABELS_EACH = 780


def main() -> None:
    """Run everything and print the tables."""
    options = _options()
    print(
        f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, numpy {np.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="clusters-benchmark-") as folder:
        work = Path(folder)
        _k_means(options)
        torch.set_num_threads(1)
        for suffix in ("wav", "flac"):
            data = options.data or corpus.make_corpus(
                work / suffix, options.utterances, 7.8, suffix
            )
            _labels(Path(data), f"{options.data or suffix}", options)
            if options.data:
                break
        _store(work / "store", options.store_utterances)


def _k_means(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    shape = options.frames, 39
    spread = np.linspace(10, 0.3, 39)
    frames = rng.standard_normal(shape) * spread + rng.choice(40, (options.frames, 1))
    frames = frames.astype(np.float32)
    start, busy = time.perf_counter(), time.process_time()
    run = fit(frames, KMeansSettings(100))[1]
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"\nk-means, {options.frames} x 39, 100 clusters: {wall:.1f} s, processor {busy:.1f} s, "
        f"{run['steps']} steps"
    )


def _labels(data: Path, name: str, options: argparse.Namespace) -> None:
    source, tables = open_source(data), DataDir.load(data)
    rows = range(min(options.utterances, len(source.keys)))
    paths = [str(tables.resolve(source.keys[row])) for row in rows]
    seconds = sum(soundfile.info(path).duration for path in paths)
    features = MfccFeatures()
    frames = np.concatenate([_frames(features, source.load(row)) for row in rows[:20]])
    few = KMeansSettings(min(100, len(frames) // 10), n_init=1)
    clusters = Clusters(fit(frames, few)[0], {"kind": "mfcc"}, features.framing, {})
    ours = Extractor(FeatureSettings(), source, finish=clusters.assign)
    centroids = torch.from_numpy(clusters.centroids)
    candidates: dict[str, Callable[[], list[np.ndarray]]] = {
        "wesp_lap": lambda: [one.values for one in ours([rows]) if one.values is not None],
        "torchaudio": lambda: [_reference(path, centroids) for path in paths],
    }
    times: dict[str, list[float]] = {key: [] for key in candidates}
    found: dict[str, list[np.ndarray]] = {}
    for number in range(options.rounds + 1):
        for key, run in candidates.items():
            start = time.process_time()
            found[key] = run()
            if number:
                times[key].append(time.process_time() - start)
    busys = {key: statistics.median(values) for key, values in times.items()}
    print(f"\nlabels of {name}, {len(rows)} utterances, {seconds:.0f} s of audio, one thread")
    for key, busy in busys.items():
        print(f"  {key:12}{seconds / busy:8.0f} x real time")
    same = np.concatenate(found["wesp_lap"]) == np.concatenate(found["torchaudio"])
    print(f"  equal labels {same.mean():.5%}")
    waves = [source.load(row) for row in rows]
    matrices = [torch.from_numpy(_frames(features, wave)) for wave in waves]
    parts: dict[str, Callable[[], object]] = {
        "decoding": lambda: [source.load(row) for row in rows],
        "features": lambda: [_frames(features, wave) for wave in waves],
        "assignment": lambda: [clusters.assign(matrix) for matrix in matrices],
    }
    for key, part in parts.items():
        start = time.process_time()
        part()
        print(f"  {key:12}{seconds / (time.process_time() - start):8.0f} x real time")


def _frames(features: MfccFeatures, wave: np.ndarray) -> np.ndarray:
    return features(Batch([0], wave[np.newaxis], [len(wave)]))[0].numpy()


def _reference(path: str, centroids: torch.Tensor) -> np.ndarray:
    """Label a file as a plain script would."""
    from torchaudio.compliance.kaldi import mfcc
    from torchaudio.functional import compute_deltas

    wave, rate = soundfile.read(path, dtype="float32")
    plain = mfcc(torch.from_numpy(wave)[None], sample_frequency=rate, use_energy=False).T
    first = compute_deltas(plain)
    frames = torch.cat([plain, first, compute_deltas(first)]).T
    return torch.cdist(frames, centroids).argmin(1).numpy().astype(np.uint16)


def _store(folder: Path, utterances: int) -> None:
    folder.mkdir()
    names = [f"id{n % 5994:05d}/video{n % 97}/{n:07d}.wav".encode() for n in range(utterances)]
    counts = np.full(utterances, LABELS_EACH)
    start = time.perf_counter()
    index = index_of(names, counts, np.full(utterances, 400 + 160 * (LABELS_EACH - 1)))
    wall = time.perf_counter() - start
    print(
        f"\nstore of {utterances} utterances of {LABELS_EACH} labels\n  index made  {wall:8.2f} s"
    )
    with open(folder / "labels.bin", "wb") as stream:
        stream.truncate(utterances * LABELS_EACH * LABEL_TYPE.itemsize)
    (folder / "labels.keys").write_bytes(b"".join(name + b"\n" for name in names))
    (folder / "labels.index").write_bytes(index.tobytes())
    files = [folder / name for name in ("labels.bin", "labels.keys", "labels.index")]
    record = {
        "num_clusters": 100,
        "framing": {"window": 400, "shift": 160},
        "clusters_digest": "",
        "bytes": {path.name: path.stat().st_size for path in files},
        "sha256": {},
    }
    (folder / "labels.json").write_text(json.dumps({**record, "digest": digest_of(record)}))
    start = time.perf_counter()
    store = LabelStore.open(folder)
    print(f"  opened      {1000 * (time.perf_counter() - start):8.2f} ms")
    rows = np.random.default_rng(0).integers(utterances, size=20_000)
    keys = [names[row].decode() for row in rows]
    del names, index
    before, start = _resident(), time.process_time()
    for key in keys:
        store.crop(key, 12_345, 48_000)
    busy = time.process_time() - start
    print(
        f"  crops       {1e6 * busy / len(keys):8.1f} us each, {_resident() - before:.0f} MiB more"
    )
    start = time.process_time()
    store.check(keys, [400 + 160 * (LABELS_EACH - 1)] * len(keys))
    print(f"  checked     {1e6 * (time.process_time() - start) / len(keys):8.1f} us each")


def _resident() -> float:
    """Return the memory of this process in MiB, pages of mapped files among it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a data directory instead of synthetic audio")
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=1_000_000, help="of k-means")
    parser.add_argument("--store_utterances", type=int, default=1_100_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
