"""What the solvers believe about a route is what the engine then does."""

import numpy as np
import pytest

from services.rl.data.manhattan import ManhattanDays
from services.rl.policies.routing import (
    feasible_route,
    plan_value,
    problem_of_day,
    problem_of_state,
    scenario_travel,
)
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split, load_scenario
from services.rl.simulation.types import DispatchState
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder
from tests.rl.policies.geneva_days import even_scenario


def random_routes(problem, rng):
    """Feasible routes of a random partition of the jobs, in order of promised time."""
    driver = rng.integers(-1, problem.num_drivers, problem.num_jobs)
    order = np.argsort(problem.promised, kind="stable")
    return [
        [v.job for v in feasible_route(problem, d, [j for j in order if driver[j] == d])]
        for d in range(problem.num_drivers)
    ]


def executed(engine, routes):
    """Commit each route in order, each job as soon as the engine allows; to the end of the day."""
    waiting = [list(route) for route in routes]
    while not engine.ended():
        for d, route in enumerate(waiting):
            while route and engine.commit(0, d, route[0]):
                route.pop(0)
        engine.wait(0)
    assert not any(waiting)
    return engine.history()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [lambda: load_scenario("geneva"), even_scenario])
def test_a_day_is_driven_as_planned(make, seed):
    scenario = make()
    scenario = scenario.model_copy(
        update={"rules": scenario.rules.model_copy(update={"queue": 3, "epoch_min": 1.0})}
    )
    drawn = Engine(load_scenario("geneva"))
    drawn.start([seed])
    day = drawn.day()
    day.bookings["created_min"] = -1.0  # known early enough to commit in time
    problem = problem_of_day(day, scenario, scenario_travel(scenario))
    routes = random_routes(problem, np.random.default_rng(seed))
    assert sum(map(len, routes)) > 20
    engine = Engine(scenario, days=[day])
    engine.start([0])
    history = executed(engine, routes)
    assert engine.kpis()["reward"] == pytest.approx(plan_value(problem, routes), abs=1e-6)
    for d, route in enumerate(routes):
        for visit in feasible_route(problem, d, route):
            row = history[visit.job]
            assert row["driver"] == d
            for name, value in (
                ("depart_min", visit.depart),
                ("pickup_min", visit.pickup),
                ("done_min", visit.done),
                ("deadhead_km", visit.deadhead_km),
            ):
                assert row[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_what_is_planned_from_a_state_in_mid_day_is_what_happens(seed):
    """Drivers are busy; the state, sent as JSON, says when and where they will be free."""
    scenario = load_scenario("geneva")
    engine, rng = Engine(scenario), np.random.default_rng(seed)
    engine.start([seed])
    for _ in range(25):
        for row in engine.open_rows():
            if rng.random() < 0.1:
                engine.commit(0, int(rng.integers(engine.num_drivers)), int(row))
        engine.wait(0)
    state = DispatchState.from_json(engine.state().to_json())
    problem = problem_of_state(state, scenario, scenario_travel(scenario))
    rows = engine.open_rows()
    checked = 0
    for d in range(problem.num_drivers):
        for job in range(problem.num_jobs):
            room = state.drivers["committed"][d] <= scenario.rules.queue
            visits = feasible_route(problem, d, [job]) if problem.usable[d] and room else []
            assert engine.can_commit(0, d, int(rows[job])) == bool(visits)
    for d in range(problem.num_drivers):
        for job in range(problem.num_jobs):
            if engine.can_commit(0, d, int(rows[job])):
                (visit,) = feasible_route(problem, d, [job])
                assert engine.commit(0, d, int(rows[job]))
                row = engine.history()[rows[job]]
                assert row["pickup_min"] == pytest.approx(visit.pickup, abs=1e-6)
                assert row["done_min"] == pytest.approx(visit.done, abs=1e-6)
                checked += 1
                break
    assert checked > 0


def test_zones_are_driven_as_planned(tmp_path):
    scenario = miniature_scenario()
    source = ManhattanDays.open(write_folder(tmp_path, seed=2, train=1), scenario)
    day = source.day(source.labels(Split.VALIDATION)[0])
    engine = Engine(scenario, days=[day], source=source)
    engine.start([0])
    rng, earned = np.random.default_rng(0), 0.0
    while not engine.ended():
        state = engine.state()
        problem = problem_of_state(state, scenario, source.tables)
        rows, free = engine.open_rows(), set(range(problem.num_jobs))
        for d in rng.permutation(problem.num_drivers):
            if not free or not problem.usable[d]:
                continue
            visits = feasible_route(problem, d, [free.pop()])
            for visit in visits:
                assert engine.commit(0, int(d), int(rows[visit.job]))
                assert engine.history()["pickup_min"][rows[visit.job]] == visit.pickup
                earned += visit.value
        engine.wait(0)
    assert engine.kpis()["reward"] == pytest.approx(earned)
