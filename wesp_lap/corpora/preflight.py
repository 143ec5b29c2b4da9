"""Checks of the data before a run: corpora, noises, trial lists, data directories, and space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wesp_lap.audio.ffmpeg import needs_ffmpeg
from wesp_lap.corpora.archives import stamp_name
from wesp_lap.corpora.checks import Check, from_problems, guarded, ok
from wesp_lap.corpora.cnceleb_lists import CNCELEB1, CNCELEB2, read_corpus, read_lists
from wesp_lap.corpora.machine import check_disk, check_ffmpeg
from wesp_lap.corpora.noises import check_musan, check_rirs
from wesp_lap.corpora.parts import check_end
from wesp_lap.corpora.trial_lists import PUBLISHED, Published, missing_utterances, read_list
from wesp_lap.corpora.voxceleb_files import VoxCeleb, find_voxceleb
from wesp_lap.corpora.voxceleb_sizes import SIZES, speakers_of
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import DataDir, locate
from wesp_lap.kaldi.headers import read_headers
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.problems import has_errors, some
from wesp_lap.kaldi.validate import inspect

SAMPLE_RATE = 16000
# Bytes of an hour: 16-bit samples; FLAC of speech; AAC as VoxCeleb2 has it.
_HOUR_BYTES = {".wav": 115e6, ".flac": 60e6, ".m4a": 33e6}
_SHARD_HOUR = 62e6  # FLAC, and what a tar adds
_EXAMPLES = 64
_UNPACKED = 1.25  # bytes unpacked for each of the archive


@dataclass(frozen=True)
class Inputs:
    """What a recipe was given; None or empty for what it was not.

    Attributes:
        vox1: folders or archives of VoxCeleb1.
        vox2: folders or archives of VoxCeleb2.
        vox2_test_speakers: see ``prepare_voxceleb``.
        cnceleb1: folder of CN-Celeb1.
        cnceleb2: folder of CN-Celeb2.
        train: data directory to train on.
        eval: data directory to test on.
        trials: trial lists.
        musan: noises.
        rirs: room responses.
    """

    vox1: Sequence[PathLike] = ()
    vox2: Sequence[PathLike] = ()
    vox2_test_speakers: PathLike | None = None
    cnceleb1: PathLike | None = None
    cnceleb2: PathLike | None = None
    train: PathLike | None = None
    eval: PathLike | None = None
    trials: Sequence[PathLike] = ()
    musan: PathLike | None = None
    rirs: PathLike | None = None


@dataclass
class _Found:
    """Lines of the table, and the hours of training speech that shards will hold."""

    checks: list[Check] = field(default_factory=list)
    train_hours: float = 0.0
    unpacked_bytes: float = 0.0


def check_inputs(
    inputs: Inputs, data: PathLike, published: Mapping[str, Published] = PUBLISHED
) -> list[Check]:
    """Check everything that a run reads, and whether what it writes has room in ``data``."""
    found = _Found()
    if inputs.vox1 or inputs.vox2:
        mend = "name folders or published archives of VoxCeleb with --vox1 and --vox2"
        found.checks += guarded(
            "voxceleb", mend, lambda: _voxceleb(inputs, Path(data), found, published)
        )
    elif inputs.trials:
        found.checks += _trials(inputs, None, published)
    if inputs.cnceleb1 or inputs.cnceleb2:
        mend = "name the unpacked folders of CN-Celeb with --cnceleb1 and --cnceleb2"
        found.checks += guarded("cnceleb", mend, lambda: _cnceleb(inputs, found))
    for name, path in (("train", inputs.train), ("eval", inputs.eval)):
        if path is not None:
            found.checks += _data_dir(name, path, inputs, found)
    for name, path, check in (
        ("musan", inputs.musan, check_musan),
        ("rirs", inputs.rirs, check_rirs),
    ):
        if path is not None:
            found.checks += from_problems(name, check(path), str(path))
    if (inputs.musan is None) != (inputs.rirs is None):
        text = "only one of --musan and --rirs is given: training goes without noise and rooms"
        found.checks.append(Check("noises", "warning", text, "give both"))
    return found.checks + _disk(Path(data), found)


def _voxceleb(
    inputs: Inputs, data: Path, found: _Found, published: Mapping[str, Published]
) -> list[Check]:
    corpus = _find_voxceleb(inputs, data / "unpacked")
    checks = []
    for name, files in corpus.files.items():
        speakers = len(speakers_of(files))
        checks.append(ok(name, f"{len(files):,} utterances, {speakers:,} speakers"))
    for name, archive in corpus.archives.items():
        check_end(archive)
        found.unpacked_bytes += _UNPACKED * archive.size
        checks.append(ok(name, f"{archive.name}: {archive.size / 1e9:.1f} GB to unpack"))
    checks += from_problems("voxceleb", corpus.problems)
    train = "vox2_dev" if inputs.vox2 else "vox1_dev"
    files = corpus.files.get(train, {})
    found.train_hours = _hours((file.path, file.size) for file in files.values())
    if train in corpus.archives:
        suffix = ".m4a" if train == "vox2_dev" else ".wav"
        found.train_hours = corpus.archives[train].size / _HOUR_BYTES[suffix]
    paths = [file.path for group in corpus.files.values() for file in group.values()]
    return checks + _examples("voxceleb", paths) + _trials(inputs, corpus, published)


def _find_voxceleb(inputs: Inputs, unpacked: Path) -> VoxCeleb:
    """Find the corpus, in folders that an earlier run has unpacked as well."""
    corpus = find_voxceleb(inputs.vox1, inputs.vox2, inputs.vox2_test_speakers)
    done = [
        unpacked / name
        for name, archive in corpus.archives.items()
        if (unpacked / name / stamp_name(archive)).is_file()
    ]
    if not done:
        return corpus
    vox1 = [*inputs.vox1, *(path for path in done if path.name.startswith("vox1"))]
    vox2 = [*inputs.vox2, *(path for path in done if path.name.startswith("vox2"))]
    return find_voxceleb(vox1, vox2, inputs.vox2_test_speakers)


def _trials(
    inputs: Inputs, corpus: VoxCeleb | None, published: Mapping[str, Published]
) -> list[Check]:
    checks = []
    test = () if corpus is None else corpus.files.get("vox1_test", ())
    for path in inputs.trials:
        one = read_list(path, published, part=len(test) < SIZES["vox1_test"].utterances)
        problems = list(one.problems)
        if corpus is not None and not any(name.startswith("vox1") for name in corpus.archives):
            problems += missing_utterances(one, corpus.vox1_utterances, corpus.vox1_parts)
        count = 0 if one.trials is None else len(one.trials)
        checks += from_problems("trials", problems, f"{path}: {one.name}, {count:,} trials")
    return checks


def _cnceleb(inputs: Inputs, found: _Found) -> list[Check]:
    checks: list[Check] = []
    paths: list[str] = []
    for name, path, published in (
        ("cnceleb1", inputs.cnceleb1, CNCELEB1),
        ("cnceleb2", inputs.cnceleb2, CNCELEB2),
    ):
        if path is None:
            continue
        corpus = read_corpus(Path(path), published)
        faults = list(corpus.faults)
        if published is CNCELEB1 and not faults:
            faults += read_lists(corpus).faults
        mend = "unpack the second release again: https://www.openslr.org/82"
        checks += [Check(name, "error", fault, mend) for fault in faults]
        if not faults:
            text = f"{len(corpus.files):,} files, {len(corpus.speakers):,} training speakers"
            checks.append(ok(name, text))
        found.train_hours += _hours(corpus.files.values())
        paths += [file for file, _ in corpus.files.values()]
    return checks + _examples("cnceleb", paths)


def _data_dir(name: str, path: PathLike, inputs: Inputs, found: _Found) -> list[Check]:
    trials = inputs.trials if name == "eval" else ()
    other = inputs.train if name == "eval" else None
    # Headers of all files would take minutes; the data stage reads them.
    report = inspect(path, trials, other, audio="none", allow_pipe=True)
    checks = from_problems(name, report.problems, report.summary())
    if has_errors(report.problems):
        return checks
    paths = _files(report.data)
    if name == "train":
        found.train_hours = sum(report.data.utt2dur.values()) / 3600
        if not found.train_hours:
            sizes = {one: Path(one).stat().st_size for one in paths if Path(one).is_file()}
            found.train_hours = _hours(sizes.items())
    return checks + _examples(name, paths)


def _files(data: DataDir) -> list[str]:
    entries = [data.wav[data.recording(key)] for key in data.utt2spk]
    return [str(locate(entry, data.path)) for entry in entries if not is_pipe(entry)]


def _examples(name: str, paths: Sequence[str]) -> list[Check]:
    """Look into a few files all over the corpus: are they there, audio, at 16 kHz, mono?"""
    step = max(1, len(paths) // _EXAMPLES)
    chosen = {path: Path(path) for path in sorted(paths)[::step]}
    foreign = next((path for path in chosen if needs_ffmpeg(path)), None)
    checks: list[Check] = []
    if foreign is not None:
        checks += check_ffmpeg(foreign)
        chosen = {path: file for path, file in chosen.items() if not needs_ffmpeg(path)}
    headers, faults = read_headers(chosen)
    if faults:
        text = f"{len(faults)} of {len(chosen)} files looked into: {some(list(faults.values()))}"
        checks.append(Check(name, "error", text, "fetch or convert these files again"))
    odd = {
        path: f"{one.sample_rate} Hz, {one.channels} channels"
        for path, one in headers.items()
        if (one.sample_rate, one.channels) != (SAMPLE_RATE, 1)
    }
    if odd:
        examples = some([f"{path} ({form})" for path, form in odd.items()])
        text = f"{len(odd)} of {len(chosen)} files looked into are not 16 kHz mono: {examples}"
        mend = f"convert the corpus: ffmpeg -i IN -ar {SAMPLE_RATE} -ac 1 OUT.flac"
        checks.append(Check(name, "error", text, mend))
    return checks


def _hours(files: Iterable[tuple[str, int]]) -> float:
    """Estimate hours of speech from file sizes."""
    return sum(
        size / _HOUR_BYTES.get(path[path.rfind(".") :].lower(), _HOUR_BYTES[".flac"])
        for path, size in files
    )


def _disk(data: Path, found: _Found) -> list[Check]:
    """Compare shards and unpacked archives with the free space, less what is there already."""
    needed = found.train_hours * _SHARD_HOUR + found.unpacked_bytes
    if not needed:
        return []
    shards = (path for depth in ("*", "*/*") for path in data.glob(f"{depth}/shards/*.tar"))
    there = sum(path.stat().st_size for path in shards)
    what = f"shards of {found.train_hours:,.1f} h of speech"
    if found.unpacked_bytes:
        what += " and unpacked archives"
    place = data
    while not place.exists():
        place = place.parent
    return check_disk(place, max(0, round(needed - there)), what)
