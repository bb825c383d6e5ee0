"""The reward: what it makes preferable."""

import itertools

import numpy as np
import pytest

from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario, scenario_names

from ..policies.geneva_days import booking, day_of, driver, even_scenario

FARTHEST_KM = 20.0


@pytest.mark.parametrize("name", [n for n in scenario_names() if n.startswith("geneva")])
@pytest.mark.parametrize("priority", [1, 2, 3, 4, 5])
def test_serving_late_within_the_grace_beats_not_serving(name, priority):
    """For any deadhead up to 20 km and any lateness within the grace: no patient is refused."""
    scenario = load_scenario(name)
    w, weight = scenario.reward, scenario.reward.priority[priority - 1]
    for km, late in itertools.product(
        np.linspace(0, FARTHEST_KM, 9), np.linspace(0, scenario.rules.grace_min, 6)
    ):
        served = w.completion * weight - w.late_per_min * late - w.deadhead_per_km * km
        assert served > -w.cancellation * weight


@pytest.mark.parametrize("priority", [1, 5])
@pytest.mark.parametrize("km", [1.0, 10.0, 20.0])
def test_the_engine_pays_more_for_the_last_minute_of_grace_than_for_nobody(priority, km):
    """Played: the driver, 30 km/h, arrives 14.9 minutes after the window's end."""
    promised = km * 2 - 30 - 14.9  # window 30
    rows = [booking(promised, km, km + 2, priority=priority, created=-1.0)]
    scenario = even_scenario()
    rewards = {}
    for serve in (True, False):
        engine = Engine(scenario, days=[day_of(rows, [driver()])])
        engine.start([0])
        if serve:
            assert engine.commit(0, 0, 0)
        while not engine.wait(0):
            pass
        rewards[serve] = engine.kpis()["reward"]
    weight = scenario.reward.priority[priority - 1]
    assert rewards[False] == pytest.approx(-10 * weight)
    assert rewards[True] == pytest.approx(10 * weight - 0.3 * 14.9 - 0.5 * km, abs=0.01)
    assert rewards[True] > rewards[False]
