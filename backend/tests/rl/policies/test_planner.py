"""`rolling_search` and `planner`: exact, optimal on small days, repeatable, careful with plans."""

import dataclasses
import itertools
import json
import time

import numpy as np
import pytest

from services.rl.errors import PolicyError
from services.rl.policies.base import Policy
from services.rl.policies.planner import SearchPlan, SearchPolicy
from services.rl.policies.planner_values import PlannerValues, demand_grid, planner_values
from services.rl.policies.registry import make_policy
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.policies.routing import plan_value, problem_of_state, scenario_travel
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario, parse_scenario
from tests.rl.policies.geneva_days import (
    booking,
    day_of,
    driver,
    even_scenario,
    play,
    random_day,
    state_of,
)

ALL_DAY = 480.0
FINGERPRINT = ("promised_min", "pickup_lat", "pickup_lon")


def search(scenario=None, moves=4_000, **options):
    options.setdefault("look_ahead_min", ALL_DAY)
    return SearchPolicy("rolling_search", scenario or even_scenario(), moves=moves, **options)


def values_of(scenario, **terms):
    weights = tuple(float(terms.get(name, 0.0)) for name in TERM)
    return PlannerValues(TERM, weights, ALL_DAY, 4.0, scenario.name, scenario.sha256, {})


def committed(state, answer):
    return {state.booking_ids[d.booking]: d.driver for d in answer.decisions}


def planned_routes(state, answer):
    """What is committed and what is planned after it, as rows per driver."""
    routes = [[] for _ in state.driver_ids]
    for decision in answer.decisions:
        routes[decision.driver].append(decision.booking)
    for name, route in answer.plan.routes:
        d = state.driver_ids.index(name)
        routes[d] += [state.booking_ids.index(b) for b in route]
    return routes


def plan_of(policy, state, now_min, *routes):
    """A plan of an earlier epoch, of the state's bookings where it has them."""
    row = {name: i for i, name in enumerate(state.booking_ids)}
    seen = tuple(
        (name, *(float(state.bookings[f][row[name]]) for f in FINGERPRINT))
        for name in dict.fromkeys(b for _, route in routes for b in route)
        if name in row
    )
    return SearchPlan(policy.scenario.sha256, now_min, routes, seen)


def best_value(problem):
    """The best plan of all, by trying every order of every choice of jobs."""
    jobs, best = range(problem.num_jobs), -np.inf
    for count in range(problem.num_jobs + 1):
        for order in itertools.permutations(jobs, count):
            for cut in range(count + 1):
                try:
                    value = plan_value(problem, [order[:cut], order[cut:]])
                except PolicyError:  # cannot be driven
                    continue
                best = max(best, value)
    return best


def test_it_is_a_policy():
    assert isinstance(search(), Policy)


def test_only_what_must_start_before_the_next_epoch_is_committed():
    day = day_of([booking(114, 5, 6), booking(115.1, -15, -16)], [driver(0), driver(-10)])
    state = state_of(day, 100)
    answer = search().decide(state)
    assert committed(state, answer) == {"b0": 0}
    assert answer.decisions[0].features["pickup_min"] == pytest.approx(114)
    assert answer.plan.routes == (("d1", ("b1",)),)


@pytest.mark.parametrize("seed", range(12))
def test_small_problems_are_solved_exactly(seed):
    """The plan is worth, by the plain Python clock, what the best of all plans is worth."""
    scenario = even_scenario()
    day = random_day(seed, num_bookings=5, num_drivers=2, horizon=180.0)
    state = state_of(day, 0.0, rows=np.arange(5))
    problem = problem_of_state(state, scenario, scenario_travel(scenario))
    routes = planned_routes(state, search(scenario, 40_000).decide(state))
    assert plan_value(problem, routes) == pytest.approx(best_value(problem), abs=1e-6)


def test_days_are_played_by_the_rules_and_better_with_more_moves():
    scenario = even_scenario()
    totals = {}
    for moves in (1, 3_000):
        rewards = [
            play(random_day(seed, 16), scenario, search(scenario, moves))[0] for seed in range(6)
        ]
        totals[moves] = sum(rewards)
    assert totals[3_000] > totals[1]


def test_single_decisions_and_whole_days_agree():
    scenario = load_scenario("geneva_small")
    policy = make_policy("rolling_search@300", scenario, seed=3)
    engine = Engine(scenario, 2)
    engine.start([1_000_000, 1_000_001])
    policy.play(engine)
    single = Engine(scenario, 2)
    single.start([1_000_000, 1_000_001])
    for env in range(2):
        plan = None
        while not single.ended(env):
            rows = single.open_rows(env)
            answer = policy.decide(single.state(env), plan=plan)
            plan = answer.plan
            for decision in answer.decisions:
                assert single.commit(env, decision.driver, int(rows[decision.booking]))
            single.wait(env)
    np.testing.assert_array_equal(engine.world.totals, single.world.totals)
    assert policy.ignored_plans == 0


def test_the_seed_decides():
    scenario = load_scenario("geneva_overload")

    def rewards(seed):
        engine = Engine(scenario, 2)
        engine.start([1_000_000, 1_000_001])
        make_policy("rolling_search@200", scenario, seed=seed).play(engine)
        return engine.world.totals.sum(axis=1)

    np.testing.assert_array_equal(rewards(1), rewards(1))
    assert (rewards(1) != rewards(2)).any()


def test_a_wheelchair_needs_its_vehicle_and_an_emergency_driver_takes_urgent_jobs_only():
    day = day_of(
        [booking(110, 1, 2, wheelchair=True), booking(110, 1, 2, priority=1)],
        [driver(0), driver(0, emergency=True)],
    )
    answer = search().decide(state_of(day, 100))
    routes = planned_routes(state_of(day, 100), answer)
    assert routes == [[1], []]


def test_a_booking_nobody_can_carry_and_a_day_without_bookings():
    nobody = day_of([booking(110, 1, 2, wheelchair=True)], [driver(0)])
    assert search().decide(state_of(nobody, 100)).decisions == ()
    empty = state_of(nobody, 100, rows=np.arange(0))
    answer = search().decide(empty)
    assert answer.decisions == () and answer.plan.routes == ()


def test_a_broken_down_driver_gets_nothing():
    day = day_of([booking(103, 1, 2)], [driver(0), driver(-2)])
    state = state_of(day, 100, down=np.array([True, False]))
    assert committed(state, search().decide(state)) == {"b0": 1}


def test_the_plan_of_a_driver_who_broke_down_since_goes_to_others():
    day = day_of([booking(113, 1, 2)], [driver(0), driver(-2)])
    state = state_of(day, 100, down=np.array([True, False]))
    policy = search()
    plan = plan_of(policy, state, 95.0, ("d0", ("b0",)))
    assert planned_routes(state, policy.decide(state, plan=plan)) == [[], [0]]


def test_days_with_breakdowns_and_call_offs_are_played_to_their_end():
    raw = load_scenario("geneva_small").model_dump(mode="json")
    raw["name"] = "disturbed"
    raw["disturbances"] |= {"breakdowns_per_driver_day": 1.0, "late_cancellation_share": 0.2}
    scenario = parse_scenario(raw, source="disturbed")
    engine = Engine(scenario, 12)
    engine.start(np.arange(12))
    make_policy("rolling_search@200", scenario).play(engine)
    assert all(engine.ended(e) for e in range(12))
    assert engine.world.counters[:, world.RELEASED].sum() > 0


def test_a_full_queue_commits_nothing_more():
    day = day_of([booking(103, 1, 2)], [driver(0)])
    state = state_of(day, 100, committed=2)
    answer = search().decide(state)
    assert answer.decisions == ()
    assert answer.plan.routes == (("d0", ("b0",)),)


@pytest.mark.parametrize(
    "change", [{"scenario_hash": "another"}, {"now_min": 100.0}, {"now_min": 300.0}]
)
def test_a_plan_of_another_scenario_or_a_later_moment_is_ignored_and_counted(change):
    day = day_of([booking(103, 1, 2)], [driver(0)])
    state = state_of(day, 100)
    policy = search()
    plan = plan_of(policy, state, 95.0, ("d0", ("b0",)))
    policy.decide(state, plan=plan)
    assert policy.ignored_plans == 0
    answer = policy.decide(state, plan=dataclasses.replace(plan, **change))
    assert policy.ignored_plans == 1
    assert committed(state, answer) == {"b0": 0}
    policy.decide(state, plan="nonsense")
    assert policy.ignored_plans == 2


def test_bookings_and_drivers_who_are_gone_drop_out_of_a_plan():
    day = day_of([booking(150, 1, 2), booking(160, 3, 2)], [driver(0), driver(1)])
    state = state_of(day, 100)
    policy = search(moves=0)
    plan = plan_of(policy, state, 95.0, ("d0", ("gone", "b0", "lost")), ("d9", ("b1",)))
    assert policy.decide(state, plan=plan).plan.routes == (("d0", ("b0",)),)
    assert policy.ignored_plans == 0


@pytest.mark.parametrize("field", FINGERPRINT)
def test_a_plan_of_another_day_with_the_same_names_is_ignored_and_counted(field):
    """Ids start anew every day: yesterday's plan names today's bookings, and means others."""
    day = day_of([booking(150, 1, 2), booking(160, 3, 2)], [driver(0), driver(1)])
    state = state_of(day, 100)
    policy = search(moves=0)
    plan = plan_of(policy, state, 95.0, ("d0", ("b0",)), ("d1", ("b1",)))
    today = policy.decide(state, plan=plan)
    assert today.plan.routes == (("d0", ("b0",)), ("d1", ("b1",)))
    state.bookings[field][1] += 1e-9  # one that differs is enough: the whole plan is another's
    assert policy.decide(state, plan=plan).plan.routes == ()
    assert policy.decide(state, plan=dataclasses.replace(plan, bookings=())).plan.routes == ()
    assert policy.ignored_plans == 2


@pytest.mark.parametrize(
    "change",
    [
        {"routes": (("d0", ("b0",) * 500),)},
        {"routes": (("d0", ("b0",)), ("d1", ("b0",)))},
        {"routes": (("d0", ("b0",)), ("d0", ("b1",)))},
        {"routes": None},
        {"routes": 7},
        {"routes": (("d0",),)},
        {"routes": (("d0", None),)},
        {"routes": (("d0", (["b0"],)),)},
        {"bookings": None},
        {"bookings": (("b0",),)},
        {"bookings": ((),)},
        {"now_min": None},
        {"now_min": float("nan")},
    ],
)
def test_a_plan_out_of_shape_is_ignored_and_counted(change):
    day = day_of([booking(103, 1, 2), booking(160, 3, 2)], [driver(0), driver(-5)])
    state = state_of(day, 100)
    policy = search()
    plan = plan_of(policy, state, 95.0, ("d0", ("b0",)))
    answer = policy.decide(state, plan=dataclasses.replace(plan, **change))
    assert policy.ignored_plans == 1
    assert committed(state, answer) == {"b0": 0}


def test_without_time_matching_decides_and_is_counted():
    day = day_of([booking(103, 1, 2)], [driver(0)])
    policy = search()
    answer = policy.decide(state_of(day, 100), budget_ms=0.0)
    assert [d.driver for d in answer.decisions] == [0]
    assert policy.fallbacks == 1


def test_a_budget_of_milliseconds_searches_and_decides():
    day = random_day(1, 14)
    state = state_of(day, 60.0)
    policy = search(budget_ms=20.0)
    answer = policy.decide(state)
    assert policy.fallbacks == 0
    problem = problem_of_state(state, policy.scenario, scenario_travel(policy.scenario))
    assert plan_value(problem, planned_routes(state, answer)) > plan_value(problem, [[]] * 3)


def test_however_little_time_there_is_what_is_due_is_committed():
    """Nothing was planned before, and a thousandth of a millisecond plans nothing by itself."""
    day = day_of([booking(103, 1, 2)], [driver(0)])
    state = state_of(day, 100)
    policy = search(budget_ms=1e-3)
    for _ in range(2):
        assert committed(state, policy.decide(state)) == {"b0": 0}
    assert policy.fallbacks == 0


@pytest.mark.parametrize("budget_ms", [20.0, 200.0])
def test_a_budget_of_milliseconds_is_roughly_kept_and_used(budget_ms):
    """Roughly, because tests share their machine: seconds, or no time at all, would be wrong."""
    state = state_of(random_day(1, 14), 60.0)
    policy = search(budget_ms=budget_ms)
    policy.decide(state)  # compiles, allocates
    took_ms = []
    for _ in range(3):
        begun = time.perf_counter()
        policy.decide(state)
        took_ms.append(1e3 * (time.perf_counter() - begun))
    assert min(took_ms) < 20 * budget_ms
    assert max(took_ms) > budget_ms / 10


def test_the_last_epoch_commits_all_that_is_planned():
    """Nobody decides after it: what could leave later is lost unless it is committed now."""
    day = day_of([booking(495, 1, 2)], [driver(0, end=600)])
    for now, expected in ((470, {}), (475, {"b0": 0})):  # the day has 480 minutes, an epoch 5
        state = state_of(day, now)
        answer = search().decide(state)
        assert committed(state, answer) == expected
        assert planned_routes(state, answer) == [[0]]


def test_bookings_are_planned_from_150_minutes_before_their_time():
    scenario = even_scenario()
    state = state_of(day_of([booking(249, 1, 2), booking(251, 3, 2)], [driver(0)]), 100)
    policy = SearchPolicy("rolling_search", scenario)
    assert planned_routes(state, policy.decide(state)) == [[0]]


def test_the_look_ahead_of_values_is_theirs():
    scenario = even_scenario()
    state = state_of(day_of([booking(249, 1, 2), booking(251, 3, 2)], [driver(0)]), 100)
    for minutes, expected in ((60.0, []), (160.0, [0, 1])):
        values = dataclasses.replace(values_of(scenario), look_ahead_min=minutes)
        policy = SearchPolicy("planner", scenario, values=values)
        assert planned_routes(state, policy.decide(state)) == [expected]


def test_the_search_begins_as_hot_as_its_values_say():
    """The same as without values at 4, the default; otherwise at other temperatures."""
    scenario = even_scenario()
    states = [state_of(random_day(seed, 16), 60.0) for seed in range(6)]

    def routes(values):
        policy = SearchPolicy("planner", scenario, values=values, moves=300, look_ahead_min=ALL_DAY)
        return [planned_routes(state, policy.decide(state)) for state in states]

    by_default = routes(None)
    assert routes(dataclasses.replace(values_of(scenario), hot=4.0)) == by_default
    for hot in (0.05, 60.0):
        assert routes(dataclasses.replace(values_of(scenario), hot=hot)) != by_default


def test_the_shortest_budget_decides_as_its_moves_do():
    """What a budget of time plans is committed without another search: with the same outcome."""
    scenario = load_scenario("geneva_small")
    hasty, counted = (
        SearchPolicy("rolling_search", scenario, **of)
        for of in ({"budget_ms": 1e-3}, {"moves": 500})
    )
    engine = Engine(scenario, 1)
    engine.start([1_000_000])
    plan, commitments = None, 0
    while not engine.ended(0):
        rows, state = engine.open_rows(0), engine.state(0)
        answer = counted.decide(state, plan=plan)
        assert hasty.decide(state, plan=plan) == answer
        plan = answer.plan
        for decision in answer.decisions:
            assert engine.commit(0, decision.driver, int(rows[decision.booking]))
            commitments += 1
        engine.wait(0)
    assert commitments > 10 and hasty.ignored_plans == 0


def test_a_price_on_minutes_leaves_out_what_earns_too_little():
    scenario = even_scenario()
    day = day_of([booking(103, 1, 2), booking(105, 14, 22, priority=1)], [driver(0), driver(0)])
    state = state_of(day, 100)
    free = SearchPolicy("planner", scenario, values=values_of(scenario))
    dear = SearchPolicy("planner", scenario, values=values_of(scenario, minute=5.0))
    assert sum(len(route) for route in planned_routes(state, free.decide(state))) == 2
    assert committed(state, dear.decide(state)).keys() == {"b0"}


def test_values_without_weight_change_nothing():
    scenario = load_scenario("geneva_small")
    totals = []
    for values in (None, values_of(scenario)):
        engine = Engine(scenario, 3)
        engine.start([5, 6, 7])
        SearchPolicy("planner", scenario, values=values, moves=300, look_ahead_min=ALL_DAY).play(
            engine
        )
        totals.append(engine.world.totals.copy())
    np.testing.assert_array_equal(*totals)


def test_unknown_demand_is_dense_in_town_and_ends_with_the_day():
    scenario = load_scenario("geneva")
    grid = demand_grid(scenario)
    south, west, cell_lat, cell_lon, columns, _ = grid.shape
    at = int((46.1935 - south) / cell_lat) * int(columns) + int((6.149 - west) / cell_lon)
    assert grid.near[6, at] > 3 * grid.near[6, 0]
    assert grid.near[-1].max() == 0.0
    assert np.isfinite(grid.near).all() and (grid.near >= 0).all()


def test_values_are_refused_elsewhere_unless_transferred(tmp_path, atmr_home):
    geneva, other = load_scenario("geneva"), load_scenario("geneva_small")
    values_of(geneva, booking=1.0).save(tmp_path / "planner.json")
    assert planner_values(geneva, tmp_path)[0].weights[0] == 1.0
    with pytest.raises(PolicyError, match="fitted on geneva"):
        planner_values(other, tmp_path)
    values, note, _ = planner_values(other, tmp_path, transfer=True)
    assert values.weights[0] == 1.0 and "another scenario" in note
    assert make_policy("planner@50", other, model=tmp_path, transfer=True).name == "planner@50"


def test_a_folder_without_values_is_not_answered_with_the_shipped_ones(tmp_path, atmr_home):
    """Such as that of a fit that was killed: its name would stand under others' figures."""
    geneva = load_scenario("geneva")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PolicyError, match=r"holds no planner\.json"):
            planner_values(geneva, folder)
    (tmp_path / "manifest.json").write_text("{}")  # a network: evaluated beside the planner
    assert planner_values(geneva, tmp_path)[1] == "shipped values fitted on geneva"


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw | {"terms": raw["terms"][:-1]},
        lambda raw: raw | {"weights": raw["weights"][:-1]},
        lambda raw: raw | {"weights": [float("nan")] * NUM_TERMS},
        lambda raw: raw | {"weights": ["1.0"] * NUM_TERMS},
        lambda raw: raw | {"weights": [[1.0]] * NUM_TERMS},
        lambda raw: raw | {"schema": 99},
        lambda raw: {"schema": 1},
        lambda raw: [1],
    ],
)
def test_damaged_values_are_refused(tmp_path, damage):
    path = tmp_path / "planner.json"
    values_of(load_scenario("geneva")).save(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(PolicyError, match="planner values"):
        PlannerValues.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("look_ahead_min", "hot"),
            (0.0, -1.0, float("nan"), float("inf"), 1e300, 10**400, None, "4", True),
        ),
        *itertools.product(("minute",), (1e7, -1e7, float("inf"), 10**400, None)),
    ],
)
def test_a_value_without_measure_is_refused_by_name(tmp_path, field, value):
    """`hot` 0 was found out by the search, and a weight of 1e300 planned nothing, silently."""
    path = tmp_path / "planner.json"
    values_of(load_scenario("geneva")).save(path)
    raw = json.loads(path.read_text())
    if field in TERM:
        raw["weights"][TERM.index(field)] = value
    else:
        raw[field] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(PolicyError, match=field):
        PlannerValues.load(path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *itertools.product(("budget_ms",), (-1.0, float("nan"), float("inf"), 1e300)),
        *itertools.product(("moves",), (-1, float("nan"), float("inf"), 2**60)),
        *itertools.product(("seed",), (-1, 2**64, float("nan"))),
    ],
)
def test_an_impossible_budget_or_seed_is_refused_by_name(option, value):
    with pytest.raises(PolicyError, match=f"rolling_search: {option} is"):
        search(**{option: value})


@pytest.mark.parametrize("budget", [float("nan"), float("inf")])
def test_an_impossible_budget_of_one_decision_is_refused(budget):
    state = state_of(day_of([booking(103, 1, 2)], [driver(0)]), 100)
    with pytest.raises(PolicyError, match="budget_ms"):
        search().decide(state, budget_ms=budget)


def test_an_amount_of_thousands_of_digits_is_refused_in_a_sentence():
    with pytest.raises(PolicyError, match="expected a whole number") as refusal:
        make_policy("planner@" + 5_000 * "9", load_scenario("geneva"))
    assert len(str(refusal.value)) < 200


def test_an_amount_names_the_policy():
    scenario = load_scenario("geneva")
    assert make_policy("rolling@50", scenario).name == "rolling@50"
    assert make_policy("rolling", scenario).name == "rolling"


@pytest.mark.parametrize("name", ["planner@0", "planner@x", "rolling_search@-3", "matching@5"])
def test_an_impossible_amount_is_refused(name):
    with pytest.raises(PolicyError, match="@"):
        make_policy(name, load_scenario("geneva"))


@pytest.mark.parametrize("name", ["geneva", "geneva_overload"])
def test_shipped_values_are_of_the_scenario_as_it_is(name, atmr_home):
    """A changed scenario needs a new fit; nobody should have to find out by the refusal."""
    values, note, _ = planner_values(load_scenario(name))
    assert note == f"shipped values fitted on {name}"
    assert np.abs(values.array()).max() > 0.1
    assert values.provenance["commit"] and "--seed" in values.provenance["command"]


def test_a_day_is_played_the_same_beside_one_with_more_drivers():
    """Days with fewer drivers are filled up with some without a shift: the search ignores them."""
    scenario = load_scenario("geneva_small").resized(num_drivers=6)
    drawn = Engine(scenario, 2)
    drawn.start([1, 2])
    large, other = drawn.day(0), drawn.day(1)
    small = dataclasses.replace(other, drivers=other.drivers[:4], label="small")
    nobody = dataclasses.replace(other, drivers=other.drivers[:0], label="nobody")
    policy = SearchPolicy("rolling_search", scenario, moves=300)
    together = Engine(scenario, 3, days=[large, small, nobody])
    together.start([0, 1, 2])
    policy.play(together)
    alone = Engine(scenario, 1, days=[small])
    alone.start([0])
    policy.play(alone)
    assert together.reward_terms(1) == alone.reward_terms(0)
    assert together.kpis(2)["completed"] == 0.0
