"""The verdict: each rule alone makes NO-GO, and nothing that is not known makes GO."""

import numpy as np
import pytest

from services.rl.training.protocol.rules import (
    BLOCKING,
    SPEED,
    VERDICT,
    bounds,
    day_differences,
    findings,
    go,
    spread_pct,
)

GOOD = {
    "reward": -0.9,
    "on_time": -0.9,
    "unserved_urgent": 0.2,
    "parity": 1e-6,
    "decisions": 1.0,
    "features": 0.0,
    "serving": 1e-5,
    "val_total": -0.1,
    "spread": 1.9,
}
BAD = {
    "reward": -1.1,
    "on_time": -1.01,
    "unserved_urgent": 0.26,
    "parity": 2e-4,
    "decisions": 0.999,
    "features": 1.0,
    "serving": 1.1e-4,
    "val_total": 0.0,
    "spread": 2.1,
}


def test_all_rules_kept_is_go():
    assert set(GOOD) == {rule.measure for rule in VERDICT}
    assert go(findings(VERDICT, GOOD))


@pytest.mark.parametrize("measure", sorted(BAD))
@pytest.mark.parametrize("how", ["broken", "unknown", "not a number", "never looked at"])
def test_each_rule_alone_makes_no_go(measure, how):
    measures = dict(GOOD)
    rules = list(VERDICT)
    if how == "never looked at":
        rules = [rule for rule in rules if rule.measure != measure]
    else:
        measures[measure] = {"broken": BAD[measure], "unknown": None, "not a number": np.nan}[how]
    assert not go(findings(rules, measures))


def test_no_findings_are_no_go():
    assert not go([])
    assert not go(findings(VERDICT, {}))


def test_blocking_comes_first_then_primary_then_stability():
    order = [rule.kind for rule in VERDICT]
    assert order == sorted(order, key=["blocking", "primary", "stability"].index)


def test_twice_as_fast_is_fast_enough():
    assert SPEED.holds(2.0) and not SPEED.holds(1.99)


def kpis(reward, on_time=90.0, urgent=1.0, due=100.0, days=40):
    ones = np.ones(days)
    return {
        "reward": reward * ones,
        "on_time_pct": on_time * ones,
        "unserved_p4": urgent * ones,
        "unserved_p5": 0 * ones,
        "bookings_due": due * ones,
    }


def test_differences_are_in_the_rules_units():
    found = day_differences(kpis(-98.0, 89.0, 1.5), kpis(-100.0, 90.0, 1.0))
    assert found["reward"].mean == pytest.approx(2.0)  # percent of |-100|, better
    assert found["on_time"].mean == pytest.approx(-1.0)
    assert found["unserved_urgent"].mean == pytest.approx(0.5)  # percent of 100 due


def test_the_worse_end_of_an_interval_is_judged():
    random = np.random.default_rng(0)
    worse, base = kpis(100.0), kpis(100.0)
    for name in ("reward", "on_time_pct", "unserved_p4"):
        worse[name] = worse[name] + random.normal(0, 3, 40)
    found = day_differences(worse, base)
    ends = bounds(found)
    assert ends["reward"] == found["reward"].low < found["reward"].mean
    assert ends["on_time"] == found["on_time"].low
    assert ends["unserved_urgent"] == found["unserved_urgent"].high


def test_one_day_or_a_default_that_earns_nothing_proves_nothing():
    alone = bounds(day_differences(kpis(100.0, days=1), kpis(100.0, days=1)))
    nothing = bounds(day_differences(kpis(5.0), kpis(0.0)))
    reward = next(rule for rule in BLOCKING if rule.measure == "reward")
    assert not reward.holds(alone["reward"])
    assert not reward.holds(nothing["reward"])


def test_spread_needs_three_seeds():
    assert spread_pct([1.0, 1.0]) is None
    assert spread_pct([0.99, 1.0, 1.01]) == pytest.approx(2.0)
