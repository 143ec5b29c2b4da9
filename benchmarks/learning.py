"""How well backends learn: error rates on real speech over several seeds, all else equal.

    python benchmarks/learning.py --train DIR --eval DIR --trials LIST --out DIR
        [--musan DIR --rirs DIR] [--start_from MODEL] [--phases frozen,joint] [--joint_epochs 8]
        [--max_lr 1e-3] [--backends lap_astp,mhfa] [--seeds 1,2,3]

DIR are Kaldi data directories. Every backend is trained with the small frontend and the phases of
egs/mini/conf/mini.yaml. The frontend starts with random weights or, with --start_from, with those
of a SpeakerModel directory, so that backends are compared as they are used, on a frontend that has
learnt something. Seeds change initial weights, crops, augmentation and dropout. Scores are cosines
after the mean of the training set is subtracted. Printed are, for each backend, the EER of each
seed with its 95 % interval over the speakers of the list, and mean and 95 % interval (Student's t)
over the seeds.

A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.stats

from wesp_lap.model import SpeakerModel

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = {
    "lap_astp": {"heads": 4, "pooled_dim": 128},
    "superb_astp": {},
    "mhfa": {"heads": 8, "compressed_dim": 64},
    "ecapa_tdnn": {"channels": 128},
}
EMBED_DIM = 128


def main() -> None:
    """Train, extract and score everything, then print the table."""
    options = _options()
    out = Path(options.out)
    _prepare(options, out)
    rates: dict[str, list[dict]] = {}
    for seed in options.seeds:
        for backend in options.backends:
            folder = out / f"{backend}_{seed}"
            result = _run(options, out, folder, backend, seed)
            rates.setdefault(backend, []).append(result)
            print(f"# {backend} seed {seed}: {_interval(result)}", file=sys.stderr, flush=True)
    start = f"frontend of {options.start_from}" if options.start_from else "random frontend"
    print(f"EER % on {options.trials}; {start}; joint phase of {options.joint_epochs} epochs\n")
    seeds = "".join(f"{f'seed {seed}':>20}" for seed in options.seeds)
    print(f"{'backend':14}{'parameters':>12}{'train s':>9}{seeds}{'mean over seeds':>24}")
    for backend, results in rates.items():
        seconds = np.mean([result["train_seconds"] for result in results])
        row = "".join(f"{_interval(result):>20}" for result in results)
        print(
            f"{backend:14}{results[0]['parameters']:>12,}{seconds:>9.0f}{row}"
            f"{_mean([result['eer'] for result in results]):>24}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("train", "eval", "trials", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--musan")
    parser.add_argument("--rirs")
    parser.add_argument("--backends", type=lambda text: text.split(","), default=list(BACKENDS))
    parser.add_argument(
        "--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--start_from", help="SpeakerModel directory whose frontend all start with")
    parser.add_argument("--phases", type=lambda text: text.split(","), default=["frozen", "joint"])
    parser.add_argument("--joint_epochs", type=int, default=8)
    parser.add_argument("--max_lr", type=float, default=1e-3, help="peak of the joint phase")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    unknown = set(options.backends) - BACKENDS.keys()
    if unknown:
        parser.error(f"no settings for {', '.join(sorted(unknown))}; known: {', '.join(BACKENDS)}")
    if bool(options.musan) != bool(options.rirs):
        parser.error("give --musan and --rirs together, or none of them")
    return options


def _prepare(options: argparse.Namespace, out: Path) -> None:
    for name in ("train", "eval"):
        _command("prepare_data", "--src", getattr(options, name), "--out", out / "data" / name)
    shards = out / "shards"
    _command(
        *("make_shards", "--data", out / "data/train", "--out", shards),
        *("--list", shards / "shard.list", "--utterances_per_shard", 200),
    )
    if options.musan:
        noises = ("--musan", options.musan, "--rirs", options.rirs)
        _command("make_noise_bank", "--out", out / "noise_bank", *noises)
    if options.start_from:
        model = SpeakerModel.from_pretrained(options.start_from)
        model.frontend.model.save_pretrained(out / "frontend")


def _run(
    options: argparse.Namespace, out: Path, folder: Path, backend: str, seed: int
) -> dict[str, float]:
    """Train a backend with a seed, and return what is known of it."""
    done = folder / "result.json"
    if not done.exists():
        seconds = _train(options, out, folder, backend, seed)
        result = {"train_seconds": seconds, **_evaluate(options, out, folder)}
        done.write_text(json.dumps(result))
    return json.loads(done.read_text())


def _train(options: argparse.Namespace, out: Path, folder: Path, backend: str, seed: int) -> float:
    words: list[object] = ["--data.shards", out / "shards/shard.list", "--backend.name", backend]
    for key, value in {**BACKENDS[backend], "embed_dim": EMBED_DIM}.items():
        words += [f"--backend.{key}", value]
    if options.musan:
        words += ["--data.noise_bank", out / "noise_bank"]
    else:
        words += ["--data.augment.noise_prob", 0]
    if options.start_from:
        words += ["--frontend.config", "null", "--frontend.weights", out / "frontend"]
    started = time.perf_counter()
    for number, phase in enumerate(options.phases):
        more: list[object] = ["--seed", 100 * seed + number]
        if number:
            more += ["--init_from", folder / options.phases[number - 1]]
        if phase == "joint":
            more += ["--training.epochs", options.joint_epochs]
            more += ["--margin.ramp_epochs", options.joint_epochs / 2]
            more += ["--lr_schedule.max_lr", options.max_lr]
        settings = ("--config", ROOT / "egs/mini/conf/mini.yaml", "--phase", phase)
        _command(
            *("train", *settings, "--exp_dir", folder / phase, *words, *more),
            threads=options.threads,
        )
    return time.perf_counter() - started


def _evaluate(options: argparse.Namespace, out: Path, folder: Path) -> dict[str, object]:
    model = folder / "model"
    _command("average_model", "--exp_dir", folder / options.phases[-1], "--out", model, "--num", 2)
    for name in ("train", "eval"):
        words = ("--model", model, "--data", out / "data" / name, "--nj", options.threads)
        _command("extract", *words, "--out", folder / name)
    _command(
        *("score", "--trials", options.trials, "--enroll_scp", folder / "eval/xvector.scp"),
        *("--mean_scp", folder / "train/xvector.scp", "--out_dir", folder / "scores"),
    )
    scores = folder / "scores" / f"{Path(options.trials).name}.score"
    speakers = ("--utt2spk", out / "data/eval/utt2spk")
    text = _command("compute_metrics", scores, "--bootstrap", 1000, *speakers, "--json")
    (metrics,) = json.loads(text).values()
    low, high = metrics["eer_percent_interval"]
    eer = metrics["eer_percent"]
    return {"eer": eer, "low": low, "high": high, "parameters": _parameters(model)}


def _parameters(model: Path) -> int:
    """Return the size of the backend alone."""
    backend = SpeakerModel.from_pretrained(model).backend
    return sum(parameter.numel() for parameter in backend.parameters())


def _command(name: str, *words: object, threads: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"wesp_lap.bin.{name}", *map(str, words)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin take the core from each other
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _interval(result: dict) -> str:
    return f"{result['eer']:.2f} ({result['low']:.1f}-{result['high']:.1f})"


def _mean(rates: list[float]) -> str:
    mean = float(np.mean(rates))
    if len(rates) < 2:
        return f"{mean:.2f}"
    error = scipy.stats.sem(rates) * scipy.stats.t.ppf(0.975, len(rates) - 1)
    return f"{mean:.2f} ({mean - error:.2f}-{mean + error:.2f})"


if __name__ == "__main__":
    main()
