"""Shared fleets: the truth, mirrored units, and estimators whose answer is known."""

import numpy as np
import pytest

from services.rl.evaluation.fleet_bias import measure_bias
from services.rl.evaluation.shared_fleet import COLUMNS, Design, SharedFleet
from services.rl.simulation.scenarios import load_scenario

DAY = 1_000_000
LEARNED = COLUMNS.index("learned")


@pytest.fixture(scope="module")
def fleet():
    return SharedFleet(load_scenario("geneva_small"), "nearest", "matching", seed=3)


def test_a_mirrored_day_gives_each_booking_to_the_other_arm(fleet):
    drawn, other = (fleet.play(Design("booking"), DAY, mirrored=m) for m in (False, True))
    assert {0.0, 1.0} <= set(drawn[:, LEARNED])
    both = (drawn[:, LEARNED] >= 0) & (other[:, LEARNED] >= 0)
    assert (drawn[both, LEARNED] + other[both, LEARNED] == 1).all()
    assert np.array_equal(drawn[:, :2], other[:, :2])  # the same demand


def test_a_day_of_one_arm_is_that_policy_s_and_both_ends_differ(fleet):
    control, learned = (fleet.play(Design(name), DAY) for name in ("heuristic", "rl"))
    assert set(control[:, LEARNED]) <= {0.0, -1.0} and set(learned[:, LEARNED]) <= {1.0, -1.0}
    assert not np.array_equal(control, learned, equal_nan=True)


def _table(rng, arm, rate, minutes):
    table = np.zeros((len(minutes), len(COLUMNS)))
    table[:, 0], table[:, 1], table[:, 2] = minutes, minutes - 600.0, minutes
    table[:, LEARNED] = arm
    table[:, 4] = rng.random(len(minutes)) < rate
    return table


def test_a_split_without_interference_has_no_bias_and_one_with_it_has_its_own():
    rng = np.random.default_rng(1)
    fair, unfair = {}, {}
    for day in range(40):
        minutes = np.sort(rng.uniform(0, 480, 200))
        arm = (rng.random(200) < 0.5).astype(float)
        base = {"rl": _table(rng, 1.0, 0.8, minutes), "heuristic": _table(rng, 0.0, 0.7, minutes)}
        split = {
            name: _table(rng, a, np.where(a == 1, 0.8, 0.7), minutes)
            for name, a in (("booking", arm), ("booking~", 1 - arm))
        }
        # The learned arm takes the other's drivers.
        taken = {
            name: _table(rng, a, np.where(a == 1, 0.85, 0.55), minutes)
            for name, a in (("booking", arm), ("booking~", 1 - arm))
        }
        fair[day], unfair[day] = {**base, **split}, {**base, **taken}
    honest, biased = (measure_bias(days).of("booking", "as decided") for days in (fair, unfair))
    assert measure_bias(fair).truth.mean == pytest.approx(10, abs=2)
    assert honest.bias.low < 0 < honest.bias.high
    assert biased.bias.mean == pytest.approx(20, abs=3) and biased.bias.low > 10


def test_blocks_are_counted_as_they_are_reported():
    rng = np.random.default_rng(2)
    minutes = np.arange(0.0, 480.0, 4.0) + 15.0  # attributed to minutes 0, 4, 8, ...
    names = ("heuristic", "rl", "switchback-60", "switchback-60~")
    days = {
        d: {n: _table(rng, rng.integers(0, 2, 120), 0.5, minutes) for n in names} for d in range(3)
    }
    found = measure_bias(days)
    assert found.of("switchback-60", "as attributed").share == 1.0
    assert found.of("switchback-60", "as reported").share == pytest.approx(44 / 60, abs=0.01)
    assert found.of("switchback-60", "after the same").share in {n / 24 for n in range(25)}
