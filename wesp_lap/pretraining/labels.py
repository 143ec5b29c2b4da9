"""Labels of every utterance of a corpus, found by key in memory-mapped files.

``labels.bin`` holds the labels of all utterances one after the other, ``labels.keys`` their names,
``labels.index`` where they are, and ``labels.json``, written last, what they are. Format:
docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
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
    """The labels of a corpus; costs no memory but the pages that are looked at.

    Sent to another process, it opens the files again there.

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
        self._labels = _mapped(folder / LABELS_FILE, LABEL_TYPE)
        self._index = _mapped(folder / INDEX_FILE, INDEX_TYPE)
        self._names = _mapped(folder / KEYS_FILE, np.dtype("u1"))
        # Fields of a row are slow to take one by one from a record array.
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
        return self._labels[self._span(key)]

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
        labels = self.labels(key)[round(self.rate * start / sample_rate) :]
        ratio = self.rate * _ENCODER.shift / sample_rate
        places = np.floor(np.arange(_ENCODER.count(num_samples)) * ratio).astype(np.int64)
        return labels[places[: np.searchsorted(places, len(labels))]]

    def check(self, keys: Sequence[str], samples: Sequence[int], tolerance: int = 3) -> None:
        """See whether these utterances have labels, and as many as their audio is long.

        Args:
            keys: Utterances.
            samples: Their lengths at 16 kHz.
            tolerance: Labels that may be missing or too many.

        Raises:
            DataError: some have none, or others; both kinds are counted, and the first named.
        """
        missing, wrong = [], []
        for key, length in zip(keys, samples, strict=True):
            row = self._find(key.encode())
            if row is None:
                missing.append(key)
                continue
            count, wanted = int(self._index[row]["count"]), self.frames_for(int(length))
            if abs(count - wanted) > tolerance:
                wrong.append(f"{key}: {count} labels, but {length} samples have {wanted}")
        problems = wrong[:_NAMED]
        if missing:
            problems.append(f"{len(missing)} utterances have none: {_some(missing)}")
        if len(wrong) > _NAMED:
            problems.append(f"{len(wrong) - _NAMED} more have another length")
        if problems:
            mend = "Make the labels of this corpus: python -m wesp_lap.bin.make_labels"
            raise DataError(problem_list(f"{self.folder}: labels of other audio", problems, mend))

    def _span(self, key: str) -> slice:
        row = self._find(key.encode())
        if row is None:
            raise DataError(f"{self.folder}: utterance '{key}' has no labels")
        _, first, _, _, count, _ = self._index[row].item()
        return slice(first, first + count)

    def _find(self, name: bytes) -> int | None:
        """Return the line of the index with this name; names may share a hash."""
        wanted = key_hash(name)
        row = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while row < len(self._index):
            found, _, place, _, _, length = self._index[row].item()
            if found != wanted:
                return None
            if self._names[place : place + length].tobytes() == name:
                return row
            row += 1
        return None


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
    if not path.stat().st_size:
        return np.zeros(0, kind)
    return np.memmap(path, kind, "r").view(np.ndarray)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (" ..." if len(keys) > _NAMED else "")
