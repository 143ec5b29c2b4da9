"""Training pairs: what they are made of, that they repeat, and what cannot be drawn."""

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring.pairs import make_balanced_pairs, make_pairs


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


def length_class(seconds, bounds=(2, 6)):
    return "long" if seconds >= bounds[1] else "short" if seconds >= bounds[0] else "none"


def timed(counts, seed=0):
    utt2spk = speakers(counts)
    random = np.random.default_rng(seed)
    return utt2spk, {key: float(random.uniform(1, 11)) for key in utt2spk}


@pytest.mark.parametrize("num_pairs", [6, 61, 600])
def test_balanced_pairs_have_as_many_of_every_kind(num_pairs):
    utt2spk, durations = timed([12, 9, 30, 14] * 5)
    pairs = make_balanced_pairs(list(utt2spk), utt2spk, durations, num_pairs, 7)
    assert len(pairs) == num_pairs == len(set(unordered(pairs)))
    cells = {}
    for one, other, label in zip(pairs.enroll, pairs.test, pairs.labels, strict=True):
        assert one != other and (utt2spk[one] == utt2spk[other]) == label
        kind = (length_class(durations[one]), length_class(durations[other]))
        cells.setdefault((*sorted(kind), int(label)), []).append(kind)
    lengths = {key: len(value) for key, value in cells.items()}
    assert len(cells) == 6 and max(lengths.values()) - min(lengths.values()) <= 1
    assert not any("none" in key for key in cells)
    if num_pairs == 600:
        turned = cells["long", "short", 0].count(("long", "short"))
        assert 25 <= turned <= 75  # of 100: either side may be the long one
    again = make_balanced_pairs(list(reversed(utt2spk)), utt2spk, durations, num_pairs, 7)
    assert (again.enroll, again.test) == (pairs.enroll, pairs.test)
    other = make_balanced_pairs(list(utt2spk), utt2spk, durations, num_pairs, 8)
    assert (other.enroll, other.test) != (pairs.enroll, pairs.test)


def test_balanced_pairs_of_other_bounds():
    utt2spk, durations = timed([20, 20, 20])
    pairs = make_balanced_pairs(list(utt2spk), utt2spk, durations, 60, 1, (4, 8))
    found = {length_class(durations[key], (4, 8)) for key in pairs.enroll + pairs.test}
    assert found == {"long", "short"}


@pytest.mark.parametrize("balanced", [False, True])
def test_pairs_of_one_session_are_left_out_and_the_others_all_found(balanced, caplog):
    # Two speakers, two sessions of three utterances each, one session shared by both.
    keys = [f"{s}-{v}-{u}" for s in "ab" for v in "xy" for u in range(3)]
    utt2spk = {key: key[0] for key in keys}
    session = {key: "shared" if key[2] == "x" else key[:3] for key in keys}
    # u0 and u1 are short, u2 is long
    durations = {key: 9.0 if key.endswith("2") else 3.0 for key in keys}
    if balanced:
        pairs = make_balanced_pairs(keys, utt2spk, durations, 600, 1, utt2session=session)
    else:
        pairs = make_pairs(keys, utt2spk, 600, 1, session)
    expected = {
        frozenset((one, other))
        for i, one in enumerate(keys)
        for other in keys[:i]
        if session[one] != session[other]
    }
    assert set(unordered(pairs)) == expected and len(pairs) == len(expected)
    assert "taking those" in caplog.text


def test_balanced_sets_that_lack_a_kind_are_named():
    utt2spk = speakers([4, 4])
    long = dict.fromkeys(utt2spk, 9.0)
    with pytest.raises(
        DataError,
        match=r"pairs: short-short, short-long \(0 utterances of 2 to 6 s, 8 longer\)\nGive",
    ):
        make_balanced_pairs(list(utt2spk), utt2spk, long, 12, 0)
    with pytest.raises(DataError, match="no duration for 8 utterances: s0-u0"):
        make_balanced_pairs(list(utt2spk), utt2spk, {}, 12, 0)
    with pytest.raises(ConfigError, match="must rise, got 6, 2"):
        make_balanced_pairs(list(utt2spk), utt2spk, long, 12, 0, (6, 2))
    with pytest.raises(ConfigError, match="at least 6"):
        make_balanced_pairs(list(utt2spk), utt2spk, long, 5, 0)
    same = dict.fromkeys(utt2spk, "one")
    with pytest.raises(DataError, match="needs target pairs of different sessions"):
        make_pairs(list(utt2spk), utt2spk, 10, 0, same)
    with pytest.raises(DataError, match="no session for 8 utterances"):
        make_pairs(list(utt2spk), utt2spk, 10, 0, {})
