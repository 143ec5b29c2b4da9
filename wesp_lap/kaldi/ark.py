"""Embeddings on disk: Kaldi vector archives (ark) with their index (scp).

A strict reader and writer of our own: the usual library returns a shortened vector for some cut
archives, unpickles ``PKL`` records and hands pipe entries to a shell. This one knows Kaldi's
float and double vectors, binary or text, and names key and file of everything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike, atomic_write, sha256, write_json
from wesp_lap.kaldi.ark_record import pack_header
from wesp_lap.kaldi.vector_table import AGAIN, VectorTable, read_record


class VectorWriter:
    """Write ``PREFIX.ark``, ``PREFIX.scp`` and ``PREFIX.json``, readable by Kaldi and kaldiio.

    A context manager. The three files appear under their names only when the block ends without
    an exception. The JSON file holds count, dimension and the SHA-256 of the archive, which
    are compared whenever it is read.
    """

    def __init__(self, prefix: PathLike) -> None:
        self._ark, self._scp, self._json = _files(prefix)
        self._where: dict[str, int] = {}
        self._dim = 0
        self._offset = 0
        self._digest = hashlib.sha256()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VectorWriter:
        self._stream = self._stack.enter_context(atomic_write(self._ark, "wb"))
        return self

    def write(self, key: str, vector: ArrayLike) -> None:
        """Append a vector of shape (E,), stored as float32.

        Raises:
            DataError: a key with white space or written before, a vector of another shape than
                the first one, or one that holds NaN or infinity.
        """
        values = np.asarray(vector, dtype="<f4")
        if len(key.split()) != 1 or key in self._where:
            fault = "written twice" if key in self._where else "not a key without white space"
            raise DataError(f"{self._ark}: {key!r}: {fault}")
        if values.ndim != 1 or not values.size or (self._where and len(values) != self._dim):
            wanted = f"({self._dim},)" if self._where else "(dim,)"
            raise DataError(f"{self._ark}: {key}: shape {values.shape}, expected {wanted}")
        if not np.isfinite(values).all():
            raise DataError(f"{self._ark}: {key}: the vector holds NaN or infinity")
        self._dim = len(values)
        name = f"{key} ".encode()
        record = name + pack_header(self._dim) + values.tobytes()
        self._where[key] = self._offset + len(name)
        self._stream.write(record)
        self._digest.update(record)
        self._offset += len(record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            # An index of an earlier run must never point into this archive.
            self._scp.unlink(missing_ok=True)
            self._json.unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            record = {"count": len(self._where), "dim": self._dim}
            write_json(self._json, {**record, "sha256": self._digest.hexdigest()})
            target = os.path.abspath(self._ark)
            with atomic_write(self._scp) as stream:
                stream.writelines(f"{key} {target}:{at}\n" for key, at in self._where.items())


def read_vectors(path: PathLike) -> tuple[list[str], NDArray[np.float32]]:
    """Read the vectors that an scp file names, in its order.

    ``VectorTable`` says where archives are looked for, and reads block by block.

    Returns:
        Keys, and float32 vectors (n, E).

    Raises:
        DataError: every missing or damaged record, named by key and file; vectors of unequal
            dimension; an archive that is not the one that was written.
    """
    table = VectorTable(path)
    return table.keys, table.read()


def verify(prefix: PathLike) -> None:
    """Make sure that an archive and its index are what was written, to the byte.

    Raises:
        DataError: the archive, its index or the record has changed, or there is no record.
    """
    ark, scp, record_path = _files(prefix)
    record = read_record(ark)
    if record is None:
        raise DataError(f"{record_path}: no such file, so {ark} cannot be verified")
    if not ark.exists() or sha256(ark) != record["sha256"]:
        raise DataError(f"{ark}: its content is not what {record_path} records. {AGAIN}")
    if record["count"]:
        read_vectors(scp)


def _files(prefix: PathLike) -> tuple[Path, Path, Path]:
    return Path(f"{prefix}.ark"), Path(f"{prefix}.scp"), Path(f"{prefix}.json")
