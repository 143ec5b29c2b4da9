"""Embeddings of whole utterances, from a data directory to ark/scp.

The work is done in parts of some thousand utterances. A part that is whole is kept, so that a run
that was stopped goes on with the next one, and one that met bad files repeats only their parts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wesp_lap.data.utterance import load_utterance
from wesp_lap.errors import ConfigError, DataError, WespError, problem_list
from wesp_lap.files import PathLike, Stamp
from wesp_lap.kaldi.ark import VectorWriter, read_vectors
from wesp_lap.kaldi.datadir import DataDir, locate
from wesp_lap.log import get_logger, progress
from wesp_lap.model import CONFIG_FILE, SAMPLE_RATE, WEIGHTS_FILE, SpeakerModel

_PART = 10_000  # utterances whose embeddings are kept together when a run is stopped
_CHUNK = 16  # utterances that a process is handed at a time
_PARTS_FOLDER = "parts"


class _Result(NamedTuple):
    key: str
    embedding: np.ndarray | None
    problem: str = ""


class _BadFilesError(Exception):
    """A part is not whole."""


class _Embedder:
    """A model and a data directory in one process."""

    def __init__(self, model_dir: PathLike, data: DataDir, device: str) -> None:
        self._data = data
        self._model = SpeakerModel.from_pretrained(model_dir).to(device)

    def __call__(self, key: str) -> _Result:
        try:
            data = self._data
            wave = load_utterance(data.resolve(key), data.segments.get(key), SAMPLE_RATE)
            return _Result(key, self._model.embed(torch.from_numpy(wave)).cpu().numpy())
        except DataError as error:
            return _Result(key, None, f"{key}: {error}")
        except torch.OutOfMemoryError:
            seconds = len(wave) / SAMPLE_RATE
            return _Result(key, None, f"{key}: {seconds:.0f} s do not fit the memory of the GPU")


def extract(
    model_dir: PathLike,
    data_dir: PathLike,
    out: PathLike,
    device: str | None = None,
    jobs: int = 0,
) -> int:
    """Write ``out``/xvector.{ark,scp,json}: one embedding per utterance, uncropped, one at a time.

    Embeddings that were made from the same model and audio are kept.

    Args:
        model_dir: A SpeakerModel directory.
        data_dir: A Kaldi data directory.
        out: Where the embeddings go.
        device: torch device; a GPU when there is one by default.
        jobs: Processes on a CPU, one thread each; 0 means one per core. A GPU has one process.

    Returns:
        The number of embeddings.

    Raises:
        ConfigError: torch cannot use ``device``.
        DataError: no model, or utterances that cannot be read, all of them named.
    """
    data = DataDir.load(data_dir)
    keys = data.utterances
    stamp = _stamp(Path(out), model_dir, data, keys)
    if stamp.is_fresh():
        get_logger().info("%s: up to date", out)
        return len(keys)
    device = _checked_device(device)
    jobs = (jobs or len(os.sched_getaffinity(0))) if device == "cpu" else 1
    parts = [keys[first : first + _PART] for first in range(0, len(keys), _PART)]
    embedder = functools.partial(_Embedder, model_dir, data, device)
    problems: list[str] = []
    with _embedding(embedder, min(jobs, -(-len(keys) // _CHUNK))) as embed:
        for number, part in enumerate(parts):
            folder = Path(out) / _PARTS_FOLDER / f"{number:05d}"
            what = f"embeddings of {data.path.name}, part {number + 1} of {len(parts)}"
            problems += _extract_part(
                folder, part, _stamp(folder, model_dir, data, part), what, embed
            )
    if problems:
        mend = (
            "Mend these files or take them out of the data directory; embeddings of the parts "
            "without such files are kept."
        )
        raise DataError(problem_list(f"{data.path}: no embedding possible", problems, mend))
    stamp.write(_join(Path(out), len(parts)))
    return len(keys)


def _stamp(folder: Path, model_dir: PathLike, data: DataDir, keys: Sequence[str]) -> Stamp:
    names = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    segments = repr([data.segments.get(key) for key in keys]) if data.segments else ""
    settings = {"keys": names, "segments": hashlib.sha256(segments.encode()).hexdigest()}
    model = [Path(model_dir) / CONFIG_FILE, Path(model_dir) / WEIGHTS_FILE]
    audio = [data.wav[data.recording(key)] for key in keys]
    return Stamp(folder / "done.json", settings, model, [locate(a, data.path) for a in audio])


def _extract_part(
    folder: Path,
    keys: Sequence[str],
    stamp: Stamp,
    what: str,
    embed: Callable[[Sequence[str]], Iterator[_Result]],
) -> list[str]:
    """Write the embeddings of some utterances; return what is wrong with those that have none."""
    if stamp.is_fresh():
        return []
    problems = []
    with contextlib.suppress(_BadFilesError), VectorWriter(folder / "xvector") as writer:
        for result in progress(embed(keys), what, len(keys)):
            if result.embedding is None:
                problems.append(result.problem)
            else:
                writer.write(result.key, result.embedding)
        if problems:
            raise _BadFilesError  # so that the writer leaves nothing behind
    if not problems:
        stamp.write(_outputs(folder))
    return problems


def _join(out: Path, parts: int) -> list[Path]:
    """Put the parts together as one archive and remove them."""
    with VectorWriter(out / "xvector") as writer:
        for number in range(parts):
            keys, matrix = read_vectors(out / _PARTS_FOLDER / f"{number:05d}" / "xvector.scp")
            for key, vector in zip(keys, matrix, strict=True):
                writer.write(key, vector)
    shutil.rmtree(out / _PARTS_FOLDER)
    return _outputs(out)


def _outputs(folder: Path) -> list[Path]:
    return [folder / f"xvector.{suffix}" for suffix in ("ark", "scp", "json")]


def _checked_device(device: str | None) -> str:
    """Return the device to use, a GPU when there is one by default; refuse what torch lacks."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {device}: {reason}. Give cpu, or cuda with a GPU") from error
    return device


@contextlib.contextmanager
def _embedding(
    embedder: Callable[[], _Embedder], jobs: int
) -> Iterator[Callable[[Sequence[str]], Iterator[_Result]]]:
    """Give a function from keys to results in their order, computed here or in processes."""
    here = embedder()  # with several processes, too: a model that cannot be loaded is named once
    if jobs <= 1:
        yield functools.partial(map, here)
        return
    del here
    # Spawned, since a forked process may hang in libraries that had threads. One thread each:
    # threads that share small products wait for each other more than they compute.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (embedder,)) as pool:
        try:
            yield lambda keys: pool.map(_work, keys, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise WespError(
                "an extraction process was killed, often for want of memory; run the same command "
                "again, with a smaller --nj"
            ) from error


_worker: list[_Embedder] = []


def _start_worker(embedder: Callable[[], _Embedder]) -> None:
    torch.set_num_threads(1)
    _worker.append(embedder())


def _work(key: str) -> _Result:
    return _worker[0](key)
