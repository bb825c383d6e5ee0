"""Care: patients wait no longer than under `matching`, at a bounded price in reward."""

import numpy as np
import pytest

from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.planner_care import Danger, choice, with_care

MATCHING = Danger(reward=600.0, late=30.0, late_urgent=10.0, unserved_urgent=5.0)


def danger(reward, late=29.0, late_urgent=9.0, unserved_urgent=4.0):
    return Danger(reward, late, late_urgent, unserved_urgent)


def test_the_first_safe_step_is_taken():
    found = [danger(700, late_urgent=11), danger(703, late=31), danger(698), danger(699)]
    assert choice(found, MATCHING) == 2


@pytest.mark.parametrize("worse", [{"late": 30.1}, {"late_urgent": 9.6}, {"unserved_urgent": 5.1}])
def test_a_step_that_is_worse_for_patients_in_any_way_is_not_safe(worse):
    assert not danger(700, **worse).no_worse_than(MATCHING)
    assert choice([danger(700, **worse), danger(695)], MATCHING) == 1


def test_more_than_a_fiftieth_is_not_given():
    found = [danger(700, late_urgent=11), danger(687, late_urgent=10), danger(685)]
    assert choice(found, MATCHING) == 1  # the least late of those afforded, though not safe
    assert choice([danger(-700, late_urgent=11), danger(-713)], MATCHING) == 1


def values_for(scenario):
    return PlannerValues(
        TERM, (0.0,) * NUM_TERMS, 150.0, 4.0, scenario.name, scenario.sha256, {"kept": "start"}
    )


def careful(steps, threads=2):
    scenario = load_scenario("geneva_overload").resized(num_drivers=3)
    days = 900_000 + np.arange(6)
    return with_care(
        scenario,
        values_for(scenario),
        steps,
        lambda: Engine(scenario, len(days)),
        days,
        moves=300,
        threads=threads,
    )


def test_a_high_price_of_lateness_makes_fewer_pickups_late():
    steps = ((0.0, 0.0), (0.6, 0.0), (0.0, 2.0))
    values = careful(steps)
    none, every, urgent = values.provenance["care"]["steps"]
    assert every["late"] < none["late"]
    assert urgent["late_urgent"] < none["late_urgent"]
    chosen = steps[values.provenance["care"]["chosen"]]
    assert tuple(values.weights[TERM.index(n)] for n in ("late", "late_urgent")) == chosen
    assert values.provenance["kept"] == "start"
    assert careful(steps, threads=1) == values


def test_without_steps_the_values_stay_as_fitted():
    values = careful(())
    assert not any(values.weights) and "care" not in values.provenance
