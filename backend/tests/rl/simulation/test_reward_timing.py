"""`PLANNED_GAIN`: what a learner is paid beyond leaving everybody unserved."""

import numpy as np
import pytest

from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import BookingStatus

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from .worlds import disturbed, manhattan, play_random, small_with_shift_ends


def credited(engine, day, timing_seed=0, wait_share=0.4):
    """Sum of credits of a day of random play, and its reward for the KPIs."""
    play = play_random(engine, day, seed=timing_seed, wait_share=wait_share)
    return sum(step.reward for step in play.steps), engine.kpis()["reward"]


def penalty_of_an_idle_day(scenario, day, **options):
    """What the day costs if nobody does anything."""
    engine = Engine(scenario, **options)
    engine.start([day])
    while not engine.wait(0):
        pass
    return -engine.reward_terms()["cancellation"]


@pytest.mark.parametrize("wait_share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(
    "make", [lambda: load_scenario("geneva_overload"), small_with_shift_ends], ids=["all", "shifts"]
)
def test_undiscounted_gains_are_the_reward_less_the_penalty_of_everybody(make, wait_share):
    """Of all bookings of the day: also of those created after the last epoch, never open."""
    scenario = make()
    for day in range(3):
        engine = Engine(scenario, timing=RewardTiming.PLANNED_GAIN)
        gain, reward = credited(engine, day, day, wait_share)
        weights = np.array(scenario.reward.priority)[engine.history()["priority"] - 1]
        everybody = scenario.reward.cancellation * weights.sum()
        assert everybody > 100
        assert gain - reward == pytest.approx(everybody)
        planned = Engine(scenario, timing=RewardTiming.PLANNED_PICKUP)
        assert credited(planned, day, day, wait_share)[0] == pytest.approx(reward)


def test_between_zones_gains_differ_by_the_penalties_too(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    engine = Engine(scenario, days=days, source=source, timing=RewardTiming.PLANNED_GAIN)
    gain, reward = credited(engine, 0, wait_share=0.1)
    idle = penalty_of_an_idle_day(scenario, 0, days=days, source=source)
    assert gain - reward == pytest.approx(idle)


@pytest.mark.parametrize("wait_share", [0.1, 0.5, 0.95])
def test_whatever_goes_wrong_gains_differ_by_the_penalty_of_an_idle_day(wait_share):
    """A number that no decision changes, with no-shows, call-offs and breakdowns too."""
    scenario = disturbed("geneva_overload")
    seen = dict.fromkeys(("no_shows", "called_off", "released"), 0.0)
    for day in range(6):
        engine = Engine(scenario, timing=RewardTiming.PLANNED_GAIN)
        gain, reward = credited(engine, day, day, wait_share)
        assert gain - reward == pytest.approx(penalty_of_an_idle_day(scenario, day))
        seen = {name: count + engine.kpis()[name] for name, count in seen.items()}
    if wait_share < 0.9:
        assert all(count > 0 for count in seen.values())


def test_a_lost_booking_costs_nothing_and_a_served_one_earns_what_it_spares():
    rows = [booking(60, 1, 3, priority=5), booking(65, 2, 3)]
    engine = Engine(
        even_scenario(), days=[day_of(rows, [driver()])], timing=RewardTiming.PLANNED_GAIN
    )
    engine.start([0])
    reward = float(engine.step(np.array([1])).reward[0])
    assert reward == pytest.approx(10 * 1.6 + 10 * 1.6 - 0.5 * 1, rel=1e-4)
    later = 0.0
    while not engine.ended():
        later += float(engine.step(np.array([0])).reward[0])
    assert later == pytest.approx(0.0, abs=1e-6)
    assert engine.history()["status"].tolist() == [BookingStatus.COMPLETED, BookingStatus.UNSERVED]


def test_a_gain_is_discounted_from_the_planned_pickup():
    def credit(promised):
        engine = Engine(
            even_scenario(),
            days=[day_of([booking(promised, 2, 3)], [driver()])],
            timing=RewardTiming.PLANNED_GAIN,
            gamma=0.9,
        )
        engine.start([0])
        return float(engine.step(np.array([1])).reward[0])

    assert credit(50) == pytest.approx(0.9**10 * (10 + 10 - 0.5 * 2), rel=1e-4)


@pytest.mark.parametrize("timing", [RewardTiming.PLANNED_PICKUP, RewardTiming.PLANNED_GAIN])
def test_a_patient_who_is_not_there_still_spares_the_penalty(timing):
    """The driver went: a no-show is nobody's failure, and left alone it would have been one."""
    rows = [booking(60, 4, 6, no_show=True)]
    engine = Engine(even_scenario(), days=[day_of(rows, [driver()])], timing=timing)
    engine.start([0])
    total = float(engine.step(np.array([1])).reward[0])
    while not engine.ended():
        total += float(engine.step(np.array([0])).reward[0])
    spared = 10.0 if timing == RewardTiming.PLANNED_GAIN else 0.0
    assert total == pytest.approx(-0.5 * 4 + spared, abs=1e-3)
    assert engine.world.totals[0, world.CANCELLATION] == 0.0
