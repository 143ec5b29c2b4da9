"""Checks of a data directory that look at its audio files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from wesp_lap.audio.ffmpeg import find_ffmpeg, needs_ffmpeg
from wesp_lap.audio.io import AudioInfo
from wesp_lap.kaldi.datadir import DataDir, locate, materialise_command
from wesp_lap.kaldi.headers import read_headers
from wesp_lap.kaldi.pipes import is_pipe
from wesp_lap.kaldi.problems import Level, Problem, command, some

SHORTEST_SECONDS = 0.1
SHORT_SECONDS = 1.0
# utt2dur may be rounded and may come from a decoder that pads: half a per cent is no contradiction.
_DURATION_SLACK = (0.05, 0.005)


def used_recordings(data: DataDir) -> dict[str, str]:
    """Return the wav.scp entries that hold an utterance of the directory."""
    names = {data.recording(utt) for utt in data.utt2spk if utt in (data.segments or data.wav)}
    return {name: entry for name, entry in data.wav.items() if name in names}


def check_pipes(data: DataDir, entries: Mapping[str, str], allow_pipe: bool) -> list[Problem]:
    """Report entries of wav.scp that are commands."""
    pipes = [f"{name} {entry}" for name, entry in entries.items() if is_pipe(entry)]
    if not pipes or allow_pipe:
        return []
    text = f"{data.path / 'wav.scp'}: {len(pipes)} entries are commands, not files: {some(pipes)}"
    mend = f"run the commands once and keep their output: {materialise_command(data.path)}"
    return [Problem("error", text, mend)]


def check_files(
    data: DataDir, entries: Mapping[str, str], sample_rate: int
) -> tuple[dict[str, AudioInfo], list[Problem]]:
    """Read the headers of all files and report what is missing, unreadable or of another form."""
    paths = {k: locate(entry, data.path) for k, entry in entries.items() if not is_pipe(entry)}
    problems = []
    foreign = [key for key, path in paths.items() if needs_ffmpeg(path)]
    if foreign and find_ffmpeg() is None:
        text = f"{len(foreign)} files need ffmpeg, which was not found: {_pairs(foreign, paths)}"
        mend = f"install ffmpeg, or convert the files to {sample_rate} Hz mono FLAC or WAV"
        problems.append(Problem("error", text, mend))
        paths = {key: path for key, path in paths.items() if not needs_ffmpeg(path)}
    headers, faults = read_headers(paths)
    missing = [key for key in faults if not paths[key].exists()]
    if missing:
        text = f"{len(missing)} audio files are missing: {_pairs(missing, paths)}"
        mend = (
            f"correct the paths in {data.path / 'wav.scp'} (relative ones start at the working "
            f"directory or at {data.path}); to drop these utterances: "
            f"{command('fix_data_dir', data.path, '--audio headers')}"
        )
        problems.append(Problem("error", text, mend))
    unreadable = [faults[key] for key in faults if paths[key].exists()]
    if unreadable:
        text = f"{len(unreadable)} audio files cannot be read: {some(unreadable)}"
        drop = command("fix_data_dir", data.path, "--audio headers")
        mend = f"fetch or convert these files again; to drop these utterances: {drop}"
        problems.append(Problem("error", text, mend))
    return headers, problems + _forms(headers, paths, sample_rate)


def _forms(
    headers: Mapping[str, AudioInfo], paths: Mapping[str, Path], sample_rate: int
) -> list[Problem]:
    problems = []
    rates = {k: h.sample_rate for k, h in headers.items() if h.sample_rate != sample_rate}
    if rates:
        found = ", ".join(f"{rate} Hz" for rate in sorted(set(rates.values())))
        text = f"{len(rates)} audio files are not at {sample_rate} Hz ({found}): "
        mend = f"ffmpeg -i IN -ar {sample_rate} -ac 1 OUT.wav, for example {_first(rates, paths)}"
        problems.append(Problem("error", text + _pairs(rates, paths), mend))
    wide = {k: h.channels for k, h in headers.items() if h.channels != 1}
    if wide:
        text = f"{len(wide)} audio files have more than one channel: {_pairs(wide, paths)}"
        mend = (
            f"choose or mix channels: ffmpeg -i IN -ac 1 OUT.wav, for example {_first(wide, paths)}"
        )
        problems.append(Problem("error", text, mend))
    return problems


def check_lengths(data: DataDir, recordings: Mapping[str, float]) -> list[Problem]:
    """Compare the lengths of recordings (seconds) with segments and utt2dur.

    Recordings that are not in the mapping have an unknown length and are skipped.
    """
    problems = []
    over = [
        f"{key} ends at {one.end} s of {recordings[one.recording]:.3f} s"
        for key, one in data.segments.items()
        if one.recording in recordings and one.end > recordings[one.recording] + _DURATION_SLACK[0]
    ]
    if over:
        text = f"{data.path / 'segments'}: {len(over)} segments end after the recording: "
        mend = "correct the end times, or check that wav.scp names the right recordings"
        problems.append(Problem("error", text + some(over), mend))
    lengths = utterance_lengths(data, recordings)
    limits: tuple[tuple[float, float, Level], ...] = (
        (0.0, SHORTEST_SECONDS, "error"),
        (SHORTEST_SECONDS, SHORT_SECONDS, "warning"),
    )
    for low, high, level in limits:
        short = [f"{k} ({s:.3f} s)" for k, s in lengths.items() if low <= s < high]
        if short:
            text = f"{len(short)} utterances are shorter than {high} s: {some(short)}"
            drop = command("fix_data_dir", data.path, f"--min_seconds {high}")
            mend = f"{drop}  # drops them; so little speech says little about a speaker"
            problems.append(Problem(level, text, mend))
    return problems + _compare_utt2dur(data, lengths) + _speech_beyond_end(data, lengths)


def _speech_beyond_end(data: DataDir, lengths: Mapping[str, float]) -> list[Problem]:
    over = []
    for key, pieces in data.vad.items():
        seconds = lengths.get(key, data.utt2dur.get(key))
        if seconds is not None and pieces[-1][1] > seconds + _DURATION_SLACK[0]:
            over.append(f"{key} ends at {pieces[-1][1]} s of {seconds:.3f} s")
    if not over:
        return []
    text = f"{data.path / 'vad'}: {len(over)} utterances have speech after their end: {some(over)}"
    mend = "correct the times: they count from the utterance's start, not the recording's"
    return [Problem("error", text, mend)]


def _compare_utt2dur(data: DataDir, lengths: Mapping[str, float]) -> list[Problem]:
    absolute, relative = _DURATION_SLACK
    off = [
        f"{key} {data.utt2dur[key]:.3f} s, audio {seconds:.3f} s"
        for key, seconds in lengths.items()
        if key in data.utt2dur
        and abs(data.utt2dur[key] - seconds) > max(absolute, relative * seconds)
    ]
    if not off:
        return []
    path = data.path / "utt2dur"
    text = f"{path}: {len(off)} durations contradict the audio: {some(off)}"
    return [Problem("error", text, command("get_utt2dur", data.path))]


def utterance_lengths(data: DataDir, recordings: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each utterance whose segment or recording has a known length."""
    lengths = {}
    for utterance in data.utt2spk:
        segment = data.segments.get(utterance)
        if segment is not None:
            lengths[utterance] = segment.end - segment.start
        elif not data.segments and utterance in recordings:
            lengths[utterance] = recordings[utterance]
    return lengths


def _pairs(keys: Iterable[str], paths: Mapping[str, Path]) -> str:
    return some([f"{key} {paths[key]}" for key in keys])


def _first(keys: Mapping[str, object], paths: Mapping[str, Path]) -> str:
    return str(paths[next(iter(keys))])
