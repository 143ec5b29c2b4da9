"""Whole trial lists from files to files: what the scoring commands do.

The scores of a list stand in files that begin with the list's file name: ``NAME.score``,
``NAME.asnorm.score``, ``NAME.qmf.score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike, read_json, write_json
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials
from wesp_lap.scoring.calibration import Calibration, fit, quality_features, training_features
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import Embeddings, enrolment_models
from wesp_lap.scoring.norm import NormMethod, score_norm


@dataclass(frozen=True)
class TrialFiles:
    """Where the embeddings of a trial list come from.

    Attributes:
        enroll_scp: embeddings of the first column, or of the utterances in ``enroll_map``.
        test_scp: embeddings of the second column; None for the same file.
        mean_scp: embeddings whose mean is subtracted from all; None to subtract nothing.
        enroll_map: lines ``model utterance utterance ...`` when the first column names models.
    """

    enroll_scp: PathLike
    test_scp: PathLike | None = None
    mean_scp: PathLike | None = None
    enroll_map: PathLike | None = None

    def load(self) -> tuple[Embeddings, Embeddings, np.ndarray | None]:
        """Return the embeddings of both columns and the mean."""
        utterances = Embeddings.read(self.enroll_scp)
        test = utterances
        if self.test_scp is not None and Path(self.test_scp) != Path(self.enroll_scp):
            test = Embeddings.read(self.test_scp)
        mean = None if self.mean_scp is None else Embeddings.read(self.mean_scp).mean()
        models = self.models()
        return enrolment_models(utterances, models, mean) if models else utterances, test, mean

    def models(self) -> dict[str, list[str]]:
        """Return the utterances of every enrolment model; empty without ``enroll_map``."""
        if self.enroll_map is None:
            return {}
        return {model: line.split() for model, line in read_table(self.enroll_map).items()}


def score_lists(lists: Sequence[PathLike], files: TrialFiles, out_dir: PathLike) -> list[Path]:
    """Write the cosine scores of every trial list to ``out_dir/NAME.score``."""
    names = _names(lists)
    all_trials = [read_trials(path) for path in lists]
    enroll, test, mean = files.load()
    written = []
    for name, trials in zip(names, all_trials, strict=True):
        path = Path(out_dir) / f"{name}.score"
        write_scores(path, trials, score_trials(trials, enroll, test, mean))
        written.append(path)
    return written


def normalise_lists(
    lists: Sequence[PathLike],
    scores_dir: PathLike,
    files: TrialFiles,
    cohort_scp: PathLike,
    cohort_utt2spk: PathLike | None = None,
    top_n: int = 300,
    method: NormMethod = "asnorm",
    std_ddof: int = 1,
) -> list[Path]:
    """Write normalised scores of every list to ``scores_dir/NAME.METHOD.score``.

    The lines have WeSpeaker's columns: ids, score, label, the lengths of both centred embeddings,
    and both cohort means. How they were made is remembered in ``NAME.METHOD.json``. Utterances
    that several lists share meet the cohort once.

    Args:
        lists: trial lists with scores in ``scores_dir/NAME.score``.
        scores_dir: directory of the score files.
        files: the embeddings that the scores were made from.
        cohort_scp: embeddings of the cohort.
        cohort_utt2spk: when given, the cohort is the means of these speakers.
        top_n: how many of the largest cohort cosines count.
        method: "asnorm" or "snorm".
        std_ddof: 1 for the unbiased standard deviation, 0 for the population's.
    """
    names = _names(lists)
    all_trials = [read_trials(path) for path in lists]
    scores = [
        _matching_scores(scores_dir, name, "score", t) for name, t in _pairs(names, all_trials)
    ]
    enroll, test, mean = files.load()
    cohort = Embeddings.read(cohort_scp)
    if cohort_utt2spk is not None:
        cohort = cohort.speaker_means(read_table(cohort_utt2spk))
    normalised, statistics = score_norm(
        np.concatenate(scores),
        _joined(all_trials),
        enroll,
        test,
        cohort,
        mean,
        top_n,
        method,
        std_ddof,
    )
    columns = np.column_stack(
        [
            statistics.enroll_norm,
            statistics.test_norm,
            statistics.enroll_mean,
            statistics.test_mean,
        ]
    )
    record = {"method": method, "top_n": top_n, "std_ddof": std_ddof, "cohort": cohort.source}
    written, start = [], 0
    for name, trials in _pairs(names, all_trials):
        part = slice(start, start + len(trials))
        start = part.stop
        path = Path(scores_dir) / f"{name}.{method}.score"
        write_scores(path, trials, normalised[part], columns[part])
        write_json(path.with_suffix(".json"), record)
        written.append(path)
    return written


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
    names = _names(lists)
    all_trials = [read_trials(path) for path in lists]
    settings: dict[str, object] = {"top_n": top_n, "std_ddof": std_ddof}
    _check_norm_settings(scores_dir, names, settings)
    scores = [
        _matching_scores(scores_dir, name, "asnorm.score", trials)
        for name, trials in _pairs(names, all_trials)
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


def _names(lists: Sequence[PathLike]) -> list[str]:
    if not lists:
        raise ConfigError("no trial list given")
    names = [Path(path).name for path in lists]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"trial lists of equal file name: {', '.join(repeated)}; rename one")
    return names


def _pairs(names: list[str], trials: list[Trials]) -> list[tuple[str, Trials]]:
    return list(zip(names, trials, strict=True))


def _joined(all_trials: Sequence[Trials]) -> Trials:
    return Trials(
        [key for trials in all_trials for key in trials.enroll],
        [key for trials in all_trials for key in trials.test],
        None,
    )


def _matching_scores(scores_dir: PathLike, name: str, kind: str, trials: Trials) -> np.ndarray:
    """Read the scores of a list and make sure that they are of this very list."""
    path = Path(scores_dir) / f"{name}.{kind}"
    if not path.exists():
        command = "score_norm" if kind == "asnorm.score" else "score"
        raise DataError(f"{path}: no such file; run python -m wesp_lap.bin.{command} first")
    scored, scores = read_scores(path)
    if scored.enroll != trials.enroll or scored.test != trials.test:
        raise DataError(f"{path}: its trials are not those of the list {name}; score it again")
    return scores


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
