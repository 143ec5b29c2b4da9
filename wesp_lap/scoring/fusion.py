"""Fusion: the scores of several systems become one.

Linear logistic regression on a labelled list gives a weight per system and a bias that make the sum
a natural log-likelihood ratio (Brümmer et al., "Fusion of heterogeneous speaker recognition systems
in the STBU submission for the NIST SRE 2006", 2007). Weights that are given, or the plain mean,
need no labels and give scores without that meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import ConfigError, DataError, problem_list, raise_problems
from wesp_lap.files import PathLike, read_json, write_json
from wesp_lap.kaldi.scores import read_scores, write_scores
from wesp_lap.kaldi.trials import Trials
from wesp_lap.log import get_logger
from wesp_lap.scoring.calibration import PRIORS
from wesp_lap.scoring.logistic import fit_weighted
from wesp_lap.scoring.metrics import bayes_threshold


@dataclass(frozen=True)
class Fusion:
    """A weighted sum of scores.

    Attributes:
        weights: (S,) float64, one per system, in the order in which the systems are given.
        bias: added to the sum.
        is_llr: the result is a natural log-likelihood ratio.
        targets: target trials it was fitted on; 0 when it was not fitted.
        nontargets: non-target trials.
        prior: target prior that the fit was weighted for; None when it was not fitted.
    """

    weights: np.ndarray
    bias: float = 0.0
    is_llr: bool = False
    targets: int = 0
    nontargets: int = 0
    prior: float | None = None

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return the fused scores of (T, S) scores, (T,) float64."""
        if scores.shape[1] != len(self.weights):
            raise DataError(f"{scores.shape[1]} systems, the fusion has {len(self.weights)}")
        return scores @ self.weights + self.bias

    def save(self, path: PathLike, systems: Sequence[str]) -> None:
        """Write JSON, with the score files it was fitted on and the Bayes thresholds of LLRs."""
        thresholds = {str(p): bayes_threshold(p) for p in PRIORS} if self.is_llr else {}
        record = {
            "systems": list(systems),
            "weights": self.weights.tolist(),
            "bias": self.bias,
            "is_llr": self.is_llr,
            "prior": self.prior,
            "training_trials": {"target": self.targets, "nontarget": self.nontargets},
            "llr_thresholds": thresholds,
        }
        write_json(path, record)

    @classmethod
    def load(cls, path: PathLike) -> Fusion:
        """Read what ``save`` wrote; anything else is a DataError that names the file."""
        record = read_json(path)
        try:
            trials = record["training_trials"]
            fusion = cls(
                np.array(record["weights"], np.float64),
                float(record["bias"]),
                bool(record["is_llr"]),
                int(trials["target"]),
                int(trials["nontarget"]),
                record["prior"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a fusion file ({error!r})") from error
        if fusion.weights.ndim != 1 or not np.isfinite([*fusion.weights, fusion.bias]).all():
            raise DataError(f"{path}: holds numbers that are not finite, or no weight per system")
        return fusion


def fit_fusion(scores: np.ndarray, labels: np.ndarray | None, prior: float = 0.5) -> Fusion:
    """Fit weights and bias by logistic regression, weighted for a target prior.

    The loss is prior times the mean over target trials plus (1 - prior) times the mean over
    non-target trials, so that the share of targets in the list does not matter; at 0.5 it is Cllr.

    Args:
        scores: (T, S) scores of S systems.
        labels: (T,) 1 target, 0 non-target; both kinds must be there.
        prior: between 0 and 1.

    Raises:
        DataError: no labels, one kind only, or a system whose scores are all equal.
    """
    if labels is None:
        raise DataError("fusion is fitted on labelled trials, these have no labels")
    target = np.asarray(labels) == 1
    targets, nontargets = int(target.sum()), int((~target).sum())
    if not targets or not nontargets:
        raise DataError(f"fusion needs both kinds: {targets} targets, {nontargets} non-targets")
    flat = [f"system {number}" for number in np.flatnonzero(np.ptp(scores, axis=0) == 0) + 1]
    raise_problems("systems whose scores are all equal", flat, "Leave them out.")
    weights, bias = fit_weighted(scores, target, prior)
    for number in np.flatnonzero(weights < 0) + 1:
        get_logger().warning(
            "system %d has a negative weight (%.4f): it agrees with the others and adds little, or "
            "the list is too small for so many systems",
            number,
            weights[number - 1],
        )
    return Fusion(weights, bias, True, targets, nontargets, prior)


def fixed_fusion(systems: int, weights: Sequence[float] | None = None) -> Fusion:
    """Return the sum with given weights, or the plain mean of so many systems."""
    if weights is None:
        return Fusion(np.full(systems, 1 / systems))
    if len(weights) != systems or not np.isfinite(weights).all():
        raise ConfigError(f"{len(weights)} weights for {systems} systems; give one number for each")
    return Fusion(np.array(weights, np.float64))


def read_systems(files: Sequence[PathLike]) -> tuple[Trials, np.ndarray]:
    """Read the scores of the same trials by several systems; the lines may have any order.

    Returns:
        The trials as in the first file, with labels when any file has them, and scores (T, S).

    Raises:
        DataError: trials that a file has twice, lacks or has alone, or labels that contradict.
    """
    if not files:
        raise ConfigError("no score file given")
    first, scores = read_scores(files[0])
    columns, labels = [scores], first.labels
    position = None
    for path in files[1:]:
        trials, scores = read_scores(path)
        own_labels = trials.labels
        if trials.enroll != first.enroll or trials.test != first.test:
            position = _positions(first, files[0]) if position is None else position
            rows = _rows(trials, path, position, files[0])
            scores = scores[rows]
            own_labels = None if own_labels is None else own_labels[rows]
        if labels is not None and own_labels is not None:
            _check_labels(first, labels, own_labels, path, files[0])
        labels = own_labels if labels is None else labels
        columns.append(scores)
    return Trials(first.enroll, first.test, labels), np.column_stack(columns)


def fuse_files(
    scores: Sequence[PathLike],
    out: PathLike,
    dev: Sequence[PathLike] = (),
    fusion: PathLike | None = None,
    weights: Sequence[float] | None = None,
    prior: float = 0.5,
    save: PathLike | None = None,
) -> Fusion:
    """Fuse the score files of one list, and return what they were fused with.

    The weights come from labelled score files ``dev``, from a ``fusion`` file, or are given as
    ``weights``; with none of the three the result is the mean.

    Args:
        scores: score files of the list, one per system.
        out: score file to write.
        dev: labelled score files of another list, the same systems in the same order.
        fusion: file that an earlier fusion was saved as.
        weights: one number per system.
        prior: target prior of the fit.
        save: where to write the fusion as JSON.

    Raises:
        ConfigError: more than one source of weights, or numbers of systems that differ.
        DataError: files that do not hold the same trials, or a fit that is not possible.
    """
    if sum([bool(dev), fusion is not None, weights is not None]) > 1:
        raise ConfigError("give one of dev, fusion and weights, or none for the mean")
    if dev and len(dev) != len(scores):
        raise ConfigError(f"{len(dev)} dev files for {len(scores)} systems; one for each, in order")
    if dev:
        trials, columns = read_systems(dev)
        fitted = fit_fusion(columns, trials.labels, prior)
    elif fusion is not None:
        fitted = Fusion.load(fusion)
    else:
        fitted = fixed_fusion(len(scores), weights)
    trials, columns = read_systems(scores)
    write_scores(out, trials, fitted.apply(columns))
    if save is not None:
        fitted.save(save, [str(path) for path in dev or scores])
    return fitted


def _positions(trials: Trials, path: PathLike) -> dict[tuple[str, str], int]:
    pairs = list(zip(trials.enroll, trials.test, strict=True))
    position = {pair: row for row, pair in enumerate(pairs)}
    repeated = [f"{e} {t}" for row, (e, t) in enumerate(pairs) if position[e, t] != row]
    raise_problems(f"{path}: trials given twice", repeated, "Give every trial once.", limit=5)
    return position


def _rows(
    trials: Trials, path: PathLike, position: Mapping[tuple[str, str], int], first: PathLike
) -> np.ndarray:
    """Return for every trial of the first file its row in another one that holds the same."""
    own = _positions(trials, path)
    problems = [f"{e} {t}: not in {path}" for e, t in position if (e, t) not in own]
    problems += [f"{e} {t}: not in {first}" for e, t in own if (e, t) not in position]
    if problems:
        mend = "Score the same list with every system."
        raise DataError(problem_list("score files of different trials", problems, mend, limit=5))
    return np.fromiter((own[pair] for pair in position), np.intp, len(position))


def _check_labels(
    trials: Trials, labels: np.ndarray, others: np.ndarray, path: PathLike, first: PathLike
) -> None:
    bad = [f"{trials.enroll[row]} {trials.test[row]}" for row in np.flatnonzero(labels != others)]
    raise_problems(f"{path}: other labels than in {first}", bad, "One of the lists is wrong.", 5)
