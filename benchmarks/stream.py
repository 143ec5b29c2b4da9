"""Speed of the sample stream, beside a bare loop and, when a checkout is given, WeSpeaker's.

    python benchmarks/stream.py [--wespeaker DIR] [--utterances 1000] [--rounds 5]

One process, one thread, shards in the page cache. All candidates read the same shards and are run
in turn, round after round; medians count. Candidates:

* stream: wesp_lap's, as training calls it, batches of 64 crops
* bare: the least that could do the job: seek, read the crop, decode it, stack 64 of them; in rows
  with augmentation plus one FFT convolution of every crop with a room response of 1 s
* wespeaker: its Dataset with num_frms of the same length, its augmentation set, no features

Then: time to the first batch and memory of the loader processes, and what it takes to load, plan
and resume a list of 2,000 shards with 1.1 million utterances.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus
import numpy as np
import soundfile
import torch
from scipy import fft

from wesp_lap.audio.augment import AugmentSettings
from wesp_lap.data.index import (
    BLOCK,
    Entry,
    Utterances,
    load_utterances,
    sums_path,
    write_index,
)
from wesp_lap.data.noise_bank import make_noise_bank
from wesp_lap.data.settings import StreamSettings
from wesp_lap.data.shards import make_shards
from wesp_lap.data.stream import make_stream, speaker_classes

BATCH = 64
RATE = 16000
Loop = Callable[[], Iterator[int]]


def main() -> None:
    """Run everything and print the tables."""
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="stream-benchmark-") as folder:
        work = Path(folder)
        noises = corpus.make_noises(work / "noises")
        make_noise_bank(work / "bank", noises / "musan", noises / "rirs")
        if options.wespeaker:
            corpus.make_lmdbs(noises, work)
        print(f"{os.cpu_count()} cores, torch {torch.__version__}, numpy {np.__version__}")
        print("utterances/s of one process, one thread; median of rounds\n")
        _print_row("audio", "crop", "augmentation", "stream", "bare", "ratio", "wespeaker", "ratio")
        for suffix in options.formats.split(","):
            data = corpus.make_corpus(work / suffix, options.utterances, options.seconds, suffix)
            make_shards(data, work / suffix / "shards", work / f"{suffix}.list")
            for seconds in (2.0, 3.0):
                for augmentation in ("none", "wespeaker", "lap"):
                    _rates(options, work, suffix, seconds, augmentation)
        print("\nloader processes (augmentation lap, 2 s)\n")
        shard_list = work / f"{options.formats.split(',')[0]}.list"
        _alone("--loaders", shard_list, work / "bank")
        print("\nlist of 2,000 shards with 1.1 million utterances\n")
        _large_list(work / "large")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wespeaker", type=Path, help="a WeSpeaker checkout to compare with")
    parser.add_argument("--utterances", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0, help="mean length of an utterance")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", default="wav,flac", help="audio in the shards")
    return parser.parse_args()


def _rates(
    options: argparse.Namespace, work: Path, suffix: str, seconds: float, augmentation: str
) -> None:
    """Run the candidates in turn and print one row."""
    shard_list = work / f"{suffix}.list"
    utterances = load_utterances(shard_list)
    loops: dict[str, Loop] = {
        "stream": _stream_loop(shard_list, work / "bank", seconds, augmentation),
        "bare": lambda: bare(utterances, round(seconds * RATE), augmentation != "none"),
    }
    if options.wespeaker and augmentation != "lap":
        import peer

        loops["wespeaker"] = peer.loop(options.wespeaker, shard_list, work, seconds, augmentation)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(options.rounds + 1):  # the first one warms up
        for name, loop in loops.items():
            start = time.perf_counter()
            count = sum(loop())
            if turn:
                rates[name].append(count / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = medians["stream"]
    cells = [f"{ours:,.0f}", f"{medians['bare']:,.0f}", f"{ours / medians['bare']:.2f}"]
    if "wespeaker" in medians:
        cells += [f"{medians['wespeaker']:,.0f}", f"{ours / medians['wespeaker']:.1f}"]
    _print_row(suffix, f"{seconds:g} s", augmentation, *cells)


def _print_row(*cells: str) -> None:
    print("  ".join(f"{cell:>12}" for cell in cells), flush=True)


def _settings(shard_list: Path, bank: Path, seconds: float, augmentation: str) -> StreamSettings:
    augment = AugmentSettings()
    if augmentation != "none":
        augment = AugmentSettings(set=augmentation, speed_perturb=True, noise_prob=0.6)
    return StreamSettings(
        str(shard_list),
        str(bank),
        batch_size=BATCH,
        crop_seconds=seconds,
        num_workers=0,
        augment=augment,
    )


def _stream_loop(shard_list: Path, bank: Path, seconds: float, augmentation: str) -> Loop:
    utterances = load_utterances(shard_list)
    settings = _settings(shard_list, bank, seconds, augmentation)
    stream = make_stream(utterances, speaker_classes(utterances), settings, seed=0)
    epochs = iter(range(10**6))

    def loop() -> Iterator[int]:
        for batch in stream.epoch(next(epochs)):
            yield len(batch.labels)

    return loop


def bare(utterances: Utterances, samples: int, convolve: bool) -> Iterator[int]:
    """Read, decode and stack crops, and convolve them, with nothing else around it."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(utterances))
    files = [open(utterances.tar_name(i), "rb") for i in range(len(utterances.tars))]  # noqa: SIM115
    response = rng.standard_normal(RATE).astype(np.float32)
    crops = []
    for row in order.tolist():
        start = int(rng.integers(int(utterances.samples[row]) - samples + 1))
        stream, offset = files[utterances.tar[row]], int(utterances.offset[row])
        if utterances.pcm[row] >= 0:
            stream.seek(offset + int(utterances.pcm[row]) + 2 * start)
            crop = np.frombuffer(stream.read(2 * samples), "<i2").astype(np.float32) / 32768
        else:
            stream.seek(offset)
            content = stream.read(int(utterances.size[row]))
            crop = _decoded(content, start, samples)
        crops.append(_convolved(crop, response) if convolve else crop)
        if len(crops) == BATCH:
            yield len(torch.from_numpy(np.stack(crops)))
            crops = []
    for stream in files:
        stream.close()
    if crops:
        yield len(torch.from_numpy(np.stack(crops)))


def _decoded(content: bytes, start: int, samples: int) -> np.ndarray:
    import io

    with soundfile.SoundFile(io.BytesIO(content)) as audio:
        audio.seek(start)
        return audio.read(samples, dtype="float32")


def _convolved(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    size = fft.next_fast_len(len(wave) + len(response) - 1, real=True)
    return fft.irfft(fft.rfft(wave, size) * fft.rfft(response, size), size)[: len(wave)]


def _alone(*words: str | Path) -> None:
    """Run a part of this program in a process of its own, whose memory is its own."""
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def start_and_memory(shard_list: Path, bank: Path) -> None:
    """Time to the first batch, and memory of the loader processes over three epochs."""
    settings = _settings(shard_list, bank, 2.0, "lap")
    settings = StreamSettings(**{**settings.__dict__, "num_workers": 2})
    start = time.perf_counter()
    utterances = load_utterances(shard_list)
    stream = make_stream(utterances, speaker_classes(utterances), settings, seed=0)
    for epoch in range(3):
        for number, _ in enumerate(stream.epoch(epoch)):
            if epoch == number == 0:
                print(f"first batch after {time.perf_counter() - start:.2f} s")
        rate = len(utterances) * (epoch + 1) / (time.perf_counter() - start)
        print(f"{rate:,.0f} utterances/s of both processes since the start")
        memory = [_memory(child.pid) for child in multiprocessing.active_children() if child.pid]
        rows = ", ".join(f"{private:.0f} MB private, {rss:.0f} MB RSS" for private, rss in memory)
        print(f"after epoch {epoch + 1}: {rows}")


def _memory(pid: int) -> tuple[float, float]:
    """Return the private memory and the resident set of a process in MB."""
    sizes = {"Private_Clean": 0, "Private_Dirty": 0, "Rss": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        if name in sizes:
            sizes[name] = int(value.split()[0])
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return private * 1024 / 1e6, sizes["Rss"] * 1024 / 1e6


def _large_list(folder: Path) -> None:
    """Write the indexes of a large corpus, and read and plan it in a process of its own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = []
    for shard in range(2000):
        offset, entries = 1024, []
        for number in range(550):
            speaker = int(rng.integers(5994))
            size = int(rng.integers(64000, 500000))
            key = f"id{speaker:05d}/{shard:06d}-video/{number:05d}.wav"
            entries.append(
                Entry(key, f"id{speaker:05d}", offset, size, (size - 44) // 2, shard, RATE, 44)
            )
            offset += -(-size // 512) * 512 + 1024
        tar = folder / f"shards_{shard:09d}.tar"
        with open(tar, "wb") as stream:  # as long as the index says, but without content
            stream.truncate(offset)
        with open(sums_path(tar), "wb") as stream:
            stream.truncate(8 * -(-offset // BLOCK))
        write_index(tar, "simulation", entries)
        names.append(f"{tar}\n")
    (folder / "shard.list").write_text("".join(names))
    _alone("--plan", folder / "shard.list")


def plan_large_list(shard_list: str) -> None:
    """Load, plan and resume; print the times and the peak memory of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    utterances = load_utterances(shard_list)
    loaded = time.perf_counter()
    settings = StreamSettings(shard_list, batch_size=512, num_workers=0)
    stream = make_stream(utterances, speaker_classes(utterances), settings, 0, rank=3, world_size=8)
    next(stream.plan.batches(0))
    planned = time.perf_counter()
    middle = stream.plan.steps_per_epoch - 1
    next(stream.plan.batches(11, middle))
    resumed = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "utterances": len(utterances),
                "load_seconds": round(loaded - start, 2),
                "first_plan_seconds": round(planned - loaded, 2),
                "resume_seconds": round(resumed - planned, 2),
                "peak_mb": round(peak * 1024 / 1e6),
                "peak_mb_of_imports_alone": round(before * 1024 / 1e6),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan_large_list(sys.argv[2])
    elif sys.argv[1:2] == ["--loaders"]:
        start_and_memory(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
