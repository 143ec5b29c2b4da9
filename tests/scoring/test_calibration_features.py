"""Feature sets and training pairs of the calibration against the plain formulas."""

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.calibration_data import PairSettings, training_features
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.features import FEATURES, NormColumns, quality_features

TRIALS = Trials(["a", "c"], ["b", "a"], None)
VECTORS = Embeddings(["a", "b", "c"], np.array([[3, -4], [1, 1], [2, 0]], np.float32))
SECONDS = {"a": 2.0, "b": 30.0, "c": 8.0}
SCORES = np.array([1.5, -0.5])


def features_of(name, columns=None, durations=SECONDS):
    return quality_features(SCORES, TRIALS, VECTORS, VECTORS, durations, durations, name, columns)


def four(one, other):
    """WeSpeaker's reorder_values."""
    low, high = min(one, other), max(one, other)
    return [low, high, high - low, high / low]


def test_wespeakers_features_are_its_formulas():
    columns = NormColumns(np.array([[5.0, 4], [2, 8]]), np.array([[0.25, 0.2], [0.1, 0.3]]))
    expected = [
        [1.5, *four(2, 20), *four(5, 4), *four(0.25, 0.2)],  # 30 s count as 20
        [-0.5, *four(8, 2), *four(2, 8), *four(0.1, 0.3)],
    ]
    np.testing.assert_allclose(features_of("wespeaker13", columns), expected)
    without = [row[:1] + row[5:] for row in expected]
    np.testing.assert_allclose(features_of("wespeaker9", columns, None), without)
    swapped = quality_features(
        SCORES,
        Trials(TRIALS.test, TRIALS.enroll, None),
        VECTORS,
        VECTORS,
        SECONDS,
        SECONDS,
        "wespeaker13",
        NormColumns(columns.norms[:, ::-1], columns.cohort_means[:, ::-1]),
    )
    np.testing.assert_array_equal(swapped, features_of("wespeaker13", columns))


@pytest.mark.parametrize("low", [0.0, -0.0, -0.2, -1e-9, 1e-300])
def test_ratios_of_cohort_means_stay_finite_and_do_not_change_sign(low):
    columns = NormColumns(np.ones((2, 2)), np.array([[low, 0.2], [0.3, low]]))
    ratios = features_of("wespeaker13", columns)[:, -1]
    np.testing.assert_allclose(ratios, [20, 30])


def test_sets_without_durations_need_none():
    np.testing.assert_array_equal(
        features_of("qmf7", durations=None), np.delete(features_of("qmf9"), [1, 2], axis=1)
    )
    np.testing.assert_array_equal(features_of("score", durations=None), SCORES[:, None])
    for name, names in FEATURES.items():
        columns = NormColumns(np.ones((2, 2)), np.ones((2, 2)))
        assert features_of(name, columns).shape == (2, len(names)), name
    with pytest.raises(DataError, match=r"(?s)without a positive duration.*--features qmf7"):
        features_of("qmf9", durations=None)
    with pytest.raises(DataError, match=r"(?s)positive duration \(1 problem\):\n  b\n"):
        features_of("qmf9", durations={**SECONDS, "b": np.inf})
    with pytest.raises(ConfigError, match="wespeaker13 need AS-normalised"):
        features_of("wespeaker13")
    with pytest.raises(ConfigError, match="unknown features 'qmf'; known: qmf9, qmf7"):
        features_of("qmf")


def training_set(speakers=20, utterances=5, dim=8):
    random = np.random.default_rng(0)
    voices = random.normal(size=(speakers, dim))
    matrix = np.repeat(voices, utterances, axis=0)
    matrix = (matrix + 0.6 * random.normal(size=matrix.shape)).astype(np.float32)
    keys = [f"s{s:02d}-u{u}" for s in range(speakers) for u in range(utterances)]
    utt2spk = {key: key.split("-")[0] for key in keys}
    durations = dict(zip(keys, random.uniform(2, 12, len(keys)).tolist(), strict=True))
    return Embeddings(keys, matrix, "train.scp"), utt2spk, durations


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_a_disjoint_cohort_has_no_speaker_of_any_pair():
    embeddings, utt2spk, durations = training_set()
    mean = embeddings.mean()
    settings = PairSettings(30, 3, cohort_disjoint=True)
    features, labels, pairs = training_features(
        embeddings, utt2spk, durations, mean, 7, settings, feature_set="wespeaker13"
    )
    in_pairs = {utt2spk[key] for key in (*pairs.enroll, *pairs.test)}
    others = sorted(set(utt2spk.values()) - in_pairs)
    assert len(in_pairs) == 4 and len(others) == 16  # a fifth of 20
    assert labels.sum() == 15
    vector = dict(zip(embeddings.keys, embeddings.matrix, strict=True))
    cohort = unit(
        np.stack([np.mean([vector[k] for k in vector if utt2spk[k] == s], axis=0) for s in others])
        - mean
    )
    for row, (one, other) in enumerate(zip(pairs.enroll, pairs.test, strict=True)):
        sides = [vector[key] - mean for key in (one, other)]
        score = unit(sides[0]) @ unit(sides[1])
        tops = [np.sort(cohort @ unit(side))[-7:] for side in sides]
        expected = np.mean([(score - top.mean()) / top.std(ddof=1) for top in tops])
        assert features[row, 0] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        norms, means = np.linalg.norm(sides, axis=1), [top.mean() for top in tops]
        np.testing.assert_allclose(features[row, 5:9], four(*norms), rtol=1e-4)
        np.testing.assert_allclose(features[row, 9:12], four(*means)[:3], atol=1e-5)
    # Sixteen speakers are the whole cohort, nobody need be taken out of it.
    training_features(embeddings, utt2spk, durations, mean, 16, settings)
    with pytest.raises(DataError, match=r"16 usable entries, fewer than top_n = 17"):
        training_features(embeddings, utt2spk, durations, mean, 17, settings)


def test_the_seed_decides_which_speakers_are_kept_out_of_the_cohort():
    embeddings, utt2spk, durations = training_set()

    def chosen(seed):
        settings = PairSettings(40, seed, cohort_disjoint=True)
        pairs = training_features(embeddings, utt2spk, durations, None, 5, settings)[2]
        return {utt2spk[key] for key in (*pairs.enroll, *pairs.test)}

    assert chosen(1) == chosen(1) != chosen(2)


def test_cosines_need_no_cohort():
    embeddings, utt2spk, _ = training_set()
    settings = PairSettings(20, 3)
    features, _, pairs = training_features(
        embeddings, utt2spk, None, None, None, settings, feature_set="score"
    )
    vector = dict(zip(embeddings.keys, unit(embeddings.matrix), strict=True))
    expected = [vector[a] @ vector[b] for a, b in zip(pairs.enroll, pairs.test, strict=True)]
    np.testing.assert_allclose(features[:, 0], expected, atol=1e-6)
    with pytest.raises(ConfigError, match="wespeaker9 need AS-normalised"):
        training_features(embeddings, utt2spk, None, None, None, settings, feature_set="wespeaker9")


def test_balanced_pairs_need_durations():
    embeddings, utt2spk, durations = training_set()
    settings = PairSettings(30, kind="duration_balanced")
    _, labels, pairs = training_features(embeddings, utt2spk, durations, None, 5, settings)
    short = [durations[key] < 6 for key in pairs.enroll + pairs.test]
    assert labels.sum() == 15 and sum(short) == 30
    with pytest.raises(ConfigError, match="need the durations"):
        training_features(embeddings, utt2spk, None, None, 5, settings, feature_set="score")
    with pytest.raises(ConfigError, match="known: random, duration_balanced"):
        training_features(embeddings, utt2spk, durations, None, 5, PairSettings(kind="balanced"))
