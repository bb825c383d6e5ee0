"""The sum over a day's experiences is what the simulator says of the same day."""

from datetime import date, timedelta

import pytest

from services.dispatching.operating_day import day_of
from services.learning.collector import collect, expected
from services.rl.data.experience import Ending
from services.rl.simulation.scenarios import Disturbances, load_scenario

from .conftest import loop_on
from .simulated_log import COMPANY, ZONE_OF_TESTS, hire, log_day

TERMS = ("completion", "lateness", "deadhead", "loaded", "cancellation")


def disturbed(name, **chances):
    scenario = load_scenario(name)
    return scenario.model_copy(update={"disturbances": Disturbances(**chances)})


@pytest.mark.parametrize(
    ("scenario", "policy", "seed"),
    [
        (load_scenario("geneva_small"), "matching", 11),
        (load_scenario("geneva_small"), "random", 12),
        (load_scenario("geneva_overload"), "nearest", 13),
        (disturbed("geneva", travel_noise_cv=0.3), "matching", 14),
    ],
    ids=["calm", "random", "overload", "traffic"],
)
def test_a_days_experiences_sum_to_the_simulators_reward(
    tmp_path, atmr_home, clock, scenario, policy, seed
):
    day = day_of(date(2026, 3, 2), scenario.rules, ZONE_OF_TESTS)
    loop = loop_on(f"sqlite:///{tmp_path / 'day.sqlite'}", tmp_path, scenario, clock)
    with loop.database.writing() as session:
        hire(session, scenario, day)
        truth = log_day(session, scenario, seed, day, policy=policy)
    report = collect(loop, COMPANY)
    found = list(expected(loop, COMPANY))
    assert report.experiences == len(found) and report.assigned > 5
    assert not report.left_out and not report.provisional
    for name in TERMS:
        total = sum(getattr(e.terms, name) for e in found)
        assert total == pytest.approx(truth[name], abs=1e-5), name
    assert sum(e.reward for e in found) == pytest.approx(sum(truth.values()), abs=1e-4)
    loop.database.dispose()


def test_empty_ways_and_calls_are_paid_as_the_simulator_pays_them(tmp_path, atmr_home, clock):
    scenario = disturbed("geneva", no_show_share=0.3, late_cancellation_share=0.2)
    day = day_of(date(2026, 3, 2), scenario.rules, ZONE_OF_TESTS)
    loop = loop_on(f"sqlite:///{tmp_path / 'day.sqlite'}", tmp_path, scenario, clock)
    with loop.database.writing() as session:
        hire(session, scenario, day)
        truth = log_day(session, scenario, 15, day, policy="random")
    found = list(expected(loop, COMPANY))
    endings = {e.ending for e in found}
    assert {Ending.NO_SHOW, Ending.CALLED_OFF, Ending.COMPLETED} <= endings
    for name in ("completion", "lateness", "cancellation"):
        total = sum(getattr(e.terms, name) for e in found)
        assert total == pytest.approx(truth[name], abs=1e-4), name
    # After a way in vain the next one is shorter or longer than it was planned.
    empty = sum(e.terms.deadhead for e in found)
    assert empty == pytest.approx(truth["deadhead"], rel=0.15)
    assert clock.now() > day.start + timedelta(days=1)
    loop.database.dispose()
