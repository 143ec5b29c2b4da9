"""What a calibration is fitted on: features of pairs of training utterances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wesp_lap.errors import ConfigError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.cosine import Side, pair_cosines, trial_sides
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.features import (
    FeatureSet,
    NormColumns,
    needs_norm_columns,
    quality_features,
)
from wesp_lap.scoring.norm import check_spread, check_top_n, cohort_statistics
from wesp_lap.scoring.pairs import DURATION_BOUNDS, PairKind, make_balanced_pairs, make_pairs
from wesp_lap.seeding import generator

# Of the training speakers, when pairs and cohort have none in common. The cohort keeps nearly its
# size, so that ``top_n`` means nearly what it means for the trials.
PAIR_SPEAKERS = 0.2


@dataclass(frozen=True)
class PairSettings:
    """Which pairs of training utterances are drawn.

    Attributes:
        num_pairs: how many, half of them targets.
        seed: seed of the draw.
        kind: "random", or "duration_balanced" for as many short-short, short-long and long-long.
        bounds: seconds from which an utterance is short, and from which it is long.
        cohort_disjoint: take the pairs from a fifth of the speakers and the cohort from the
            others; otherwise only the speakers of a pair itself are taken out of its cohort.
    """

    num_pairs: int = 30_000
    seed: int = 7
    kind: PairKind = "random"
    bounds: tuple[float, float] = DURATION_BOUNDS
    cohort_disjoint: bool = False


def training_features(
    embeddings: Embeddings,
    utt2spk: Mapping[str, str],
    durations: Mapping[str, float] | None,
    mean: np.ndarray | None,
    top_n: int | None,
    settings: PairSettings | None = None,
    std_ddof: int = 1,
    feature_set: FeatureSet = "qmf9",
    utt2session: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, np.ndarray, Trials]:
    """Draw pairs from the training set and return their features and labels.

    Scores are AS-normalised against the means of the training speakers, without the speakers of
    the pair itself: trials to come will have no speaker in the cohort either.

    Args:
        embeddings: training utterances.
        utt2spk: speaker of every utterance.
        durations: seconds by utterance; None when neither features nor pairs need them.
        mean: (E,) subtracted before cosines, or None.
        top_n: cohort entries that count, at most the number of speakers less two (or of those
            left for the cohort); None for cosines that are not normalised.
        settings: which pairs.
        std_ddof: 1 unbiased, 0 population standard deviation of the cohort cosines.
        feature_set: which features.
        utt2session: recording of every utterance; pairs of one recording are left out.

    Returns:
        Features (P, F) float64, labels (P,) int8, and the P pairs.
    """
    settings = settings or PairSettings()
    if top_n is None and needs_norm_columns(feature_set):
        raise ConfigError(f"the features {feature_set} need AS-normalised scores")
    cohort = embeddings.speaker_means(utt2spk)
    drawn_from = embeddings.keys
    if settings.cohort_disjoint:
        chosen = _pair_speakers(cohort.keys, settings.seed)
        drawn_from = [key for key in embeddings.keys if utt2spk[key] in chosen]
        kept = np.array([name not in chosen for name in cohort.keys])
        names = [name for name in cohort.keys if name not in chosen]
        cohort = Embeddings(names, cohort.matrix[kept], cohort.source)
    if top_n is not None:
        check_top_n(top_n, len(cohort.keys) - (0 if settings.cohort_disjoint else 2))
    pairs = _make(drawn_from, utt2spk, durations, settings, utt2session)
    sides = trial_sides(pairs, embeddings, embeddings, mean)
    scores, columns = pair_cosines(*sides), None
    if top_n is not None:
        own = None
        if not settings.cohort_disjoint:
            spoken = [[utt2spk[key] for key in column] for column in (pairs.enroll, pairs.test)]
            own = np.stack([cohort.rows(names) for names in spoken], axis=1)
        scores, columns = _normalised(scores, sides, cohort.unit(mean)[0], top_n, std_ddof, own)
    features = quality_features(
        scores, pairs, embeddings, embeddings, durations, durations, feature_set, columns
    )
    assert pairs.labels is not None
    return features, pairs.labels, pairs


def _normalised(
    scores: np.ndarray,
    sides: tuple[Side, Side],
    cohort_unit: np.ndarray,
    top_n: int,
    std_ddof: int,
    own: np.ndarray | None,
) -> tuple[np.ndarray, NormColumns]:
    """AS-normalise the scores of pairs; ``own`` are the cohort rows that a pair must not meet."""
    statistics = [_cohort(side, cohort_unit, top_n, std_ddof, own) for side in sides]
    columns = NormColumns(
        np.stack([side.norms[side.rows] for side in sides], axis=1).astype(np.float64),
        np.stack([means for means, _ in statistics], axis=1),
    )
    return sum((scores - means) / stds for means, stds in statistics) / 2, columns


def _pair_speakers(speakers: list[str], seed: int) -> set[str]:
    """Return the speakers that pairs are drawn from; a second stream of the seed decides."""
    count = max(2, round(PAIR_SPEAKERS * len(speakers)))
    chosen = generator(seed, 1).permutation(len(speakers))[:count]
    return {speakers[number] for number in chosen}


def _make(
    keys: list[str],
    utt2spk: Mapping[str, str],
    durations: Mapping[str, float] | None,
    settings: PairSettings,
    utt2session: Mapping[str, str] | None,
) -> Trials:
    if settings.kind == "random":
        return make_pairs(keys, utt2spk, settings.num_pairs, settings.seed, utt2session)
    if settings.kind != "duration_balanced":
        raise ConfigError(f"unknown pairs {settings.kind!r}; known: random, duration_balanced")
    if durations is None:
        raise ConfigError("duration-balanced pairs need the durations of the training utterances")
    return make_balanced_pairs(
        keys,
        utt2spk,
        durations,
        settings.num_pairs,
        settings.seed,
        settings.bounds,
        utt2session,
    )


def _cohort(
    side: Side,
    cohort_unit: np.ndarray,
    top_n: int,
    std_ddof: int,
    excluded: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the cohort cosines of every pair, (P,) each."""
    if excluded is None:  # the same for all pairs of an utterance
        means, stds = cohort_statistics(side.unit, cohort_unit, top_n, std_ddof)
        check_spread(stds, side.keys)
        return means[side.rows], stds[side.rows]
    unit = side.unit[side.rows]
    means, stds = cohort_statistics(unit, cohort_unit, top_n, std_ddof, excluded)
    check_spread(stds, [side.keys[row] for row in side.rows])
    return means, stds
