"""Rows of a source to embeddings, on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wesp_lap.extraction.batches import Batch, Window, in_background, windows
from wesp_lap.extraction.loading import ExtractionSettings, Loader
from wesp_lap.extraction.sources import Source
from wesp_lap.files import PathLike
from wesp_lap.model import SAMPLE_RATE, SpeakerModel

_GPU_BATCH_SECONDS = 120.0


class Result(NamedTuple):
    """The embedding of one utterance, or what is wrong with it."""

    key: str
    embedding: np.ndarray | None
    problem: str = ""
    chunks: int = 1
    short: int = 0
    """Samples of an utterance that was repeated, since the model needs more; else 0."""


class Embedder:
    """A model on a device, and where its utterances come from.

    Args:
        model_dir: A SpeakerModel directory.
        source: The utterances.
        settings: How to extract.
        device: torch device.
        threads: Threads that load utterances ahead of the device.

    Attributes:
        samples: Samples that went through the model so far, with and without padding.
    """

    def __init__(
        self,
        model_dir: PathLike,
        source: Source,
        settings: ExtractionSettings,
        device: str,
        threads: int = 0,
    ) -> None:
        self._keys = source.keys
        self._load = Loader(source, settings)
        self._device = torch.device(device)
        self._threads = threads
        seconds = settings.batch_seconds
        if seconds is None:
            seconds = _GPU_BATCH_SECONDS if self._device.type == "cuda" else 0.0
        self._batch_samples = round(seconds * SAMPLE_RATE)
        self._chunk_samples = round(settings.chunk_seconds * SAMPLE_RATE)
        self._model = SpeakerModel.from_pretrained(model_dir).to(self._device)
        self.samples = [0, 0]

    def __call__(self, parts: Sequence[Sequence[int]]) -> Iterator[Result]:
        """Yield a result for each row of each part, in their order."""

        def prepared() -> Iterator[Window]:
            sizes = self._batch_samples, self._chunk_samples
            return windows(self._load, parts, *sizes, self._threads)

        for window in in_background(prepared) if self._threads else prepared():
            yield from self._results(window)

    def _results(self, window: Window) -> Iterator[Result]:
        problems = {place: item.problem for place, item in enumerate(window.items) if item.problem}
        done = [pair for batch in window.batches for pair in self._embed(batch, problems)]
        sums = np.zeros((len(window.items), self._model.embed_dim), np.float32)
        counts = np.zeros(len(window.items), np.int64)
        short = {
            owner: length
            for batch in window.batches
            for owner, length in zip(batch.owners, batch.lengths, strict=True)
            if length < self._model.min_samples
        }
        if done:
            owners = [owner for batch_owners, _ in done for owner in batch_owners]
            # Read back together: while the device works on a batch, the next one is sent.
            np.add.at(sums, owners, torch.cat([rows for _, rows in done]).cpu().numpy())
            np.add.at(counts, owners, 1)
        for place, item in enumerate(window.items):
            key = self._keys[item.row]
            if place in problems:
                yield Result(key, None, problems[place])
                continue
            embedding = sums[place] / np.float32(counts[place])
            fault = _fault(embedding)
            chunks = int(counts[place])
            yield Result(key, None if fault else embedding, fault, chunks, short.get(place, 0))

    def _embed(self, batch: Batch, problems: dict[int, str]) -> list[tuple[list[int], Tensor]]:
        """Return owners and embeddings; with less than all rows at once if memory does not do."""
        waves = torch.from_numpy(batch.waves)
        if self._device.type == "cuda":
            waves = waves.pin_memory()
        try:
            embeddings = self._model.embed(waves, batch.lengths)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        else:
            self.samples[0] += batch.waves.size
            self.samples[1] += sum(batch.lengths)
            return [(batch.owners, embeddings)]
        # Not in the handler, where the traceback would keep the tensors.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch.owners) > 1:
            return [pair for half in batch.halves() for pair in self._embed(half, problems)]
        problems[batch.owners[0]] = (
            f"{batch.lengths[0] / SAMPLE_RATE:.0f} s at once do not fit the memory; embed it in "
            "chunks, for example with --chunk_seconds 60"
        )
        return []


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU torch has no type of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fault(embedding: np.ndarray) -> str:
    if not np.isfinite(embedding).all():
        return "the embedding holds NaN or infinite numbers"
    if not embedding.any():
        return "the embedding is zero"
    return ""
