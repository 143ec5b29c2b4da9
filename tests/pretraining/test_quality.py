"""Figures about clusters against numbers worked by hand and scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from wesp_lap.pretraining.quality import compare, measure, write_quality


def test_worked_entropy():
    quality = measure(np.array([4, 2, 1, 1, 0]))
    assert quality.frames == 8 and quality.dead == [4]
    assert quality.entropy == pytest.approx(1.75)  # 1/2 + 2/4 + 3/8 + 3/8
    assert quality.perplexity == pytest.approx(2**1.75)
    assert quality.normalised_entropy == pytest.approx(1.75 / math.log2(5))
    assert quality.largest_share == 0.5


def test_equal_clusters_and_a_single_one():
    even = measure(np.full(64, 10))
    assert (even.entropy, even.normalised_entropy, even.perplexity) == (6, 1, 64)
    alone = measure(np.array([0, 7]))
    assert (alone.entropy, alone.perplexity, alone.largest_share) == (0, 1, 1)
    nothing = measure(np.zeros(3))
    assert (nothing.frames, nothing.dead, nothing.entropy) == (0, [0, 1, 2], 0)


def test_agreement_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=2000)
    others = np.where(rng.random(2000) < 0.6, labels // 2, rng.integers(9, size=2000))
    found = compare(labels, others)
    assert found.normalised == pytest.approx(normalized_mutual_info_score(labels, others))
    assert found.adjusted == pytest.approx(adjusted_mutual_info_score(labels, others))
    assert found.frames == 2000


def test_worked_purity():
    labels, speakers = np.array([0, 0, 0, 1, 1, 1]), np.array([5, 5, 6, 6, 6, 6])
    found = compare(labels, speakers)
    assert found.purity == pytest.approx(5 / 6)
    assert found.class_purity == pytest.approx(5 / 6)
    both = [2 / 6, 1 / 6, 3 / 6]
    sides = [1 / 2 * 1 / 3, 1 / 2 * 2 / 3, 1 / 2 * 2 / 3]
    bits = sum(p * math.log2(p / q) for p, q in zip(both, sides, strict=True))
    assert found.mutual_information == pytest.approx(bits)


def test_the_same_partition_under_other_names_agrees():
    labels = np.random.default_rng(0).integers(5, size=500)
    found = compare(labels, 7 - labels)
    assert found.normalised == pytest.approx(1) and found.adjusted == pytest.approx(1)
    assert found.purity == found.class_purity == 1
    with pytest.raises(ValueError, match="same frames"):
        compare(labels, labels[1:])


def test_what_is_written_is_what_was_measured(tmp_path):
    quality = measure(np.array([3, 0, 1]))
    agreement = compare(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    record, table = write_quality(tmp_path, quality, {"seed 1": agreement})
    read = json.loads(record.read_text())
    assert read["counts"] == [3, 0, 1] and read["dead"] == [1]
    assert read["agreement"]["seed 1"]["adjusted"] == pytest.approx(1)
    text = table.read_text()
    assert "3, 1 without frames: 1" in text and "with seed 1 (4 frames)" in text
