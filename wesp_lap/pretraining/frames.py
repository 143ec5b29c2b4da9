"""Frames of whole corpora, or the labels of these frames, utterance by utterance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from wesp_lap.extraction.batches import Window, in_background, windows
from wesp_lap.extraction.loading import ExtractionSettings, Loaded, Loader
from wesp_lap.extraction.processes import CHUNK, embedding
from wesp_lap.extraction.ranks import choose_device, cores
from wesp_lap.extraction.sources import Source
from wesp_lap.pretraining.features import SAMPLE_RATE, FeatureSettings, load_features

Parts = Sequence[Sequence[int]]
_GPU_BATCH_SECONDS = 120
_GPU_THREADS = 8


class Framed(NamedTuple):
    """What came of one utterance.

    Attributes:
        row: Its row in the source.
        key: Its name.
        values: Frames (T, D) float32 or labels (T,) uint16; None when there is a problem.
        samples: Its length.
        problem: What is wrong with it.
        constant: All of its frames are the same, as those of silence are.
    """

    row: int
    key: str
    values: np.ndarray | None
    samples: int = 0
    problem: str = ""
    constant: bool = False


@dataclass(frozen=True)
class Workers:
    """Who computes: one device, or processes of one thread each on a CPU.

    Attributes:
        device: torch device; by default a GPU for an encoder when there is one.
        jobs: Processes on a CPU; 0 means one per core.
    """

    device: str | None = None
    jobs: int = 0


@contextlib.contextmanager
def framing(
    source: Source,
    settings: FeatureSettings,
    parts: Parts,
    workers: Workers,
    finish: Callable[[Tensor], np.ndarray] | None = None,
) -> Iterator[Iterator[Framed]]:
    """Give what comes of the rows of all parts, in their order; the same for any workers' number.

    Args:
        source: The utterances.
        settings: Which features.
        parts: Rows of the source.
        workers: Who computes.
        finish: Maps frames (T, D) to what is wanted; the frames themselves by default. Is sent to
            the processes.
    """
    device = "cpu" if settings.kind == "mfcc" else choose_device(workers.device)
    threads = min(_GPU_THREADS, cores()) if device != "cpu" else 0
    jobs = 1
    if device == "cpu":
        jobs = min(workers.jobs or cores(), -(-sum(map(len, parts)) // CHUNK))
    make = partial(Extractor, settings, source, device, threads, finish or as_array)
    # The processes of extraction ask no more of what they run than to be called with parts.
    with embedding(cast(Any, make), jobs, parts) as results:
        yield cast("Iterator[Framed]", results)


def as_array(frames: Tensor) -> np.ndarray:
    """Return frames as a float32 array."""
    return frames.cpu().numpy()


class Extractor:
    """Computes frames on one device.

    Args:
        settings: Which features.
        source: The utterances.
        device: torch device.
        threads: Threads that load utterances ahead of the device.
        finish: Maps frames (T, D) to what is wanted of them.
    """

    def __init__(
        self,
        settings: FeatureSettings,
        source: Source,
        device: str = "cpu",
        threads: int = 0,
        finish: Callable[[Tensor], np.ndarray] = as_array,
    ) -> None:
        self._features = load_features(settings, device)
        self._loader = Loader(source, ExtractionSettings())
        self._keys = source.keys
        self._threads = threads
        self._finish = finish
        on_cpu = self._features.device.type == "cpu"
        self._batch_samples = 0 if on_cpu else _GPU_BATCH_SECONDS * SAMPLE_RATE

    def __call__(self, parts: Parts) -> Iterator[Framed]:
        """Yield what comes of each row of each part, in their order."""

        def prepared() -> Iterator[Window]:
            return windows(self._load, parts, self._batch_samples, 0, self._threads)

        for window in in_background(prepared) if self._threads else prepared():
            yield from self._framed(window)

    def _load(self, row: int) -> Loaded:
        loaded = self._loader(row)
        least = self._features.framing.window
        if loaded.wave is not None and len(loaded.wave) < least:
            return Loaded(row, None, f"{len(loaded.wave)} samples, but a frame takes {least}")
        return loaded

    def _framed(self, window: Window) -> list[Framed]:
        found = [
            Framed(item.row, self._keys[item.row], None, problem=item.problem)
            for item in window.items
        ]
        for batch in window.batches:
            rows = zip(batch.owners, batch.lengths, self._features(batch), strict=True)
            for owner, samples, frames in rows:
                found[owner] = self._one(found[owner], samples, frames)
        return found

    def _one(self, framed: Framed, samples: int, frames: Tensor) -> Framed:
        if not bool(torch.isfinite(frames).all()):
            return framed._replace(problem="the features hold NaN or infinite numbers")
        constant = bool((frames == frames[:1]).all())
        return framed._replace(values=self._finish(frames), samples=samples, constant=constant)
