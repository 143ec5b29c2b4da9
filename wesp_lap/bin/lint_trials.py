"""Check a trial list before anything is scored with it."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.kaldi.lint import describe, lint
from wesp_lap.kaldi.problems import format_problems, has_errors, verdict


def lint_trials(
    trials: str, data: str | None = None, train: str | None = None, enroll_map: str | None = None
) -> int:
    """Check a trial list; exit 0 only when it has no error.

    Args:
        trials: trial list in the form of Kaldi or VoxCeleb, or without labels.
        data: data directory that should hold the ids.
        train: training data directory that should share no speaker with the trials.
        enroll_map: lines "model utterance utterance ..." when the first column names models; by
            default enroll.map of the data directory, when it has one.
    """
    pairs, problems = lint(
        trials,
        None if data is None else DataDir.load(data),
        None if train is None else DataDir.load(train),
        enroll_map,
    )
    if problems:
        print(format_problems(problems))
    print(f"{trials}: {describe(pairs) if pairs else 'not read'}: {verdict(problems)}")
    return int(has_errors(problems))


if __name__ == "__main__":
    run_command(lint_trials)
