"""Training pairs: what they are made of, that they repeat, and what cannot be drawn."""

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring.pairs import make_pairs


def speakers(counts):
    return {f"s{s}-u{u}": f"s{s}" for s, count in enumerate(counts) for u in range(count)}


def unordered(pairs):
    return [frozenset(pair) for pair in zip(pairs.enroll, pairs.test, strict=True)]


@pytest.mark.parametrize("num_pairs", [2, 101, 2000])
def test_halves_are_targets_and_nontargets_without_repeats(num_pairs):
    utt2spk = speakers([20, 3, 40, 2, 17] * 4)
    pairs = make_pairs(list(utt2spk), utt2spk, num_pairs, 7)
    same = np.array(
        [utt2spk[e] == utt2spk[t] for e, t in zip(pairs.enroll, pairs.test, strict=True)]
    )
    assert len(same) == num_pairs and same.sum() == num_pairs // 2
    assert same[: num_pairs // 2].all()
    np.testing.assert_array_equal(pairs.labels, same)
    assert len(set(unordered(pairs))) == num_pairs
    assert all(len(pair) == 2 for pair in unordered(pairs))


def test_same_seed_same_pairs_whatever_the_order_of_the_set():
    utt2spk = speakers([5, 6, 7])
    one = make_pairs(list(utt2spk), utt2spk, 40, 7)
    turned = dict(reversed(utt2spk.items()))
    again = make_pairs(list(turned), turned, 40, 7)
    other = make_pairs(list(utt2spk), utt2spk, 40, 8)
    assert (one.enroll, one.test) == (again.enroll, again.test)
    assert (one.enroll, one.test) != (other.enroll, other.test)


def test_target_speakers_are_drawn_evenly_not_by_their_utterances():
    utt2spk = speakers([200, 20, 20, 20])
    pairs = make_pairs(list(utt2spk), utt2spk, 600, 1)
    drawn = [utt2spk[key] for key in pairs.enroll[:300]]
    assert 50 <= drawn.count("s0") <= 100


def test_speakers_with_one_utterance_are_nontargets_only():
    utt2spk = speakers([1, 1, 1, 8, 8])
    pairs = make_pairs(list(utt2spk), utt2spk, 80, 3)
    targets = {utt2spk[key] for key in pairs.enroll[:40]}
    assert targets == {"s3", "s4"}
    assert {"s0", "s1", "s2"} <= {utt2spk[key] for key in pairs.enroll[40:] + pairs.test[40:]}


def test_small_sets_give_all_their_pairs_and_no_pair_twice(caplog):
    utt2spk = speakers([3, 2])  # 4 target and 6 non-target pairs
    with caplog.at_level("WARNING", logger="wesp_lap"):
        pairs = make_pairs(list(utt2spk), utt2spk, 20, 0)
    assert pairs.labels.tolist() == [1] * 4 + [0] * 6
    assert len(set(unordered(pairs))) == 10
    assert all(len(pair) == 2 for pair in unordered(pairs))
    assert "4 target pairs, 10 were asked for" in caplog.text
    assert "6 non-target pairs, 10 were asked for" in caplog.text


def test_sets_that_cannot_give_pairs_are_named():
    with pytest.raises(DataError, match=r"(?s)1 speaker.*at least two speakers"):
        make_pairs(["s0-u0", "s0-u1"], speakers([2]), 4, 0)
    with pytest.raises(DataError, match=r"(?s)none of the 3.*two utterances.*several"):
        make_pairs(list(speakers([1, 1, 1])), speakers([1, 1, 1]), 4, 0)
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        make_pairs(list(speakers([2, 2])), speakers([2, 2]), 1, 0)
