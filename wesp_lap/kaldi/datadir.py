"""A Kaldi data directory: wav.scp, utt2spk and, when present, utt2dur, segments and vad."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from wesp_lap.errors import DataError, problem_list
from wesp_lap.files import PathLike
from wesp_lap.kaldi.pipes import is_pipe, run_pipe
from wesp_lap.kaldi.problems import Problem, command, format_problems, has_errors, some
from wesp_lap.kaldi.tables import invert, scan_table, write_table
from wesp_lap.kaldi.vad import VAD_FORM, Pieces, scan_vad, write_vad

_NO_SPEAKERS = "when the speakers are unknown: awk '{{print $1, $1}}' {wav} > {utt2spk}"


@dataclass(frozen=True)
class Segment:
    """A part of a recording, in seconds."""

    recording: str
    start: float
    end: float


@dataclass
class DataDir:
    """The tables of a data directory.

    ``wav`` maps recordings to files or pipe commands; without ``segments`` a recording is an
    utterance. ``utt2spk`` says which utterances the directory holds: recordings that it does not
    name are left out. ``utt2dur`` (seconds), ``segments`` and ``vad`` are empty when absent.
    ``vad`` holds the (start, end) of the speech in an utterance, in seconds from its start; see
    ``read_vad``.
    """

    path: Path
    wav: dict[str, str]
    utt2spk: dict[str, str]
    utt2dur: dict[str, float]
    segments: dict[str, Segment]
    vad: dict[str, Pieces] = field(default_factory=dict)
    _pipe_outputs: Path | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, path: PathLike) -> DataDir:
        """Read a data directory; audio files are not touched.

        Raises:
            DataError: all missing files, malformed lines, utterances without audio and segments
                without recording, each with what to do.
        """
        data, problems = scan_data_dir(path)
        if has_errors(problems):
            raise DataError(f"{path}: not a valid data directory\n{format_problems(problems)}")
        return data

    @property
    def spk2utt(self) -> dict[str, list[str]]:
        """Sorted utterances of each speaker."""
        return invert(self.utt2spk)

    @property
    def utterances(self) -> list[str]:
        """Sorted utterance keys."""
        return sorted(self.utt2spk)

    def recording(self, utterance: str) -> str:
        """Return the wav.scp key that holds an utterance."""
        return self.segments[utterance].recording if self.segments else utterance

    def resolve(self, utt: str, allow_pipe: bool = False) -> Path:
        """Return the audio file of an utterance.

        A relative path is looked up from the working directory, then from the data directory.

        Args:
            utt: utterance key.
            allow_pipe: run a pipe entry and return a temporary file that holds its output and
                lives as long as this object. For a large corpus, let
                ``python -m wesp_lap.bin.prepare_data --allow_pipe`` write the files once.

        Raises:
            DataError: unknown utterance, missing file, or a pipe that is not allowed.
        """
        entry = self.wav.get(self.recording(utt)) if utt in self.utt2spk else None
        if entry is None:
            raise DataError(f"{self.path}: no utterance {utt!r}")
        if is_pipe(entry):
            if not allow_pipe:
                raise DataError(
                    f"{self.path / 'wav.scp'}: {utt}: '{entry}' is a command, not a "
                    f"file. To run such commands once and keep their output: "
                    f"{materialise_command(self.path)}"
                )
            return self._run_pipe(self.recording(utt), entry)
        path = locate(entry, self.path)
        if not path.exists():
            raise DataError(f"{self.path / 'wav.scp'}: {utt}: no such file: {entry}")
        return path

    def _run_pipe(self, recording: str, entry: str) -> Path:
        if self._pipe_outputs is None:
            self._pipe_outputs = Path(tempfile.mkdtemp(prefix="wesp_lap-"))
            weakref.finalize(self, shutil.rmtree, self._pipe_outputs, ignore_errors=True)
        target = self._pipe_outputs / (quote(recording, safe="") + ".wav")
        if not target.exists():
            run_pipe(entry, target)
        return target

    def write(self, path: PathLike) -> None:
        """Write wav.scp, utt2spk, spk2utt and, when not empty, utt2dur, segments and vad."""
        folder = Path(path)
        write_table(folder / "utt2spk", self.utt2spk)
        spk2utt = {speaker: " ".join(keys) for speaker, keys in self.spk2utt.items()}
        write_table(folder / "spk2utt", spk2utt)
        if self.utt2dur:
            durations = {key: f"{seconds:.3f}" for key, seconds in self.utt2dur.items()}
            write_table(folder / "utt2dur", durations)
        if self.segments:
            rows = {k: f"{s.recording} {s.start} {s.end}" for k, s in self.segments.items()}
            write_table(folder / "segments", rows)
        if self.vad:
            write_vad(folder / "vad", self.vad)
        # Last: a directory without wav.scp is not taken for a finished one.
        write_table(folder / "wav.scp", self.wav)


def locate(entry: str, folder: Path) -> Path:
    """Return the file that a wav.scp entry means; it may not exist."""
    return Path(entry) if os.path.isabs(entry) or os.path.exists(entry) else folder / entry


def materialise_command(path: PathLike) -> str:
    """Return the command that replaces the pipes of a data directory by files."""
    source = shlex.quote(str(path))
    return f"python -m wesp_lap.bin.prepare_data --src {source} --out NEW_DIR --allow_pipe"


def scan_data_dir(path: PathLike) -> tuple[DataDir, list[Problem]]:
    """Read what can be read of a data directory and say what is wrong with the rest."""
    folder = Path(path)
    problems: list[Problem] = []
    data = DataDir(folder, {}, {}, {}, {})
    if not folder.is_dir():
        mend = "give the path of a folder with wav.scp and utt2spk"
        return data, [Problem("error", f"{folder}: no such data directory", mend)]
    data.wav = _required(folder / "wav.scp", None, "one 'key path' line per recording", problems)
    names = {name: shlex.quote(str(folder / name)) for name in ("wav.scp", "utt2spk")}
    no_speakers = _NO_SPEAKERS.format(wav=names["wav.scp"], utt2spk=names["utt2spk"])
    data.utt2spk = _required(folder / "utt2spk", 2, no_speakers, problems)
    durations = optional_table(folder / "utt2dur", 2, problems)
    data.utt2dur = _durations(folder / "utt2dur", durations, problems)
    rows = optional_table(folder / "segments", 4, problems)
    data.segments = _segments(folder / "segments", rows, problems)
    data.vad = _vad(folder / "vad", problems)
    if data.wav and data.utt2spk:
        problems += _references(data, "segments" if rows else "wav.scp", set(rows or data.wav))
    return data, problems


def optional_table(path: Path, fields: int | None, problems: list[Problem]) -> dict[str, str]:
    """Read a table that may be absent; what is wrong with it joins ``problems``."""
    if not path.exists():
        return {}
    try:
        table, lines = scan_table(path, fields)
    except DataError as error:
        problems.append(Problem("error", str(error), f"mend or remove {path}"))
        return {}
    if lines:
        form = {2: "'key value'", 4: "'utterance recording start end'"}.get(fields or 0)
        mend = f"write every line once as {form or 'a key and its value'}; {_drop(path, 'lines')}"
        problems.append(Problem("error", problem_list(f"{path}: malformed", lines), mend))
    elif not table:
        problems.append(Problem("error", f"{path}: empty file", f"fill or remove {path}"))
    return table


def _required(path: Path, fields: int | None, mend: str, problems: list[Problem]) -> dict[str, str]:
    if not path.exists():
        problems.append(Problem("error", f"{path}: no such file", f"write it: {mend}"))
    return optional_table(path, fields, problems)


def _durations(path: Path, rows: dict[str, str], problems: list[Problem]) -> dict[str, float]:
    durations, bad = {}, []
    for key, text in rows.items():
        seconds = _seconds(text)
        if seconds is None or seconds <= 0:
            bad.append(f"{key} {text}")
        else:
            durations[key] = seconds
    if bad:
        text = f"{path}: {len(bad)} durations are not positive numbers: {some(bad)}"
        mend = f"{command('get_utt2dur', path.parent)}  # measures them; or write seconds"
        problems.append(Problem("error", text, mend))
    return durations


def _segments(path: Path, rows: dict[str, str], problems: list[Problem]) -> dict[str, Segment]:
    segments, bad = {}, []
    for key, row in rows.items():
        recording, start_text, end_text = row.split()
        start, end = _seconds(start_text), _seconds(end_text)
        if start is None or end is None or not 0 <= start < end:
            bad.append(f"{key} {row}")
        else:
            segments[key] = Segment(recording, start, end)
    if bad:
        text = f"{path}: {len(bad)} segments without 0 <= start < end: {some(bad)}"
        mend = f"write start and end in seconds; {_drop(path, 'segments')}"
        problems.append(Problem("error", text, mend))
    return segments


def _vad(path: Path, problems: list[Problem]) -> dict[str, Pieces]:
    if not path.exists():
        return {}
    try:
        vad, lines = scan_vad(path)
    except DataError as error:
        problems.append(Problem("error", str(error), f"mend or remove {path}"))
        return {}
    if lines:
        mend = f"write {VAD_FORM}; {_drop(path, 'lines')}"
        problems.append(Problem("error", problem_list(f"{path}: malformed", lines), mend))
    elif not vad:
        problems.append(Problem("error", f"{path}: empty file", f"fill or remove {path}"))
    return vad


def _drop(table: Path, what: str) -> str:
    return f"to drop such {what}: {command('fix_data_dir', table.parent)}"


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _references(data: DataDir, source: str, known: set[str]) -> list[Problem]:
    problems = []
    fix = command("fix_data_dir", data.path)
    lost = sorted({s.recording for s in data.segments.values()} - data.wav.keys())
    if lost:
        text = f"{data.path / 'segments'}: {len(lost)} recordings not in wav.scp: {some(lost)}"
        mend = f"add them to {data.path / 'wav.scp'}; to drop their segments: {fix}"
        problems.append(Problem("error", text, mend))
    silent = sorted(data.utt2spk.keys() - known)
    if silent:
        text = (
            f"{data.path / 'utt2spk'}: {len(silent)} utterances without audio "
            f"(not in {source}): {some(silent)}"
        )
        mend = f"add them to {source}; to drop them: {fix}"
        problems.append(Problem("error", text, mend))
    return problems
