"""Embeddings by key: read, look up, centre, average over speakers.

Numbers are stored as float32; lengths, means and sums over utterances are computed in float64.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.vector_table import VectorTable
from wesp_lap.log import get_logger

_BLOCK_ROWS = 8192


class Block(NamedTuple):
    """Some embeddings of a set: their m rows in it, and float32 (m, E)."""

    rows: np.ndarray
    vectors: np.ndarray


class EmbeddingSource(abc.ABC):
    """A set of embeddings that is met block by block.

    Attributes:
        keys: n distinct names.
        source: what error messages call this set, usually the file it came from.
    """

    keys: list[str]
    source: str

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Width E of the embeddings."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all embeddings, in blocks of bounded size and any order."""

    def mean(self) -> np.ndarray:
        """Return the mean over all embeddings, (E,) float32, summed in float64."""
        total = np.zeros(self.dim)
        for _, vectors in self.blocks():
            total += vectors.sum(axis=0, dtype=np.float64)
        return (total / len(self.keys)).astype(np.float32)

    def unit_blocks(self, mean: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield all embeddings less ``mean``, scaled to unit length; errors as ``unit``."""
        for rows, vectors in self.blocks():
            yield self._centred(vectors, mean, rows)[0]

    def speaker_means(self, utt2spk: Mapping[str, str]) -> Embeddings:
        """Average the raw embeddings of every speaker; speakers come out sorted.

        Raises:
            DataError: an embedding has no speaker in ``utt2spk``.
        """
        self._check_speakers(utt2spk)
        speakers = sorted({utt2spk[key] for key in self.keys})
        number = {speaker: code for code, speaker in enumerate(speakers)}
        codes = np.fromiter((number[utt2spk[key]] for key in self.keys), np.intp, len(self.keys))
        sums = np.zeros((len(speakers), self.dim))
        for rows, vectors in self.blocks():
            order = np.argsort(codes[rows], kind="stable")
            found, starts = np.unique(codes[rows][order], return_index=True)
            sums[found] += np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
        means = sums / np.bincount(codes)[:, None]
        return Embeddings(speakers, means.astype(np.float32), f"speaker means of {self.source}")

    def _check_speakers(self, utt2spk: Mapping[str, str]) -> None:
        missing = [key for key in self.keys if key not in utt2spk]
        if missing:
            raise DataError(
                f"{self.source}: no speaker known for {len(missing)} of {len(self.keys)} "
                f"utterances: {_first(missing)}\nGive the utt2spk of this set."
            )
        if len(utt2spk) > len(self.keys):
            get_logger().warning(
                "%s: %d of the %d utterances in utt2spk have no embedding; speaker means are "
                "taken without them",
                self.source,
                len(utt2spk) - len(self.keys),
                len(utt2spk),
            )

    def _centred(
        self, vectors: np.ndarray, mean: np.ndarray | None, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return unit vectors (m, E) and lengths (m,), float32, of the embeddings ``rows``."""
        unit = np.array(vectors, np.float32)
        if mean is not None:
            if mean.shape != (self.dim,):
                raise DataError(
                    f"{self.source}: embeddings have {self.dim} dimensions, the mean has "
                    f"{mean.shape[-1]}; both must come from the same model"
                )
            unit -= mean.astype(np.float32)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", unit, unit, dtype=np.float64)).astype(np.float32)
        bad = ~((norms > 0) & np.isfinite(norms))
        if bad.any():
            names = [self.keys[row] for row in rows[bad]]
            raise DataError(
                f"{self.source}: {len(names)} embeddings have no direction, since they equal the "
                f"mean that is subtracted or are beyond float32: {_first(names)}\n"
                "Take the mean over more utterances, or extract these again."
            )
        unit /= norms[:, None]
        return unit, norms


class EmbeddingFile(EmbeddingSource):
    """The embeddings of an scp table, of which only a block is in memory at a time.

    Raises:
        DataError: at once for what is wrong with the table; at the end of ``blocks`` for records
            that are broken, not finite, or all zero (which has no direction), all of them named.
    """

    def __init__(self, scp: PathLike) -> None:
        self._table = VectorTable(scp)
        self.keys = self._table.keys
        self.source = str(scp)

    @property
    def dim(self) -> int:
        """Width E of the embeddings."""
        return self._table.dim

    def blocks(self) -> Iterator[Block]:
        """Yield all embeddings in the order in which they lie in their archives."""
        problems = []
        for rows, vectors in self._table.blocks():
            norms = _norms(vectors)
            bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
            problems += [
                f"{self.keys[rows[i]]}: {'zero' if norms[i] == 0 else 'NaN or Inf'}" for i in bad
            ]
            yield Block(rows, vectors)
        raise_problems(
            f"{self.source}: unusable embeddings",
            problems,
            "Extract these utterances again; silent audio or a diverged model makes them.",
        )

    def read(self) -> Embeddings:
        """Return all embeddings, in the order of the table."""
        matrix = np.empty((len(self.keys), self.dim), np.float32)
        for rows, vectors in self.blocks():
            matrix[rows] = vectors
        return Embeddings(self.keys, matrix, self.source)


@dataclass
class Embeddings(EmbeddingSource):
    """Embeddings of utterances, speakers or enrolment models, in memory.

    Attributes:
        keys: n distinct names.
        matrix: (n, E) float32; row i belongs to ``keys[i]``.
        source: what error messages call this set, usually the file it came from.
    """

    keys: list[str]
    matrix: np.ndarray
    source: str = "embeddings"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.keys):
            raise DataError(
                f"{self.source}: {len(self.keys)} keys do not fit a matrix of shape "
                f"{self.matrix.shape}"
            )
        if not self.keys:
            raise DataError(f"{self.source}: no embeddings")

    @classmethod
    def read(cls, scp: PathLike) -> Embeddings:
        """Read an scp table; errors as ``EmbeddingFile``."""
        return EmbeddingFile(scp).read()

    @property
    def dim(self) -> int:
        """Width E of the embeddings."""
        return self.matrix.shape[1]

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of every key; a key that comes twice is a DataError."""
        index = {key: row for row, key in enumerate(self.keys)}
        if len(index) != len(self.keys):
            repeated = [key for row, key in enumerate(self.keys) if index[key] != row]
            raise_problems(f"{self.source}: keys given twice", sorted(set(repeated)))
        return index

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the rows of ``keys``, (len(keys),) integers.

        Raises:
            DataError: keys without an embedding; the message counts them and names five.
        """
        index = self.index
        try:
            return np.fromiter(map(index.__getitem__, keys), np.intp, len(keys))
        except KeyError:
            missing = list(dict.fromkeys(key for key in keys if key not in index))
        raise DataError(
            f"{self.source}: no embedding for {len(missing)} of {len(set(keys))} names: "
            f"{_first(missing)}\nExtract embeddings for them, or take them out of the list."
        )

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order."""
        for start in range(0, len(self.keys), _BLOCK_ROWS):
            vectors = self.matrix[start : start + _BLOCK_ROWS]
            yield Block(np.arange(start, start + len(vectors)), vectors)

    def norms(self) -> np.ndarray:
        """Return the L2 norm of every row, (n,) float64."""
        return _norms(self.matrix)

    def unit(
        self, mean: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Subtract ``mean`` and scale to unit length.

        Args:
            mean: (E,), or None to subtract nothing.
            rows: the rows wanted, (m,); all n when None.

        Returns:
            (m, E) float32 of unit length, and the lengths before scaling, (m,) float32.

        Raises:
            DataError: ``mean`` has another width, or an embedding equals the mean.
        """
        if rows is None:
            rows = np.arange(len(self.keys))
        unit = np.empty((len(rows), self.dim), np.float32)
        norms = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            vectors = self.matrix[rows[block]]
            unit[block], norms[block] = self._centred(vectors, mean, rows[block])
        return unit, norms


def enrolment_models(
    embeddings: Embeddings, utterances: Mapping[str, Sequence[str]], mean: np.ndarray | None
) -> Embeddings:
    """Make one embedding per model from several utterances.

    The direction of a model is the mean of the length-normalised embeddings (after ``mean`` was
    subtracted), so that every utterance has the same weight. Its length is their average length
    times the length of that mean of unit vectors. ``mean`` is added back: a model is used like an
    utterance.

    Args:
        embeddings: utterances, n rows.
        utterances: utterance keys of every model.
        mean: (E,), or None.

    Returns:
        The models in sorted order.
    """
    models = sorted(utterances)
    rows = embeddings.rows([key for model in models for key in utterances[model]])
    counts = np.array([len(utterances[model]) for model in models])
    empty = [model for model, count in zip(models, counts, strict=True) if count == 0]
    raise_problems("models without an utterance", empty, "Give every model an utterance.")
    unit, norms = embeddings.unit(mean, rows)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    directions = np.add.reduceat(unit, starts, axis=0, dtype=np.float64) / counts[:, None]
    lengths = np.add.reduceat(norms, starts, dtype=np.float64) / counts
    matrix = directions * lengths[:, None] + (0 if mean is None else mean)
    return Embeddings(
        models, matrix.astype(np.float32), f"enrolment models from {embeddings.source}"
    )


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
