"""The margin ramp against worked values."""

import itertools
import math

import pytest

from wesp_lap.losses.margin_schedule import MarginSettings

RAMP = [0, 0.177810, 0.215819, 0.238358, 0.254436, 0.266945, 0.277183, 0.285851, 0.293366, 0.3]


def test_log_ramp_over_two_epochs_of_five_steps():
    settings = MarginSettings(ramp_epochs=2)
    got = [settings.margin(step, 5) for step in range(15)]
    assert got == pytest.approx(RAMP + 5 * [0.3], abs=1e-6)


@pytest.mark.parametrize(
    "part, margin",
    list(
        zip(
            (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0),
            (0.0, 0.0620, 0.1355, 0.1721, 0.2223, 0.2610, 0.2838, 0.3),
            strict=True,
        )
    ),
)
def test_log_ramp_at_parts_of_the_way(part, margin):
    settings = MarginSettings(ramp_epochs=20)
    steps = 20 * 50 + 1  # so that every part falls on a step
    assert settings.margin(round(part * (steps - 1)), steps / 20) == pytest.approx(margin, abs=5e-5)


@pytest.mark.parametrize("shape", ["log", "exp", "cos", "linear"])
def test_every_shape_rises_from_initial_to_final(shape):
    settings = MarginSettings(shape=shape, initial=0.1, final=0.4, ramp_epochs=3, start_epoch=1)
    values = [settings.margin(step, 10) for step in range(60)]
    assert values[:11] == [0.1] * 11
    assert values[39:] == [0.4] * 21
    assert all(a <= b for a, b in itertools.pairwise(values))


def wespeaker_margin(step, per_epoch, first, last, initial, final):
    """MarginScheduler of WeSpeaker, whose epochs are counted from 1."""
    start, end = (first - 1) * per_epoch, (last - 1) * per_epoch
    if step >= end:
        return final
    if step < start:
        return initial
    ratio = 1.0 - math.exp((step - start) / (end - start) * math.log(1e-3 / (1.0 + 1e-6)))
    return initial + (final - initial) * ratio


def test_ramp_of_wespeaker_between_epochs_20_and_40():
    settings = MarginSettings(final=0.2, start_epoch=19, ramp_epochs=20, shape="wespeaker")
    steps = range(50 * 7)
    expected = [wespeaker_margin(step, 7, 20, 40, 0.0, 0.2) for step in steps]
    got = [settings.margin(step, 7) for step in steps]
    assert got == pytest.approx(expected, abs=1e-7)
    assert got[19 * 7 - 1] == 0 and got[19 * 7 + 1] > 0
    assert got[39 * 7 - 1] < 0.2 == got[39 * 7]


def test_the_margin_depends_on_the_step_alone():
    settings = MarginSettings(ramp_epochs=2, start_epoch=1)
    forward = [settings.margin(step, 5) for step in range(30)]
    assert [settings.margin(step, 5) for step in reversed(range(30))] == forward[::-1]


@pytest.mark.parametrize("shape", ["log", "exp", "cos", "linear", "wespeaker"])
def test_without_a_ramp_the_margin_is_final_from_the_start(shape):
    assert MarginSettings(final=0.5, ramp_epochs=0, shape=shape).margin(0, 100) == 0.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"final": -0.1}, "must not be negative"),
        ({"ramp_epochs": -1.0}, "must not be negative"),
        ({"final": 0.0}, "needs a penalty_ref"),
        ({"penalty_ref": 0.0}, "penalty_ref must be positive"),
        ({"final": float("nan")}, "must be finite"),
        ({"final": 4.0}, "below pi"),
        ({"penalty": -0.1}, "penalty is not negative"),
    ],
)
def test_impossible_margins_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MarginSettings(**options)


def test_penalty_follows_the_margin():
    settings = MarginSettings(final=0.3, penalty=0.06)
    assert settings.penalty_for(0.15) == pytest.approx(0.03)
    assert settings.penalty_for(0.3) == pytest.approx(0.06)
    assert settings.penalty_for(0.001) == 0
    assert MarginSettings(penalty=0.06, penalty_ref=0.2).penalty_for(0.15) == pytest.approx(0.045)
