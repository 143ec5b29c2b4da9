"""Lengths of utterances, measured from segments or audio headers."""

from __future__ import annotations

from pathlib import Path

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.kaldi.check_audio import check_pipes, used_recordings
from wesp_lap.kaldi.datadir import locate, scan_data_dir
from wesp_lap.kaldi.headers import read_headers
from wesp_lap.kaldi.problems import format_problems, has_errors
from wesp_lap.kaldi.tables import write_table


def measure(path: PathLike) -> dict[str, float]:
    """Return the seconds of every utterance: end minus start of its segment, or the audio's.

    What utt2dur says does not matter.

    Raises:
        DataError: the directory is invalid, audio is missing or unreadable, or an entry of wav.scp
            is a command.
    """
    data, problems = scan_data_dir(path)
    table = str(Path(path) / "utt2dur")
    problems = [problem for problem in problems if not problem.text.startswith(table)]
    if data.utt2spk and data.segments and not has_errors(problems):
        return {key: data.segments[key].end - data.segments[key].start for key in data.utt2spk}
    entries = used_recordings(data)
    problems += check_pipes(data, entries, allow_pipe=False)
    if has_errors(problems):
        raise DataError(f"{path}: utterances cannot be measured\n{format_problems(problems)}")
    headers, faults = read_headers({key: locate(one, data.path) for key, one in entries.items()})
    mend = "Correct the paths, fetch the files again, or drop these utterances (--audio headers "
    raise_problems(
        f"{path}: audio cannot be read",
        list(faults.values()),
        f"{mend}of python -m wesp_lap.bin.fix_data_dir).",
    )
    return {key: headers[key].seconds for key in data.utt2spk}


def write_utt2dur(path: PathLike) -> float:
    """Measure all utterances of a data directory, write its utt2dur, and return their hours."""
    seconds = measure(path)
    write_table(Path(path) / "utt2dur", {key: f"{value:.3f}" for key, value in seconds.items()})
    return sum(seconds.values()) / 3600
