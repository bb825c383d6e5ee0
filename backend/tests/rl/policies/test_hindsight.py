"""Hindsight: clairvoyant, exactly valued, remembered on disk, honest about what it is."""

import json

import numpy as np
import pytest

from services.rl.data.manhattan import ManhattanDays
from services.rl.paths import cache_dir
from services.rl.policies import hindsight as module
from services.rl.policies.hindsight import hindsight, hindsight_plan
from services.rl.policies.rolling import RollingPolicy
from services.rl.policies.routing import plan_value, problem_of_day, scenario_travel
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split, load_scenario
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder
from tests.rl.policies.geneva_days import booking, day_of, driver, even_scenario, play, random_day
from tests.rl.policies.manhattan_reference import play as play_manhattan


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ATMR_HOME", str(tmp_path))


def plan_of(day, scenario, iterations=400):
    return hindsight_plan(day, scenario, seconds=None, max_iterations=iterations)


def test_it_knows_what_is_not_yet_booked():
    # The second is created when the car, unknowing, would be 20 min away with the first.
    jobs = [booking(100, 0, 10, priority=1), booking(101, 0, -1, created=101, window=5, priority=5)]
    day = day_of(jobs, [driver()])
    plan = plan_of(day, even_scenario(grace_min=0))
    assert plan.routes == ((1, 0),)
    assert plan.value == pytest.approx(16 + 8 - 0.5 * 1, abs=1e-6)


def test_called_off_bookings_are_left_out_and_absent_patients_driven_to():
    """As the engine counts: a call-off costs nothing, a no-show its penalty or the drive."""
    jobs = [
        booking(100, 0, 1, created=-3),
        booking(200, 0, 9, created=-2, no_show=True),
        booking(300, 0, 1, created=-1, cancelled_min=250),
        booking(400, 1, 0, created=0),
    ]
    plan = plan_of(day_of(jobs, [driver()]), even_scenario())
    assert (plan.due, plan.served, plan.routes) == (2, 2, ((0, 1, 3),))
    assert plan.value == pytest.approx(20 - 0.5 * 2, abs=1e-6)


def test_a_no_show_is_not_driven_to_where_that_costs_more():
    jobs = [booking(100, 0, 1), booking(130, 25, 26, no_show=True, priority=1)]
    plan = plan_of(day_of(jobs, [driver()]), even_scenario())
    assert plan.routes == ((0,),)
    assert plan.value == pytest.approx(10 - 8, abs=1e-6)


def test_breakdowns_are_not_foreseen_and_said_so(caplog):
    jobs, cars = [booking(100, 0, 1)], [driver(breakdown_min=50.0, repaired_min=400.0)]
    assert plan_of(day_of(jobs, cars), even_scenario()).served == 1
    assert "breakdowns" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_on_disturbed_days_the_engine_pays_what_hindsight_says(seed):
    """Its routes, committed in order as early as the mask allows, earn its value."""
    day = random_day(seed, num_bookings=12, num_drivers=3)
    rng = np.random.default_rng(seed)
    day.bookings["no_show"] = rng.random(12) < 0.3
    day.bookings["cancelled_min"] = np.where(
        rng.random(12) < 0.2, np.maximum(day.bookings["created_min"], 0.0), np.inf
    )
    day.bookings["deadhead_noise"] = rng.uniform(0.8, 1.3, 12)
    day.bookings["trip_noise"] = rng.uniform(0.8, 1.3, 12)
    # Everything is known at once: what is compared is the value, not the foresight.
    day.bookings["created_min"] = -1.0
    scenario = even_scenario(queue=3, overtime_min=240, grace_min=60, epoch_min=1)
    plan = plan_of(day, scenario)
    engine = Engine(scenario, days=[day])
    engine.start([0])
    waiting = [list(route) for route in plan.routes]
    while not engine.ended():
        for d, route in enumerate(waiting):
            while route and engine.commit(0, d, route[0]):
                route.pop(0)
        engine.wait(0)
    assert waiting == [[], [], []]
    assert engine.kpis()["reward"] == pytest.approx(plan.value, abs=1e-6)
    assert engine.kpis()["completed"] == plan.served


def test_its_value_is_the_exact_value_of_its_routes():
    scenario = load_scenario("geneva")
    for seed in range(3):
        day = random_day(seed, num_bookings=25)
        plan = plan_of(day, scenario)
        problem = problem_of_day(day, scenario, scenario_travel(scenario))
        assert plan.value == pytest.approx(plan_value(problem, plan.routes))
        assert plan.served == sum(map(len, plan.routes)) <= plan.due == 25


def test_knowing_the_day_is_worth_more_than_rolling_through_it():
    scenario = load_scenario("geneva")
    gain = []
    for seed in range(2):
        day = random_day(seed, num_bookings=25)
        rolled, _ = play(day, scenario, RollingPolicy(scenario, budget_ms=None, max_iterations=15))
        gain.append(plan_of(day, scenario, 500).value - rolled)
    assert np.mean(gain) > 0


def test_the_best_known_may_be_a_policy_and_says_so():
    day, scenario = random_day(1), load_scenario("geneva")
    solved = hindsight(day, scenario, seconds=0.2)
    assert (solved.kind, solved.source) == ("best known", "pyvrp")
    better = hindsight(
        day, scenario, seconds=0.2, policies={"nearest": -5.0, "planner": solved.value + 1}
    )
    assert (better.kind, better.source) == ("best known", "planner")
    assert better.value == solved.value + 1


def test_a_second_question_is_answered_from_disk(monkeypatch):
    day, scenario = random_day(1), load_scenario("geneva")
    first = hindsight(day, scenario, seconds=0.1)
    (kept,) = (cache_dir() / "hindsight").iterdir()
    assert kept.suffix == ".json"

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "search_routes", refuse)
    assert hindsight(day, scenario, seconds=0.1) == first
    for other in (
        lambda: hindsight(random_day(2), scenario, seconds=0.1),
        lambda: hindsight(day, load_scenario("geneva_small"), seconds=0.1),
        lambda: hindsight(day, scenario, seconds=0.2),
        lambda: hindsight(day, scenario, seconds=0.1, seed=1),
        lambda: hindsight(day, scenario, seconds=0.1, cached=False),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            other()


@pytest.mark.parametrize("damage", ["{", json.dumps({"routes": []})])
def test_a_damaged_result_is_computed_again_with_a_warning(damage, caplog):
    day, scenario = random_day(1), load_scenario("geneva")
    first = hindsight(day, scenario, seconds=0.1)
    (kept,) = (cache_dir() / "hindsight").iterdir()
    kept.write_text(damage)
    assert hindsight(day, scenario, seconds=0.1).value > 0
    assert "computed again" in caplog.text
    assert json.loads(kept.read_text())["value"] > 0
    assert first.kind == "best known"


def test_under_profit_rules_it_is_a_bound_that_policies_do_not_move(tmp_path):
    scenario = miniature_scenario()
    days = ManhattanDays.open(write_folder(tmp_path / "m", seed=4, train=41), scenario)
    day = days.day(days.labels(Split.VALIDATION)[0])
    _, profit = play_manhattan(day, days.tables, scenario.rules, scenario.reward)
    first = hindsight(day, scenario, days.tables, policies={"nearest": profit})
    assert (first.kind, first.source) == ("bound", "full information")
    assert first.value >= profit
    assert hindsight(day, scenario, days.tables) == first
