"""`matching_values`: decides by what a state shows, on values that are of the scenario."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from services.rl.data.manhattan import ManhattanDays
from services.rl.errors import PolicyError
from services.rl.policies.base import Policy
from services.rl.policies.edge_values import EDGE_VALUES_FILE, EdgeValues, ZoneMatchingPolicy
from services.rl.policies.registry import make_policy
from services.rl.policies.zone_matching import EDGE_TERM, NUM_EDGE_TERMS
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split, load_scenario
from services.rl.simulation.types import DispatchState
from tests.rl.data.miniature_manhattan import ZONES, miniature_scenario, write_folder

PROFITABLE = {"deadhead_per_km": 0.8, "loaded_per_km": 1.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("manhattan") / "root", seed=5, train=41)
    scenario = miniature_scenario(4, **PROFITABLE)
    source = ManhattanDays.open(root, scenario)
    return scenario, source, [source.day(label) for label in source.labels(Split.VALIDATION)]


def values_of(scenario, seed=None, **weights):
    """Values with random weights (by seed), or the named ones."""
    rng = np.random.default_rng(seed)
    chosen = [weights.get(name, 0.0) for name in EDGE_TERM]
    if seed is not None:
        chosen = [1.0, *rng.normal(0.0, 0.3, NUM_EDGE_TERMS - 1)]
    worth = np.linspace(0.8, 0.0, 60)[None] * np.linspace(0.5, 1.5, ZONES)[:, None]
    return EdgeValues(
        EDGE_TERM,
        tuple(float(v) for v in chosen),
        tuple(map(tuple, worth.tolist())),
        (0.1, 0.3, 0.4, 0.2),
        scenario.name,
        scenario.sha256,
        {},
    )


def started(world, day=0):
    scenario, source, days = world
    engine = Engine(scenario, days=days, source=source)
    engine.start([day])
    return engine


def by_hand(state, values, tables, scenario):
    """Scores ``(requests, cars)`` of every allowed pair, in plain Python; NaN: not allowed."""
    now, horizon = state.now_min, scenario.rules.horizon_min
    cars, requests, minutes = state.drivers, state.bookings, tables.minutes
    ready = np.maximum(now, cars["free_at_min"])

    def worth(zone, minute):
        return values.worth[zone][int(minute)] if minute < 60 else 0.0

    def balance(zone, minute):
        near = sum(
            math.exp(-(minutes[c["zone"], zone] + abs(r - minute)) / 4)
            for c, r in zip(cars, ready, strict=True)
        )
        demand = sum(
            5 * rate * math.exp(-minutes[other, zone] / 4)
            for other, rate in enumerate(values.requests)
        )
        return math.log((near + 0.3) / (demand + 0.3))

    rush = math.log((len(requests) + 2) / (sum(values.requests) + 2))
    load = np.minimum(10, ready - now).mean() / 5 - 1
    left = (horizon - now) / horizon
    scores = np.full((len(requests), len(cars)), np.nan)
    for i, request in enumerate(requests):
        origin, destination = request["pickup_zone"], request["dropoff_zone"]
        trip = minutes[origin, destination]
        after = balance(destination, now + 2 + trip)
        for c, car in enumerate(cars):
            pickup = ready[c] + minutes[car["zone"], origin]
            if car["committed"] > 1 or pickup > request["window_end_min"]:
                continue
            end, before = pickup + trip, balance(car["zone"], ready[c])
            km = tables.km[car["zone"], origin]
            gain, loss = worth(destination, end), worth(car["zone"], ready[c])
            taken = (min(end, horizon) - min(ready[c], horizon)) / 10
            profit = request["fare"] - 0.8 * km - 1.5 * tables.km[origin, destination]
            terms = {
                "profit": profit,
                "worth_after": gain,
                "worth_before": -loss,
                "worth_after_balance": gain * after,
                "worth_before_balance": -loss * before,
                "worth_gain_rush": (gain - loss) * rush,
                "worth_gain_load": (gain - loss) * load,
            }
            plain = {
                "wait": (pickup - now) / 10,
                "busy": (ready[c] - now) / 10,
                "deadhead": km,
                "taken": taken,
                "taken_balance": taken * before,
                "taken_rush": taken * rush,
                "taken_load": taken * load,
                "bias": 1,
                "taken_left": taken * left,
                "queued": ready[c] > now,
                "trip": trip / 10,
                "balance_gain": (after - before) * (end < horizon),
                "balance": before,
                "taken_squared": taken**2,
                "left": left,
                "rush": rush,
                "load": load,
            }
            weight = dict(zip(EDGE_TERM, values.weights, strict=True))
            scores[i, c] = sum(weight[k] * v for k, v in terms.items())
            scores[i, c] += 0.3 * sum(weight[k] * v for k, v in plain.items())
    return scores


def test_it_is_a_policy(world):
    scenario, source, _ = world
    assert isinstance(ZoneMatchingPolicy(scenario, values_of(scenario), source=source), Policy)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_round_is_the_best_matching_of_scores_computed_by_hand(world, seed):
    scenario, source, _ = world
    values = values_of(scenario, seed)
    policy = ZoneMatchingPolicy(scenario, values, source=source)
    engine, compared = started(world), 0
    while not engine.ended():
        state, rows = engine.state(), engine.open_rows()
        scores = by_hand(state, values, source.tables, scenario)
        decisions = policy.decide(state).decisions
        first, cars = [], set()
        for decision in decisions:  # a car's second ride is of a later round
            if decision.driver in cars:
                break
            cars.add(decision.driver)
            first.append(decision)
        positive = np.where(scores > 0, scores, 0.0)
        best = linear_sum_assignment(positive, maximize=True)
        whole = [d for d in first if not np.isnan(scores[d.booking, d.driver])]
        found = [scores[d.booking, d.driver] for d in whole[: np.count_nonzero(positive[best])]]
        assert sum(found) == pytest.approx(positive[best].sum(), abs=1e-9)
        for decision in whole[: len(found)]:
            assert decision.score == pytest.approx(scores[decision.booking, decision.driver])
        compared += len(found)
        for decision in decisions:
            assert engine.commit(0, decision.driver, int(rows[decision.booking]))
        engine.wait(0)
    assert compared > 15


@pytest.mark.parametrize("seed", [1, 2])
def test_deciding_epoch_by_epoch_on_states_plays_the_days_of_the_batch(world, seed):
    scenario, source, days = world
    policy = ZoneMatchingPolicy(scenario, values_of(scenario, seed), source=source)
    batch = Engine(scenario, len(days), days=days, source=source)
    batch.start(np.arange(len(days)))
    policy.play(batch)
    for day in range(len(days)):
        engine = started(world, day)
        while not engine.ended():
            rows = engine.open_rows()
            state = DispatchState.from_json(engine.state().to_json())
            for decision in policy.decide(state).decisions:
                assert engine.commit(0, decision.driver, int(rows[decision.booking]))
            engine.wait(0)
        assert engine.kpis() == batch.kpis(day)
        assert engine.kpis()["completed"] > 5


def test_profit_alone_decides_as_matching_profit_does(world):
    scenario, source, _ = world
    values = values_of(scenario, profit=1.0, wait=-1e-6 / 0.03)
    rewards = []
    for policy in (
        ZoneMatchingPolicy(scenario, values, source=source),
        make_policy("matching_profit", scenario, source=source),
    ):
        engine = started(world)
        earned = []
        while not engine.ended():
            decisions = policy.decide(engine.state()).decisions
            earned.append(sum(d.score for d in decisions))
            rows = engine.open_rows()
            # Both follow one course, so that a swap of equals does not lead to other states.
            for d in (
                make_policy("matching_profit", scenario, source=source)
                .decide(engine.state())
                .decisions
            ):
                assert engine.commit(0, d.driver, int(rows[d.booking]))
            engine.wait(0)
        rewards.append(earned)
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    assert sum(rewards[0]) > 5


def test_a_minute_without_requests_and_a_fleet_out_of_service(world):
    scenario, source, _ = world
    policy = ZoneMatchingPolicy(scenario, values_of(scenario, profit=1.0), source=source)
    engine = started(world)
    while not len(engine.state().bookings):
        engine.wait(0)
    state = engine.state()
    empty = dataclasses.replace(state, booking_ids=(), bookings=state.bookings[:0])
    assert policy.decide(empty).decisions == ()
    gone = state.drivers.copy()
    gone["down"], gone["free_at_min"] = True, 1e4
    assert policy.decide(dataclasses.replace(state, drivers=gone)).decisions == ()
    assert policy.decide(state).decisions


def test_worth_makes_a_short_ride_refuse_itself_for_a_better_place(world):
    """A place worth more than the ride earns keeps its car; without worth the ride is taken."""
    scenario, source, _ = world
    engine = started(world)
    taken = {}
    for weight in (0.0, 100.0):
        values = values_of(scenario, profit=1.0, worth_before=weight)
        decisions = ZoneMatchingPolicy(scenario, values, source=source).decide(engine.state())
        while not taken and not decisions.decisions:
            engine.wait(0)
            decisions = ZoneMatchingPolicy(scenario, values, source=source).decide(engine.state())
        taken[weight] = len(decisions.decisions)
    assert taken[0.0] > 0 and taken[100.0] == 0


def test_values_are_refused_elsewhere_unless_transferred(world, tmp_path):
    scenario, source, _ = world
    other = miniature_scenario(6, **PROFITABLE)
    values_of(other, profit=1.0).save(tmp_path / EDGE_VALUES_FILE)
    with pytest.raises(PolicyError, match="fitted on manhattan_miniature"):
        make_policy("matching_values", scenario, source=source, model=tmp_path)
    policy = make_policy("matching_values", scenario, source=source, model=tmp_path, transfer=True)
    assert "another scenario" in policy.note and len(policy.model_sha) == 64


def test_values_of_other_zones_are_refused_even_with_transfer(world, tmp_path):
    scenario, source, _ = world
    values = values_of(scenario)
    values = dataclasses.replace(values, worth=values.worth[:3], requests=values.requests[:3])
    values.save(tmp_path / EDGE_VALUES_FILE)
    with pytest.raises(PolicyError, match="of 3 zones"):
        make_policy("matching_values", scenario, source=source, model=tmp_path, transfer=True)


def test_where_bookings_may_wait_it_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="not for 'geneva'"):
        make_policy("matching_values", load_scenario("geneva"))


def test_without_values_the_sentence_says_how_to_get_them(world, atmr_home):
    scenario, source, _ = world
    with pytest.raises(PolicyError, match="--policy matching_values"):
        make_policy("matching_values", scenario, source=source, model=atmr_home)


def test_a_file_gives_back_what_was_saved(tmp_path):
    values = values_of(miniature_scenario(), seed=3)
    values.save(tmp_path / EDGE_VALUES_FILE)
    assert EdgeValues.load(tmp_path / EDGE_VALUES_FILE) == values


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw | {"terms": raw["terms"][:-1]},
        lambda raw: raw | {"weights": raw["weights"][:-1]},
        lambda raw: raw | {"weights": [float("nan")] * NUM_EDGE_TERMS},
        lambda raw: raw | {"worth": raw["worth"][:-1]},
        lambda raw: raw | {"worth": [raw["worth"][0][:5], *raw["worth"][1:]]},
        lambda raw: raw | {"requests": ["many"] * ZONES},
        lambda raw: raw | {"schema": 99},
        lambda raw: {"schema": 1},
        lambda raw: [1],
    ],
)
def test_damaged_values_are_refused(tmp_path, damage):
    path = tmp_path / EDGE_VALUES_FILE
    values_of(miniature_scenario()).save(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(PolicyError, match="edge values"):
        EdgeValues.load(path)
