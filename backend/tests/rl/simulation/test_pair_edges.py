"""Edges: pair features from rows are what plain Python computes from the dispatch state."""

import copy

import numpy as np
import pytest

from services.rl.q_networks import PairFeatures
from services.rl.simulation.edges import EDGE, NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.observation import ROW_BOOKING, ROW_DRIVER, ObservationLayout
from services.rl.simulation.scenarios import load_scenario

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from .edge_reference import EdgeReference
from .worlds import changed, disturbed, manhattan, play_random, small_with_shift_ends

HOLD_BACKS = [np.inf, 30.0]
SHOWN = 90  # more than are ever open: the engine shows all that the state lists
EXACT = ["priority", "immediate", "queued", "drivers", "bookings", "wheelchair_spare"]
EXACT += ["emergency", "load", "bias"]


def edges_of(engine, hold_back=np.inf, keep=None):
    """``{(driver, booking): features}`` of the engine's first environment."""
    mask = engine.out.mask[:1] != 0
    edges, state, drivers, bookings = PairFeatures(engine)(
        engine.out.observation[:1],
        mask,
        engine.layout,
        hold_back,
        None if keep is None else np.array([keep]),
    )
    assert not state.any()
    return dict(zip(zip(drivers.tolist(), bookings.tolist(), strict=True), edges, strict=True))


def valid_pairs(engine):
    slots = engine.layout.max_bookings
    return [divmod(int(a), slots) for a in np.flatnonzero(engine.out.mask[0, 1:])]


def compare(engine, hold_back, tolerance, zones=None):
    """One state; returns how many pairs were compared."""
    reference = EdgeReference(engine.scenario, engine.state(), zones)
    expected = reference.features(valid_pairs(engine), hold_back)
    got = edges_of(engine, hold_back)
    borderline = [p for p in set(got) ^ set(expected) if abs(reference.slack(*p) - hold_back) < 0.2]
    assert set(got) ^ set(expected) == set(borderline)
    if borderline:
        return 0
    assert list(got) == sorted(got)  # in the order of actions
    for pair, features in got.items():
        for name, value in zip(EDGE, features.tolist(), strict=True):
            if np.isnan(expected[pair][name]):
                continue
            close = 1e-6 if name in EXACT else tolerance
            assert value == pytest.approx(expected[pair][name], abs=close), (pair, name)
    return len(got)


WORLDS = {
    "geneva": lambda: load_scenario("geneva"),
    "overload": lambda: load_scenario("geneva_overload"),
    "shift ends": small_with_shift_ends,
    "disturbed": disturbed,
    "loaded kilometres": lambda: changed("geneva", reward={"loaded_per_km": 0.4}),
}


@pytest.mark.parametrize("hold_back", HOLD_BACKS)
@pytest.mark.parametrize("name", WORLDS)
def test_features_are_those_of_their_definitions(name, hold_back):
    engine = Engine(WORLDS[name](), max_bookings=SHOWN, observation="rows")
    rng, compared = np.random.default_rng(3), 0
    share = 0.3 if name == "shift ends" else 0.06  # fewer pairs

    def check(engine):
        nonlocal compared
        if rng.random() < share:
            # 0.02 is 0.2 minutes: what a flat map costs over twenty kilometres.
            compared += compare(engine, hold_back, 0.02)

    play_random(engine, 17, seed=5, wait_share=0.85, check=check)
    assert compared > 40


@pytest.mark.parametrize("hold_back", HOLD_BACKS)
def test_between_zones_features_are_exact(tmp_path, hold_back):
    scenario, source, days = manhattan(tmp_path)
    engine = Engine(scenario, days=days, source=source, max_bookings=8, observation="rows")
    zones = (source.tables.minutes, source.tables.km)
    compared = 0

    def check(engine):
        nonlocal compared
        compared += compare(engine, hold_back, 1e-4, zones)

    play_random(engine, 0, seed=1, wait_share=0.1, check=check)
    assert compared > 200


def test_a_day_by_hand():
    """30 km/h on a straight road: every number can be followed with a pencil."""
    rows = [
        booking(60, 1, 4, window=30.0, priority=3, pickup_service_min=2, dropoff_service_min=4),
        booking(85, 5, 9, window=30.0, priority=5, created=-5.0),
    ]
    engine = Engine(
        even_scenario(queue=1),
        days=[day_of(rows, [driver(0), driver(6, wheelchair=True)])],
        max_bookings=4,
        observation="rows",
    )
    engine.start([0])
    for _ in range(8):
        engine.wait(0)
    engine.observe(0)
    assert engine.now_min() == 40
    edge = dict(zip(EDGE, edges_of(engine)[1, 0].tolist(), strict=True))
    expected = {
        "value": (10 * 1.2 - 0.5 * 5) / 10,  # 5 km from km 6 to km 1
        "travel_min": 1.0,
        "late_min": 0.0,
        "wait_min": 0.0,
        "idle_min": 1.0,  # there at 50, promised at 60
        "slack_min": 40 / 30,  # leave by 80 to be there at 90
        "busy_min": 0.0,
        "pickup_in_min": 20 / 30,
        "trip_min": 0.6,
        "priority": 1.2,
        "immediate": 0.0,
        "queued": 0.0,
        "regret_min": 0.0,  # the other driver would also be there in time
        "detour_min": 0.8,  # 10 minutes, the other 2
        "missed_min": 0.8,  # 10 minutes, the other booking 2
        "drivers": np.log(3),
        "bookings": np.log(3),
        # Free at km 4 at 60 + 2 + 6 + 4 = 72, at km 5 at 74, promised 85.
        "follow_up_min": (2 + 11 / 2) / 30,
        "demand": 1 - 7.5 / 30,
        "shift_left": (480 - 72) / 120,
        "wheelchair_spare": 1.0,
        "emergency": 0.0,
        "load": np.log(2),
        "day_left": 440 / 240,
        "bias": 1.0,
    }
    for name, value in expected.items():
        assert edge[name] == pytest.approx(value, abs=2e-3), name


def test_a_held_back_pair_gets_its_edge_only_where_it_is_asked_for():
    engine = Engine(load_scenario("geneva"), observation="rows")
    engine.start([4])
    few, every = edges_of(engine, 45.0), edges_of(engine)
    assert 0 < len(few) < len(every)
    held = next(pair for pair in every if pair not in few)
    keep = 1 + held[0] * engine.layout.max_bookings + held[1]
    kept = edges_of(engine, 45.0, keep=keep)
    assert set(kept) == {*few, held}
    own = [i for i, name in enumerate(EDGE) if name not in ("missed_min", "bookings")]
    np.testing.assert_array_equal(kept[held][own], every[held][own])
    for pair in few:
        np.testing.assert_array_equal(kept[pair][own], few[pair][own])
    assert edges_of(engine, 45.0, keep=0).keys() == few.keys()


def test_a_batch_is_its_states_one_after_the_other():
    engine = Engine(load_scenario("geneva_overload"), 5, observation="rows")
    engine.start(np.arange(5))
    for wait in range(20):
        actions = [0 if wait % 3 else int(np.flatnonzero(m)[-1]) for m in engine.out.mask]
        engine.step(np.array(actions))
    rows, mask = engine.out.observation.copy(), engine.out.mask != 0
    mask[2, 1:] = False  # a state with nothing to do among the others
    features = PairFeatures(engine)
    edges, state, drivers, bookings = features(rows, mask, engine.layout, 30.0, None)
    assert set(state.tolist()) == {0, 1, 3, 4}
    assert (np.diff(state) >= 0).all()
    for e in range(5):
        alone = features(rows[e : e + 1], mask[e : e + 1], engine.layout, 30.0, None)
        mine = state == e
        assert edges[mine].tobytes() == alone[0].tobytes()
        np.testing.assert_array_equal(drivers[mine], alone[2])
        np.testing.assert_array_equal(bookings[mine], alone[3])


def test_a_state_without_bookings_has_no_edges():
    engine = Engine(changed("geneva_small", demand={"bookings_per_day": 0}), observation="rows")
    engine.start([0])
    assert edges_of(engine) == {}


def test_a_copied_network_shares_the_constants():
    features = PairFeatures(Engine(load_scenario("geneva_small"), observation="rows"))
    assert copy.deepcopy(features) is features


@pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
def test_features_are_finite_and_of_the_order_of_one(make):
    engine = Engine(make(), observation="rows", max_bookings=30)
    seen = []

    def check(engine):
        seen.extend(edges_of(engine).values())

    play_random(engine, 23, seed=2, wait_share=0.6, check=check)
    table = np.array(seen)
    assert table.shape[1] == NUM_EDGE
    assert np.isfinite(table).all()
    assert np.abs(table).max() <= 10.0


# --- rows ----------------------------------------------------------------------------------------


def test_the_layout_names_every_number_of_the_rows():
    layout = ObservationLayout("rows", 3, 4)
    names = layout.feature_names()
    assert len(names) == len(set(names)) == layout.size
    parts = layout.unpack(np.arange(2 * layout.size, dtype=np.float32).reshape(2, -1))
    assert parts["drivers"].shape == (2, 3, len(ROW_DRIVER))
    assert parts["bookings"].shape == (2, 4, len(ROW_BOOKING))
    place = names.index("driver2.end_zone")
    assert parts["drivers"][0, 2, ROW_DRIVER.index("end_zone")] == place
    place = names.index("booking3.pickup_service_min")
    assert parts["bookings"][0, 3, ROW_BOOKING.index("pickup_service_min")] == place


def test_rows_share_their_numbers_with_the_full_observation():
    rows, full = (
        Engine(load_scenario("geneva"), observation=kind, max_bookings=12)
        for kind in ("rows", "full")
    )

    def check(engine):
        full.start([9])
        full.world.clock[...] = engine.world.clock
        for name in ("drivers", "driver_ints", "bookings", "booking_ints", "counters"):
            getattr(full.world, name)[...] = getattr(engine.world, name)
        full.world.open_rows[...] = engine.world.open_rows
        full.observe(0)
        mine = rows.layout.unpack(engine.out.observation)
        theirs = full.layout.unpack(full.out.observation)
        np.testing.assert_array_equal(mine["context"], theirs["context"])
        np.testing.assert_array_equal(mine["drivers"][..., :11], theirs["drivers"])
        np.testing.assert_array_equal(mine["bookings"][..., :14], theirs["bookings"])

    play_random(rows, 9, check=check)


def test_an_absent_driver_is_not_present():
    small = day_of([booking(60, 1, 2)], [driver()])
    large = day_of([booking(60, 1, 2)], [driver()] * 4)
    engine = Engine(even_scenario(), days=[small, large], observation="rows")
    for day, present in ((0, [1, 0, 0, 0]), (1, [1, 1, 1, 1])):
        engine.start([day])
        drivers = engine.layout.unpack(engine.out.observation)["drivers"]
        assert drivers[0, :, ROW_DRIVER.index("present")].tolist() == present


def test_edges_of_the_host_are_those_of_the_engine():
    """Production computes features from a state: not a bit may differ from training."""
    scenario = load_scenario("geneva_overload")
    engine = Engine(scenario, observation="rows")
    host = HostWorld(scenario, observation="rows")
    rng = np.random.default_rng(0)

    def check(engine):
        if rng.random() < 0.1:
            host.load(engine.state())
            ours, theirs = edges_of(engine, 30.0), edges_of(host.engine, 30.0)
            assert ours.keys() == theirs.keys()
            assert all(ours[pair].tobytes() == theirs[pair].tobytes() for pair in ours)

    play_random(engine, 31, check=check)
