"""Parts of an extraction: kept when it is stopped, joined when all are there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from wesp_lap.errors import DataError
from wesp_lap.extraction.embedder import Result
from wesp_lap.files import Stamp, atomic_write
from wesp_lap.kaldi.ark import VectorWriter, read_vectors

PARTS_FOLDER = "parts"
SHORT_FILE = "short.txt"
_NAME = "xvector"


class Part:
    """Some consecutive rows of the source and the folder of their embeddings.

    Args:
        folder: Where the embeddings go.
        rows: The rows.
        identity: What the embeddings depend on, as plain values.
    """

    def __init__(self, folder: Path, rows: range, identity: Mapping[str, object]) -> None:
        self.folder = folder
        self.rows = rows
        self._stamp = Stamp(folder / "done.json", identity)

    def is_done(self) -> bool:
        """Return True when all embeddings are there and are those of this model and audio."""
        return self._stamp.is_fresh()

    def write(self, results: Iterator[Result]) -> list[Result]:
        """Write the next embeddings of ``results``, one for each row; return those without.

        With any of these the part is not done: another run tries it again.
        """
        bad: list[Result] = []
        short: list[Result] = []
        good = (result for result in islice(results, len(self.rows)))
        (self.folder / "done.json").unlink(missing_ok=True)
        with VectorWriter(self.folder / _NAME) as writer:
            for result in good:
                if result.embedding is None:
                    bad.append(result)
                else:
                    writer.write(result.key, result.embedding)
                    short += [result] if result.short else []
        with atomic_write(self.folder / SHORT_FILE) as stream:
            stream.writelines(f"{result.key} {result.short}\n" for result in short)
        if not bad:
            self._stamp.write([*outputs(self.folder), self.folder / SHORT_FILE])
        return bad


def outputs(folder: Path) -> list[Path]:
    """Return the files of an archive."""
    return [folder / f"{_NAME}.{suffix}" for suffix in ("ark", "scp", "json")]


def join(out: Path, counts: Mapping[Path, int]) -> int:
    """Put parts together as one archive in the order of the keys, and remove them.

    Utterances that were repeated, for being too short, are listed in ``out``/short.txt with their
    number of samples; without any there is no such file.

    Args:
        out: Where the archive goes.
        counts: How many embeddings each part's folder must hold.

    Returns:
        The number of utterances that were repeated.

    Raises:
        DataError: a part is not there, as when the processes do not share a disk.
    """
    keys: list[str] = []
    short: list[str] = []
    matrices = []
    for folder, count in counts.items():
        if count == 0:
            continue
        if not (folder / f"{_NAME}.scp").is_file():
            raise DataError(
                f"{folder}: not there; --out must be on a disk that all processes share"
            )
        names, matrix = read_vectors(folder / f"{_NAME}.scp")
        if len(names) != count:
            raise DataError(f"{folder}: {len(names)} embeddings, expected {count}")
        keys += names
        matrices.append(matrix)
        short += (folder / SHORT_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    vectors = [vector for matrix in matrices for vector in matrix]
    with VectorWriter(out / _NAME) as writer:
        for row in sorted(range(len(keys)), key=keys.__getitem__):
            writer.write(keys[row], vectors[row])
    if short:
        with atomic_write(out / SHORT_FILE) as stream:
            stream.writelines(sorted(short))
    else:
        (out / SHORT_FILE).unlink(missing_ok=True)
    shutil.rmtree(out / PARTS_FOLDER)
    return len(short)
