"""Labels of a whole corpus: in parts that are kept when the run is stopped, then joined."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from wesp_lap.errors import ConfigError, DataError, problem_list
from wesp_lap.extraction.sources import Source
from wesp_lap.files import PathLike, Stamp, atomic_write, read_json, sha256, write_json
from wesp_lap.log import get_logger, progress
from wesp_lap.pretraining.clusters import Clusters
from wesp_lap.pretraining.features import FeatureSettings
from wesp_lap.pretraining.frames import Framed, Workers, framing
from wesp_lap.pretraining.labels import (
    INDEX_FILE,
    KEYS_FILE,
    LABEL_TYPE,
    LABELS_FILE,
    RECORD_FILE,
    LabelStore,
    digest_of,
    index_of,
)
from wesp_lap.pretraining.quality import measure, write_quality

PARTS_FOLDER = "parts"
_PART = 1000  # utterances whose labels are kept together when a run is stopped
_ENOUGH = 1000  # faults, after which others would say nothing new


def make_labels(
    source: Source,
    clusters_dir: PathLike,
    out: PathLike,
    workers: Workers,
    model: str | None = None,
) -> LabelStore:
    """Label every utterance of a source and write the store; see LabelStore.

    Labels that were made of the same audio with the same clusters are kept.

    Args:
        source: The corpus.
        clusters_dir: What learn_clusters wrote.
        out: Directory of the store.
        workers: Who computes; the labels are the same for any number of processes.
        model: Where the encoder of the features lies now, when it has moved.

    Raises:
        DataError: utterances without labels, all of them named; the parts without such are kept.
            Or the encoder is not the one that the clusters were learnt from.
    """
    clusters = Clusters.load(clusters_dir)
    features = _features_of(clusters, clusters_dir, model)
    folder = Path(out)
    count = len(source.keys)
    rows = [range(first, min(first + _PART, count)) for first in range(0, count, _PART)]
    digests = [source.digest(part) for part in rows]
    audio = hashlib.sha256("".join(digests).encode()).hexdigest()
    if _is_done(folder, clusters, audio):
        get_logger().info("%s: up to date", folder)
        return LabelStore.open(folder)
    (folder / RECORD_FILE).unlink(missing_ok=True)  # what is there is of other labels
    parts = [
        _Part(folder / PARTS_FOLDER / f"{number:05d}", part, [clusters.digest, digest])
        for number, (part, digest) in enumerate(zip(rows, digests, strict=True))
    ]
    _write_parts(
        source, [part for part in parts if not part.is_done()], features, clusters, workers
    )
    _join(folder, parts, clusters, {"data": source.name, "audio_digest": audio})
    return LabelStore.open(folder)


def _features_of(clusters: Clusters, clusters_dir: PathLike, model: str | None) -> FeatureSettings:
    kind = clusters.features.get("kind")
    if kind == "mfcc":
        if model:
            raise ConfigError(f"--model {model}: the clusters are of MFCC, which have no encoder")
        settings = FeatureSettings()
    else:
        where = model or clusters.record.get("model")
        settings = FeatureSettings("layer", where, int(clusters.features.get("layer", 0)))
    if settings.identity() != clusters.features:
        raise DataError(
            f"{settings.model}: not the encoder that {clusters_dir} was learnt from: its files "
            "have another content; give the right one with --model, or learn the clusters again"
        )
    return settings


def _is_done(folder: Path, clusters: Clusters, audio: str) -> bool:
    if not (folder / RECORD_FILE).is_file():
        return False
    record = read_json(folder / RECORD_FILE)
    wanted = {"clusters_digest": clusters.digest, "audio_digest": audio}
    if {name: record.get(name) for name in wanted} != wanted:
        return False
    with contextlib.suppress(DataError):  # of files that are cut short: made again
        LabelStore.open(folder)
        return True
    return False


class _Part:
    """Some consecutive rows of the source and the folder of their labels."""

    def __init__(self, folder: Path, rows: range, identity: Sequence[str]) -> None:
        self.folder = folder
        self.rows = rows
        self._stamp = Stamp(folder / "done.json", {"identity": identity})

    def is_done(self) -> bool:
        """Return True when all labels are there and are those of these clusters and this audio."""
        return self._stamp.is_fresh()

    def write(self, results: Iterator[Framed], expected: Callable[[int], int]) -> list[str]:
        """Write the next results, one for each row; return the faults, with any of which it fails.

        Args:
            results: What came of the rows.
            expected: Number of labels of a number of samples.
        """
        (self.folder / "done.json").unlink(missing_ok=True)
        faults: list[str] = []
        good: list[tuple[str, int, np.ndarray]] = []
        for framed in islice(results, len(self.rows)):
            if framed.values is None:
                faults.append(f"{framed.key}: {framed.problem}")
            elif len(framed.values) != expected(framed.samples):
                faults.append(
                    f"{framed.key}: {len(framed.values)} labels, but {framed.samples} samples have "
                    f"{expected(framed.samples)}"
                )
            else:
                good.append((framed.key, framed.samples, framed.values.astype(LABEL_TYPE)))
        if faults:
            return faults
        with atomic_write(self.folder / LABELS_FILE, "wb") as stream:
            stream.writelines(labels.tobytes() for _, _, labels in good)
        with atomic_write(self.folder / KEYS_FILE) as stream:
            lines = (f"{len(labels)} {samples} {key}\n" for key, samples, labels in good)
            stream.writelines(lines)
        self._stamp.write([self.folder / name for name in (LABELS_FILE, KEYS_FILE)])
        return []

    def read(self) -> tuple[bytes, list[bytes], np.ndarray]:
        """Return labels, keys, and numbers (2, n): labels and samples of each."""
        lines = (self.folder / KEYS_FILE).read_bytes().split(b"\n")[:-1]
        counts, samples, names = zip(*(line.split(b" ", 2) for line in lines), strict=True)
        numbers = np.array([list(map(int, counts)), list(map(int, samples))], np.int64)
        return (self.folder / LABELS_FILE).read_bytes(), list(names), numbers


def _write_parts(
    source: Source,
    parts: Sequence[_Part],
    features: FeatureSettings,
    clusters: Clusters,
    workers: Workers,
) -> None:
    if not parts:
        return
    faults: list[str] = []
    rows = [part.rows for part in parts]
    # Without the record, which is of no use to the processes.
    plain = dataclasses.replace(clusters, record={})
    with framing(source, features, rows, workers, plain.assign) as results:
        shown = progress(results, f"labels of {Path(source.name).name}", sum(map(len, rows)))
        for part in parts:
            faults += part.write(shown, clusters.framing.count)
            if len(faults) >= _ENOUGH:
                break
        else:
            next(shown, None)
    if faults:
        mend = f"{source.mend}; labels of the parts without such utterances are kept"
        raise DataError(problem_list(f"{source.name}: utterances without labels", faults, mend))


def _join(folder: Path, parts: Sequence[_Part], clusters: Clusters, record: dict[str, Any]) -> None:
    """Put the parts together as a store, and remove them."""
    total = len(clusters.centroids)
    names: list[bytes] = []
    numbers = [np.zeros((2, 0), np.int64)]
    usage = np.zeros(total, np.int64)
    with _writing(folder / LABELS_FILE) as labels_file, _writing(folder / KEYS_FILE) as keys_file:
        for part in parts:
            content, keys, counts = part.read()
            labels_file.write(content)
            keys_file.writelines(key + b"\n" for key in keys)
            usage += np.bincount(np.frombuffer(content, LABEL_TYPE), minlength=total)
            names += keys
            numbers.append(counts)
    counts, samples = np.concatenate(numbers, axis=1)
    with _writing(folder / INDEX_FILE) as stream:
        stream.write(index_of(names, counts, samples).tobytes())
    quality = measure(usage)
    write_quality(folder, quality)
    if quality.dead:
        get_logger().warning(
            "%s: %d of %d clusters label no frame", folder, len(quality.dead), total
        )
    files = [folder / name for name in (LABELS_FILE, KEYS_FILE, INDEX_FILE)]
    whole = {
        "rate": clusters.framing.rate,
        "framing": dataclasses.asdict(clusters.framing),
        "num_clusters": total,
        "utterances": len(names),
        "labels": int(counts.sum()),
        "clusters_digest": clusters.digest,
        **record,
        "bytes": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: sha256(path) for path in files},
    }
    write_json(folder / RECORD_FILE, {**whole, "digest": digest_of(whole)})
    shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)


def _writing(path: Path) -> contextlib.AbstractContextManager[IO[Any]]:
    return atomic_write(path, "wb")
