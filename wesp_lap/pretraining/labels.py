"""Labels of every utterance of a corpus, found by key without loading them.

``labels.bin`` holds the labels of all utterances one after the other, ``labels.keys`` their names,
``labels.index`` where they are, and ``labels.json``, written last, what they are. Format:
docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike, atomic_write, read_json
from wesp_lap.pretraining.features import SAMPLE_RATE, Framing

LABELS_FILE = "labels.bin"
KEYS_FILE = "labels.keys"
INDEX_FILE = "labels.index"
RECORD_FILE = "labels.json"
TEXT_FILE = "labels.txt"
LABEL_TYPE = np.dtype("<u2")
# A line of the index; sorted by hash, so that a key is found by bisection.
INDEX_TYPE = np.dtype(
    [
        ("hash", "<u8"),  # of the key, see key_hash
        ("first", "<i8"),  # place of its first label in labels.bin, counted in labels
        ("place", "<i8"),  # first byte of its name in labels.keys
        ("samples", "<i8"),  # of the audio, at 16 kHz
        ("count", "<i4"),  # labels
        ("bytes", "<i4"),  # of its name
    ]
)
_NAMED = 5
# What an encoder with the convolutions of wav2vec 2.0 hears in a frame.
_ENCODER = Framing(window=400, shift=320)


class LabelStore:
    """The labels of a corpus; in memory are those parts of the index alone that are looked at.

    May be used by several threads. Sent to another process, it opens the files again there.

    Attributes:
        folder: Where it lies.
        num_clusters: Labels are from 0 to ``num_clusters`` - 1.
        framing: Which samples belong to a label.
        rate: Labels per second: 100 for MFCC, 50 for layers of an encoder.
        digest: Changes when labels or utterances do.
        record: All of labels.json.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record
        self.num_clusters = int(record["num_clusters"])
        self.framing = Framing(**record["framing"])
        self.rate = self.framing.rate
        self.digest = str(record["digest"])
        # Read and not mapped: what is mapped around every crop would pile up as memory.
        self._labels = os.open(folder / LABELS_FILE, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._labels)
        self._index = _mapped(folder / INDEX_FILE, INDEX_TYPE)
        self._names = _mapped(folder / KEYS_FILE, np.dtype("u1")).data
        self._hashes = self._index["hash"]

    @classmethod
    def open(cls, folder: PathLike) -> LabelStore:
        """Open a directory that make_labels wrote.

        Raises:
            DataError: it is not there, not finished, or a file has another length.
        """
        path = Path(folder)
        if not (path / RECORD_FILE).is_file():
            raise DataError(
                f"{path}: no {RECORD_FILE}, so no labels or not all of them; run make_labels "
                "(again): what is done is kept"
            )
        record = read_json(path / RECORD_FILE)
        try:
            sizes = {str(name): int(size) for name, size in record["bytes"].items()}
            faults = [
                f"{path / name}: {size} bytes expected, {_size(path / name)} found"
                for name, size in sizes.items()
                if _size(path / name) != size
            ]
            if faults:
                mend = "Copy them again, or remove labels.json and run make_labels again"
                raise DataError(problem_list(f"{path}: damaged labels", faults, mend))
            return cls(path, record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path / RECORD_FILE}: not a record of labels") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelStore.open, (self.folder,)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return self._find(key.encode()) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the keys in the order of labels.bin."""
        with open(self.folder / KEYS_FILE, encoding="utf-8", newline="\n") as stream:
            for line in stream:
                yield line.removesuffix("\n")

    def labels(self, key: str) -> np.ndarray:
        """Return the labels of an utterance, uint16 (T,), read-only.

        Raises:
            DataError: it has none.
        """
        first, count = self._place(key)
        return self._read(first, count)

    def frames_for(self, num_samples: int) -> int:
        """Return how many labels a number of samples at 16 kHz has."""
        return self.framing.count(num_samples)

    def crop(
        self, key: str, start: int, num_samples: int, sample_rate: int = SAMPLE_RATE
    ) -> np.ndarray:
        """Return the labels of the frames that an encoder makes of a crop.

        The crop's labels begin at round(rate * start / sample_rate); the label of frame t is
        number floor(t * ratio) from there, with ratio = rate * 320 / sample_rate: 2 at 100 Hz, 1
        at 50 Hz. Source: docs/methods.md, section 6.2.

        Args:
            key: Utterance.
            start: First sample of the crop.
            num_samples: Its length.
            sample_rate: Of these samples, in Hz.

        Returns:
            uint16 (F,): F is the number of the encoder's frames, (num_samples - 400) // 320 + 1,
            or less when the labels run out before; the frames from F on have none.

        Raises:
            DataError: the utterance has no labels.
        """
        first, count = self._place(key)
        skipped = min(round(self.rate * start / sample_rate), count)
        ratio = self.rate * _ENCODER.shift / sample_rate
        places = np.floor(np.arange(_ENCODER.count(num_samples)) * ratio).astype(np.int64)
        places = places[: np.searchsorted(places, count - skipped)]
        return self._read(first + skipped, int(places[-1]) + 1 if len(places) else 0)[places]

    def check(self, keys: Sequence[str], samples: Sequence[int]) -> None:
        """See whether these utterances have labels, and as many as their audio is long.

        Fewer than two frames of an encoder may have none, or be too many: with what rounding
        costs, the labels of a crop then end two frames before it at most.

        Args:
            keys: Utterances.
            samples: Their lengths at 16 kHz.

        Raises:
            DataError: some have none, or others; both kinds are counted, and the first named.
        """
        rows = self._rows([key.encode() for key in keys])
        lengths = np.asarray(samples, np.int64)
        framing, found = self.framing, rows >= 0
        wanted = np.maximum(0, (lengths - framing.window) // framing.shift + 1)
        tolerance = 2 * _ENCODER.shift // framing.shift - 1
        counts = self._index["count"][rows[found]]
        off = np.flatnonzero(found)[np.abs(counts - wanted[found]) > tolerance].tolist()
        missing = [keys[place] for place in np.flatnonzero(~found).tolist()]
        wrong = [
            f"{keys[place]}: {self._index['count'][rows[place]]} labels, but {lengths[place]} "
            f"samples have {wanted[place]}"
            for place in off
        ]
        problems = wrong[:_NAMED]
        if missing:
            problems.append(f"{len(missing)} utterances have none: {_some(missing)}")
        if len(wrong) > _NAMED:
            problems.append(f"{len(wrong) - _NAMED} more have another length")
        if problems:
            mend = "Make the labels of this corpus: python -m wesp_lap.bin.make_labels"
            raise DataError(problem_list(f"{self.folder}: labels of other audio", problems, mend))

    def _place(self, key: str) -> tuple[int, int]:
        """Return where the labels of an utterance begin, and how many they are."""
        row = self._find(key.encode())
        if row is None:
            raise DataError(f"{self.folder}: utterance '{key}' has no labels")
        _, first, _, _, count, _ = self._index[row].item()
        return first, count

    def _read(self, first: int, count: int) -> np.ndarray:
        size = LABEL_TYPE.itemsize
        content = os.pread(self._labels, count * size, first * size)
        if len(content) != count * size:
            raise DataError(f"{self.folder / LABELS_FILE}: cut short since it was opened")
        return np.frombuffer(content, LABEL_TYPE)

    def _find(self, name: bytes) -> int | None:
        """Return the line of the index with this name; names may share a hash."""
        wanted = key_hash(name)
        row = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while row < len(self._index):
            found, _, place, _, _, length = self._index[row].item()
            if found != wanted:
                return None
            if self._names[place : place + length] == name:
                return row
            row += 1
        return None

    def _rows(self, names: Sequence[bytes]) -> np.ndarray:
        """Return the line of each name at once, -1 for those that are not there, int64 (n,)."""
        hashes = np.fromiter(map(key_hash, names), np.uint64, len(names))
        rows = np.searchsorted(self._hashes, hashes)
        lines = self._index[np.minimum(rows, len(self._index) - 1)]
        for number, (name, line) in enumerate(zip(names, lines, strict=True)):
            _, _, place, _, _, length = line.item()
            if self._names[place : place + length] != name:
                row = self._find(name)
                rows[number] = -1 if row is None else row
        return rows


def key_hash(name: bytes) -> int:
    """Return the number below 2**64 by which a key is sorted in the index."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def index_of(names: Sequence[bytes], counts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the index of utterances whose labels and names follow each other in this order."""
    index = np.zeros(len(names), INDEX_TYPE)
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    index["hash"] = np.fromiter(map(key_hash, names), np.uint64, len(names))
    index["first"] = np.cumsum(counts) - counts
    index["place"] = np.cumsum(lengths + 1) - lengths - 1
    index["samples"], index["count"], index["bytes"] = samples, counts, lengths
    return index[np.argsort(index["hash"], kind="stable")]


def digest_of(record: dict[str, Any]) -> str:
    """Return the digest of a record of labels: of what the labels are, not of where they lie."""
    names = ("num_clusters", "framing", "clusters_digest", "sha256")
    text = json.dumps({name: record[name] for name in names}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_text(store: LabelStore, path: PathLike) -> None:
    """Write one line per utterance, ``key label label ...``, for people and other tools."""
    with atomic_write(path) as stream:
        for key in store:
            stream.write(f"{key} {' '.join(map(str, store.labels(key).tolist()))}\n")


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    return np.memmap(path, kind, "r").view(np.ndarray)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (" ..." if len(keys) > _NAMED else "")
