"""Learning rates against worked values, closed forms and torch's own schedulers."""

import itertools
import math

import pytest
import torch

from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.errors import ConfigError
from wesp_lap.training.lr_schedules import (
    LR_SCHEDULES,
    Constant,
    Exponential,
    OneCycle,
    Polynomial,
    Step,
    Triangular,
    TriStage,
    WarmupCosine,
)


def values(schedule, total, per_epoch=1):
    return [schedule.lr(step, total, per_epoch) for step in range(total)]


def by_torch(make, total, initial=1.0, factor=1.0):
    """Learning rates of one of torch's schedulers, stepped once per step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(factor * optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_worked_warmup_and_cosine():
    got = [1e3 * lr for lr in values(WarmupCosine(1e-3, 1e-5, warmup_ratio=0.2), 10)]
    expected = [0.01, 0.505, 1.0, 0.96232, 0.855018, 0.694428, 0.505, 0.315572, 0.154982, 0.04768]
    assert got == pytest.approx(expected, abs=1e-6)


def test_warmup_and_cosine_starts_and_ends_at_the_minimum():
    schedule = WarmupCosine(1e-3, 1e-5, 0.1)
    assert schedule.lr(0, 1000, 10) == 1e-5
    assert schedule.lr(1000, 1000, 10) == pytest.approx(1e-5)


def test_a_cosine_that_ends_early_holds_the_minimum():
    """The first half is the cosine of a phase half as long."""
    held = values(WarmupCosine(1e-5, 5e-6, 0, hold_ratio=0.5), 40)
    assert held[:20] == pytest.approx(values(WarmupCosine(1e-5, 5e-6, 0), 20))
    assert held[20:] == [5e-6] * 20


def test_warmup_of_the_published_first_phase():
    """40 epochs of 2133 steps; the warm-up takes 10 or 15 %."""
    total = 40 * 2133
    for ratio, warmup in ((0.1, 8532), (0.15, 12798)):
        schedule = WarmupCosine(1e-3, 1e-5, ratio)
        rates = [schedule.lr(step, total, 2133) for step in (warmup - 1, warmup, warmup + 1)]
        assert rates[1] == 1e-3 == max(rates)


def test_equal_ends_are_constant():
    assert set(values(WarmupCosine(5e-6, 5e-6, 0.1), 50)) == {5e-6}
    assert set(values(Constant(5e-6), 50)) == {5e-6}


def test_step_falls_once_per_epoch():
    got = values(Step(5e-4), 10 * 7, per_epoch=7)
    expected = [5e-4 * 0.9**epoch for epoch in range(10) for _ in range(7)]
    assert got == pytest.approx(expected, rel=1e-12)
    assert got[-1] == pytest.approx(1.937e-4, abs=1e-7)


def test_step_equals_torch_step_lr():
    got = values(Step(0.1, gamma=0.95, every=2), 9 * 5, per_epoch=5)
    expected = by_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 10, 0.95), 45, 0.1)
    assert got == pytest.approx(expected, rel=1e-9)


def test_step_counts_from_the_end_of_its_warmup():
    got = values(Step(1.0, gamma=0.1, every=2, warmup_epochs=1.5), 20, per_epoch=4)
    expected = [(t + 1) / 7 for t in range(6)] + [1.0] * 8 + [0.1] * 6
    assert got == pytest.approx(expected)


def wespeaker_exponential(step, total, per_epoch, initial, final, warmup_epochs, scale, from_zero):
    """ExponentialDecrease of WeSpeaker, line by line."""
    warmup = warmup_epochs * per_epoch
    factor = 1.0 * scale
    if step < warmup:
        if from_zero:
            factor = scale * step / warmup
        elif scale > 1:
            factor = (scale - 1) * step / warmup + 1.0
    return factor * initial * math.exp((step / total) * math.log(final / initial))


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_exponential_equals_wespeakers(scale, from_zero):
    schedule = Exponential(0.1, 5e-5, 6, from_zero, scale)
    expected = [
        wespeaker_exponential(t, 150, 10, 0.1, 5e-5, 6, scale, from_zero) for t in range(150)
    ]
    assert values(schedule, 150, per_epoch=10) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "total, step, lr",
    [
        (400_000, 16_000, 2.5e-4),
        (400_000, 32_000, 5e-4),
        (400_000, 216_000, 2.5e-4),
        (800_000, 416_000, 2.5e-4),
        (250_000, 141_000, 2.5e-4),
        (400_000, 0, 0.0),
        (400_000, 400_000, 0.0),
    ],
)
def test_polynomial_of_hubert(total, step, lr):
    schedule = Polynomial(5e-4, warmup_ratio=32_000 / total)
    assert schedule.lr(step, total, 1000) == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_polynomial_equals_torch_without_a_warmup(power):
    got = values(Polynomial(1.0, power=power, warmup_ratio=0), 20)
    make = torch.optim.lr_scheduler.PolynomialLR
    expected = by_torch(lambda o: make(o, total_iters=20, power=power), 20)
    assert got == pytest.approx(expected, rel=1e-9)


def test_polynomial_ends_at_its_final_rate():
    assert Polynomial(1.0, final_lr=0.2, power=3).lr(100, 100, 1) == 0.2


def test_tri_stage_rises_holds_and_falls():
    got = values(TriStage(5e-5), 1000)
    assert got[0] == 5e-6
    assert got[50] == pytest.approx((5e-6 + 5e-5) / 2)
    assert got[100:500] == [5e-5] * 400
    assert got[750] == pytest.approx(math.sqrt(5e-6 * 5e-5))  # half way on a logarithmic scale
    falls = [b / a for a, b in itertools.pairwise(got[500:])]
    assert falls == pytest.approx([0.1 ** (1 / 500)] * 499)
    assert TriStage(5e-5).lr(1000, 1000, 1) == pytest.approx(5e-6)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("ratio, total", [(0.1, 100), (6 / 13, 13), (0.3, 7), (0.0, 10), (0.05, 9)])
def test_one_cycle_equals_torch(anneal, ratio, total):
    make = torch.optim.lr_scheduler.OneCycleLR
    expected = by_torch(
        lambda o: make(o, 3e-3, total + 1, pct_start=ratio, anneal_strategy=anneal), total + 1
    )
    got = values(OneCycle(3e-3, ratio, anneal), total + 1)
    assert got == pytest.approx(expected, rel=1e-9)
    assert got[-1] == pytest.approx(3e-3 / 25 / 1e4)


def test_triangular_equals_torch_triangular2():
    make = torch.optim.lr_scheduler.CyclicLR
    expected = by_torch(
        lambda o: make(o, 1e-8, 1e-3, step_size_up=10, mode="triangular2", cycle_momentum=False), 80
    )
    assert values(Triangular(1e-3), 80) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_a_rate_depends_on_the_step_alone(name):
    """Asked in any order and by any copy of the schedule, never negative, for short phases too."""
    needed = {"constant": ["lr"], "step": ["initial_lr"], "exponential": ["initial_lr", "final_lr"]}
    section = Section(name, dict.fromkeys(needed.get(name, ["max_lr"]), 1e-3))
    schedule = build(LR_SCHEDULES, section, "lr_schedule")
    for total, per_epoch in ((1, 1), (2, 1), (3, 3), (60, 20)):
        forward = values(schedule, total, per_epoch)
        assert all(math.isfinite(lr) and lr >= 0 for lr in forward)
        other = build(LR_SCHEDULES, section, "lr_schedule")
        backward = [other.lr(step, total, per_epoch) for step in reversed(range(total))]
        assert forward == backward[::-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1e-5, 1e-3), "min_lr <= max_lr"),
        ((1e-3, -1e-5), "min_lr <= max_lr"),
        ((1e-3, 1e-5, 1.0), "add up to 1"),
        ((1e-3, 1e-5, 0.5, 0.5), "add up to 1"),
        ((1e-3, 1e-5, 0.1, -0.1), "must not be negative"),
    ],
)
def test_impossible_warmups_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(*arguments)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("constant", {"lr": -1.0}, "must not be negative"),
        ("step", {"initial_lr": 1e-3, "every": 0}, "every >= 1"),
        ("exponential", {"initial_lr": 1e-3, "final_lr": 0.0}, "must be positive"),
        ("exponential", {"initial_lr": 1e-3, "final_lr": 1e-4, "scale": 0.0}, "scale > 0"),
        ("polynomial", {"max_lr": 1e-3, "power": 0.0}, "power > 0"),
        ("polynomial", {"max_lr": 1e-3, "warmup_ratio": 1.0}, "warmup_ratio < 1"),
        ("tri_stage", {"max_lr": 1e-6}, "initial_lr <= max_lr"),
        ("tri_stage", {"max_lr": 1e-3, "hold_ratio": 0.95}, "nor exceed 1"),
        ("one_cycle", {"max_lr": 1e-3, "warmup_ratio": 1.0}, "warmup_ratio < 1"),
        ("one_cycle", {"max_lr": 1e-3, "div_factor": 0.0}, "must be positive"),
        ("triangular", {"max_lr": 1e-3, "cycles": 0}, "cycles >= 1"),
        ("warmup_cosine", {"max_lr": 1e-3, "gamma": 1.0}, "unknown 'gamma'"),
        ("cosine", {}, "did you mean 'warmup_cosine'"),
    ],
)
def test_impossible_settings_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(LR_SCHEDULES, Section(name, options), "lr_schedule")
