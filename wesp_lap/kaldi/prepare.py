"""Make a clean copy of a Kaldi data directory: checked, sorted, with absolute paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.files import PathLike, Stamp
from wesp_lap.kaldi.check_audio import (
    check_files,
    check_lengths,
    used_recordings,
    utterance_lengths,
)
from wesp_lap.kaldi.datadir import DataDir, locate, scan_data_dir
from wesp_lap.kaldi.pipes import is_pipe, run_pipe
from wesp_lap.kaldi.problems import format_problems, has_errors
from wesp_lap.kaldi.tables import read_table, write_table
from wesp_lap.kaldi.tableset import further_tables, key_kind
from wesp_lap.kaldi.validate import inspect
from wesp_lap.log import get_logger, progress

_TABLES = ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "segments", "vad")


def prepare_data_dir(
    src: PathLike,
    out: PathLike,
    sample_rate: int = 16000,
    audio: Literal["headers", "none"] = "headers",
    allow_pipe: bool = False,
) -> bool:
    """Copy the tables of ``src`` to ``out``, with only what belongs to utterances with a speaker.

    Args:
        src: Kaldi data directory; it is checked first.
        out: new data directory, or one made here before.
        sample_rate: what the audio files should have, in Hz.
        audio: "headers" checks the header of every audio file; "none" leaves audio alone when
            utt2dur is complete.
        allow_pipe: run the commands of wav.scp, without a shell, and keep their output in
            ``out/wav``.

    Returns:
        False when ``out`` was up to date and nothing was done.

    Raises:
        DataError: the source has errors; the message is the whole report.
        ConfigError: ``out`` is ``src`` or a data directory that was not made here.
    """
    source, target = Path(src), Path(out)
    inputs = [source / name for name in _TABLES]
    if source.is_dir():
        inputs += further_tables(source)
    settings = {
        "source": os.path.abspath(source),
        "working directory": os.getcwd(),  # where relative paths start
        "sample_rate": sample_rate,
        "audio": audio,
        "allow_pipe": allow_pipe,
    }
    stamp = Stamp(target / "prepare.json", settings, inputs, _audio_files(source))
    _refuse_foreign(source, target, stamp)
    if stamp.is_fresh():
        get_logger().info("%s: up to date", target)
        return False
    report = inspect(source, sample_rate=sample_rate, audio=audio, allow_pipe=allow_pipe)
    if has_errors(report.problems):
        raise DataError(f"{report.summary()}\n{format_problems(report.problems)}")
    if report.problems:
        get_logger().warning("%s\n%s", report.summary(), format_problems(report.problems))
    data = _resolved(report.data, target, report.lengths, sample_rate)
    stamp.path.unlink(missing_ok=True)
    stamp.write(_write_tables(data, source, target))
    get_logger().info("%s: %d utterances", target, len(data.utt2spk))
    return True


def _audio_files(source: Path) -> list[Path]:
    """Return the files that wav.scp names, as far as it can be read."""
    data, _ = scan_data_dir(source)
    return [locate(entry, source) for entry in data.wav.values() if not is_pipe(entry)]


def _write_tables(data: DataDir, source: Path, target: Path) -> list[Path]:
    """Write all tables, remove those of an earlier run, and return what is there now."""
    earlier = [target / name for name in _TABLES]
    if target.is_dir():
        earlier += further_tables(target)
    for path in earlier:
        path.unlink(missing_ok=True)
    further = _copy_further_tables(data, source, target)
    data.write(target)
    return further + [path for path in earlier[: len(_TABLES)] if path.exists()]


def _refuse_foreign(source: Path, target: Path, stamp: Stamp) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"--out is --src ({target}); give another folder")
    if (target / "wav.scp").exists() and not stamp.path.exists():
        raise ConfigError(
            f"{target} is a data directory that was not made by this command; "
            f"give another --out, or remove it first"
        )


def _resolved(
    data: DataDir, target: Path, lengths: Mapping[str, float], sample_rate: int
) -> DataDir:
    """Return the directory with files only, absolute paths and all durations."""
    wav = {}
    for name, entry in progress(used_recordings(data).items(), "recordings", unit="file"):
        path = _keep_output(name, entry, target) if is_pipe(entry) else locate(entry, data.path)
        wav[name] = os.path.abspath(path)
    segments = {key: one for key, one in data.segments.items() if key in data.utt2spk}
    vad = {key: pieces for key, pieces in data.vad.items() if key in data.utt2spk}
    result = DataDir(target, wav, data.utt2spk, data.utt2dur, segments, vad)
    complete = data.utt2spk.keys() <= data.utt2dur.keys()
    made = {name for name in wav if is_pipe(data.wav[name])}
    unread = {result.recording(key) for key in data.utt2spk if not complete and key not in lengths}
    headers, problems = check_files(
        result, {name: wav[name] for name in made | unread}, sample_rate
    )
    recordings = {name: header.seconds for name, header in headers.items()}
    problems += check_lengths(result, {name: recordings[name] for name in made & headers.keys()})
    if has_errors(problems):
        raise DataError(format_problems(problems))
    durations = {**lengths, **utterance_lengths(result, recordings)}
    if complete:
        durations = data.utt2dur
    result.utt2dur = {key: durations[key] for key in data.utt2spk}
    return result


def _keep_output(name: str, entry: str, target: Path) -> Path:
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise DataError(f"{name}: '{entry}': a key that leaves the folder cannot name a file")
    path = target / "wav" / f"{name}.wav"
    run_pipe(entry, path)
    return path


def _copy_further_tables(data: DataDir, source: Path, target: Path) -> list[Path]:
    keep = {
        "utterance": data.utt2spk.keys(),
        "speaker": set(data.utt2spk.values()),
        "recording": data.wav.keys(),
    }
    written = []
    for path in further_tables(source):
        keys = keep[key_kind(path.name)]
        table = {key: value for key, value in read_table(path).items() if key in keys}
        if table:
            write_table(target / path.name, table)
            written.append(target / path.name)
    return written
