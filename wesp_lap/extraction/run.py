"""One extraction from its source to the joined archive."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wesp_lap.errors import DataError, problem_list
from wesp_lap.extraction.embedder import Embedder, Result
from wesp_lap.extraction.loading import ExtractionSettings
from wesp_lap.extraction.parts import PARTS_FOLDER, SHORT_FILE, Part, join, outputs
from wesp_lap.extraction.processes import CHUNK, embedding
from wesp_lap.extraction.ranks import Ranks, choose_device, cores, ranks
from wesp_lap.extraction.sources import Source, open_source
from wesp_lap.files import PathLike, Stamp, atomic_write, read_json, sha256
from wesp_lap.log import get_logger, progress
from wesp_lap.model import CONFIG_FILE, WEIGHTS_FILE

PART = 1000  # utterances whose embeddings are kept together when a run is stopped
_HOPELESS = 1000  # so many without one embedding: it is not the utterances
_THREADS = 8
_BAD_FILE = "bad.txt"
_DEFAULTS = ExtractionSettings()
_Fault = tuple[str, str]  # key and what is wrong


def extract(
    model_dir: PathLike,
    source: PathLike | Source,
    out: PathLike,
    device: str | None = None,
    jobs: int = 0,
    settings: ExtractionSettings = _DEFAULTS,
) -> int:
    """Write ``out``/xvector.{ark,scp,json}: one embedding per utterance, sorted by key.

    Embeddings that were made from the same model, audio and settings are kept. Under torchrun each
    process does its share and the first one joins them; ``out`` must be on a disk they share.

    Args:
        model_dir: A SpeakerModel directory.
        source: A Kaldi data directory, or what ``open_source`` returns.
        out: Where the embeddings go.
        device: torch device; a GPU when there is one by default.
        jobs: Processes on a CPU, one thread each; 0 means one per core. A GPU has one process.
        settings: Batches, chunks, crops, speech detection, and how many may be bad.

    Returns:
        The number of embeddings.

    Raises:
        ConfigError: settings out of range, or torch cannot use ``device``.
        DataError: no model; more utterances without embedding than ``settings.max_bad``, all of
            them named in ``out``/bad.txt; or the disk is full.
    """
    opened = open_source(source) if isinstance(source, str | os.PathLike) else source
    settings.check(opened)
    with _disk_faults_named(Path(out)), ranks() as group:
        run = _Run(Path(model_dir), opened, Path(out), settings, group)
        if run.is_done():
            get_logger().info("%s: up to date", out)
        else:
            run.extract(choose_device(device), jobs)
        return read_json(Path(out) / "xvector.json")["count"]


class _Run:
    """One extraction in one of its processes."""

    def __init__(
        self,
        model_dir: Path,
        source: Source,
        out: Path,
        settings: ExtractionSettings,
        group: Ranks,
    ) -> None:
        self._model_dir = model_dir
        self._source = source
        self._out = out
        self._settings = settings
        self._group = group
        files = [model_dir / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
        digests = [sha256(path) if path.is_file() else "" for path in files]
        self._identity = {"model": digests, **settings.identity()}
        count = len(source.keys)
        self._rows = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
        self._digests: dict[int, str] = {}

    def is_done(self) -> bool:
        """Say whether nothing is left to do; the first process looks."""
        return self._group.gather(self._group.rank == 0 and self._is_done())[0]

    def _is_done(self) -> bool:
        listed = self._out / _BAD_FILE
        bad = len(listed.read_text(encoding="utf-8").splitlines()) if listed.exists() else 0
        return self._stamp.is_fresh() and bad <= self._settings.max_bad

    @functools.cached_property
    def _stamp(self) -> Stamp:
        audio = hashlib.sha256("".join(map(self._digest, range(len(self._rows)))).encode())
        return Stamp(self._out / "done.json", {**self._identity, "audio": audio.hexdigest()})

    def _digest(self, number: int) -> str:
        """Return the digest of a part's audio, as it was when it was first asked for."""
        if number not in self._digests:  # once: it asks the disk for every file
            self._digests[number] = self._source.digest(self._rows[number])
        return self._digests[number]

    def extract(self, device: str, jobs: int) -> None:
        """Do this process's share of the parts; the first process joins all of them."""
        first, step = self._group.rank, self._group.size
        parts = []
        for number in range(first, len(self._rows), step):
            folder = self._out / PARTS_FOLDER / f"{number:05d}"
            identity = {**self._identity, "audio": self._digest(number)}
            parts.append(Part(folder, self._rows[number], identity))
        if device == "cpu":
            jobs = min(jobs or cores(), -(-sum(len(part.rows) for part in parts) // CHUNK))
        else:
            jobs = 1
        bad = self._write([part for part in parts if not part.is_done()], device, jobs)
        counts = {part.folder: len(part.rows) - len(bad.get(part, ())) for part in parts}
        gathered = self._group.gather((counts, [pair for pairs in bad.values() for pair in pairs]))
        faults = sorted(pair for _, pairs in gathered for pair in pairs)
        if self._group.rank == 0:
            self._list_bad(faults)
        if len(faults) > self._settings.max_bad:
            raise self._no_embeddings(faults)
        if self._group.rank == 0:
            self._join({folder: n for counts, _ in gathered for folder, n in counts.items()})
        self._group.gather(None)

    def _write(self, parts: Sequence[Part], device: str, jobs: int) -> dict[Part, list[_Fault]]:
        """Extract parts; return their utterances without embedding."""
        if not parts:
            return {}
        threads = min(_THREADS, cores()) if device != "cpu" else 0
        make = functools.partial(
            Embedder, self._model_dir, self._source, self._settings, device, threads
        )
        rows = [part.rows for part in parts]
        bad: dict[Part, list[_Fault]] = {}
        good = 0
        with embedding(make, jobs, rows) as results:
            shown = self._shown(results, sum(map(len, rows)))
            for part in parts:
                bad[part] = [(fault.key, fault.problem) for fault in part.write(shown)]
                good += len(part.rows) - len(bad[part])
                faults = [pair for pairs in bad.values() for pair in pairs]
                if not good and len(faults) >= max(_HOPELESS, self._settings.max_bad + 1):
                    self._list_bad(faults)
                    raise self._no_embeddings(faults)
            next(shown, None)  # lets it say its last word
        return bad

    def _shown(self, results: Iterator[Result], total: int) -> Iterator[Result]:
        """Pass results on and show how far the work is."""
        what = f"embeddings of {Path(self._source.name).name}"
        if self._group.size > 1:
            what += f", process {self._group.rank + 1} of {self._group.size}"
        chunked = 0
        for result in progress(results, what, total) if self._group.rank == 0 else results:
            chunked += result.chunks > 1
            yield result
        if chunked:
            get_logger().warning(
                "%s: %d utterances are longer than %g s: their embeddings are means over chunks",
                what,
                chunked,
                self._settings.chunk_seconds,
            )

    def _list_bad(self, faults: Sequence[_Fault]) -> None:
        if faults:
            with atomic_write(self._out / _BAD_FILE) as stream:
                stream.writelines(f"{key}: {problem}\n" for key, problem in faults)
        else:
            (self._out / _BAD_FILE).unlink(missing_ok=True)

    def _no_embeddings(self, faults: Sequence[_Fault]) -> DataError:
        mend = (
            f"{self._source.mend}; embeddings of the parts without such utterances are kept. "
            f"To go on without up to N of them: --max_bad N. All of them: {self._out / _BAD_FILE}"
        )
        problems = [f"{key}: {problem}" for key, problem in faults]
        return DataError(
            problem_list(f"{self._source.name}: no embedding possible", problems, mend)
        )

    def _join(self, counts: dict[Path, int]) -> None:
        if not any(counts.values()):
            raise DataError(f"{self._source.name}: not one utterance has an embedding")
        short = join(self._out, counts)
        lists = [self._out / name for name in (_BAD_FILE, SHORT_FILE)]
        listed = [path for path in lists if path.exists()]
        if lists[0] in listed:
            get_logger().warning(
                "%s: %d utterances have no embedding: %s",
                self._out,
                len(self._source.keys) - sum(counts.values()),
                lists[0],
            )
        if short:
            get_logger().warning(
                "%s: %d utterances are shorter than the model needs and were repeated: %s",
                self._out,
                short,
                lists[1],
            )
        self._stamp.write([*outputs(self._out), *listed])


@contextlib.contextmanager
def _disk_faults_named(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: {error.strerror or error}; parts that are done are kept "
            "for the next run"
        ) from error
