"""Epochs as plans: every utterance once, equal steps for all, the same for any cut of the work."""

from dataclasses import dataclass

import numpy as np
import pytest

from wesp_lap.data.plan import EpochPlan
from wesp_lap.data.sampling import LengthSampling, SpeakerSampling, UtteranceSampling
from wesp_lap.errors import ConfigError, DataError

CROP = 32000


@dataclass
class Corpus:
    tar: np.ndarray
    speaker: np.ndarray
    samples: np.ndarray


def corpus(total, shards=7, speakers=13, seed=0):
    rng = np.random.default_rng(seed)
    return Corpus(
        np.sort(rng.integers(shards, size=total)).astype(np.int32),
        rng.integers(speakers, size=total).astype(np.int32),
        rng.integers(16000, 300000, total),
    )


def batches(sampling, rank=0, world_size=1, epoch=0, first_step=0, seed=42):
    return list(EpochPlan(sampling, rank, world_size, seed).batches(epoch, first_step))


def rows_of(plans):
    return np.concatenate([plan.rows for plan in plans])


VARIANTS = [{}, {"window_shards": 2}, {"window_shards": 3, "parts": 4}, {"parts": 5}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 128])
def test_every_utterance_stands_exactly_once_in_an_epoch(world_size, options):
    """For every number of processes and of loader workers, who take turns at their batches."""
    total = 5003
    sampling = UtteranceSampling(corpus(total), 384, CROP, world_size, **options)
    ranks = [batches(sampling, rank, world_size) for rank in range(world_size)]
    assert {len(plans) for plans in ranks} == {sampling.steps} == {14}
    for workers in (1, 2, 5, 16):
        shares = [rows_of(plans[w::workers]) for plans in ranks for w in range(min(workers, 14))]
        assert sorted(np.concatenate(shares)) == list(range(total))


def test_batches_are_even_and_never_larger_than_asked():
    for total, size in ((100, 64), (64, 64), (65, 64), (1000, 7), (97, 96)):
        sizes = [len(plan.rows) for plan in batches(UtteranceSampling(corpus(total), size, 1, 1))]
        assert sum(sizes) == total and max(sizes) <= size and max(sizes) - min(sizes) <= 1


def test_processes_and_steps_of_a_process_differ_by_one_utterance_at_most():
    sampling = UtteranceSampling(corpus(5003), 384, CROP, 8)
    sizes = {len(plan.rows) for rank in range(8) for plan in batches(sampling, rank, 8)}
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 384 // 8


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_the_batches_of_the_ranks_together_are_those_of_one_process(world_size, options):
    data = corpus(1003)
    whole = batches(UtteranceSampling(data, 48, CROP, 1, **options), epoch=3)
    sampling = UtteranceSampling(data, 48, CROP, world_size, **options)
    ranks = [batches(sampling, rank, world_size, epoch=3) for rank in range(world_size)]
    for step, plan in enumerate(whole):
        parts = [ranks[rank][step] for rank in range(world_size)]
        np.testing.assert_array_equal(plan.rows, rows_of(parts))
        places = np.concatenate([p.first + np.arange(len(p.rows)) for p in parts])
        np.testing.assert_array_equal(places, plan.first + np.arange(len(plan.rows)))


SAMPLINGS = {
    "utterances": lambda data: UtteranceSampling(data, 40, CROP, 2, window_shards=2),
    "speakers": lambda data: SpeakerSampling(data, 24, CROP, 2, per_speaker=3),
    "lengths": lambda data: LengthSampling(data, 0, 0, 2, max_seconds=60, bucket_size=50),
}


@pytest.mark.parametrize("make", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_plan_is_a_function_of_seed_and_epoch_from_any_step_on(make):
    sampling = make(corpus(503))
    for rank in range(2):
        whole = batches(sampling, rank, 2, epoch=1)
        again = batches(make(corpus(503)), rank, 2, epoch=1)
        for step in (0, 1, sampling.steps // 2, sampling.steps - 1, sampling.steps):
            tail = batches(sampling, rank, 2, epoch=1, first_step=step)
            assert len(tail) == sampling.steps - step
            for plan, same, other in zip(tail, whole[step:], again[step:], strict=True):
                np.testing.assert_array_equal(plan.rows, same.rows)
                np.testing.assert_array_equal(plan.rows, other.rows)
                assert (plan.first, plan.samples) == (same.first, same.samples)
    one, two = batches(sampling, 0, 2, epoch=1), batches(sampling, 0, 2, epoch=2)
    other = batches(sampling, 0, 2, epoch=1, seed=43)
    assert not np.array_equal(one[0].rows, two[0].rows)
    assert not np.array_equal(one[0].rows, other[0].rows)
    assert len(two) == sampling.steps


def test_places_are_unique_within_an_epoch():
    sampling = SpeakerSampling(corpus(503), 24, CROP, 2, per_speaker=3)
    plans = [plan for rank in range(2) for plan in batches(sampling, rank, 2)]
    places = np.concatenate([plan.first + np.arange(len(plan.rows)) for plan in plans])
    assert len(set(places)) == len(places)


def test_drop_last_gives_full_batches_and_leaves_out_others_in_every_epoch():
    sampling = UtteranceSampling(corpus(103), 10, CROP, 1, drop_last=True)
    left = set()
    for epoch in range(4):
        plans = batches(sampling, epoch=epoch)
        assert [len(plan.rows) for plan in plans] == [10] * 10
        rows = rows_of(plans)
        assert len(set(rows)) == 100
        left.add(frozenset(range(103)) - set(rows.tolist()))
    assert len(left) == 4


@pytest.mark.parametrize("epoch_steps", [1, 4, 25, 33])
def test_epochs_of_given_steps_are_cut_from_one_pass_after_the_other(epoch_steps):
    total, size, epochs = 103, 10, 12
    sampling = UtteranceSampling(corpus(total), size, CROP, 1, epoch_steps=epoch_steps)
    assert sampling.steps == epoch_steps
    plans = [batches(sampling, epoch=epoch) for epoch in range(epochs)]
    assert {len(plan.rows) for epoch in plans for plan in epoch} == {size}
    rows = np.concatenate([rows_of(epoch) for epoch in plans])
    assert len(rows) == epochs * epoch_steps * size
    passes = [rows[begin : begin + total] for begin in range(0, len(rows) - total + 1, total)]
    assert all(sorted(one) == list(range(total)) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_epochs_of_given_steps_are_the_same_for_any_number_of_processes():
    data, options = corpus(103), {"max_per_speaker": 5, "epoch_steps": 9}
    whole = batches(UtteranceSampling(data, 12, CROP, 1, **options), epoch=2)
    sampling = UtteranceSampling(data, 12, CROP, 3, **options)
    ranks = [batches(sampling, rank, 3, epoch=2) for rank in range(3)]
    for step, plan in enumerate(whole):
        np.testing.assert_array_equal(plan.rows, rows_of([plans[step] for plans in ranks]))


def test_a_window_of_shards_is_shuffled_and_stays_together():
    data = corpus(3000, shards=30)
    rows = rows_of(batches(UtteranceSampling(data, 50, CROP, 1, window_shards=3)))
    shards = data.tar[rows]
    # Positions between the first and the last utterance of a shard: a window's, not the epoch's.
    spans = [np.ptp(np.flatnonzero(shards == shard)) for shard in range(30)]
    window = [np.isin(data.tar, shards[a : a + 10]).sum() for a in range(0, 3000, 300)]
    assert max(spans) < 450 and min(spans) > 100 and min(window) > 0
    assert (np.diff(rows) != 1).mean() > 0.9  # no runs of neighbours
    order = [int(shard) for i, shard in enumerate(shards) if shard not in shards[:i]]
    assert order != sorted(order)


def test_each_process_reads_its_own_shards_when_there_are_as_many_parts():
    data = corpus(4000, shards=40)
    options = {"window_shards": 2, "parts": 4}
    sampling = UtteranceSampling(data, 40, CROP, 4, **options)
    read = [set(data.tar[rows_of(batches(sampling, rank, 4))].tolist()) for rank in range(4)]
    shared = sum(len(a & b) for i, a in enumerate(read) for b in read[:i])
    assert shared <= 3  # a shard that lies across the border of two parts


def test_no_more_utterances_of_a_speaker_than_the_cap_and_others_in_every_epoch():
    data = corpus(1000, speakers=20)
    sampling = UtteranceSampling(data, 32, CROP, 1, max_per_speaker=12)
    drawn = [rows_of(batches(sampling, epoch=epoch)) for epoch in range(2)]
    for rows in drawn:
        assert len(set(rows)) == len(rows) == 240
        assert np.bincount(data.speaker[rows]).tolist() == [12] * 20
    assert set(drawn[0]) != set(drawn[1])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_by_speaker_hold_groups_of_distinct_speakers(world_size):
    data = corpus(2000, speakers=60)
    sampling = SpeakerSampling(data, 48, CROP, world_size, per_speaker=3)
    ranks = [batches(sampling, rank, world_size) for rank in range(world_size)]
    rows = np.concatenate([rows_of(plans) for plans in ranks])
    assert len(set(rows)) == len(rows)
    counts = np.bincount(data.speaker) // 3 * 3
    np.testing.assert_array_equal(np.bincount(data.speaker[rows]), counts)
    for step in range(sampling.steps):
        parts = [data.speaker[plans[step].rows].reshape(-1, 3) for plans in ranks]
        groups = np.concatenate(parts)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == len(groups) <= 16


def test_one_speaker_with_most_of_the_data_does_not_fill_the_batches():
    speaker = np.concatenate([np.zeros(900, np.int32), np.repeat(np.arange(1, 21), 10)])
    data = Corpus(np.zeros(1100, np.int32), speaker, np.full(1100, 50000))
    sampling = SpeakerSampling(data, 16, CROP, 1, per_speaker=2)
    for plan in batches(sampling):
        groups = data.speaker[plan.rows].reshape(-1, 2)[:, 0]
        assert len(set(groups)) == len(groups) >= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_batches_by_length_are_limited_in_duration_and_alike_in_length(world_size):
    data = corpus(2000)
    sampling = LengthSampling(data, 0, 0, world_size, max_seconds=60, bucket_size=100)
    ranks = [batches(sampling, rank, world_size) for rank in range(world_size)]
    rows = np.concatenate([rows_of(plans) for plans in ranks])
    assert sorted(rows) == np.flatnonzero(data.samples >= 32000).tolist()
    kept = used = 0
    for plan in (plan for plans in ranks for plan in plans):
        lengths = np.minimum(data.samples[plan.rows], 250000)
        assert plan.samples == lengths.min()
        assert len(plan.rows) * plan.samples <= 60 * 16000
        kept, used = kept + lengths.sum(), used + plan.samples * len(plan.rows)
    assert used / kept > 0.95  # what cropping to the shortest loses


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("steps", [5, 40, 1000])
def test_epochs_of_so_many_steps_by_length_go_on_in_the_passes(world_size, steps):
    """The steps of all epochs are those of the passes, one after the other."""
    data = corpus(600)
    by_pass = LengthSampling(data, 0, 0, world_size)
    by_steps = LengthSampling(data, 0, 0, world_size, epoch_steps=steps)
    assert by_steps.steps == steps and by_steps.smallest == by_pass.smallest
    epochs = -(-2 * by_pass.steps // steps)
    for rank in range(world_size):
        whole = [p for e in range(2 + steps) for p in batches(by_pass, rank, world_size, e)][
            : epochs * steps
        ]
        parts = [p for e in range(epochs) for p in batches(by_steps, rank, world_size, e)]
        assert len(parts) == epochs * steps
        for one, other in zip(whole, parts, strict=True):
            assert one.rows.tolist() == other.rows.tolist() and one.samples == other.samples
    with pytest.raises(ConfigError, match="epoch_steps must be at least 1"):
        LengthSampling(data, 0, 0, world_size, epoch_steps=0)


@pytest.mark.parametrize("total", [1001, 1999, 2001, 5003])
def test_no_batch_by_length_is_what_full_buckets_leave_over(total):
    data = Corpus(np.zeros(total, int), np.zeros(total, int), np.full(total, 64000))
    sampling = LengthSampling(data, 0, 0, 1)
    sizes = [len(plan.rows) for plan in batches(sampling)]
    assert sum(sizes) == total and max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_smallest_batch_is_known_beforehand(world_size):
    data = corpus(1000, speakers=40)
    for sampling in (
        UtteranceSampling(data, 48, CROP, world_size),
        SpeakerSampling(data, 48, CROP, world_size, per_speaker=3),
        LengthSampling(data, 0, 0, world_size),
    ):
        sizes = [
            len(p.rows) for rank in range(world_size) for p in batches(sampling, rank, world_size)
        ]
        assert sampling.smallest == min(sizes)


def test_settings_that_cannot_work_say_what_to_change():
    with pytest.raises(DataError, match="9 utterances do not fill one batch of 10"):
        UtteranceSampling(corpus(9), 10, CROP, 1)
    with pytest.raises(DataError, match=r"multiple of their number \(3\).*at least 2 utterances"):
        UtteranceSampling(corpus(100), 10, CROP, 3)
    with pytest.raises(DataError, match="the smallest of the 1 batches of an epoch has 4"):
        UtteranceSampling(corpus(4), 4, CROP, 4)
    with pytest.raises(DataError, match="takes 20 speakers with enough utterances, there are 13"):
        SpeakerSampling(corpus(500), 40, CROP, 1)
    with pytest.raises(ConfigError, match=r"per_speaker \(3\).*batch_size \(40\)"):
        SpeakerSampling(corpus(500), 40, CROP, 1, per_speaker=3)
    with pytest.raises(ConfigError, match="window_shards >= 0"):
        UtteranceSampling(corpus(50), 10, CROP, 1, window_shards=-1)
    for options in ({"epoch_steps": 0}, {"epoch_steps": 5, "window_shards": 2}):
        with pytest.raises(ConfigError, match="epoch_steps must be at least 1, and does not go"):
            UtteranceSampling(corpus(50), 10, CROP, 1, **options)
    for cap in (0, -1):
        for sampling in (UtteranceSampling, SpeakerSampling):
            with pytest.raises(ConfigError, match="max_per_speaker must be at least 1, got"):
                sampling(corpus(50), 10, CROP, 1, max_per_speaker=cap)
    with pytest.raises(ConfigError, match="shortest_seconds <= longest_seconds"):
        LengthSampling(corpus(50), 0, 0, 1, shortest_seconds=20)
    with pytest.raises(DataError, match=r"3 utterances, one per batch, .* by 2 processes"):
        three = Corpus(np.zeros(3, int), np.zeros(3, int), np.full(3, 250000))
        LengthSampling(three, 0, 0, 2, max_seconds=16)


def test_a_corpus_of_a_million_utterances_is_covered_by_128_processes():
    total = 1_100_000
    data = Corpus(
        np.repeat(np.arange(2000, dtype=np.int32), 550),
        np.arange(total, dtype=np.int32) % 5994,
        np.full(total, 130000),
    )
    sampling = UtteranceSampling(data, 1024, CROP, 128, window_shards=8, parts=16)
    order = sampling.order(42, 7)
    assert sampling.steps == 1075 and len(order.cuts) == 1075 * 128 + 1
    np.testing.assert_array_equal(np.sort(order.rows), np.arange(total))
    assert set(np.diff(order.cuts).tolist()) <= {7, 8} and order.cuts[-1] == total
