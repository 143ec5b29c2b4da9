"""Probabilistic linear discriminant analysis (PLDA) with two covariances.

An embedding is the mean, plus what its speaker adds, plus what the utterance adds; the two
additions are Gaussian with covariances between and within speakers. The model is kept in the form
of Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006, and of Kaldi: a transform that
makes the within-speaker covariance the identity and the between-speaker covariance diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.log import get_logger
from wesp_lap.scoring.class_statistics import ClassStatistics, rank

Start = Literal["moments", "identity"]
AdaptMethod = Literal["kaldi", "coral"]

_WEAK_SHARE = 1e-6
_BLOCK_ROWS = 8192
_BLOCK_TRIALS = 16_384


@dataclass(frozen=True)
class Plda:
    """A two-covariance model of D-dimensional vectors.

    Attributes:
        mean: (D,) float64.
        transform: (D, D) float64; ``transform @ (x - mean)`` has within-speaker covariance I.
        psi: (D,) float64, falling: the between-speaker variances after the transform.
    """

    mean: np.ndarray
    transform: np.ndarray
    psi: np.ndarray

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return len(self.mean)

    @classmethod
    def from_covariances(cls, mean: np.ndarray, between: np.ndarray, within: np.ndarray) -> Plda:
        """Make the model of a mean (D,) and two covariances (D, D); ``within`` not singular."""
        return cls(np.asarray(mean, np.float64), *_diagonalise(between, within))

    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the covariances between and within speakers, two (D, D)."""
        inverse = np.linalg.inv(self.transform)
        return (inverse * self.psi) @ inverse.T, inverse @ inverse.T

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return transform @ (x - mean) of every row, (n, D) float64."""
        return (vectors - self.mean) @ self.transform.T


def train_plda(
    statistics: ClassStatistics, iterations: int = 10, start: Start = "moments"
) -> tuple[Plda, list[float]]:
    """Fit both covariances by maximum likelihood with EM; the mean is that of the speaker means.

    Every iteration begins by making both covariances diagonal, so that what is known of a speaker
    of n utterances depends on n alone, element by element: no matrix is inverted per speaker.

    Args:
        statistics: of the training vectors by speaker.
        iterations: EM iterations; 0 for the start alone.
        start: "moments" starts from the covariances of the data, so that rotated or stretched data
            give the same model, "identity" from two identity matrices, as Kaldi and WeSpeaker do.

    Returns:
        The model, and the log-likelihood per vector (natural logarithm) at the start and after
        every iteration, which never falls.

    Raises:
        DataError: fewer than two speakers, no speaker with two vectors, or a singular
            within-speaker covariance.
    """
    if iterations < 0 or start not in ("moments", "identity"):
        raise ConfigError(f"need iterations >= 0 and start moments|identity: {iterations}, {start}")
    check_trainable(statistics)
    counts, mean = statistics.counts, statistics.means.mean(axis=0)
    # All of these live in a space that the next diagonalisation turns further.
    speakers, scatter = statistics.means - mean, statistics.scatter
    transform = np.eye(statistics.dim)
    between, within = _start_covariances(statistics, speakers, start)
    likelihoods = []
    for iteration in range(iterations + 1):
        step, psi = _diagonalise(between, within)
        speakers, transform = speakers @ step.T, step @ transform
        scatter = step @ scatter @ step.T
        gain = _speaker_gains(psi, counts)
        likelihoods.append(_log_likelihood(counts, speakers, scatter, transform, psi))
        get_logger().info("EM %d/%d: %.6f per utterance", iteration, iterations, likelihoods[-1])
        if iteration == iterations:
            break
        # Posterior of a speaker of n vectors with mean z: mean gain z, variance gain / n.
        known = gain * speakers
        left = (speakers - known) * np.sqrt(counts)[:, None]
        between = known.T @ known + np.diag((gain / counts[:, None]).sum(axis=0))
        within = scatter + left.T @ left + np.diag(gain.sum(axis=0))
        between, within = between / len(counts), within / statistics.total
    return Plda(mean, transform, psi), likelihoods


def check_trainable(statistics: ClassStatistics) -> None:
    """Raise a DataError when vectors and speakers cannot give a within-speaker covariance."""
    classes, total, dim = statistics.classes, statistics.total, statistics.dim
    if classes < 2 or total == classes:
        raise DataError(
            f"{total} vectors of {classes} speakers: PLDA needs two speakers or more, and speakers "
            "with two vectors or more"
        )
    values = np.linalg.eigvalsh(statistics.scatter)
    found = rank(values)
    if found < dim:
        raise DataError(
            f"the within-speaker covariance of {total} vectors of {classes} speakers in {dim} "
            f"dimensions is singular, of rank {found}\nGive more utterances per speaker, or reduce "
            f"the dimension in the chain: lda:dim=N with N at most {min(found, classes - 1)}."
        )
    weak = int(np.sum(values < _WEAK_SHARE * values[-1]))
    if weak:
        get_logger().warning(
            "%d of %d directions hold less than a millionth of the largest variance within "
            "speakers: dead dimensions of the network, whose noise counts as much here as "
            "anything; reduce the dimension in the chain (lda:dim=%d or less)",
            weak,
            dim,
            min(dim - weak, classes - 1),
        )


def adapt(
    plda: Plda,
    mean: np.ndarray,
    covariance: np.ndarray,
    method: AdaptMethod = "kaldi",
    within_scale: float = 0.3,
    between_scale: float = 0.7,
    mean_diff_scale: float = 1.0,
) -> Plda:
    """Adapt a model to unlabelled vectors of another domain; their mean becomes the model's.

    "kaldi" (ivector-adapt-plda): in the directions in which the vectors vary more than the model
    says, ``within_scale`` and ``between_scale`` of the excess are added to the covariances.
    "coral": both covariances are recoloured by C_new^(1/2) C_old^(-1/2), C being the whole
    covariance (model-based correlation alignment); the scales do not count.

    Args:
        plda: the model.
        mean: (D,) of the new vectors.
        covariance: (D, D) of the new vectors, about their mean.
        method: "kaldi" or "coral".
        within_scale: share of the excess that goes to the within-speaker covariance.
        between_scale: share that goes to the between-speaker covariance.
        mean_diff_scale: how much of the shift of the mean counts as variance.

    Raises:
        DataError: the widths differ, or for coral a singular covariance.
    """
    if method not in ("kaldi", "coral") or min(within_scale, between_scale, mean_diff_scale) < 0:
        raise ConfigError("need the method kaldi or coral, and scales of 0 or more")
    if covariance.shape != (plda.dim, plda.dim):
        raise DataError(f"adaptation data has {len(mean)} dimensions, the PLDA {plda.dim}")
    if method == "coral":
        if (found := rank(np.linalg.eigvalsh(covariance))) < plda.dim:
            raise DataError(
                f"the covariance of the adaptation data is singular, of rank {found} of {plda.dim}"
                "\nGive more utterances, or adapt with the method kaldi."
            )
        between, within = plda.covariances()
        recolour = _root(between + within, 0.5) @ _root(covariance, -0.5)
        return Plda(mean, plda.transform @ recolour, plda.psi)
    shift = mean - plda.mean
    variance = covariance + mean_diff_scale * np.outer(shift, shift)
    # In this space the model's whole covariance is the identity.
    unit = plda.transform / np.sqrt(1 + plda.psi)[:, None]
    values, directions = np.linalg.eigh(unit @ variance @ unit.T)
    excess = (directions * np.maximum(values - 1, 0)) @ directions.T
    between = np.diag(plda.psi / (1 + plda.psi)) + between_scale * excess
    within = np.diag(1 / (1 + plda.psi)) + within_scale * excess
    step, psi = _diagonalise(between, within)
    return Plda(mean, step @ unit, psi)


def pair_llrs(
    psi: np.ndarray,
    enroll: np.ndarray,
    counts: np.ndarray,
    test: np.ndarray,
    enroll_rows: np.ndarray,
    test_rows: np.ndarray,
) -> np.ndarray:
    """Return ln p(test | same speaker as enroll) - ln p(test) of every trial, (T,) float64.

    With a = n psi / (n psi + 1) and v = 1 + psi / (n psi + 1), n being the count, this is
    ln N(t; a e, v) - ln N(t; 0, 1 + psi) over the dimensions: a product of two vectors per trial,
    and terms that belong to one side only.

    Args:
        psi: (D,) between-speaker variances.
        enroll: (U, D) means of the projected utterances of every model.
        counts: (U,) how many utterances each is the mean of.
        test: (V, D) projected test utterances.
        enroll_rows: (T,) rows of ``enroll``.
        test_rows: (T,) rows of ``test``.
    """
    sizes, size = np.unique(counts, return_inverse=True)
    share = _speaker_gains(psi, sizes)
    variance = 1 + share / sizes[:, None]
    constant = 0.5 * (np.log1p(psi) - np.log(variance)).sum(axis=1)
    enroll_sums = _square_sums(enroll, (share**2 / variance).T)[np.arange(len(enroll)), size]
    enroll_terms = constant[size] - 0.5 * enroll_sums
    test_terms = 0.5 * _square_sums(test, (1 / (1 + psi) - 1 / variance).T)
    weights = (share / variance).astype(enroll.dtype)
    weighted = enroll * (weights if len(sizes) == 1 else weights[size])
    scores = enroll_terms[enroll_rows] + test_terms[test_rows, size[enroll_rows]]
    for start in range(0, len(scores), _BLOCK_TRIALS):
        block = slice(start, start + _BLOCK_TRIALS)
        scores[block] += np.einsum("ij,ij->i", weighted[enroll_rows[block]], test[test_rows[block]])
    return scores


def _square_sums(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return sum_d x_d^2 weights[d, k] of every row, (n, k) float64."""
    sums = np.empty((len(vectors), weights.shape[1]))
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        sums[block] = vectors[block].astype(np.float64) ** 2 @ weights
    return sums


def _start_covariances(
    statistics: ClassStatistics, speakers: np.ndarray, start: Start
) -> tuple[np.ndarray, np.ndarray]:
    if start == "identity":
        return np.eye(statistics.dim), np.eye(statistics.dim)
    within = statistics.scatter / (statistics.total - statistics.classes)
    # Speaker means vary by what their utterances add, too; some variance must be left, or EM
    # would never find any.
    noise = within * (1 / statistics.counts).mean()
    return speakers.T @ speakers / len(speakers) + 0.1 * noise, within


def _speaker_gains(psi: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return n psi / (n psi + 1), (K, D): how much of a mean of n vectors is the speaker's."""
    known = counts[:, None] * psi
    return known / (known + 1)


def _log_likelihood(
    counts: np.ndarray,
    speakers: np.ndarray,
    scatter: np.ndarray,
    transform: np.ndarray,
    psi: np.ndarray,
) -> float:
    """Return the log-likelihood per vector; ``speakers`` and ``scatter`` are transformed."""
    total = counts.sum()
    _, log_determinant = np.linalg.slogdet(transform)
    known = counts[:, None] * psi
    # The mean of n vectors, times the root of n, has variance 1 + n psi; the other n - 1
    # directions of a speaker's vectors have variance 1.
    of_means = np.log1p(known).sum() + (counts[:, None] * speakers**2 / (1 + known)).sum()
    constant = total * len(psi) * np.log(2 * np.pi)
    return float(log_determinant - (constant + np.trace(scatter) + of_means) / (2 * total))


def _diagonalise(between: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U and psi with U within U' = I and U between U' = diag(psi), psi falling."""
    try:
        root = np.linalg.cholesky(within)
    except np.linalg.LinAlgError as error:
        raise DataError("PLDA: the within-speaker covariance is singular") from error
    half = np.linalg.solve(root, between)
    values, vectors = np.linalg.eigh(np.linalg.solve(root, half.T))
    step = np.linalg.solve(root.T, vectors[:, ::-1]).T
    return step, np.maximum(values[::-1], 0)


def _root(covariance: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * values**power) @ vectors.T
