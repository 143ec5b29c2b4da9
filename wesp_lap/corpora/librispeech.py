"""LibriSpeech for speaker verification: its 960 hours to train on, its dev and test to verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wesp_lap.corpora.paper_trials import LIBRISPEECH_TRIALS, SEED, librispeech_trials
from wesp_lap.corpora.roots import find_root
from wesp_lap.corpora.scan import scan_audio
from wesp_lap.corpora.speaker_sets import get_trials, write_sets
from wesp_lap.errors import DataError, problem_list, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tables import read_lines

SUBSETS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)
SETS = {"train": "train-", "val": "dev-", "test": "test-"}
_SUFFIXES = (".flac", ".wav")
_ARCHIVES = "https://www.openslr.org/12"


class Reader(NamedTuple):
    """A line of SPEAKERS.TXT: "f" or "m", and the subset that holds the speaker."""

    gender: str
    subset: str


def prepare_librispeech(
    out: PathLike,
    source: PathLike,
    subsets: Sequence[str] = SUBSETS,
    per_label: int = LIBRISPEECH_TRIALS,
    seed: int = SEED,
    allow_missing: bool = False,
    val_trials: PathLike | None = None,
    test_trials: PathLike | None = None,
) -> dict[str, DataDir]:
    """Write OUT/{train,val,test} and OUT/trials/librispeech_{val,test}.kaldi.

    Audio stays where it is. Keys are the files' names without suffix, which begin with the
    speaker. train has the train-* subsets (2,338 speakers), val the dev-* and test the test-*
    subsets (73 each); every directory has spk2gender. The trials are those of
    ``paper_trials.librispeech_trials``.

    Args:
        out: folder for the data directories.
        source: folder with SPEAKERS.TXT and the subsets, or with LibriSpeech/ that has them, or
            with the archives, which are then unpacked to OUT/unpacked.
        subsets: what to take; some of each of the three sets.
        per_label: non-target trials per list, before they are rounded up.
        seed: of the trials.
        allow_missing: go on when speakers of SPEAKERS.TXT have no files.
        val_trials: published list to take for val, see ``read_published``; by default one is drawn.
        test_trials: the same for test.

    Returns:
        The data directories by name.

    Raises:
        DataError: subsets, speakers or names that are not as published, or too few utterances for
            the trials. Nothing is written then.
    """
    root = find_root(source, "SPEAKERS.TXT", ["LibriSpeech"], subsets, Path(out) / "unpacked")
    readers = read_readers(root / "SPEAKERS.TXT")
    _check_subsets(root, subsets)
    tables: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    for name, prefix in SETS.items():
        tables[name] = {}
        for subset in (one for one in subsets if one.startswith(prefix)):
            faults += _collect(root / subset, readers, tables[name])
    raise_problems(f"{root}: files that LibriSpeech does not have", faults)
    if not allow_missing:
        _check_whole(root, readers, subsets, tables)
    genders = {speaker: reader.gender for speaker, reader in readers.items()}
    utt2spk = {name: {key: _speaker(key) for key in wav} for name, wav in tables.items()}
    lists = get_trials(
        utt2spk,
        {"val": val_trials, "test": test_trials},
        lambda speakers: librispeech_trials(speakers, genders, per_label, seed),
    )
    return write_sets(out, "librispeech", tables, utt2spk, {"spk2gender": genders}, lists)


def read_readers(path: PathLike) -> dict[str, Reader]:
    """Read SPEAKERS.TXT: ``ID | SEX | SUBSET | MINUTES | NAME`` lines, and comments behind ";"."""
    readers, faults = {}, []
    for number, line in enumerate(read_lines(path), 1):
        text = line.decode().strip()
        if not text or text.startswith(";"):
            continue
        fields = [field.strip() for field in text.split("|")]
        if len(fields) < 4 or fields[1] not in ("F", "M"):
            faults.append(f"{path}:{number}: {text!r}")
        else:
            readers[fields[0]] = Reader(fields[1].lower(), fields[2])
    raise_problems(f"{path}: not lines 'ID | F or M | SUBSET | MINUTES | NAME'", faults)
    return readers


def _check_subsets(root: Path, subsets: Sequence[str]) -> None:
    faults = [f"{name}: no such subset is known" for name in subsets if name not in SUBSETS]
    faults += [
        f"{root / name}: no such folder"
        for name in subsets
        if name in SUBSETS and not (root / name).is_dir()
    ]
    faults += [
        f"no {prefix}* subset for {name}"
        for name, prefix in SETS.items()
        if not any(subset.startswith(prefix) for subset in subsets)
    ]
    mend = (
        f"Unpack NAME.tar.gz of {_ARCHIVES} there, or choose among {', '.join(SUBSETS)}: "
        "--subsets NAME,NAME,..."
    )
    raise_problems("subsets of LibriSpeech", faults, mend)


def _speaker(key: str) -> str:
    return key.split("-", 1)[0]


def _collect(folder: Path, readers: Mapping[str, Reader], wav: dict[str, str]) -> list[str]:
    """Add the files of a subset to ``wav`` and return what is wrong with the others."""
    faults = []
    for path in map(Path, (file.path for file in scan_audio(folder, 3, _SUFFIXES))):
        key, (speaker, chapter) = path.stem, path.parts[-3:-1]
        if not key.startswith(f"{speaker}-{chapter}-"):
            faults.append(f"{path}: expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac")
        elif speaker not in readers:
            faults.append(f"{path}: SPEAKERS.TXT has no speaker {speaker}")
        elif readers[speaker].subset != folder.name:
            faults.append(f"{path}: SPEAKERS.TXT has the speaker in {readers[speaker].subset}")
        elif key in wav:
            faults.append(f"{path}: the same utterance as {wav[key]}")
        else:
            wav[key] = str(path)
    return faults


def _check_whole(
    root: Path,
    readers: Mapping[str, Reader],
    subsets: Sequence[str],
    tables: Mapping[str, Mapping[str, str]],
) -> None:
    found = {_speaker(key) for wav in tables.values() for key in wav}
    faults = []
    for subset in subsets:
        wanted = [name for name, reader in readers.items() if reader.subset == subset]
        lost = [name for name in wanted if name not in found]
        if lost:
            text = f"{root / subset}: {len(lost)} of {len(wanted)} speakers have no files"
            faults.append(f"{text}: {some(lost)}")
    if faults:
        mend = "Unpack the archives again; to go on without these speakers: --allow_missing true"
        raise DataError(problem_list("LibriSpeech is not whole", faults, mend))
