"""Embeddings of whole utterances, from a data directory to ark/scp."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wesp_lap.data.utterance import load_utterance
from wesp_lap.errors import ConfigError, DataError, problem_list
from wesp_lap.files import PathLike, Stamp
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.log import get_logger, progress
from wesp_lap.model import CONFIG_FILE, SAMPLE_RATE, WEIGHTS_FILE, SpeakerModel

_CHUNK = 16  # utterances that a process is handed at a time


class _Result(NamedTuple):
    key: str
    embedding: np.ndarray | None
    problem: str = ""


class _Embedder:
    """A model and a data directory in one process."""

    def __init__(self, model_dir: PathLike, data_dir: PathLike, device: str) -> None:
        self._data = DataDir.load(data_dir)
        self._model = SpeakerModel.from_pretrained(model_dir).to(device)

    def __call__(self, key: str) -> _Result:
        try:
            data = self._data
            wave = load_utterance(data.resolve(key), data.segments.get(key), SAMPLE_RATE)
            return _Result(key, self._model.embed(torch.from_numpy(wave)).cpu().numpy())
        except DataError as error:
            return _Result(key, None, f"{key}: {error}")


def extract(
    model_dir: PathLike,
    data_dir: PathLike,
    out: PathLike,
    device: str | None = None,
    jobs: int = 0,
) -> int:
    """Write ``out``/xvector.{ark,scp,json}: one embedding per utterance, uncropped, one at a time.

    Embeddings that were made from the same model and data are kept.

    Args:
        model_dir: A SpeakerModel directory.
        data_dir: A Kaldi data directory.
        out: Where the embeddings go.
        device: torch device; a GPU when there is one by default.
        jobs: Processes on a CPU, one thread each; 0 means one per core. A GPU has one process.

    Returns:
        The number of embeddings.

    Raises:
        ConfigError: torch has no such device.
        DataError: utterances that cannot be read, all of them named; nothing is written then.
    """
    data = DataDir.load(data_dir)
    stamp = Stamp(Path(out) / "done.json", {"data": str(data.path)}, _inputs(model_dir, data))
    if stamp.is_fresh():
        get_logger().info("%s: up to date", out)
        return len(data.utterances)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    embedder = functools.partial(_Embedder, model_dir, data_dir, device)
    jobs = (jobs or os.cpu_count() or 1) if device == "cpu" else 1
    results = _embed(embedder, data.utterances, jobs)
    problems: list[str] = []
    prefix = Path(out) / "xvector"
    with VectorWriter(prefix) as writer:
        what = f"embeddings of {data.path.name}"
        for result in progress(results, what, len(data.utterances)):
            if result.embedding is None:
                problems.append(result.problem)
            elif not problems:
                writer.write(result.key, result.embedding)
        if problems:
            mend = "Mend these files or take them out of the data directory."
            raise DataError(problem_list(f"{data.path}: no embedding possible", problems, mend))
    stamp.write([prefix.with_suffix(suffix) for suffix in (".ark", ".scp", ".json")])
    return len(data.utterances)


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {device}: {reason}. Give cpu, or cuda with a GPU") from error


def _inputs(model_dir: PathLike, data: DataDir) -> list[Path]:
    tables = [data.path / name for name in ("wav.scp", "utt2spk", "segments")]
    return [Path(model_dir) / CONFIG_FILE, Path(model_dir) / WEIGHTS_FILE, *tables]


def _embed(embedder: Callable[[], _Embedder], keys: Sequence[str], jobs: int) -> Iterator[_Result]:
    """Yield the results in the order of ``keys``, computed here or in ``jobs`` processes."""
    jobs = min(jobs, -(-len(keys) // _CHUNK))
    if jobs <= 1:
        yield from map(embedder(), keys)
        return
    # Spawned, since a forked process may hang in libraries that had threads. One thread each:
    # threads that share small products wait for each other more than they compute.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _start_worker, (embedder,)) as pool:
        yield from pool.imap(_work, keys, chunksize=_CHUNK)


_worker: list[_Embedder] = []


def _start_worker(embedder: Callable[[], _Embedder]) -> None:
    torch.set_num_threads(1)
    _worker.append(embedder())


def _work(key: str) -> _Result:
    return _worker[0](key)
