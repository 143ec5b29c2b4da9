"""What CN-Celeb says about itself: which files there are, and the lists of its evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wesp_lap.corpora.scan import scan_audio
from wesp_lap.errors import DataError
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tables import read_lines

_SUFFIXES = (".flac", ".wav")
_LISTS = {"enroll.lst": 2, "enroll.map": 0, "trials.lst": 3}  # columns; 0: two or more
_SECOND_RELEASE = "fetch cn-celeb_v2.tar.gz from https://www.openslr.org/82"


@dataclass(frozen=True)
class Published:
    """How a corpus is published.

    Attributes:
        roots: folders that its archives make.
        archives: what its archives are called.
        speakers: list of training speakers; it may be missing.
        parts: folders with audio.
    """

    roots: tuple[str, ...]
    archives: str
    speakers: str
    parts: tuple[str, ...]


CNCELEB1 = Published(
    ("CN-Celeb_flac", "CN-Celeb_wav", "CN-Celeb"),
    "cn-celeb_v*.tar.gz*",
    "dev/dev.lst",
    ("data", "eval"),
)
CNCELEB2 = Published(
    ("CN-Celeb2_flac", "CN-Celeb2_wav", "CN-Celeb2"), "cn-celeb2_v*.tar.gz*", "spk.lst", ("data",)
)


@dataclass
class Corpus:
    """The audio files of one corpus.

    Attributes:
        root: folder with data/.
        files: path and size by name: SPEAKER/FILE in data/, enroll/FILE and test/FILE in eval/,
            all without suffix, since the lists write .wav for files that are FLAC.
        speakers: those that its list of speakers names (dev/dev.lst or spk.lst), or else all.
        faults: what is wrong, one sentence each.
        scanned: ``files`` is complete; else nothing is said of files that are not in it.
    """

    root: Path
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    speakers: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    scanned: bool = True


@dataclass
class EvalLists:
    """The evaluation of CN-Celeb1.

    Attributes:
        recordings: concatenated enrolment recording of every model, enroll/FILE.wav.
        utterances: what it was made of, SPEAKER/FILE.wav, by model.
        trials: model, test/FILE.wav, and 1 for a target.
        faults: what is wrong, one sentence each.
    """

    recordings: dict[str, str] = field(default_factory=dict)
    utterances: dict[str, list[str]] = field(default_factory=dict)
    trials: list[tuple[str, str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """All files that the lists name, sorted."""
        found = {test for _, test, _ in self.trials} | set(self.recordings.values())
        return sorted(found.union(*self.utterances.values()))


def file_name(key: str) -> str:
    """Return a key of the lists without its suffix."""
    return os.path.splitext(key)[0]


def speaker_of(key: str) -> str:
    """Return the speaker of ``idXXXXX/FILE``, ``enroll/idXXXXX-FILE`` or ``test/idXXXXX-FILE``."""
    folder, name = key.split("/", 1)
    return name.split("-", 1)[0] if folder in ("enroll", "test") else folder


def genre_of(key: str) -> str:
    """Return the genre that a name begins with, after the speaker in ``test/``."""
    folder, name = key.split("/", 1)
    return os.path.splitext(name)[0].split("-")[1 if folder == "test" else 0]


def read_corpus(path: Path, published: Published) -> Corpus:
    """Find the files of a corpus in the folder with data/, or in the one it was unpacked in."""
    roots = [path, *(path / name for name in published.roots)]
    root = next((one for one in roots if (one / "data").is_dir()), path)
    corpus = Corpus(root)
    missing = [part for part in published.parts if not (root / part).is_dir()]
    if missing:
        corpus.faults.append(_not_there(path, root, missing, published.archives))
        corpus.scanned = False
    for part in published.parts:
        if part not in missing:
            _scan(corpus, root / part)
    found = sorted({name.split("/")[0] for name in corpus.files} - {"enroll", "test"})
    corpus.speakers = found
    table = root / published.speakers
    if table.is_file():
        corpus.speakers = sorted({row[0].split("/")[0] for _, row in _rows(table)})
        lost = sorted(set(corpus.speakers) - set(found))
        if lost and corpus.scanned:
            text = f"{table}: {len(lost)} speakers without a file in data/: {some(lost)}"
            corpus.faults.append(text)
    return corpus


def _not_there(path: Path, root: Path, missing: Sequence[str], archives: str) -> str:
    if path.is_file():
        return f"{path}: a file, not a folder; unpack it first: {_unpacking([path])}"
    if not path.is_dir():
        return f"{path}: no such folder"
    text = f"{root}: no folder {' and no '.join(f'{name}/' for name in missing)}"
    packed = sorted(path.glob(archives))
    if packed:
        return f"{text}, but archives; unpack them first: {_unpacking(packed)}"
    return f"{text}; give the unpacked corpus, with data/ in it"


def _unpacking(archives: Sequence[Path]) -> str:
    whole = [str(one) for one in archives if one.suffix == ".gz"]
    names = whole[:1] or [str(one) for one in archives]  # parts end in .gzaa, .gzab, ...
    return f"cat {' '.join(names)} | tar -xz -C {archives[0].parent}"


def _scan(corpus: Corpus, folder: Path) -> None:
    # enroll/ and test/ lie in eval/, speakers in data/.
    try:
        files = scan_audio(folder, depth=2, suffixes=_SUFFIXES)
    except DataError as error:
        corpus.faults.append(str(error))
        corpus.scanned = False
        return
    if not files:
        corpus.faults.append(f"{folder}: no .flac or .wav files in folders below it")
    start = len(str(folder)) + 1
    for file in files:  # sorted, so that FLAC comes first where there is WAV too
        corpus.files.setdefault(file_name(file.path[start:]), (file.path, file.size))


def read_lists(corpus: Corpus) -> EvalLists:
    """Read eval/lists and make sure that they agree with each other and with the files."""
    folder = corpus.root / "eval" / "lists"
    lists = EvalLists()
    absent = [name for name in _LISTS if not (folder / name).is_file()]
    lists.faults = [_no_list(folder / name, corpus) for name in absent]
    rows = {
        name: list(_checked(folder / name, width, lists.faults))
        for name, width in _LISTS.items()
        if name not in absent
    }
    lists.recordings = {row[0]: row[1] for _, row in rows.get("enroll.lst", [])}
    lists.utterances = {row[0]: row[1:] for _, row in rows.get("enroll.map", [])}
    for number, (model, test, label) in rows.get("trials.lst", []):
        if label not in ("0", "1"):
            where = f"{folder / 'trials.lst'}:{number}"
            lists.faults.append(f"{where}: the third column is 1 or 0, found {label!r}")
        lists.trials.append((model, test, int(label == "1")))
    if not lists.faults:
        lists.faults += _disagreements(folder, lists)
        lists.faults += _missing_files(folder, corpus, lists) if corpus.scanned else []
    return lists


def _no_list(path: Path, corpus: Corpus) -> str:
    paths = (file[0] for file in corpus.files.values())
    if path.name == "enroll.map" and any(one.endswith(".wav") for one in paths):
        return (
            f"{path}: no such list, and WAV files: this is the first release of CN-Celeb, whose "
            f"enrolment cannot be taken apart; {_SECOND_RELEASE}"
        )
    return f"{path}: no such list; unpack the corpus again, or {_SECOND_RELEASE}"


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_lines(path), 1):
        words = line.decode().split()
        if words:
            yield number, words


def _checked(path: Path, width: int, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of the right width whose model does not stand there twice."""
    seen: set[str] = set()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        if len(row) != width if width else len(row) < 2:
            wanted = f"{width} columns" if width else "a model and its utterances"
            faults.append(f"{where}: expected {wanted}, found {' '.join(row)!r}")
        elif width != 3 and row[0] in seen:
            faults.append(f"{where}: model {row[0]} stands there twice")
        elif not all(key.count("/") == 1 for key in (row[1:2] if width else row[1:])):
            faults.append(f"{where}: expected FOLDER/FILE.wav, found {' '.join(row[1:])!r}")
        else:
            seen.add(row[0])
            yield number, row


def _disagreements(folder: Path, lists: EvalLists) -> Iterator[str]:
    for name, table in (("enroll.lst", lists.recordings), ("enroll.map", lists.utterances)):
        lost = sorted({model for model, _, _ in lists.trials} - table.keys())
        if lost:
            yield f"{folder / name}: {len(lost)} models of trials.lst are not in it: {some(lost)}"
    if not lists.trials:
        yield f"{folder / 'trials.lst'}: empty file"


def _missing_files(folder: Path, corpus: Corpus, lists: EvalLists) -> list[str]:
    named: dict[str, set[str]] = {
        "enroll.lst": set(lists.recordings.values()),
        "enroll.map": set().union(*lists.utterances.values()),
        "trials.lst": {test for _, test, _ in lists.trials},
    }
    found = []
    for name, keys in named.items():
        lost = sorted(key for key in keys if file_name(key) not in corpus.files)
        if lost:
            below = "data" if name == "enroll.map" else "eval"
            found.append(
                f"{folder / name}: {len(lost)} of {len(keys)} files are not in "
                f"{corpus.root / below}: {some(lost)}"
            )
    return found
