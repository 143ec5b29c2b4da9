"""Learning rates against worked values."""

import pytest

from wesp_lap.training.lr_schedules import Constant, WarmupCosine


def test_worked_warmup_and_cosine():
    schedule = WarmupCosine(1e-3, 1e-5, warmup_ratio=0.2)
    got = [1e3 * schedule.lr(step, 10) for step in range(10)]
    expected = [0.01, 0.505, 1.0, 0.96232, 0.855018, 0.694428, 0.505, 0.315572, 0.154982, 0.04768]
    assert got == pytest.approx(expected, abs=1e-6)


def test_returns_to_the_minimum():
    assert WarmupCosine(1e-3, 1e-5, 0.1).lr(1000, 1000) == pytest.approx(1e-5)


def test_equal_ends_are_constant():
    schedule = WarmupCosine(5e-6, 5e-6, 0.1)
    assert {schedule.lr(step, 50) for step in range(50)} == {5e-6}
    assert Constant(5e-6).lr(17, 50) == 5e-6


@pytest.mark.parametrize("arguments", [(1e-5, 1e-3), (1e-3, -1e-5), (1e-3, 1e-5, 1.0)])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError, match="min_lr <= max_lr"):
        WarmupCosine(*arguments)
