"""Kaldi's PLDA back-ends as they are: the files plda, transform.mat and mean.vec.

A strict reader of Kaldi objects in binary or text form. What is scored with them equals
ivector-subtract-global-mean, ivector-transform, ivector-normalize-length and ivector-plda-scoring
one after the other.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike
from wesp_lap.scoring.plda import Plda
from wesp_lap.scoring.plda_backend import PldaBackend
from wesp_lap.scoring.transforms import Affine, Chain, LengthNorm

_NUMBERS: dict[bytes, np.dtype[np.floating]] = {b"F": np.dtype("<f4"), b"D": np.dtype("<f8")}


def load_backend(
    path: PathLike,
    transform: PathLike | None = None,
    mean: PathLike | None = None,
    length_norm: bool = True,
    normalize_length: bool = True,
) -> PldaBackend:
    """Load a directory of ``train_plda``, or a plda file of Kaldi with what belongs to it.

    Arguments and errors as in ``read_backend``; a directory brings its own transforms, and giving
    any is a ConfigError.
    """
    if not Path(path).is_dir():
        return read_backend(path, transform, mean, length_norm, normalize_length)
    if transform is not None or mean is not None or not (length_norm and normalize_length):
        raise ConfigError(
            f"{path}: a directory of train_plda has its own transforms; transform, mean, "
            "length_norm and normalize_length go with a plda file of Kaldi"
        )
    return PldaBackend.load(path)


def read_backend(
    plda: PathLike,
    transform: PathLike | None = None,
    mean: PathLike | None = None,
    length_norm: bool = True,
    normalize_length: bool = True,
) -> PldaBackend:
    """Make a back-end of Kaldi's files.

    Args:
        plda: written by ivector-compute-plda or ivector-adapt-plda.
        transform: the LDA matrix, (D, E) or with the offset as a last column (D, E + 1).
        mean: vector (E,) that is subtracted first.
        length_norm: scale to the square root of the dimension before the PLDA, as
            ivector-normalize-length.
        normalize_length: the option of that name of ivector-plda-scoring.

    Raises:
        DataError: a file is not what it should be, or their dimensions do not fit together.
    """
    model = read_plda(plda)
    steps: list[Affine | LengthNorm] = []
    shift = None if mean is None else read_vector(mean)
    if shift is not None:
        steps.append(Affine("mean-subtract", shift))
    if transform is not None:
        matrix = read_matrix(transform)
        step = _transform(matrix, None if shift is None else len(shift), model.dim, transform)
        steps.append(step)
    elif shift is not None and len(shift) != model.dim:
        raise DataError(f"{mean}: {len(shift)} dimensions, {plda} has {model.dim}")
    if length_norm:
        steps.append(LengthNorm("sqrt-dim"))
    source = {"plda": str(plda), "transform": transform and str(transform)}
    record = {"source": {**source, "mean": mean and str(mean)}}
    return PldaBackend(Chain(tuple(steps)), model, True, normalize_length, record)


def read_plda(path: PathLike) -> Plda:
    """Read a Kaldi PLDA, binary or text: ``<Plda>`` mean, transform, psi ``</Plda>``."""
    reader = _Reader(path)
    reader.token("<Plda>")
    mean, transform, psi = reader.vector("mean"), reader.matrix("transform"), reader.vector("psi")
    reader.token("</Plda>")
    reader.end()
    dim = len(mean)
    if transform.shape != (dim, dim) or psi.shape != (dim,):
        raise DataError(
            f"{path}: mean ({dim},), transform {transform.shape} and psi {psi.shape} do not fit"
        )
    if psi.min() < 0 or np.linalg.matrix_rank(transform) < dim:
        what = "psi has negative elements" if psi.min() < 0 else "the transform is singular"
        raise DataError(f"{path}: {what}; compute the PLDA again")
    return Plda(mean, transform, psi)


def read_matrix(path: PathLike) -> np.ndarray:
    """Read a Kaldi matrix file, float, double or text, as (rows, columns) float64."""
    reader = _Reader(path)
    matrix = reader.matrix("matrix")
    reader.end()
    return matrix


def read_vector(path: PathLike) -> np.ndarray:
    """Read a Kaldi vector file, float, double or text, as (n,) float64."""
    reader = _Reader(path)
    vector = reader.vector("vector")
    reader.end()
    return vector


def _transform(matrix: np.ndarray, dim: int | None, out: int, path: PathLike) -> Affine:
    """Make the step of an (out, E) or affine (out, E + 1) matrix; ``dim`` is E where known."""
    if len(matrix) != out:
        raise DataError(f"{path}: makes {len(matrix)} dimensions, the PLDA has {out}")
    columns = matrix.shape[1]
    if dim is not None and columns not in (dim, dim + 1):
        raise DataError(f"{path}: takes {columns} or {columns - 1} dimensions, the mean has {dim}")
    if dim == columns:
        return Affine("transform", np.zeros(columns), matrix.T)
    # One column more than there are dimensions holds what to add. Without a mean to compare with,
    # the matrix is taken for one of ivector-compute-lda, which always has that column.
    return Affine("transform", np.zeros(columns - 1), matrix[:, :-1].T, matrix[:, -1])


class _Reader:
    """Walks through one Kaldi object; every fault names the file, the part and the place."""

    def __init__(self, path: PathLike) -> None:
        self._path = path
        try:
            self._data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        self._binary = self._data[:2] == b"\0B"
        self._at = 2 if self._binary else 0
        if not self._binary and b"\0" in self._data[:256]:
            self._fail("expected a Kaldi object in binary or text form")

    def _fail(self, what: str) -> NoReturn:
        raise DataError(
            f"{self._path}: {what}, at byte {self._at} of {len(self._data)}\n"
            "Give the file as Kaldi wrote it; an entry of an ark is copied with copy-matrix, "
            "copy-vector or ivector-copy-plda."
        )

    def _skip_space(self) -> None:
        while self._data[self._at : self._at + 1].isspace():
            self._at += 1

    def token(self, word: str) -> None:
        """Pass a token such as <Plda>."""
        if not self._binary:
            self._skip_space()
        text = word.encode()
        after = self._data[self._at + len(text) : self._at + len(text) + 1]
        if not self._data.startswith(text, self._at) or not (after.isspace() or not after):
            self._fail(f"expected {word}, found {self._data[self._at : self._at + 12]!r}")
        self._at += len(text) + len(after)

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self._data[self._at :].strip(b" \n\r\t" if not self._binary else b""):
            self._fail(f"{len(self._data) - self._at} bytes that belong to nothing")

    def vector(self, part: str) -> np.ndarray:
        """Read a vector, (n,) float64."""
        if not self._binary:
            rows = self._text(part)
            if len(rows) != 1:
                self._fail(f"{part}: expected a vector, found {len(rows)} rows")
            return rows[0]
        number = self._kind(part, b"V")
        (length,) = self._sizes(part, 1)
        return self._numbers(part, number, length)

    def matrix(self, part: str) -> np.ndarray:
        """Read a matrix, (rows, columns) float64."""
        if not self._binary:
            rows = self._text(part)
            if len({len(row) for row in rows}) != 1:
                self._fail(f"{part}: rows of unequal length")
            return np.stack(rows)
        number = self._kind(part, b"M")
        height, width = self._sizes(part, 2)
        return self._numbers(part, number, height * width).reshape(height, width)

    def _kind(self, part: str, shape: bytes) -> np.dtype[np.floating]:
        head = self._data[self._at : self._at + 3]
        if head[:2] == b"CM":
            self._fail(f"{part}: compressed; write it with copy-matrix --compress=false")
        if len(head) != 3 or head[:1] not in _NUMBERS or head[1:] != shape + b" ":
            self._fail(f"{part}: expected F{shape.decode()} or D{shape.decode()}, found {head!r}")
        self._at += 3
        return _NUMBERS[head[:1]]

    def _sizes(self, part: str, count: int) -> list[int]:
        sizes = []
        for _ in range(count):
            field = self._data[self._at : self._at + 5]
            if len(field) != 5 or field[0] != 4:
                self._fail(f"{part}: the size is cut or not a 4-byte number")
            sizes.append(struct.unpack("<i", field[1:])[0])
            self._at += 5
        if min(sizes) < 1:
            self._fail(f"{part}: of size {sizes}")
        return sizes

    def _numbers(self, part: str, number: np.dtype[np.floating], count: int) -> np.ndarray:
        size = count * number.itemsize
        if size > len(self._data) - self._at:
            self._fail(f"{part}: {size} bytes wanted, the file ends before")
        values = np.frombuffer(self._data, number, count, self._at).astype(np.float64)
        self._at += size
        return self._finite(part, values)

    def _text(self, part: str) -> list[np.ndarray]:
        self._skip_space()
        stop = self._data.find(b"]", self._at)
        if self._data[self._at : self._at + 1] != b"[" or stop < 0:
            self._fail(f"{part}: expected numbers between [ and ]")
        lines = self._data[self._at + 1 : stop].split(b"\n")
        try:
            rows = [np.array(line.split()).astype(np.float64) for line in lines if line.split()]
        except ValueError as error:
            self._fail(f"{part}: {error}")
        if not rows:
            self._fail(f"{part}: empty")
        self._at = stop + 1
        return [self._finite(part, row) for row in rows]

    def _finite(self, part: str, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            self._fail(f"{part}: holds NaN or infinity")
        return values
