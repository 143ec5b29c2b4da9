"""Embeddings by key: read, look up, centre, average over speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.log import get_logger

_BLOCK_ROWS = 8192


@dataclass
class Embeddings:
    """Embeddings of utterances, speakers or enrolment models.

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
        """Read an scp table.

        Raises:
            DataError: a record is broken, not finite, or all zero (which has no direction); the
                message names the keys.
        """
        keys, matrix = read_vectors(scp)
        embeddings = cls(keys, matrix, source=str(scp))
        norms = embeddings.norms()
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        raise_problems(
            f"{scp}: unusable embeddings",
            [f"{embeddings.keys[i]}: {'zero' if norms[i] == 0 else 'NaN or Inf'}" for i in bad],
            "Extract these utterances again; silent audio or a diverged model makes them.",
        )
        return embeddings

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

    def mean(self) -> np.ndarray:
        """Return the mean over all rows, (E,) float32, summed in float64."""
        return self.matrix.mean(axis=0, dtype=np.float64).astype(np.float32)

    def norms(self) -> np.ndarray:
        """Return the L2 norm of every row, (n,) float64."""
        return np.sqrt(np.einsum("ij,ij->i", self.matrix, self.matrix, dtype=np.float64))

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
        centred = self.matrix[slice(None) if rows is None else rows].astype(np.float32)
        if mean is not None:
            if mean.shape != (self.dim,):
                raise DataError(
                    f"{self.source}: embeddings have {self.dim} dimensions, the mean has "
                    f"{mean.shape[-1]}; both must come from the same model"
                )
            centred -= mean.astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))
        if not norms.all():
            zero = np.flatnonzero(norms == 0)
            names = [self.keys[i if rows is None else rows[i]] for i in zero]
            raise DataError(
                f"{self.source}: {len(names)} embeddings equal the mean that is subtracted and "
                f"have no direction: {_first(names)}\nTake the mean over more utterances."
            )
        centred /= norms[:, None]
        return centred, norms

    def speaker_means(self, utt2spk: Mapping[str, str]) -> Embeddings:
        """Average the raw embeddings of every speaker; speakers come out sorted.

        Raises:
            DataError: an embedding has no speaker in ``utt2spk``.
        """
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
        speakers, codes = np.unique([utt2spk[key] for key in self.keys], return_inverse=True)
        return Embeddings(
            [str(name) for name in speakers],
            _group_means(self.matrix, codes, len(speakers)),
            f"speaker means of {self.source}",
        )


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


def _group_means(matrix: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """Average the rows of each group, codes 0..groups-1, without a copy of the whole matrix."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=groups)
    ends = np.cumsum(counts)
    means = np.empty((groups, matrix.shape[1]), np.float32)
    first = 0
    while first < groups:
        begin = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + _BLOCK_ROWS, side="right")))
        block = matrix[order[begin : ends[last - 1]]]
        starts = ends[first:last] - counts[first:last] - begin
        sums = np.add.reduceat(block, starts, axis=0, dtype=np.float64)
        means[first:last] = sums / counts[first:last, None]
        first = last
    return means


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
