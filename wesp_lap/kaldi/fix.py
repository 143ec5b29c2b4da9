"""Mend a data directory: keep what is whole, drop the rest from every table, sort."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.datadir import locate
from wesp_lap.kaldi.headers import read_headers
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.problems import some
from wesp_lap.kaldi.tables import invert, read_lines, write_table
from wesp_lap.kaldi.tableset import TableSet, table_files
from wesp_lap.kaldi.vad import scan_vad, write_vad

_FIELDS = {"utt2spk": 2, "utt2dur": 2, "segments": 4}
_BACKUP = ".backup"


@dataclass
class FixReport:
    """What ``fix_data_dir`` did.

    ``removed`` maps a kind of what was removed ("utterances without speaker") to the names;
    ``changed`` lists the tables that were replaced, made or removed.
    """

    path: Path
    before: int = 0
    kept: int = 0
    speakers: int = 0
    removed: dict[str, list[str]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    def note(self, kind: str, names: Iterable[str]) -> None:
        """Add names to what was removed."""
        found = list(names)
        if found:
            self.removed.setdefault(kind, []).extend(found)

    def __str__(self) -> str:
        lines = [
            f"removed {len(names)} {kind}: {some(names)}" for kind, names in self.removed.items()
        ]
        if self.changed:
            backup = self.path / _BACKUP
            kept = f"; what was there before: {backup}" if backup.is_dir() else ""
            lines.append(f"changed {', '.join(self.changed)}{kept}")
        counts = f"{self.kept} of {self.before} utterances, {self.speakers} speakers"
        return "\n".join([*lines, f"{self.path}: kept {counts}"])


def fix_data_dir(
    path: PathLike,
    audio: Literal["none", "headers"] = "none",
    min_utterances: int = 1,
    min_seconds: float = 0.0,
) -> FixReport:
    """Make a data directory consistent, in place.

    Utterances are kept that have a speaker, an entry in wav.scp and, when there is a segments
    file, a segment in a recording of wav.scp. What belongs to others is dropped from every table;
    so are malformed lines and lines that stand there twice. Tables are sorted as in the C locale,
    spk2utt is made from utt2spk, and replaced tables are kept in DIR/.backup. A directory without
    faults is not touched.

    Args:
        path: data directory.
        audio: "headers" also drops utterances whose audio file is missing or cannot be read.
        min_utterances: drop speakers with fewer utterances than this.
        min_seconds: drop utterances shorter than this: by their segment, else by the audio header
            with ``audio="headers"``, else by utt2dur, or the header where that is silent.

    Raises:
        DataError: a missing table, a key with two different values (all are named with their
            lines), or nothing would be left. Then nothing is changed.
    """
    if min_utterances < 1 or not 0 <= min_seconds < math.inf:
        raise ConfigError("--min_utterances starts at 1 and --min_seconds at 0")
    report = FixReport(Path(path))
    tables = _read(report)
    utterances = _whole_utterances(tables, report)
    utterances = _check_audio(tables, utterances, audio, min_seconds, report)
    counts = Counter(tables.utt2spk[key] for key in utterances)
    rare = {speaker for speaker, count in counts.items() if count < min_utterances}
    kind = f"utterances of speakers with fewer than {min_utterances}"
    report.note(kind, (key for key in utterances if tables.utt2spk[key] in rare))
    utterances = [key for key in utterances if tables.utt2spk[key] not in rare]
    if not utterances:
        raise DataError(
            f"{path}: no utterance would be left, so nothing was changed\n"
            + "\n".join(f"  {len(n)} {kind}: {some(n)}" for kind, n in report.removed.items())
        )
    kept = tables.keep(utterances)
    _note_orphans(tables, kept, report)
    report.kept, report.speakers = len(utterances), len(counts) - len(rare)
    _replace(kept, report)
    return report


def _read(report: FixReport) -> TableSet:
    """Read the well-formed lines of all tables; note the others."""
    folder = report.path
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data directory")
    needed = [folder / name for name in ("wav.scp", "utt2spk")]
    lost = [f"{path}: no such file" for path in needed if not path.is_file()]
    raise_problems(f"{folder}: tables are missing", lost, "They cannot be made from the others.")
    conflicts: list[str] = []
    tables = {
        one.name: _rows(one, conflicts, report)
        for one in table_files(folder)
        if one.name not in ("spk2utt", "vad")
    }
    mend = "Find out which line is right and remove the other. Nothing was changed."
    raise_problems(f"{folder}: keys with two values", conflicts, mend)
    # A table without rows goes, but not segments: recordings would become utterances.
    primary = ("wav.scp", "utt2spk", "segments")
    result = TableSet(
        folder, {name: rows for name, rows in tables.items() if rows or name in primary}
    )
    if (folder / "vad").is_file():
        result.vad, malformed = scan_vad(folder / "vad")
        report.note("malformed lines", malformed)
    report.before = len(result.utt2spk)
    return result


def _rows(path: Path, conflicts: list[str], report: FixReport) -> dict[str, str]:
    rows: dict[str, str] = {}
    first: dict[str, int] = {}
    fields = _FIELDS.get(path.name)
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split(None, 1)
        if len(parts) < 2 or (fields and len(line.split()) != fields):
            shown = repr(line.strip().decode()) if parts else "a blank line"
            report.note("malformed lines", [f"{path}:{number}: {shown}"])
            continue
        key, value = parts[0].decode(), parts[1].rstrip().decode()
        if key not in rows:
            rows[key], first[key] = value, number
        elif rows[key] == value:
            report.note("repeated lines", [f"{path}:{number}: {key}"])
        else:
            conflicts.append(
                f"{path}:{first[key]}: '{key} {rows[key]}', but line {number}: '{key} {value}'"
            )
    return rows


def _whole_utterances(tables: TableSet, report: FixReport) -> list[str]:
    wav, segments = tables.tables["wav.scp"], tables.tables.get("segments")
    if segments is not None:
        bad = [key for key, row in segments.items() if not _is_segment(row)]
        report.note("segments without 0 <= start < end", bad)
        lost = [
            key for key, row in segments.items() if _is_segment(row) and row.split()[0] not in wav
        ]
        report.note("segments whose recording is not in wav.scp", lost)
        wrong = {*bad, *lost}
        segments = {key: row for key, row in segments.items() if key not in wrong}
        tables.tables["segments"] = segments
    durations = tables.tables.get("utt2dur", {})
    odd = [key for key, text in durations.items() if not 0 < _number(text) < math.inf]
    report.note("durations of utt2dur that are not positive", odd)
    for key in odd:
        del durations[key]
    audible: Collection[str] = wav if segments is None else segments
    source = "wav.scp" if segments is None else "segments"
    report.note(f"utterances not in {source}", (k for k in tables.utt2spk if k not in audible))
    report.note("utterances without speaker", (k for k in audible if k not in tables.utt2spk))
    return [key for key in tables.utt2spk if key in audible]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_segment(row: str) -> bool:
    _, start, end = row.split()
    return 0 <= _number(start) < _number(end) < math.inf


def _check_audio(
    tables: TableSet, utterances: list[str], audio: str, min_seconds: float, report: FixReport
) -> list[str]:
    """Return the utterances whose audio is there and long enough, as far as that is asked for."""
    known = {} if audio == "headers" else tables.tables.get("utt2dur", {})
    segments = tables.tables.get("segments")
    wav = tables.tables["wav.scp"]
    wanted = {tables.recording(key) for key in utterances}
    if audio == "none":
        measured = min_seconds > 0 and not segments
        wanted = {key for key in wanted if key not in known} if measured else set()
    paths = {k: locate(wav[k], tables.path) for k in sorted(wanted) if not is_pipe(wav[k])}
    headers, faults = read_headers(paths)
    for missing, kind in ((True, "utterances without audio file"), (False, "unreadable audio")):
        report.note(
            kind,
            (
                f"{key} {paths[tables.recording(key)]}"
                for key in utterances
                if tables.recording(key) in faults
                and paths[tables.recording(key)].exists() != missing
            ),
        )
    sound = [key for key in utterances if tables.recording(key) not in faults]
    if not min_seconds:
        return sound
    lengths = {key: float(text) for key, text in known.items()}
    lengths.update((key, header.seconds) for key, header in headers.items())
    if segments:
        times = {key: row.split()[1:] for key, row in segments.items()}
        lengths = {key: float(end) - float(start) for key, (start, end) in times.items()}
    short = {key for key in sound if lengths.get(key, math.inf) < min_seconds}
    kind = f"utterances shorter than {min_seconds} s"
    report.note(kind, (f"{key} ({lengths[key]:.3f} s)" for key in sound if key in short))
    return [key for key in sound if key not in short]


def _note_orphans(tables: TableSet, kept: TableSet, report: FixReport) -> None:
    primary = ("utt2spk", "segments") if "segments" in tables.tables else ("utt2spk", "wav.scp")
    for name, table in tables.tables.items():
        if name not in primary:
            rest = kept.tables.get(name, {})
            report.note(f"orphans of {name}", (key for key in table if key not in rest))
    report.note("orphans of vad", (key for key in tables.vad if key not in kept.vad))


def _replace(kept: TableSet, report: FixReport) -> None:
    """Write the tables that differ from what the files hold, after a copy to DIR/.backup."""
    folder = kept.path
    spk2utt = {speaker: " ".join(keys) for speaker, keys in invert(kept.utt2spk).items()}
    tables = {**kept.tables, "spk2utt": spk2utt}
    present = {path.name for path in table_files(folder)}
    for name in sorted(present | tables.keys() | ({"vad"} if kept.vad else set())):
        path = folder / name
        old = path.read_bytes() if name in present else None
        partial = folder / f".{name}.fixed"
        if name == "vad" and kept.vad:
            write_vad(partial, kept.vad)
        elif name in tables:
            write_table(partial, tables[name])
        if partial.exists() and partial.read_bytes() == old:
            partial.unlink()
            continue
        if old is not None:
            (folder / _BACKUP).mkdir(exist_ok=True)
            shutil.copy2(path, folder / _BACKUP / name)
        report.changed.append(name)
        if partial.exists():
            partial.replace(path)
        else:
            path.unlink()
