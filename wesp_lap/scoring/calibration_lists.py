"""Calibration of whole trial lists, from files to files: what the calibration commands do.

The LLRs of a list stand in ``NAME.qmf.score``, the map that made them in ``calibration.json``,
decisions in ``NAME.qmf.decisions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wesp_lap.errors import ConfigError, raise_problems
from wesp_lap.files import PathLike, read_json
from wesp_lap.kaldi.tables import read_table
from wesp_lap.scoring.calibration import PRIORS, Calibration, Objective, fit
from wesp_lap.scoring.calibration_data import PairSettings, training_features
from wesp_lap.scoring.calibration_inputs import (
    SCORE_FILES,
    CalibrationInputs,
    ScoreKind,
    read_durations,
)
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.features import (
    FeatureSet,
    check_feature_set,
    needs_durations,
    needs_norm_columns,
)
from wesp_lap.scoring.lists import TrialFiles
from wesp_lap.scoring.metrics import bayes_threshold


@dataclass(frozen=True)
class TrainingFiles:
    """The training set from which calibration pairs and the cohort are made.

    ``utt2dur`` is needed for features or pairs that look at durations; with ``utt2session``,
    pairs of one recording or session are left out.
    """

    scp: PathLike
    utt2spk: PathLike
    utt2dur: PathLike | None = None
    utt2session: PathLike | None = None


@dataclass(frozen=True)
class FitSettings:
    """How a calibration is fitted.

    Attributes:
        features: name of the feature set.
        objective: "logistic" or "cllr", as in ``wesp_lap.scoring.calibration.fit``.
        prior: share of targets that "cllr" weighs for.
        pairs: which training pairs.
        score: "asnorm", or "cosine" for lists that are not normalised.
        top_n: as in the AS-norm of the lists.
        std_ddof: as in the AS-norm of the lists.
    """

    features: FeatureSet = "qmf9"
    objective: Objective = "logistic"
    prior: float = 0.5
    pairs: PairSettings = field(default_factory=PairSettings)
    score: ScoreKind = "asnorm"
    top_n: int = 300
    std_ddof: int = 1

    def __post_init__(self) -> None:
        check_feature_set(self.features)
        if self.score not in SCORE_FILES:
            raise ConfigError(f"unknown scores {self.score!r}; known: {', '.join(SCORE_FILES)}")
        if self.score != "asnorm" and needs_norm_columns(self.features):
            raise ConfigError(f"the features {self.features} need AS-normalised scores")

    def norm(self) -> dict[str, object]:
        """Return what the scores of a list must have been made with."""
        if self.score != "asnorm":
            return {"score": self.score}
        return {"score": self.score, "top_n": self.top_n, "std_ddof": self.std_ddof}


def calibrate_lists(
    lists: Sequence[PathLike],
    scores_dir: PathLike,
    files: TrialFiles,
    utt2dur: PathLike | None,
    training: TrainingFiles,
    out_dir: PathLike,
    settings: FitSettings | None = None,
    p_targets: Sequence[float] = PRIORS,
    decide: float | None = None,
) -> list[Path]:
    """Fit the calibration on training pairs and write LLRs to ``out_dir/NAME.qmf.score``.

    The calibration itself is written to ``out_dir/calibration.json``.

    Args:
        lists: trial lists with scores in ``scores_dir/NAME.asnorm.score``.
        scores_dir: directory of the score files.
        files: the embeddings that the scores were made from.
        utt2dur: seconds of the utterances in the lists, for features with durations; a model
            lasts as long as its utterances together.
        training: the training set, which was the cohort of the AS-norm too.
        out_dir: directory to write to.
        settings: how to fit; the defaults of ``FitSettings`` when None.
        p_targets: target priors whose thresholds the calibration file shows.
        decide: target prior for ``NAME.qmf.decisions``; None for no decisions.
    """
    settings = settings or FitSettings()
    for prior in (*p_targets, *([] if decide is None else [decide])):
        bayes_threshold(prior)  # wrong ones are named before the work starts
    norm = settings.norm()
    job = CalibrationInputs.load(lists, scores_dir, files, utt2dur, settings.features, norm)
    calibration, record = _fit(training, job.mean, settings, files.mean_scp is not None)
    _check_embeddings(files, job.enroll.dim, record, training.scp)
    calibration.save(Path(out_dir) / "calibration.json", record, p_targets)
    return job.write(calibration, record, out_dir, decide)


def apply_calibration(
    lists: Sequence[PathLike],
    scores_dir: PathLike,
    files: TrialFiles,
    calibration: PathLike,
    out_dir: PathLike,
    utt2dur: PathLike | None = None,
    decide: float | None = None,
) -> list[Path]:
    """Write LLRs of trial lists by a saved calibration, without fitting anything.

    Args:
        lists: as in ``calibrate_lists``.
        scores_dir: as in ``calibrate_lists``.
        files: as in ``calibrate_lists``.
        calibration: file that ``calibrate_lists`` wrote.
        out_dir: directory to write to.
        utt2dur: as in ``calibrate_lists``.
        decide: as in ``calibrate_lists``.

    Raises:
        DataError: the scores or embeddings were made otherwise than those of the calibration;
            what differs is named.
    """
    if decide is not None:
        bayes_threshold(decide)
    loaded = Calibration.load(calibration)
    record = read_json(calibration).get("settings", {})
    norm = {key: record[key] for key in ("score", "top_n", "std_ddof") if key in record}
    job = CalibrationInputs.load(lists, scores_dir, files, utt2dur, loaded.feature_set, norm)
    _check_embeddings(files, job.enroll.dim, record, calibration)
    return job.write(loaded, record, out_dir, decide)


def model_digest(scp: PathLike) -> str | None:
    """Return the SHA-256 of the weights that embeddings were extracted with.

    It stands in the ``done.json`` beside embeddings of the extract command; None for others.
    """
    path = Path(scp).parent / "done.json"
    if not path.is_file():
        return None
    digests = read_json(path).get("settings", {}).get("model")
    return str(digests[-1]) if isinstance(digests, list) and digests else None


def _fit(
    training: TrainingFiles, mean: np.ndarray | None, settings: FitSettings, mean_subtracted: bool
) -> tuple[Calibration, dict[str, Any]]:
    """Return the calibration and what must be remembered of how it was made."""
    embeddings = Embeddings.read(training.scp)
    durations = None if training.utt2dur is None else read_durations(training.utt2dur)
    if durations is None and needs_durations(settings.features):
        raise ConfigError(f"the features {settings.features} need the training set's utt2dur")
    features, labels, pairs = training_features(
        embeddings,
        read_table(training.utt2spk),
        durations,
        mean,
        settings.top_n if settings.score == "asnorm" else None,
        settings.pairs,
        settings.std_ddof,
        settings.features,
        None if training.utt2session is None else read_table(training.utt2session),
    )
    seed = settings.pairs.seed
    calibration = fit(features, labels, seed, settings.features, settings.objective, settings.prior)
    record: dict[str, Any] = {
        **settings.norm(),
        **_fit_record(settings),
        "dim": embeddings.dim,
        "mean_subtracted": mean_subtracted,
        "model": model_digest(training.scp),
    }
    if durations is not None and needs_durations(settings.features):
        seconds = [durations[key] for column in (pairs.enroll, pairs.test) for key in column]
        record["durations"] = [min(seconds), max(seconds)]
    return calibration, record


def _fit_record(settings: FitSettings) -> dict[str, object]:
    pairs = settings.pairs
    record: dict[str, object] = {"seed": pairs.seed, "objective": settings.objective}
    if settings.objective == "cllr":
        record["prior"] = settings.prior
    record["pairs"] = pairs.kind
    if pairs.kind == "duration_balanced":
        record["pair_durations"] = list(pairs.bounds)
    record["cohort_disjoint"] = pairs.cohort_disjoint
    return record


def _check_embeddings(
    files: TrialFiles, dim: int, record: Mapping[str, Any], source: PathLike
) -> None:
    """Raise when the embeddings of the trials are not of the kind that was calibrated."""
    here: dict[str, object] = {"dim": dim, "mean_subtracted": files.mean_scp is not None}
    made_by = {model_digest(scp) for scp in (files.enroll_scp, files.test_scp) if scp is not None}
    problems = [
        f"{key} = {record[key]}, here {value}"
        for key, value in here.items()
        if record.get(key) not in (None, value)
    ]
    problems += [
        f"embeddings of the model {str(record['model'])[:12]}, here of {digest[:12]}"
        for digest in sorted(digest for digest in made_by if digest)
        if record.get("model") not in (None, digest)
    ]
    raise_problems(
        f"{source}: calibrated for other embeddings",
        problems,
        "Use the embeddings it was made for, or calibrate again.",
    )
