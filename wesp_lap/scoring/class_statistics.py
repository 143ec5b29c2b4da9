"""What PLDA and the transforms before it are fitted on: counts, means and scatter by speaker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.log import get_logger
from wesp_lap.scoring.embeddings import Embeddings

Transform = Callable[[np.ndarray, Sequence[str]], np.ndarray]

_BLOCK_ROWS = 8192
# Eigenvalues below this share of the largest one are what rounding leaves of zero.
_LEAST_SHARE = 1e-10


@dataclass(frozen=True)
class ClassStatistics:
    """Sums over vectors of K classes; enough for LDA, whitening and PLDA.

    Attributes:
        counts: (K,) int64, vectors of each class, at least 1.
        means: (K, D) float64, class means.
        scatter: (D, D) float64, sum over all vectors of (x - class mean)(x - class mean)'.
    """

    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray

    @property
    def total(self) -> int:
        """Number of vectors N."""
        return int(self.counts.sum())

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.counts)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.means.shape[1]

    def mean(self) -> np.ndarray:
        """Return the mean of all vectors, (D,)."""
        return self.counts @ self.means / self.total

    def within(self) -> np.ndarray:
        """Return the covariance about the class means, divided by N, (D, D)."""
        return self.scatter / self.total

    def between(self) -> np.ndarray:
        """Return the covariance of the class means, weighted by their counts, (D, D)."""
        weighted = (self.means - self.mean()) * np.sqrt(self.counts / self.total)[:, None]
        return weighted.T @ weighted

    def mapped(self, offset: np.ndarray, matrix: np.ndarray | None) -> ClassStatistics:
        """Return the statistics of ``(x - offset) @ matrix`` without another pass over the data."""
        means = self.means - offset
        if matrix is None:
            return ClassStatistics(self.counts, means, self.scatter)
        return ClassStatistics(self.counts, means @ matrix, matrix.T @ self.scatter @ matrix)


def collect(
    embeddings: Embeddings,
    codes: np.ndarray,
    transform: Transform | None = None,
    rows: np.ndarray | None = None,
) -> ClassStatistics:
    """Gather the statistics of embeddings in one pass, in blocks, in float64.

    Args:
        embeddings: n vectors.
        codes: (n,) class of every vector, 0..K-1, each class at least once.
        transform: applied to every block of float64 vectors first; gets their keys for messages.
        rows: the rows to use, with ``codes`` of that length; all when None.

    Raises:
        DataError: vectors that hold NaN or infinity; their keys are named.
    """
    classes = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=classes)
    shift, sums, scatter = np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0))
    order = np.argsort(codes, kind="stable")
    for start in range(0, len(order), _BLOCK_ROWS):
        part = order[start : start + _BLOCK_ROWS]
        block = finite_block(embeddings, part if rows is None else rows[part], transform)
        if start == 0:  # about a point inside the data, so that no digits are lost
            shift, dim = block.mean(axis=0), block.shape[1]
            sums, scatter = np.zeros((classes, dim)), np.zeros((dim, dim))
        block -= shift
        own = codes[part]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        sums[own[first]] += np.add.reduceat(block, first, axis=0)
        scatter += block.T @ block
    means = sums / counts[:, None]
    scatter -= (means * counts[:, None]).T @ means
    return ClassStatistics(counts, means + shift, (scatter + scatter.T) / 2)


def finite_block(
    embeddings: Embeddings, rows: np.ndarray, transform: Transform | None
) -> np.ndarray:
    """Return the given rows after ``transform``, float64; NaN or infinity is a DataError."""
    keys = [embeddings.keys[row] for row in rows]
    block = embeddings.matrix[rows].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(block.sum(axis=1)))
    raise_problems(
        f"{embeddings.source}: embeddings that hold NaN or infinity",
        [keys[row] for row in bad],
        "Extract these utterances again; silent audio or a diverged model makes them.",
    )
    return block if transform is None else transform(block, keys)


def speaker_codes(embeddings: Embeddings, utt2spk: Mapping[str, str]) -> tuple[np.ndarray, int]:
    """Return the speaker of every embedding as a number, (n,) from 0, and how many there are.

    Raises:
        DataError: utterances without a speaker, fewer than two speakers, or no speaker with two
            utterances.
    """
    missing = [key for key in embeddings.keys if key not in utt2spk]
    raise_problems(
        f"{embeddings.source}: no speaker known for {len(missing)} of {len(embeddings.keys)} "
        "utterances",
        missing,
        "Give the utt2spk of this set.",
        limit=5,
    )
    spare = len(utt2spk) - len(embeddings.keys)
    if spare > 0:
        get_logger().warning(
            "%s: %d of the %d utterances in utt2spk have no embedding; trained without them",
            embeddings.source,
            spare,
            len(utt2spk),
        )
    names = [utt2spk[key] for key in embeddings.keys]
    speakers = {name: code for code, name in enumerate(sorted(set(names)))}
    codes = np.fromiter(map(speakers.__getitem__, names), np.intp, len(names))
    if len(speakers) < 2:
        raise DataError(f"{embeddings.source}: one speaker only; PLDA needs two or more")
    if len(speakers) == len(codes):
        raise DataError(
            f"{embeddings.source}: each of the {len(speakers)} speakers has one utterance, which "
            "says nothing about the variation within a speaker\nGive several utterances per "
            "speaker, or check that utt2spk names speakers and not utterances."
        )
    return codes, len(speakers)


def rank(eigenvalues: np.ndarray) -> int:
    """Return how many of the rising eigenvalues (D,) of a covariance are more than rounding."""
    return int(np.sum(eigenvalues > _LEAST_SHARE * max(eigenvalues[-1], 0)))
