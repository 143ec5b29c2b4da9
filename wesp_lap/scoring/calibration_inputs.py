"""What a calibration of trial lists reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write, read_json
from wesp_lap.kaldi.scores import write_scores
from wesp_lap.kaldi.tables import read_table
from wesp_lap.kaldi.trials import Trials, read_trials
from wesp_lap.log import get_logger
from wesp_lap.scoring.calibration import Calibration
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.features import (
    FeatureSet,
    NormColumns,
    needs_durations,
    needs_norm_columns,
    quality_features,
)
from wesp_lap.scoring.lists import TrialFiles, list_names, matching_scores
from wesp_lap.scoring.metrics import bayes_threshold

ScoreKind = Literal["asnorm", "cosine"]
SCORE_FILES: Mapping[str, str] = {"asnorm": "asnorm.score", "cosine": "score"}


@dataclass
class CalibrationInputs:
    """Trial lists with everything that their features are made of."""

    names: list[str]
    trials: list[Trials]
    scores: list[np.ndarray]
    columns: list[NormColumns | None]
    enroll: Embeddings
    test: Embeddings
    mean: np.ndarray | None
    enroll_durations: Mapping[str, float] | None
    test_durations: Mapping[str, float] | None

    @classmethod
    def load(
        cls,
        lists: Sequence[PathLike],
        scores_dir: PathLike,
        files: TrialFiles,
        utt2dur: PathLike | None,
        feature_set: FeatureSet,
        norm: Mapping[str, object],
    ) -> CalibrationInputs:
        """Read lists, scores, embeddings and what else the features need.

        Args:
            lists: trial lists.
            scores_dir: directory of their score files.
            files: the embeddings that the scores were made from.
            utt2dur: seconds of the utterances in the lists, for features with durations.
            feature_set: name of the features.
            norm: what the scores must have been made with: ``score`` and, for "asnorm", its
                settings.
        """
        names = list_names(lists)
        trials = [read_trials(path) for path in lists]
        kind = SCORE_FILES[str(norm.get("score", "asnorm"))]
        if kind == SCORE_FILES["asnorm"]:
            _check_norm_settings(scores_dir, names, norm)
        pairs = list(zip(names, trials, strict=True))
        scores = [matching_scores(scores_dir, name, kind, one) for name, one in pairs]
        columns = [
            read_norm_columns(Path(scores_dir) / f"{name}.{kind}", len(one))
            if needs_norm_columns(feature_set)
            else None
            for name, one in pairs
        ]
        durations = enroll_durations = None
        if needs_durations(feature_set):
            if utt2dur is None:
                raise ConfigError(f"the features {feature_set} need the utt2dur of the trials")
            durations = read_durations(utt2dur)
            enroll_durations = _model_durations(files.models(), durations, utt2dur)
        enroll, test, mean = files.load()
        return cls(names, trials, scores, columns, enroll, test, mean, enroll_durations, durations)

    def write(
        self,
        calibration: Calibration,
        record: Mapping[str, Any],
        out_dir: PathLike,
        decide: float | None,
    ) -> list[Path]:
        """Write the LLRs, and decisions when asked for; return the paths."""
        written = []
        for name, trials, scores, columns in zip(
            self.names, self.trials, self.scores, self.columns, strict=True
        ):
            features = quality_features(
                scores,
                trials,
                self.enroll,
                self.test,
                self.enroll_durations,
                self.test_durations,
                calibration.feature_set,
                columns,
            )
            llrs = calibration.llr(features)
            self._warn_of_durations(name, trials, record.get("durations"))
            written.append(Path(out_dir) / f"{name}.qmf.score")
            write_scores(written[-1], trials, llrs)
            if decide is not None:
                written.append(Path(out_dir) / f"{name}.qmf.decisions")
                write_decisions(written[-1], trials, llrs, decide)
        return written

    def _warn_of_durations(self, name: str, trials: Trials, seen: Sequence[float] | None) -> None:
        if seen is None or self.enroll_durations is None or self.test_durations is None:
            return
        low, high = seen
        sides = (trials.enroll, self.enroll_durations), (trials.test, self.test_durations)
        seconds = np.array([[durations[key] for key in column] for column, durations in sides])
        outside = int(((seconds < low) | (seconds > high)).any(axis=0).sum())
        if outside:
            get_logger().warning(
                "%s: %d of %d trials have a side outside the %.1f to %.1f s that the calibration "
                "was fitted on; their log-likelihood ratios are extrapolated",
                name,
                outside,
                len(trials),
                low,
                high,
            )


def write_decisions(path: PathLike, trials: Trials, llrs: np.ndarray, p_target: float) -> None:
    """Write ``enroll test accept|reject probability`` lines.

    Args:
        path: file to write, atomically.
        trials: T pairs of ids.
        llrs: (T,) natural log-likelihood ratios.
        p_target: prior probability of a target trial; accepted is what is more likely a target
            than not.
    """
    threshold = bayes_threshold(p_target)
    words = np.where(llrs >= threshold, "accept", "reject").tolist()
    shares = np.exp(-np.logaddexp(0, threshold - llrs)).tolist()
    with atomic_write(path) as stream:
        stream.writelines(
            f"{one} {other} {word} {share:.5f}\n"
            for one, other, word, share in zip(
                trials.enroll, trials.test, words, shares, strict=True
            )
        )


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


def read_norm_columns(path: PathLike, count: int) -> NormColumns:
    """Read the last four columns of a score file that ``score_norm`` or WeSpeaker wrote.

    Raises:
        DataError: lines without four finite numbers at their end.
    """
    try:
        columns = np.loadtxt(path, usecols=(-4, -3, -2, -1), comments=None, ndmin=2)
    except ValueError as error:
        raise DataError(
            f"{path}: no norms and cohort means at the end of its lines ({error})\n"
            "Normalise the scores with python -m wesp_lap.bin.score_norm."
        ) from error
    if columns.shape != (count, 4) or not np.isfinite(columns).all():
        raise DataError(f"{path}: norms or cohort means are missing or not finite")
    return NormColumns(columns[:, :2], columns[:, 2:])


def _check_norm_settings(
    scores_dir: PathLike, names: Sequence[str], norm: Mapping[str, object]
) -> None:
    """Raise when scores were normalised otherwise than the training pairs are."""
    settings = {key: value for key, value in norm.items() if key != "score"}
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
