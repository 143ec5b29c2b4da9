"""Speed of make_shards from m4a and WAV to FLAC, beside the conversion alone.

    python benchmarks/conversion.py [--data DIR] [--utterances 1000] [--rounds 5] [--jobs N]

Both run on the same cores with as many processes, in turn, round after round; medians count, of
the ratios those within rounds. Processor time is that of all processes.

* m4a: alone is an ffmpeg per file under xargs, which writes FLAC files, as a script would have it
* WAV: alone reads each file and encodes it with soundfile at its usual level, and writes nothing
* make_shards does that, and checks, sums, tars and indexes, synced to the disk

The corpus is synthetic and seeded, or the files of a data directory of one's own, which are mono
and which libsndfile reads; m4a files are made from it at 64 kbit/s.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus
import soundfile

from wesp_lap.audio.ffmpeg import find_ffmpeg
from wesp_lap.data.processes import in_processes
from wesp_lap.data.shards import make_shards
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.tables import write_table


def main() -> None:
    """Run everything and print the table."""
    options = _options()
    ffmpeg = find_ffmpeg()
    with tempfile.TemporaryDirectory(prefix="conversion-benchmark-", dir=options.work) as folder:
        work = Path(folder)
        source = options.data or corpus.make_corpus(
            work / "source", options.utterances, options.seconds, "wav"
        )
        print(f"{len(os.sched_getaffinity(0))} cores, {options.jobs} jobs; medians of rounds")
        _print_row("from", "by", "files/s", "x real time", "CPU ms/file", "ratio of speeds")
        waves = _copy(DataDir.load(source), work / "wav", options.utterances)
        _compare(options, work, waves, partial(_encode_all, jobs=options.jobs))
        if ffmpeg is None:
            print("no ffmpeg: m4a is left out")
            return
        coded = _copy(waves, work / "m4a", options.utterances, ffmpeg)
        _compare(options, work, coded, partial(_ffmpeg_each, ffmpeg=ffmpeg, jobs=options.jobs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--data", type=Path, help="data directory of mono files")
    parser.add_argument("--utterances", type=int, default=1000, help="files to convert, at most")
    parser.add_argument("--seconds", type=float, default=8.0, help="mean length when synthetic")
    parser.add_argument("--per-shard", type=int, default=100, help="utterances in one shard")
    parser.add_argument("--rounds", type=int, default=5, help="times that each candidate runs")
    parser.add_argument("--jobs", type=int, default=cores, help="processes, of each candidate")
    parser.add_argument("--work", type=Path, help="folder to write in, such as on another disk")
    return parser.parse_args()


def _copy(data: DataDir, folder: Path, utterances: int, ffmpeg: str = "") -> DataDir:
    """Write a data directory as WAV files, or with ``ffmpeg`` as m4a files."""
    (folder / "audio").mkdir(parents=True)
    files = {}
    for number, key in enumerate(data.utterances[:utterances]):
        suffix = "m4a" if ffmpeg else "wav"
        files[key] = str(folder / "audio" / f"{number:06d}.{suffix}")
        if ffmpeg:
            words = [ffmpeg, "-nostdin", "-v", "error", "-i", str(data.resolve(key))]
            subprocess.run([*words, "-c:a", "aac", "-b:a", "64k", files[key]], check=True)
        else:
            wave, rate = soundfile.read(data.resolve(key), dtype="int16")
            soundfile.write(files[key], wave, rate, subtype="PCM_16")
    write_table(folder / "wav.scp", files)
    write_table(folder / "utt2spk", {key: data.utt2spk[key] for key in files})
    return DataDir.load(folder)


def _compare(
    options: argparse.Namespace,
    work: Path,
    data: DataDir,
    alone: Callable[[Sequence[str], Path], object],
) -> None:
    paths = [str(data.resolve(key)) for key in data.utterances]
    out = work / "out"
    shards = partial(
        make_shards, data.path, out, out / "shard.list", options.per_shard, audio_format="flac"
    )
    candidates: dict[str, Callable[[], object]] = {
        "alone": lambda: alone(paths, out),
        "make_shards": lambda: shards(jobs=options.jobs),
    }
    walls: dict[str, list[float]] = {name: [] for name in candidates}
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    seconds = 0.0
    for _ in range(options.rounds):
        for name, run in candidates.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            os.sync()
            begin, used = time.perf_counter(), _processor_time()
            result = run()
            walls[name].append(time.perf_counter() - begin)
            busy[name].append(_processor_time() - used)
            if isinstance(result, dict):
                seconds = result["seconds"]
    pairs = zip(walls["alone"], walls["make_shards"], strict=True)
    ratios = [other / own for other, own in pairs]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    for name in candidates:
        wall, cpu = statistics.median(walls[name]), statistics.median(busy[name])
        figures = (
            f"{len(paths) / wall:.0f}",
            f"{seconds / wall:.0f}",
            f"{1e3 * cpu / len(paths):.2f}",
        )
        _print_row(Path(paths[0]).suffix[1:], name, *figures, "" if name == "alone" else spread)


def _processor_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _print_row(*cells: str) -> None:
    print("  ".join(f"{cell:>11}" for cell in cells), flush=True)


def _encode_all(paths: Sequence[str], out: Path, jobs: int) -> None:
    chunks = [paths[first : first + 50] for first in range(0, len(paths), 50)]
    list(in_processes(_encode, chunks, jobs))


def _encode(paths: Sequence[str]) -> None:
    for path in paths:
        wave, rate = soundfile.read(path, dtype="int16")
        soundfile.write(io.BytesIO(), wave, rate, format="FLAC", subtype="PCM_16")


def _ffmpeg_each(paths: Sequence[str], out: Path, ffmpeg: str, jobs: int) -> None:
    convert = [ffmpeg, "-nostdin", "-v", "error", "-i", "{}", "-c:a", "flac", f"{out}/{{}}.flac"]
    names = "".join(f"{Path(path).name}\0" for path in paths)
    subprocess.run(
        ["xargs", "-0", "-P", str(jobs), "-I", "{}", *convert],
        input=names.encode(),
        cwd=Path(paths[0]).parent,
        check=True,
    )


if __name__ == "__main__":
    main()
