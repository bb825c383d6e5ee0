"""The host-side encoder: a state sent as JSON gives the environment's observation bit for bit."""

import json

import numpy as np
import pytest

from services.rl.errors import StateError
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import DispatchState

from .worlds import changed, disturbed, manhattan, play_random, small_with_shift_ends


def same_at_every_action(engine, host, day, seed, wait_share=0.4):
    """Play a day; before each action the host must see what the environment shows."""
    seen = {"down": 0, "hidden": 0, "states": 0}

    def check(engine):
        state = engine.state()
        seen["down"] += int(state.drivers["down"].sum())
        seen["hidden"] += len(state.bookings) > engine.layout.max_bookings
        seen["states"] += 1
        observation, mask = host.observation(DispatchState.from_json(state.to_json()))
        assert observation.tobytes() == engine.out.observation[0].tobytes()
        assert mask.tobytes() == engine.out.mask[0].tobytes()

    play_random(engine, day, seed=seed, wait_share=wait_share, check=check)
    return seen


@pytest.mark.parametrize("kind", ["full", "rows", "compact"])
@pytest.mark.parametrize(
    "make", [lambda: load_scenario("geneva"), small_with_shift_ends, disturbed]
)
def test_a_state_encodes_as_the_environment_shows_it(make, kind):
    scenario = make()
    engine = Engine(scenario, observation=kind, max_bookings=20)
    host = HostWorld(scenario, observation=kind, max_bookings=20)
    seen = same_at_every_action(engine, host, 41, 1)
    assert seen["states"] > 50
    if scenario.disturbances.breakdowns_per_driver_day:
        assert seen["down"] > 0
        assert seen["hidden"] > 0


@pytest.mark.parametrize("kind", ["full", "rows", "compact"])
def test_a_state_of_zones_encodes_as_the_environment_shows_it(tmp_path, kind):
    scenario, source, days = manhattan(tmp_path)
    engine = Engine(scenario, days=days, source=source, observation=kind, max_bookings=3)
    host = HostWorld(scenario, source=source, observation=kind, max_bookings=3)
    assert same_at_every_action(engine, host, 1, 2, wait_share=0.2)["states"] > 50


def test_a_host_grows_and_shrinks_with_its_states():
    small, large = load_scenario("geneva_small"), changed("city", demand={"bookings_per_day": 600})
    engine = Engine(large)
    engine.start([3])
    state = engine.state()
    assert len(state.bookings) > 64
    host = HostWorld(large)
    assert host.engine.world.bookings.shape[1] < len(state.bookings)
    host.load(state)
    assert host.engine.world.bookings.shape[1] >= len(state.bookings)
    fewer = DispatchState(
        state.now_min,
        state.driver_ids[:7],
        state.drivers[:7],
        state.booking_ids[:2],
        state.bookings[:2],
        state.scenario,
        state.scenario_hash,
    )
    observation, mask = host.observation(fewer)
    assert host.layout.num_drivers == 7
    assert (observation.size, mask.size) == (host.layout.size, 7 * 20 + 1)
    assert small.sha256 != large.sha256


def test_rows_of_the_host_are_rows_of_the_state_in_any_order():
    """A backend lists bookings as it likes; the observation is by urgency all the same."""
    scenario = load_scenario("geneva")
    engine = Engine(scenario, observation="full")
    engine.start([8])
    state = engine.state()
    shuffle = np.random.default_rng(0).permutation(len(state.bookings))
    host = HostWorld(scenario)
    given = DispatchState(
        state.now_min,
        state.driver_ids,
        state.drivers,
        tuple(state.booking_ids[i] for i in shuffle),
        state.bookings[shuffle],
        state.scenario,
        state.scenario_hash,
    )
    observation, _ = host.observation(given)
    assert observation.tobytes() == engine.out.observation[0].tobytes()
    assert [given.booking_ids[row] for row in host.open_rows()] == list(state.booking_ids)


def test_a_host_can_commit_as_the_engine_does():
    """Policies that assign one after the other see the pairs move on."""
    scenario = load_scenario("geneva")
    engine, host = Engine(scenario, observation="full"), HostWorld(scenario)
    engine.start([8])
    for _ in range(3):
        engine.wait(0)
    host.load(engine.state())
    order = engine.open_rows()
    committed = 0
    for i, row in enumerate(order):
        for d in range(engine.num_drivers):
            assert engine.can_commit(0, d, row) == host.engine.can_commit(0, d, i)
            if committed < 6 and engine.commit(0, d, row):
                assert host.engine.commit(0, d, i)
                committed += 1
                break
    engine.observe(0)
    host.engine.observe(0)
    assert committed == 6
    assert host.engine.out.observation.tobytes() == engine.out.observation.tobytes()


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host():
    return HostWorld(load_scenario("geneva"))


@pytest.fixture
def raw():
    """A state as JSON, to spoil."""
    engine = Engine(load_scenario("geneva"))
    engine.start([8])
    return json.loads(engine.state().to_json())


def test_a_state_of_another_scenario_is_refused_with_both_hashes(host, raw):
    other = load_scenario("geneva_overload").sha256
    raw["scenario_hash"] = other
    with pytest.raises(StateError) as refusal:
        host.load(DispatchState.from_json(json.dumps(raw)))
    assert other in str(refusal.value)
    assert load_scenario("geneva").sha256 in str(refusal.value)
    raw["scenario_hash"] = ""
    host.load(DispatchState.from_json(json.dumps(raw)))


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        ("drivers", "committed", 3, "committed of driver 2 is 3, expected 0..2"),
        ("drivers", "committed", -1, "committed of driver 2"),
        ("drivers", "lat", 460.0, "lat of driver 2 is 460.0"),
        ("drivers", "free_at_min", 1e12, "free_at_min of driver 2"),
        ("drivers", "busy_min", -1.0, "busy_min of driver 2"),
        ("bookings", "priority", 0, "priority of booking 2 is 0, expected 1..5"),
        ("bookings", "priority", 6, "priority of booking 2"),
        ("bookings", "pickup_lon", 200.0, "pickup_lon of booking 2"),
        ("bookings", "pickup_service_min", -3.0, "pickup_service_min of booking 2"),
        ("bookings", "promised_min", -1e300, "promised_min of booking 2"),
        ("bookings", "window_end_min", -5000.0, "window ends before its promised time"),
    ],
)
def test_values_that_the_rules_do_not_know_are_refused(host, raw, table, column, value, said):
    raw[table][column][2] = value
    with pytest.raises(StateError) as refusal:
        host.load(DispatchState.from_json(json.dumps(raw)))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("column", ["lat", "free_at_min", "busy_min"])
def test_nan_from_a_caller_in_process_is_refused(host, column):
    engine = Engine(load_scenario("geneva"))
    engine.start([8])
    state = engine.state()
    state.drivers[column][1] = np.nan
    with pytest.raises(StateError, match=f"{column} of driver 1 is nan"):
        host.load(state)


def test_a_zone_outside_the_matrix_is_refused(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    engine, host = Engine(scenario, days=days, source=source), HostWorld(scenario, source=source)
    engine.start([0])
    while not len(engine.open_rows()):
        engine.wait(0)
    state = engine.state()
    state.bookings["dropoff_zone"][0] = 4
    with pytest.raises(StateError, match=r"dropoff_zone of booking 0 is 4, expected 0\.\.3"):
        host.load(state)


def test_identifiers_must_be_unique_and_complete(host, raw):
    raw["booking_ids"][1] = raw["booking_ids"][0]
    with pytest.raises(StateError, match="booking id appears twice"):
        host.load(DispatchState.from_json(json.dumps(raw)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["drivers"]["committed"].__setitem__(0, 1.5), "not an integer"),
        (lambda raw: raw["drivers"]["committed"].__setitem__(0, 2**70), "not an integer"),
        (lambda raw: raw["drivers"]["down"].__setitem__(0, 1), "drivers.down"),
        (lambda raw: raw["drivers"]["lat"].__setitem__(0, None), "drivers.lat"),
        (lambda raw: raw["drivers"]["lat"].__setitem__(0, float("nan")), "not finite"),
        (lambda raw: raw["bookings"].pop("fare"), "bookings.fare is missing"),
        (lambda raw: raw["bookings"]["fare"].pop(), "must be a list"),
        (lambda raw: raw.__setitem__("now_min", "soon"), "cannot be read"),
        (lambda raw: raw.__setitem__("now_min", float("inf")), "now_min"),
        (lambda raw: raw.__setitem__("driver_ids", "ab"), "driver_ids must be a list"),
        (lambda raw: raw.__setitem__("extra", [1]), "extra must be an object"),
        (lambda raw: raw.pop("booking_ids"), "lacks the field 'booking_ids'"),
        (lambda raw: raw.__setitem__("schema", 99), "schema 99"),
    ],
)
def test_malformed_json_names_its_field(raw, change, said):
    change(raw)
    with pytest.raises(StateError) as refusal:
        DispatchState.from_json(json.dumps(raw))
    assert said in str(refusal.value)


def test_json_keeps_every_bit():
    engine = Engine(disturbed())
    engine.start([3])
    for _ in range(30):
        engine.wait(0)
    state = engine.state()
    back = DispatchState.from_json(state.to_json())
    assert back.drivers.tobytes() == state.drivers.tobytes()
    for name in state.bookings.dtype.names:
        np.testing.assert_array_equal(back.bookings[name], state.bookings[name])
    assert (back.now_min, back.driver_ids, back.booking_ids) == (
        state.now_min,
        state.driver_ids,
        state.booking_ids,
    )
