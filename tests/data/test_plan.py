import itertools

import pytest

from wesp_lap.data.plan import EpochPlan, Item
from wesp_lap.errors import DataError


def items(plan, epoch, first_step=0):
    return list(plan.batches(epoch, first_step))


def test_every_utterance_stands_at_most_once_in_an_epoch():
    plan = EpochPlan(103, 10, 0, 1, seed=42)
    for epoch in range(5):
        rows = [item.utterance for batch in items(plan, epoch) for item in batch]
        assert len(rows) == len(set(rows)) == 100 and set(rows) < set(range(103))


def test_all_utterances_are_met_when_they_fill_the_batches():
    rows = [item.utterance for batch in items(EpochPlan(40, 8, 0, 1, 1), 0) for item in batch]
    assert sorted(rows) == list(range(40))


def test_what_is_left_over_changes_from_epoch_to_epoch():
    plan = EpochPlan(103, 10, 0, 1, seed=42)
    left = [
        frozenset(range(103)) - {item.utterance for batch in items(plan, epoch) for item in batch}
        for epoch in range(4)
    ]
    assert len(set(left)) == 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_the_ranks_share_the_global_batches_without_overlap(world_size):
    whole = items(EpochPlan(101, 12, 0, 1, seed=7), 3)
    ranks = [items(EpochPlan(101, 12, rank, world_size, 7), 3) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {8}
    for step, expected in enumerate(whole):
        shares = [batches[step] for batches in ranks]
        assert {len(share) for share in shares} == {12 // world_size}
        # In the order of the ranks they are the batch of one process, places included.
        assert list(itertools.chain(*shares)) == expected


def test_positions_number_the_places_of_an_epoch():
    batches = items(EpochPlan(25, 6, 1, 2, seed=0), 9)
    assert [item.position for batch in batches for item in batch] == [
        3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23,
    ]  # fmt: skip
    assert all(type(item) is Item and item.epoch == 9 for batch in batches for item in batch)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_from_any_step_on_the_batches_are_the_tail_of_the_epoch(rank, world_size):
    plan = EpochPlan(57, 8, rank, world_size, seed=3)
    whole = items(plan, 2)
    assert len(whole) == plan.steps_per_epoch == 7
    for step in range(8):
        assert items(plan, 2, step) == whole[step:]


def test_epochs_and_seeds_have_orders_of_their_own():
    plans = [EpochPlan(40, 8, 0, 1, seed) for seed in (1, 2)]
    orders = [
        tuple(item.utterance for batch in items(plan, epoch) for item in batch)
        for plan in plans
        for epoch in range(3)
    ]
    assert len(set(orders)) == 6
    assert items(plans[0], 1) == items(EpochPlan(40, 8, 0, 1, 1), 1)


@pytest.mark.parametrize(("batch", "world_size"), [(10, 3), (2, 2), (1, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(batch, world_size):
    with pytest.raises(DataError, match=rf"data\.batch_size \({batch}\).*number \({world_size}\)"):
        EpochPlan(100, batch, 0, world_size, 0)


def test_too_few_utterances_are_refused():
    with pytest.raises(DataError, match="7 utterances do not fill one batch of 8; lower data"):
        EpochPlan(7, 8, 0, 1, 0)
    assert EpochPlan(8, 8, 0, 1, 0).steps_per_epoch == 1
