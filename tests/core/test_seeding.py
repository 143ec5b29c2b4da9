"""Draws depend on their key and place alone."""

import numpy as np
import pytest

from wesp_lap.seeding import generator, uniforms


def test_a_row_is_the_same_however_the_table_is_cut():
    table = uniforms((42, 3), 0, 50, 64)
    assert table.shape == (50, 64) and table.min() >= 0 and table.max() < 1
    for first, rows in ((0, 1), (7, 5), (49, 1), (10, 40)):
        np.testing.assert_array_equal(
            uniforms((42, 3), first, rows, 64), table[first : first + rows]
        )


def test_keys_of_a_table_are_told_apart():
    tables = [uniforms(key, 0, 4, 8) for key in ((1,), (1, 0), (0, 1), (2,), (1, 1))]
    assert len({table.tobytes() for table in tables}) == 5


def test_a_far_row_costs_no_more_and_numbers_look_uniform():
    far = uniforms((0,), 2**50, 1000, 64)
    assert abs(far.mean() - 0.5) < 0.01 and abs(far.var() - 1 / 12) < 0.002
    columns = np.corrcoef(far.T)
    assert np.abs(columns - np.eye(64)).max() < 0.2


def test_columns_come_in_fours():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        uniforms((0,), 0, 1, 6)


def test_generators_of_different_keys_differ():
    assert generator(42).random() != generator(42, 0).random() != generator(43).random()
