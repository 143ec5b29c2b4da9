"""Speed of make_shards, beside a bare loop that does the same work with the audio and no more.

    python benchmarks/packing.py [--data DIR] [--utterances 2000] [--rounds 5] [--jobs 1] [--cold]

Candidates run in turn, round after round, on the same cores; medians count, of the ratios those
within rounds. All outputs are synced
to the disk. Per utterance:

* make_shards: the whole command: finds files, checks them, writes tar, index, sums and list
* bare: reads the file, decodes and encodes it where the row does, and appends it to one file per
  shard. In rows with the check "full" it decodes what it copies; with "headers" it only copies
* tarfile: what WeSpeaker's tool does in rows that keep the bytes: read, add two members to a tar

The corpus is synthetic and seeded, or a data directory of WAV or FLAC files of one's own; then
only the rows that fit it are run. ``--cold`` drops the files from the page cache before each pass,
as with a corpus that is larger than the memory.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus
import soundfile

from wesp_lap.data.processes import in_processes
from wesp_lap.data.shards import make_shards
from wesp_lap.kaldi.datadir import DataDir

RATE = 16000
ROWS = [  # suffix of the corpus, audio_format, check
    ("wav", "keep", "full"),
    ("wav", "keep", "headers"),
    ("flac", "keep", "full"),
    ("flac", "keep", "headers"),
    ("wav", "flac", "full"),
    ("flac", "wav", "full"),
]


def main() -> None:
    """Run everything and print the table."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="packing-benchmark-", dir=options.work) as folder:
        work = Path(folder)
        print(f"{os.cpu_count()} cores, {options.jobs} jobs, cold {options.cold}; medians")
        _print_row("corpus", "format", "check", "utt/s", "x real time", "MB/s")
        data = {}
        for suffix, audio_format, check in ROWS:
            if options.data is not None:
                found = DataDir.load(options.data)
                if not next(iter(found.wav.values())).lower().endswith(suffix):
                    continue
                data[suffix] = options.data
            elif suffix not in data:
                data[suffix] = corpus.make_corpus(
                    work / suffix, options.utterances, options.seconds, suffix
                )
            _compare(options, work, data[suffix], suffix, audio_format, check)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data directory of mono 16 kHz WAV or FLAC files")
    parser.add_argument("--utterances", type=int, default=2000, help="of the synthetic corpus")
    parser.add_argument("--seconds", type=float, default=8.0, help="mean length of an utterance")
    parser.add_argument("--per-shard", type=int, default=500, help="utterances in one shard")
    parser.add_argument("--rounds", type=int, default=5, help="times that each candidate runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of each candidate")
    parser.add_argument("--cold", action="store_true", help="drop files from the cache each time")
    parser.add_argument("--work", type=Path, help="folder to write in, such as on another disk")
    return parser.parse_args()


def _compare(
    options: argparse.Namespace, work: Path, data: Path, suffix: str, audio_format: str, check: str
) -> None:
    loaded = DataDir.load(data)
    paths = [str(loaded.resolve(key)) for key in loaded.utterances]
    chunks = [
        paths[first : first + options.per_shard]
        for first in range(0, len(paths), options.per_shard)
    ]
    target = suffix if audio_format == "keep" else audio_format
    copies = audio_format == "keep"
    out = work / "out"
    candidates: dict[str, Callable[[], object]] = {
        "make_shards": lambda: make_shards(
            data,
            out,
            out / "shard.list",
            options.per_shard,
            audio_format=audio_format,
            jobs=options.jobs,
            check=check,
        ),
        "bare": lambda: list(
            in_processes(
                partial(_bare, out=out, target=target, copies=copies, check=check),
                list(enumerate(chunks)),
                options.jobs,
            )
        ),
    }
    if copies:
        candidates["tarfile"] = lambda: list(
            in_processes(partial(_tarfile, out=out), list(enumerate(chunks)), options.jobs)
        )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, run in candidates.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            os.sync()
            if options.cold:
                _drop(paths)
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    _print_times(suffix, audio_format, check, paths, times)


def _print_times(
    suffix: str, audio_format: str, check: str, paths: list[str], times: dict[str, list[float]]
) -> None:
    seconds = sum(soundfile.info(path).duration for path in paths)
    size = sum(os.path.getsize(path) for path in paths)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["make_shards"]
    figures = [f"{len(paths) / ours:.0f}", f"{seconds / ours:.0f}", f"{size / ours / 1e6:.0f}"]
    others = []
    for name in [name for name in medians if name != "make_shards"]:
        pairs = zip(times[name], times["make_shards"], strict=True)
        ratio = statistics.median(other / own for other, own in pairs)
        others.append(f"{name} {len(paths) / medians[name]:.0f} utt/s, ratio {ratio:.2f}")
    _print_row(suffix, audio_format, check, *figures, "; ".join(others))


def _print_row(*cells: str) -> None:
    print("  ".join(f"{cell:>11}" for cell in cells), flush=True)


def _drop(paths: Sequence[str]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _bare(chunk: tuple[int, list[str]], out: Path, target: str, copies: bool, check: str) -> None:
    number, paths = chunk
    with open(out / f"{number}.bin", "wb") as stream:
        for path in paths:
            with open(path, "rb") as source:
                content = source.read()
            if not copies or check == "full":
                wave, _ = soundfile.read(io.BytesIO(content), dtype="int16")
            if not copies:
                buffer = io.BytesIO()
                soundfile.write(buffer, wave, RATE, format=target.upper(), subtype="PCM_16")
                content = buffer.getvalue()
            stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _tarfile(chunk: tuple[int, list[str]], out: Path) -> None:
    number, paths = chunk
    with open(out / f"{number}.tar", "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for path in paths:
                with open(path, "rb") as source:
                    content = source.read()
                for suffix, member in ((".spk", b"speaker"), (Path(path).suffix, content)):
                    header = tarfile.TarInfo(path[1:] + suffix)
                    header.size = len(member)
                    tar.addfile(header, io.BytesIO(member))
        stream.flush()
        os.fsync(stream.fileno())


if __name__ == "__main__":
    main()
