"""Speed and memory of PLDA, beside a plain reference and, when a checkout is given, WeSpeaker's.

    python benchmarks/plda.py [--wespeaker DIR] [--utterances 20000] [--speakers 1000] [--rounds 3]

Two jobs, from files to files: training (embeddings and utt2spk to a model), and scoring a trial
list. Candidates run in turn, round after round, each in a process of its own with OMP_NUM_THREADS
threads (1 when it is not set); medians of wall and CPU time without imports, and the peak memory of
the process, are printed. Candidates:

* wesp_lap: train_plda and score_plda without a chain, as the commands call them
* plain: our files, but EM with matrix inverses for every speaker and a loop over the trials
* wespeaker: its TwoCovPLDA

All of them do the same five iterations from identity matrices; their models are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from wesp_lap.kaldi.ark import VectorWriter, read_vectors
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials, write_trials
from wesp_lap.scoring.lists import TrialFiles
from wesp_lap.scoring.plda_backend import PldaBackend
from wesp_lap.scoring.plda_lists import score_plda_lists, train_plda_files

ITERATIONS = 5


def main() -> None:
    """Make the data, run everything and print the table."""
    options = _options()
    if options.child:
        _child(*options.child, options.wespeaker)
        return
    with tempfile.TemporaryDirectory(prefix="plda-benchmark-") as folder:
        work = Path(folder)
        _make_data(work, options)
        names = ["wesp_lap", "plain"] + (["wespeaker"] if options.wespeaker else [])
        print(f"{options.utterances} x {options.dim}, {options.speakers} speakers; {ITERATIONS} EM")
        print(f"{options.trials} trials of {options.test_utterances} embeddings")
        for job in ("train", "score"):
            results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    results[name].append(_run(job, name, work, options.wespeaker))
            for name, runs in results.items():
                wall, cpu = (statistics.median(run[key] for run in runs) for key in ("wall", "cpu"))
                peak = max(run["peak_mib"] for run in runs)
                print(f"{job:6} {name:10} {wall:8.2f} s  CPU {cpu:8.2f} s  peak {peak:6.0f} MiB")
        _compare(work, names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wespeaker", type=Path, help="a WeSpeaker checkout")
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--speakers", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--test_utterances", type=int, default=20_000)
    parser.add_argument("--trials", type=int, default=579_818)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_data(work: Path, options: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(options.dim, options.dim)) / np.sqrt(options.dim)
    spread = np.linspace(2, 0.2, options.dim)
    for name, count in (("train", options.utterances), ("test", options.test_utterances)):
        voices = random.normal(size=(options.speakers, options.dim)) * spread
        codes = random.integers(options.speakers, size=count)
        codes[: options.speakers] = np.arange(options.speakers)  # everybody has an utterance
        with VectorWriter(work / name) as writer:
            for number, code in enumerate(codes.tolist()):
                vector = (voices[code] + random.normal(size=options.dim)) @ mixing
                writer.write(f"{name}{number:07d}", vector)
        lines = (f"{name}{number:07d} s{code:05d}\n" for number, code in enumerate(codes.tolist()))
        (work / f"{name}.utt2spk").write_text("".join(lines))
        keys = [f"{name}{number:07d}" for number in range(count)]
        (work / f"{name}.utt2utt").write_text("".join(f"{key} {key}\n" for key in keys))
    rows = random.integers(options.test_utterances, size=(2, options.trials))
    labels = (codes[rows[0]] == codes[rows[1]]).astype(np.int8)
    sides = [[keys[row] for row in side] for side in rows.tolist()]
    write_trials(work / "trials", Trials(*sides, labels))


def _run(job: str, name: str, work: Path, checkout: Path | None) -> dict[str, float]:
    words = [sys.executable, __file__, "--child", job, name, str(work)]
    words += ["--wespeaker", str(checkout)] if checkout else []
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{job} {name}: {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(job: str, name: str, folder: str, checkout: Path | None) -> None:
    work = Path(folder)
    peer = _wespeaker(checkout) if name == "wespeaker" and checkout else None
    begin, cpu = time.perf_counter(), time.process_time()
    if peer is not None:
        _peer_job(peer, job, work)
    else:
        {"wesp_lap": _own_job, "plain": _plain_job}[name](job, work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    print(json.dumps({**times, "peak_mib": peak}))


def _own_job(job: str, work: Path) -> None:
    if job == "train":
        scp, utt2spk = work / "train.scp", work / "train.utt2spk"
        train_plda_files(scp, utt2spk, work / "own", "none", ITERATIONS, "identity")
    else:
        backend = PldaBackend.load(work / "own")
        score_plda_lists([work / "trials"], backend, TrialFiles(work / "test.scp"), work)


def _plain_job(job: str, work: Path) -> None:
    if job == "train":
        keys, matrix = read_vectors(work / "train.scp")
        utt2spk = read_table(work / "train.utt2spk")
        codes = np.unique([utt2spk[key] for key in keys], return_inverse=True)[1]
        mean, transform, psi = _plain_em(matrix.astype(np.float64), codes)
        np.savez(work / "plain.npz", mean=mean, transform=transform, psi=psi)
        return
    model = np.load(work / "plain.npz")
    trials = read_trials(work / "trials")
    keys, matrix = read_vectors(work / "test.scp")
    projected = (matrix - model["mean"]) @ model["transform"].T
    vectors = dict(zip(keys, projected, strict=True))
    psi = model["psi"]
    share, given, free = psi / (psi + 1), 1 + psi / (psi + 1), 1 + psi
    constant = 0.5 * (np.log(free) - np.log(given)).sum()
    scores = np.empty(len(trials))
    for number, (one, other) in enumerate(zip(trials.enroll, trials.test, strict=True)):
        test = vectors[other]
        apart = test - share * vectors[one]
        scores[number] = constant + 0.5 * (test @ (test / free) - apart @ (apart / given))
    write_scores(work / "plain.score", trials, scores)


def _plain_em(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dim = vectors.shape[1]
    order = np.argsort(codes, kind="stable")
    groups = np.split(vectors[order], np.flatnonzero(np.diff(codes[order])) + 1)
    means = np.stack([group.mean(axis=0) for group in groups])
    scatter = sum((g - m).T @ (g - m) for g, m in zip(groups, means, strict=True))
    mean = means.mean(axis=0)
    between, within = np.eye(dim), np.eye(dim)
    for _ in range(ITERATIONS):
        b_inverse, w_inverse = np.linalg.inv(between), np.linalg.inv(within)
        b_sum, w_sum = np.zeros((dim, dim)), np.array(scatter)
        for group, own in zip(groups, means - mean, strict=True):
            count = len(group)
            mixed = np.linalg.inv(b_inverse + count * w_inverse)
            known = mixed @ (count * (w_inverse @ own))
            b_sum += mixed + np.outer(known, known)
            w_sum += count * (mixed + np.outer(own - known, own - known))
        between, within = b_sum / len(groups), w_sum / len(vectors)
    root = np.linalg.inv(np.linalg.cholesky(within))
    psi, turn = np.linalg.eigh(root @ between @ root.T)
    return mean, turn[:, ::-1].T @ root, np.maximum(psi[::-1], 0)


def _wespeaker(checkout: Path) -> Any:
    """Import its PLDA without the rest; kaldi_io and h5py are for formats not used here."""
    package = types.ModuleType("wespeaker")
    package.__path__ = [str(checkout / "wespeaker")]
    sys.modules["wespeaker"] = package
    reader = types.ModuleType("kaldi_io")
    inner = types.ModuleType("kaldi_io.kaldi_io")
    for name in ("open_or_fd", "BadSampleSize", "UnknownMatrixHeader"):
        setattr(reader, name, Exception)
    for name in ("_read_compressed_mat", "_read_mat_ascii"):
        setattr(inner, name, None)
    sys.modules.update({"kaldi_io": reader, "kaldi_io.kaldi_io": inner})
    sys.modules.setdefault("h5py", types.ModuleType("h5py"))
    from wespeaker.utils.plda.two_cov_plda import TwoCovPLDA

    return TwoCovPLDA


def _peer_job(peer: Any, job: str, work: Path) -> None:
    if job == "train":
        scp, utt2spk = str(work / "train.scp"), str(work / "train.utt2spk")
        dim = read_vectors(work / "test.scp")[1].shape[1]
        model = peer(scp, utt2spk, dim)
        model.train(ITERATIONS)
        np.savez(work / "peer.npz", mean=model.mu, transform=model.transform, psi=model.psi)
        return
    arrays = np.load(work / "peer.npz")
    model = peer(embed_dim=len(arrays["mean"]))
    model.mu, model.transform, model.psi = (arrays[n] for n in ("mean", "transform", "psi"))
    model.offset = -model.transform @ model.mu
    scp, names = str(work / "test.scp"), str(work / "test.utt2utt")
    model.eval_sv(scp, names, scp, str(work / "trials"), str(work / "peer.score"))


def _compare(work: Path, names: list[str]) -> None:
    _, own = read_scores(work / "trials.plda.score")
    for name, file in (("plain", "plain.score"), ("wespeaker", "peer.score")):
        if name in names:
            _, scores = read_scores(work / file)
            print(f"largest difference of a score to {name}: {np.abs(scores - own).max():.1e}")
            print(f"scores lie between {own.min():.1f} and {own.max():.1f}")


if __name__ == "__main__":
    main()
