"""Trial lists are even, free of doubles, the same for the same input, and say when they cannot be.

The truth here is a plain enumeration of all pairs.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from wesp_lap.corpora.pairing import spread
from wesp_lap.corpora.paper_trials import (
    librispeech_trials,
    vctk_trials,
    vox2_test_validation_trials,
)
from wesp_lap.corpora.trial_sampling import sample_trials
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials, read_trials

# Gender and accent of the validation and test speakers of the paper's published code.
VCTK_VAL = "ms fe ms me fa fe fe ms fa fi me fa fc fn fe fa mu fs"  # p263 p239 p237 ...
VCTK_TEST = "fa fi fe ms ms me me fe fe fa me fa fs mn fz ma mc me"  # p329 p313 p231 ...


def people(sizes: dict[str, int]) -> dict[str, str]:
    return {f"{name}-{i:03d}": name for name, size in sizes.items() for i in range(size)}


def pairs(trials: Trials, label: int) -> list[frozenset[str]]:
    assert trials.labels is not None
    rows = zip(trials.enroll, trials.test, trials.labels.tolist(), strict=True)
    return [frozenset((one, other)) for one, other, own in rows if own == label]


def speakers_of(found: list[frozenset[str]], utt2spk: dict[str, str]) -> Counter:
    return Counter(tuple(sorted(utt2spk[key] for key in pair)) for pair in found)


def spread_out(counts: list[int]) -> int:
    return max(counts) - min(counts)


def test_every_trial_has_the_right_label_and_none_comes_twice_or_turned():
    utt2spk = people({"a": 5, "b": 9, "c": 2, "d": 7})
    trials = sample_trials(utt2spk, 40, 100)
    targets, others = pairs(trials, 1), pairs(trials, 0)
    assert (len(targets), len(others)) == (40, 100)
    assert all(len(pair) == 2 for pair in targets + others)
    assert len(set(targets)) == 40
    assert len(set(others)) == 100
    assert all(len({utt2spk[key] for key in pair}) == 1 for pair in targets)
    assert all(len({utt2spk[key] for key in pair}) == 2 for pair in others)


def test_all_pairs_there_are_can_be_asked_for():
    utt2spk = people({"a": 4, "b": 3, "c": 1})
    truth = {
        label: {
            frozenset(pair)
            for pair in combinations(utt2spk, 2)
            if (utt2spk[pair[0]] == utt2spk[pair[1]]) == bool(label)
        }
        for label in (0, 1)
    }
    trials = sample_trials(utt2spk, len(truth[1]), len(truth[0]))
    assert set(pairs(trials, 1)) == truth[1]
    assert set(pairs(trials, 0)) == truth[0]


def test_speakers_and_pairs_of_speakers_differ_by_one_at_most():
    utt2spk = people(dict(zip("abcdefg", range(10, 17), strict=True)))
    trials = sample_trials(utt2spk, 100, 250)
    targets = speakers_of(pairs(trials, 1), utt2spk)
    others = speakers_of(pairs(trials, 0), utt2spk)
    assert (len(targets), sum(targets.values())) == (7, 100)
    assert (len(others), sum(others.values())) == (21, 250)
    assert spread_out(list(targets.values())) == 1
    assert spread_out(list(others.values())) == 1


def test_a_speaker_with_few_utterances_gives_all_its_pairs_and_the_others_share_the_rest(caplog):
    utt2spk = people({"a": 3, "b": 20, "c": 20, "d": 1})
    targets = speakers_of(pairs(sample_trials(utt2spk, 63, 0), 1), utt2spk)
    assert targets == {("a", "a"): 3, ("b", "b"): 30, ("c", "c"): 30}
    assert "0 to 30 of the 4 speakers" in caplog.text


def test_a_list_depends_on_seed_and_content_but_not_on_order():
    sizes = {"a": 12, "b": 12, "c": 12}
    utt2spk = people(sizes)
    gender = {"a": "f", "b": "m", "c": "f"}
    keys = list(utt2spk)
    random.Random(1).shuffle(keys)
    shuffled = {key: utt2spk[key] for key in keys}
    turned = dict(reversed(gender.items()))
    first = sample_trials(utt2spk, 50, 60, {"gender": gender})
    again = sample_trials(shuffled, 50, 60, {"gender": turned})
    other = sample_trials(utt2spk, 50, 60, {"gender": gender}, seed=43)
    assert (first.enroll, first.test) == (again.enroll, again.test)
    assert (first.enroll, first.test) != (other.enroll, other.test)
    # The numbers of the one kind do not change the other.
    fewer = sample_trials(utt2spk, 50, 10, {"gender": gender})
    assert pairs(fewer, 1) == pairs(first, 1)


def test_both_columns_hold_about_as_many_first_and_second_utterances():
    trials = sample_trials(people({"a": 60, "b": 60}), 1000, 1000)
    risen = [one < other for one, other in zip(trials.enroll, trials.test, strict=True)]
    assert 400 < sum(risen[:1000]) < 600
    assert 400 < sum(risen[1000:]) < 600


def test_every_pair_is_drawn_about_as_often_over_many_seeds():
    utt2spk = people({"a": 4, "b": 3})
    seen: Counter[frozenset[str]] = Counter()
    for seed in range(600):
        trials = sample_trials(utt2spk, 4, 4, seed=seed)
        seen.update(pairs(trials, 1) + pairs(trials, 0))
    rates = {pair: count / 600 for pair, count in seen.items()}
    for pair, rate in rates.items():
        names = sorted(utt2spk[key] for key in pair)
        expected = {"aa": 2 / 6, "bb": 2 / 3, "ab": 4 / 12}["".join(names)]
        assert abs(rate - expected) < 0.08, pair
    assert len(rates) == 6 + 3 + 12


def test_cells_of_two_attributes_hold_as_many_trials_each():
    names = [f"s{number:02d}" for number in range(12)]
    utt2spk = people(dict.fromkeys(names, 10))
    gender = {name: "fm"[number % 2] for number, name in enumerate(names)}
    accent = {name: "xyz"[number % 3] for number, name in enumerate(names)}
    trials = sample_trials(utt2spk, 24, 402, {"gender": gender, "accent": accent})
    cells: dict[tuple[bool, bool], Counter] = {}
    for one, other in speakers_of(pairs(trials, 0), utt2spk).elements():
        cell = (gender[one] == gender[other], accent[one] == accent[other])
        cells.setdefault(cell, Counter())[one, other] += 1
    totals = {cell: sum(counts.values()) for cell, counts in cells.items()}
    assert totals == {
        (True, True): 101,
        (True, False): 101,
        (False, True): 100,
        (False, False): 100,
    }
    for counts in cells.values():
        assert spread_out(list(counts.values())) <= 1


def test_sessions_are_shared_by_the_wanted_part_of_the_targets():
    utt2spk = people({"a": 8, "b": 8, "c": 8, "d": 3})
    session = {key: f"{key[:2]}{int(key[-1]) // 2}" for key in utt2spk}
    session["c-000"], session["c-001"] = "alone", "lonely"
    trials = sample_trials(utt2spk, 18, 0, utt2session=session, same_session_share=0.5)
    found = pairs(trials, 1)
    shared = [pair for pair in found if len({session[key] for key in pair}) == 1]
    assert len(shared) == 9
    assert len(set(found)) == 18
    # d has 3 pairs; the rest is even in total although c has fewer pairs of one session.
    totals = speakers_of(found, utt2spk)
    assert totals == {("a", "a"): 5, ("b", "b"): 5, ("c", "c"): 5, ("d", "d"): 3}


def test_all_that_is_too_small_is_named_at_once_with_counts():
    utt2spk = people({"a": 2, "b": 3, "c": 1})
    gender = {"a": "f", "b": "f", "c": "m"}
    with pytest.raises(DataError) as caught:
        sample_trials(utt2spk, 5, 20, {"gender": gender})
    message = str(caught.value)
    assert "target trials: 5 wanted, but 3 speakers have 4 pairs of utterances" in message
    assert "c has 0, a has 1, b has 3" in message
    assert "non-target trials of same gender: 10 wanted, but 1 pairs of speakers have 6" in message
    assert "non-target trials of other gender: 10 wanted, but 2 pairs of speakers have 5" in message
    assert "Ask for fewer trials" in message


def test_cells_without_pairs_of_speakers_are_an_error_or_left_out(caplog):
    utt2spk = people({"a": 4, "b": 4, "c": 4})
    match = {"gender": {"a": "f", "b": "f", "c": "m"}, "accent": dict.fromkeys("abc", "x")}
    with pytest.raises(DataError) as caught:
        sample_trials(utt2spk, 1, 8, match)
    assert "same gender, other accent: 2 wanted, but 0 pairs of speakers" in str(caught.value)
    trials = sample_trials(utt2spk, 1, 8, match, skip_empty_cells=True)
    found = speakers_of(pairs(trials, 0), utt2spk)
    assert found == {("a", "b"): 4, ("a", "c"): 2, ("b", "c"): 2}
    assert "other gender, other accent: there are none" in caplog.text


def test_sessions_that_are_too_few_are_named():
    utt2spk = people({"a": 4, "b": 4})
    session = dict.fromkeys(utt2spk, "one")
    with pytest.raises(DataError, match="target trials of two sessions: 4 wanted, but 2 speakers"):
        sample_trials(utt2spk, 8, 0, utt2session=session, same_session_share=0.5)


def test_missing_attributes_and_sessions_are_named():
    utt2spk = people({"a": 2, "b": 2, "c": 2})
    with pytest.raises(DataError, match=r"(?s)b: no gender.*c: no gender.*a: no accent"):
        sample_trials(utt2spk, 1, 1, {"gender": {"a": "f"}, "accent": {"b": "x", "c": "x"}})
    with pytest.raises(DataError, match="no session for 5 utterances: a-001, b-000"):
        sample_trials(utt2spk, 1, 1, utt2session={"a-000": "x"}, same_session_share=0.5)
    with pytest.raises(ConfigError, match="needs the session of every utterance"):
        sample_trials(utt2spk, 1, 1, same_session_share=0.5)
    with pytest.raises(ConfigError, match=r"same_session_share must be 0 to 1, got 1\.5"):
        sample_trials(
            utt2spk, 1, 1, utt2session=dict.fromkeys(utt2spk, "x"), same_session_share=1.5
        )
    with pytest.raises(ConfigError, match="targets must not be negative, got -1"):
        sample_trials(utt2spk, -1, 1)


@pytest.mark.parametrize("seed", range(30))
def test_spread_is_the_most_even_of_all_divisions(seed):
    rng = np.random.default_rng(seed)
    capacity = rng.integers(0, 6, 4)
    start = rng.integers(0, 4, 4) if seed % 2 else np.zeros(4, np.int64)
    count = int(rng.integers(0, capacity.sum() + 1))
    shares = spread(count, capacity, rng, start)
    assert shares.sum() == count
    assert (shares >= 0).all()
    assert (shares <= capacity).all()
    grid = np.stack(np.meshgrid(*[np.arange(most + 1) for most in capacity]), -1).reshape(-1, 4)
    grid = grid[grid.sum(1) == count]
    # Least squares is least for the most even one.
    assert ((start + shares) ** 2).sum() == ((start + grid) ** 2).sum(1).min()


@pytest.mark.parametrize(("codes", "others"), [(VCTK_VAL, 8030), (VCTK_TEST, 8062)])
def test_vctk_has_the_published_number_of_trials(codes, others):
    attributes = {f"p{number:03d}": code for number, code in enumerate(codes.split())}
    utt2spk = people(dict.fromkeys(attributes, 60))
    gender = {name: code[0] for name, code in attributes.items()}
    accent = {name: code[1] for name, code in attributes.items()}
    trials = vctk_trials(utt2spk, gender, accent)
    assert trials.labels is not None
    assert np.bincount(trials.labels).tolist() == [others, 8010]
    assert set(speakers_of(pairs(trials, 1), utt2spk).values()) == {445}


@pytest.mark.parametrize("women", [36, 37])
def test_librispeech_has_the_published_number_of_trials(women):
    names = [f"{number}" for number in range(100, 173)]
    utt2spk = people(dict.fromkeys(names, 30))
    gender = {name: "f" if int(name) < 100 + women else "m" for name in names}
    trials = librispeech_trials(utt2spk, gender)
    assert trials.labels is not None
    assert np.bincount(trials.labels).tolist() == [18396, 18031]
    assert set(speakers_of(pairs(trials, 1), utt2spk).values()) == {247}
    assert set(speakers_of(pairs(trials, 0), utt2spk).values()) == {7}


def test_voxceleb2_test_has_the_published_number_of_trials():
    utt2spk = people({f"id{number:05d}": 40 for number in range(118)})
    video = {key: f"{key[:7]}/{int(key[-3:]) // 8}" for key in utt2spk}
    trials = vox2_test_validation_trials(utt2spk, video)
    assert trials.labels is not None
    assert np.bincount(trials.labels).tolist() == [34515, 32096]
    targets = pairs(trials, 1)
    assert sum(len({video[key] for key in pair}) == 1 for pair in targets) == 16048
    assert set(speakers_of(targets, utt2spk).values()) == {272}
    assert set(speakers_of(pairs(trials, 0), utt2spk).values()) == {5}


def run_command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "wesp_lap.bin.make_trials", *words], capture_output=True, text=True
    )


def test_command_writes_a_list_from_the_tables_of_a_data_directory(tiny_corpus, tmp_path):
    data, out = tmp_path / "data", tmp_path / "lists" / "own.kaldi"
    data.mkdir()
    for name in ("wav.scp", "utt2spk"):
        (data / name).write_text((tiny_corpus.data / name).read_text())
    genders = "".join(f"{name} {'fm'[i % 2]}\n" for i, name in enumerate(tiny_corpus.speakers))
    (data / "spk2gender").write_text(genders)
    words = ["--data", str(data), "--out", str(out), "--targets", "16", "--nontargets", "40"]
    done = run_command(*words, "--match", "spk2gender")
    assert done.returncode == 0, done.stderr
    assert "56 trials, 16 target, 40 nontarget" in done.stdout
    trials = read_trials(out)
    utt2spk = {key: key[:5] for key in tiny_corpus.utterances}
    same = [int(a[3:]) % 2 == int(b[3:]) % 2 for a, b in speakers_of(pairs(trials, 0), utt2spk)]
    assert len(same) == 28
    assert set(speakers_of(pairs(trials, 1), utt2spk).values()) == {2}
    failed = run_command(*words, "--same_session_share", "0.5")
    assert failed.returncode == 1
    assert f"{data / 'utt2session'}: no such file" in failed.stderr
    assert "Traceback" not in failed.stderr
