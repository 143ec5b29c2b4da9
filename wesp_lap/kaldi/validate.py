"""Find all problems of a data directory at once, before a stage runs into one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from wesp_lap.files import PathLike
from wesp_lap.kaldi import check_audio
from wesp_lap.kaldi.datadir import DataDir, optional_table, scan_data_dir
from wesp_lap.kaldi.lint import lint
from wesp_lap.kaldi.problems import Problem, command, some, verdict
from wesp_lap.kaldi.tables import invert
from wesp_lap.kaldi.tableset import further_tables, key_kind


@dataclass
class Report:
    """What a validation found.

    ``lengths`` holds the seconds of the utterances as far as they are known: from segments or
    audio headers, else from utt2dur.
    """

    data: DataDir
    problems: list[Problem] = field(default_factory=list)
    lengths: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the size of the directory and the verdict in one line."""
        parts = [f"{len(self.data.utt2spk)} utterances"]
        parts.append(f"{len(set(self.data.utt2spk.values()))} speakers")
        if self.lengths:
            parts.append(f"{sum(self.lengths.values()) / 3600:.2f} h")
        return f"{self.data.path}: {', '.join(parts)}: {verdict(self.problems)}"


def validate(
    data: PathLike,
    trials: Sequence[PathLike] = (),
    disjoint_from: PathLike | None = None,
    sample_rate: int = 16000,
    audio: Literal["headers", "none"] = "headers",
    require_two_utterances: bool = False,
    allow_pipe: bool = False,
) -> list[Problem]:
    """Return everything that is wrong with a data directory; see ``inspect``."""
    return inspect(
        data, trials, disjoint_from, sample_rate, audio, require_two_utterances, allow_pipe
    ).problems


def inspect(
    data: PathLike,
    trials: Sequence[PathLike] = (),
    disjoint_from: PathLike | None = None,
    sample_rate: int = 16000,
    audio: Literal["headers", "none"] = "headers",
    require_two_utterances: bool = False,
    allow_pipe: bool = False,
) -> Report:
    """Check a data directory and count what it holds. Nothing is written.

    Args:
        data: data directory.
        trials: trial lists whose ids should be in the directory.
        disjoint_from: data directory that should share no speaker with this one.
        sample_rate: what the audio files should have, in Hz.
        audio: "headers" reads the header of every audio file; "none" leaves audio alone.
        require_two_utterances: call a speaker with a single utterance an error, because no target
            trial can be made of it; by default it is a warning, as training on it is legal.
        allow_pipe: accept commands in wav.scp; they are not run here.
    """
    tables, problems = scan_data_dir(data)
    report = Report(tables, problems)
    if not tables.path.is_dir():
        return report
    problems += _speakers(tables, require_two_utterances) + _order(tables)
    problems += _spk2utt(tables) + _utt2dur_keys(tables) + _further_tables(tables)
    problems += _without_speech(tables)
    entries = check_audio.used_recordings(tables)
    problems += check_audio.check_pipes(tables, entries, allow_pipe)
    recordings: dict[str, float] = {}
    if audio == "headers":
        headers, found = check_audio.check_files(tables, entries, sample_rate)
        recordings = {key: header.seconds for key, header in headers.items()}
        problems += found
    problems += check_audio.check_lengths(tables, recordings)
    report.lengths = {
        **{key: seconds for key, seconds in tables.utt2dur.items() if key in tables.utt2spk},
        **check_audio.utterance_lengths(tables, recordings),
    }
    for path in trials:
        problems += lint(path, tables, None)[1]
    if disjoint_from is not None:
        problems += _shared_speakers(tables, disjoint_from)
    return report


def _further_tables(data: DataDir) -> list[Problem]:
    """Read the tables that are only carried along and look for keys that nothing else knows."""
    problems: list[Problem] = []
    known: dict[str, Collection[str]] = {
        "utterance": data.utt2spk.keys(),
        "speaker": set(data.utt2spk.values()),
        "recording": data.wav.keys(),
    }
    tables: dict[str, Collection[str]] = {"utt2dur": data.utt2dur, "vad": data.vad}
    for path in further_tables(data.path):
        tables[path.name] = optional_table(path, None, problems)
    for name, keys in tables.items():
        kind = key_kind(name)
        unknown = [key for key in keys if key not in known[kind]] if data.utt2spk else []
        if unknown:
            text = f"{data.path / name}: {len(unknown)} unknown {kind}s: {some(unknown)}"
            mend = f"{command('fix_data_dir', data.path)}  # drops such lines"
            problems.append(Problem("warning", text, mend))
    return problems


def _without_speech(data: DataDir) -> list[Problem]:
    lost = [key for key in data.utt2spk if key not in data.vad] if data.vad else []
    if not lost:
        return []
    text = f"{data.path / 'vad'}: {len(lost)} utterances without speech: {some(lost)}"
    return [Problem("warning", text, "add their pieces, or remove the utterances")]


def _speakers(data: DataDir, require_two: bool) -> list[Problem]:
    problems = []
    table = data.path / "utt2spk"
    keys = data.segments or data.wav
    source = "segments" if data.segments else "wav.scp"
    nameless = [key for key in keys if key not in data.utt2spk] if data.utt2spk else []
    if nameless:
        text = f"{len(nameless)} utterances of {source} without speaker, left out: {some(nameless)}"
        mend = f"add them to {table}; to drop them: {command('fix_data_dir', data.path)}"
        problems.append(Problem("warning", text, mend))
    single = [speaker for speaker, n in Counter(data.utt2spk.values()).items() if n == 1]
    if single:
        text = f"{len(single)} speakers have a single utterance: {some(single)}"
        drop = command("fix_data_dir", data.path, "--min_utterances 2")
        mend = f"add utterances, as no target trial can be made of one; to drop them: {drop}"
        problems.append(Problem("error" if require_two else "warning", text, mend))
    return problems


def _order(data: DataDir) -> list[Problem]:
    tables: dict[str, Iterable[str]] = {
        "wav.scp": data.wav,
        "utt2spk": data.utt2spk,
        "utt2dur": data.utt2dur,
        "segments": data.segments,
    }
    problems = []
    for name, table in tables.items():
        keys = list(table)
        late = next((i for i in range(1, len(keys)) if keys[i] < keys[i - 1]), None)
        if late is None:
            continue
        path = data.path / name
        text = f"{path}: not in the order of the C locale: {keys[late]} after {keys[late - 1]}"
        mend = f"{command('fix_data_dir', data.path)}  # sorts; Kaldi's programs need it"
        problems.append(Problem("warning", text, mend))
    return problems


def _spk2utt(data: DataDir) -> list[Problem]:
    path = data.path / "spk2utt"
    problems: list[Problem] = []
    mend = f"{command('fix_data_dir', data.path)}  # makes it from utt2spk"
    if not path.exists():
        return [Problem("warning", f"{path}: no such file", mend)]
    table = optional_table(path, None, problems)
    wanted = invert(data.utt2spk)
    odd = [s for s in wanted if s in table and sorted(table[s].split()) != wanted[s]]
    odd += sorted(wanted.keys() ^ table.keys())
    if odd and not problems and wanted:
        text = f"{path}: {len(odd)} speakers differ from utt2spk: {some(odd)}"
        problems.append(Problem("error", text, mend))
    return problems


def _utt2dur_keys(data: DataDir) -> list[Problem]:
    if not data.utt2dur:
        return []
    path = data.path / "utt2dur"
    lost = [key for key in data.utt2spk if key not in data.utt2dur]
    if not lost:
        return []
    text = f"{path}: {len(lost)} utterances without duration: {some(lost)}"
    return [Problem("warning", text, command("get_utt2dur", data.path))]


def _shared_speakers(data: DataDir, other: PathLike) -> list[Problem]:
    others, problems = scan_data_dir(other)
    common = sorted(set(data.utt2spk.values()) & set(others.utt2spk.values()))
    if common:
        text = f"{len(common)} speakers are also in {other}: {some(common)}"
        mend = f"remove them from {data.path} or from {other}: error rates would be too low"
        problems.append(Problem("error", text, mend))
    return problems
