"""Calibration of whole trial lists, from files to files: what the calibration commands do.

The LLRs of a list stand in ``NAME.qmf.score``, the map that made them in ``calibration.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wesp_lap.errors import raise_problems
from wesp_lap.files import PathLike, read_json
from wesp_lap.kaldi.scores import write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import read_trials
from wesp_lap.scoring.calibration import Calibration, fit, quality_features, training_features
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.lists import TrialFiles, list_names, matching_scores


@dataclass(frozen=True)
class TrainingFiles:
    """The training set from which calibration pairs and the cohort are made."""

    scp: PathLike
    utt2spk: PathLike
    utt2dur: PathLike


def calibrate_lists(
    lists: Sequence[PathLike],
    scores_dir: PathLike,
    files: TrialFiles,
    utt2dur: PathLike,
    training: TrainingFiles,
    out_dir: PathLike,
    top_n: int = 300,
    num_pairs: int = 30_000,
    seed: int = 7,
    std_ddof: int = 1,
) -> list[Path]:
    """Fit the calibration on training pairs and write LLRs to ``out_dir/NAME.qmf.score``.

    The calibration itself is written to ``out_dir/calibration.json``.

    Args:
        lists: trial lists with AS-normalised scores in ``scores_dir/NAME.asnorm.score``.
        scores_dir: directory of the score files.
        files: the embeddings that the scores were made from.
        utt2dur: seconds of the utterances in the lists; a model lasts as long as its utterances
            together.
        training: the training set, which was the cohort of the AS-norm too.
        out_dir: directory to write to.
        top_n: as in the AS-norm of the lists.
        num_pairs: training pairs, half of them targets.
        seed: seed of the pairs and the solver.
        std_ddof: as in the AS-norm of the lists.
    """
    names = list_names(lists)
    all_trials = [read_trials(path) for path in lists]
    settings: dict[str, object] = {"top_n": top_n, "std_ddof": std_ddof}
    _check_norm_settings(scores_dir, names, settings)
    scores = [
        matching_scores(scores_dir, name, "asnorm.score", trials)
        for name, trials in zip(names, all_trials, strict=True)
    ]
    enroll, test, mean = files.load()
    durations = read_durations(utt2dur)
    enroll_durations = _model_durations(files.models(), durations, utt2dur)
    calibration = _fit(training, mean, top_n, num_pairs, seed, std_ddof)
    calibration.save(Path(out_dir) / "calibration.json", {**settings, "seed": seed})
    written = []
    for name, trials, values in zip(names, all_trials, scores, strict=True):
        features = quality_features(values, trials, enroll, test, enroll_durations, durations)
        path = Path(out_dir) / f"{name}.qmf.score"
        write_scores(path, trials, calibration.llr(features))
        written.append(path)
    return written


def read_durations(path: PathLike) -> dict[str, float]:
    """Read ``utterance seconds`` lines; those that are not numbers are named."""
    durations, problems = {}, []
    for key, word in read_table(path).items():
        try:
            durations[key] = float(word)
        except ValueError:
            problems.append(f"{key}: {word!r} is not a number of seconds")
    raise_problems(f"{path}: expected 'utterance seconds' lines", problems)
    return durations


def _fit(
    training: TrainingFiles,
    mean: np.ndarray | None,
    top_n: int,
    num_pairs: int,
    seed: int,
    std_ddof: int,
) -> Calibration:
    features, labels = training_features(
        Embeddings.read(training.scp),
        read_table(training.utt2spk),
        read_durations(training.utt2dur),
        mean,
        top_n,
        num_pairs,
        seed,
        std_ddof,
    )
    return fit(features, labels, seed)


def _check_norm_settings(
    scores_dir: PathLike, names: Sequence[str], settings: dict[str, object]
) -> None:
    """Raise when scores were normalised otherwise than the training pairs are going to be."""
    problems = []
    for name in names:
        path = Path(scores_dir) / f"{name}.asnorm.json"
        record = read_json(path) if path.exists() else settings
        problems += [
            f"{path}: {key} = {record.get(key)}, here {value}"
            for key, value in settings.items()
            if record.get(key) != value
        ]
    raise_problems(
        "the scores were normalised with other settings",
        problems,
        "Give the same settings here, or normalise the scores again.",
    )


def _model_durations(
    models: dict[str, list[str]], durations: dict[str, float], source: PathLike
) -> dict[str, float]:
    if not models:
        return durations
    missing = [key for utts in models.values() for key in utts if key not in durations]
    raise_problems(f"{source}: enrolment utterances without a duration", missing)
    return {model: sum(durations[key] for key in utts) for model, utts in models.items()}
