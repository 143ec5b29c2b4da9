"""Find the audio of VoxCeleb in folders and published archives."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wesp_lap.corpora.archives import unpack
from wesp_lap.corpora.parts import Archive, check_last_part, find_archives
from wesp_lap.corpora.scan import AudioFile, scan_audio
from wesp_lap.corpora.voxceleb_sizes import VOX1_SPEAKERS, VOX1_TEST_SPEAKERS, check_sizes
from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.problems import Problem, some
from wesp_lap.kaldi.tables import read_lines
from wesp_lap.log import get_logger

# What the published archives hold, and the letters of the last part of those in parts.
ARCHIVES = {
    "vox1_dev_wav": "vox1_dev",
    "vox1_test_wav": "vox1_test",
    "vox2_dev_aac": "vox2_dev",
    "vox2_aac": "vox2_dev",
    "vox2_test_aac": "vox2_test",
}
LAST_PARTS = {"vox1_dev_wav": "ad", "vox2_dev_aac": "ah"}
_SPEAKER = re.compile(r"id\d{5}")
_TEST = re.compile(r"(^|[-_.])test([-_.]|$)", re.IGNORECASE)
_INNER = frozenset({"wav", "aac", "m4a", "flac", "mp4", "txt"})
# Where a conversion lies beside its source, the form that needs no other program is read.
_RANK = {".wav": 0, ".flac": 1, ".m4a": 2}


@dataclass
class VoxCeleb:
    """What was found: files by subset and key, and what is odd about them."""

    files: dict[str, dict[str, AudioFile]] = field(default_factory=dict)
    archives: dict[str, Archive] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def vox1_utterances(self) -> set[str]:
        """Keys of VoxCeleb1."""
        return {*self.files.get("vox1_dev", ()), *self.files.get("vox1_test", ())}

    @property
    def vox1_parts(self) -> list[str]:
        """Which of "dev" and "test" there is of VoxCeleb1."""
        return [name for name in ("dev", "test") if f"vox1_{name}" in self.files]


def find_voxceleb(
    vox1: Sequence[PathLike] = (),
    vox2: Sequence[PathLike] = (),
    vox2_test_speakers: PathLike | None = None,
    unpack_dir: PathLike | None = None,
) -> VoxCeleb:
    """Find the audio of VoxCeleb and say what is missing of it.

    Args:
        vox1: folders or archives of VoxCeleb1.
        vox2: folders or archives of VoxCeleb2.
        vox2_test_speakers: see ``prepare_voxceleb``.
        unpack_dir: where archives are unpacked whose subset has no unpacked audio; None leaves
            them as they are and returns them in ``archives``.

    Raises:
        DataError: files or folders that are missing, empty or cut, or hold no VoxCeleb.
    """
    if not vox1 and not vox2:
        raise DataError("no corpus given: name folders or archives with --vox1 or --vox2")
    found = VoxCeleb()
    speakers = None if vox2_test_speakers is None else read_speakers(vox2_test_speakers)
    for corpus, sources in (("vox1", vox1), ("vox2", vox2)):
        places, archives = _places(sources)
        files, strange = _audio(corpus, places, speakers)
        for role, archive in archives.items():
            if role in files:
                get_logger().info("%s: left alone, %s lies unpacked", archive.name, role)
            elif unpack_dir is None:
                found.archives[role] = archive
            else:
                _check_outside(unpack_dir, places)
                place = unpack(archive, Path(unpack_dir) / role)
                more, odd = _audio(corpus, [place], speakers)
                strange += odd
                for name, group in more.items():
                    files[name] = _merged([*files.get(name, {}).items(), *group.items()])
        if sources and not files and not found.archives:
            raise DataError(_nothing(corpus, sources, strange))
        if strange:
            text = f"{len(strange):,} files are not idXXXXX/VIDEO/FILE of {corpus}: {some(strange)}"
            found.problems.append(Problem("warning", text, "they are left out"))
        found.files.update(files)
    found.problems += check_sizes(found.files)
    return found


def _places(sources: Sequence[PathLike]) -> tuple[list[Path], dict[str, Archive]]:
    """Return the folders among the sources, and the archives in them and among them by subset."""
    places = [Path(source) for source in sources if Path(source).is_dir()]
    archives: dict[str, Archive] = {}
    for source in sources:
        for archive in find_archives(source, ARCHIVES.keys()):
            role = ARCHIVES.get(archive.stem)
            if archive.stem in LAST_PARTS:
                check_last_part(archive, LAST_PARTS[archive.stem])
            archives.setdefault(role or archive.stem, archive)
    return places, archives


def _check_outside(unpack_dir: PathLike, places: Sequence[Path]) -> None:
    for place in places:
        if Path(unpack_dir).resolve().is_relative_to(place.resolve()):
            raise DataError(
                f"the archives of {place} cannot be unpacked below it, in {unpack_dir}: half of "
                "them would be taken for the corpus; give another folder with --data"
            )


def _audio(
    corpus: str, places: Sequence[Path], test_speakers: Collection[str] | None
) -> tuple[dict[str, dict[str, AudioFile]], list[str]]:
    """Return the audio files by subset and key, and paths that are not of the corpus's form."""
    pairs: dict[str, list[tuple[str, AudioFile]]] = {}
    strange = []
    for place in map(Path, map(os.path.abspath, places)):
        speakers: dict[str, tuple[str, str] | None] = {}
        for file in scan_audio(place):
            parent, video, name = file.path.rsplit("/", 2)
            if parent not in speakers:
                speakers[parent] = _speaker_of(parent, place, test_speakers)
            known = speakers[parent]
            if known is None:
                strange.append(file.path)
            elif known[0].startswith(corpus):
                key = f"{known[1]}/{video}/{name.rpartition('.')[0]}.wav"
                pairs.setdefault(known[0], []).append((key, file))
    return {name: _merged(group) for name, group in pairs.items()}, strange


def _speaker_of(
    folder: str, place: Path, test_speakers: Collection[str] | None
) -> tuple[str, str] | None:
    """Return subset and speaker of a folder below ``place``; None when it is not a speaker's."""
    head, _, speaker = folder.rpartition("/")
    if not _SPEAKER.fullmatch(speaker):
        return None
    if speaker in VOX1_SPEAKERS:
        return ("vox1_test" if speaker in VOX1_TEST_SPEAKERS else "vox1_dev"), speaker
    if test_speakers is not None:
        return ("vox2_test" if speaker in test_speakers else "vox2_dev"), speaker
    while place.name.lower() in _INNER:
        place = place.parent
    inside = [place.name, *head[len(str(place)) :].split("/")]
    return ("vox2_test" if any(map(_TEST.search, inside)) else "vox2_dev"), speaker


def _merged(pairs: Iterable[tuple[str, AudioFile]]) -> dict[str, AudioFile]:
    files: dict[str, AudioFile] = {}
    repeated = []
    for key, file in pairs:
        other = files.setdefault(key, file)
        if other.path == file.path:
            continue
        ranks = [_RANK[one.path[one.path.rindex(".") :].lower()] for one in (other, file)]
        if ranks[0] == ranks[1]:
            repeated.append(f"{key}: {other.path} and {file.path}")
        elif ranks[1] < ranks[0]:
            files[key] = file
    raise_problems("the same utterance twice", repeated, "Give every corpus once.")
    return files


def _nothing(corpus: str, sources: Sequence[PathLike], strange: Sequence[str]) -> str:
    other = "VoxCeleb2" if corpus == "vox1" else "VoxCeleb1"
    seen = f"; there are {len(strange):,} other audio files: {some(strange, 3)}" if strange else ""
    return (
        f"--{corpus} {', '.join(map(str, sources))}: no idXXXXX/VIDEO/FILE.wav (.flac, .m4a) of "
        f"this corpus, and no published archive{seen}. Speakers of VoxCeleb1 are id10001 to "
        f"id11251, those of {other} go to the other option; names in place of ids are those of an "
        "older release of VoxCeleb1, which the trial lists do not know."
    )


def read_speakers(path: PathLike) -> set[str]:
    """Return the test speakers of vox2_meta.csv, or all speakers of a list with one a line."""
    rows = [line.decode().replace(",", " ").split() for line in read_lines(path)]
    rows = [row for row in rows if row]
    table = any(row[-1] in ("test", "dev") for row in rows)
    speakers = {
        row[0] for row in rows if _SPEAKER.fullmatch(row[0]) and (not table or row[-1] == "test")
    }
    if not speakers:
        raise DataError(
            f"{path}: no speakers idXXXXX of a test set; give vox2_meta.csv or one speaker a line"
        )
    return speakers
