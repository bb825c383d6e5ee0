"""Plans against what came about, on simulated days whose streets are known."""

from dataclasses import replace
from datetime import date

import pytest

from services.rl.evaluation.calibration import calibration, calibration_lines
from services.rl.evaluation.gate_days import _slower, fresh_days
from services.rl.evaluation.gate_lines import GateLimits
from services.rl.policies.registry import make_policy
from services.rl.simulation.scenarios import load_scenario

from .logged_days import logged_days

GENEVA = load_scenario("geneva")


@pytest.fixture(scope="module")
def days():
    return fresh_days(GENEVA, date(2026, 3, 2), 6)


def of(days):
    return calibration(logged_days(GENEVA, make_policy("matching", GENEVA), days), GENEVA)


def verdicts(found):
    return {line.name: line.verdict for line in calibration_lines(found, GateLimits())}


def test_where_nothing_disturbs_the_plan_it_is_kept(days):
    found = of(days)
    assert found.pickups > 400 and found.days == 6
    assert found.bias_min.mean == pytest.approx(0.0, abs=1e-6)
    assert found.mae_min.mean == pytest.approx(0.0, abs=1e-6)
    assert found.reward_bias_pct.mean == pytest.approx(0.0, abs=1e-6)
    assert verdicts(found)["calibration.pickup_bias"] == "pass"


def test_slow_streets_are_seen_and_say_recalibrate(days):
    found = of([_slower(day, 1.6) for day in days])
    assert found.bias_min.low > 4.0
    assert sum(hour.pickups for hour in found.hours) == found.pickups
    assert {hour.hour for hour in found.hours} <= set(range(7, 19))
    lines = {line.name: line for line in calibration_lines(found, GateLimits())}
    assert lines["calibration.pickup_bias"].verdict == "fail"
    assert "recalibrate travel speeds" in lines["calibration.pickup_bias"].advice
    assert lines["calibration.pickup_mae"].verdict == "info"


def test_what_a_person_decided_was_not_our_prediction(days):
    logged = logged_days(GENEVA, make_policy("matching", GENEVA), [_slower(d, 1.6) for d in days])
    people = [replace(e, source="human") for e in logged]
    assert calibration(people, GENEVA).pickups == 0
    assert set(verdicts(calibration(people, GENEVA)).values()) == {"not_estimable"}


def test_few_pickups_give_no_verdict(days):
    found = of(days[:2])
    assert set(verdicts(found).values()) == {"not_estimable"}
