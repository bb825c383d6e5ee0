"""The fast reader of logged states and the careful one accept, and refuse, the same."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.learning.payloads import DAMAGED, OLDER, UnreadableError, _fast, read_payload
from services.rl.errors import StateError
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import DispatchState


def logged(seed=3, minutes=60):
    scenario = load_scenario("geneva_small")
    engine = Engine(scenario, 1)
    engine.start(np.array([seed]))
    for _ in range(minutes // 5):
        engine.wait(0)
    state = json.loads(engine.state(0).to_json())
    state["driver_ids"] = [str(d + 1) for d in range(len(state["driver_ids"]))]
    state["booking_ids"] = [str(b + 1) for b in range(len(state["booking_ids"]))]
    state["extra"] = {"own_priority": {"1": 2}, "own_window_end_min": {"1": 41.5}}
    return state


STATE = logged()


def packed(raw):
    return zlib.compress(json.dumps(raw).encode())


@pytest.mark.parametrize("minutes", [0, 60, 200, 475])
def test_the_fast_reader_reads_what_the_careful_one_reads(minutes):
    raw = logged(minutes=minutes)
    assert _fast(raw) is not None
    seen, careful = read_payload(packed(raw), 1), DispatchState.from_json(json.dumps(raw))
    assert seen.rows.now_min == careful.now_min
    assert seen.driver_ids == careful.driver_ids and seen.booking_ids == careful.booking_ids
    assert np.array_equal(seen.rows.drivers, careful.drivers)
    for name in careful.bookings.dtype.names:
        assert np.array_equal(
            seen.rows.bookings[name], careful.bookings[name], equal_nan=name == "fare"
        )
    if seen.booking_ids:
        assert seen.window_end_min(0) == 41.5 and seen.priority(0) == 2


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-90, 90), st.just("x"),
    st.just(1e400), st.just(2**70), st.just([]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_strange_value_is_judged_alike(data):
    raw = json.loads(json.dumps(STATE))
    table = data.draw(st.sampled_from(["drivers", "bookings"]))
    name = data.draw(st.sampled_from(sorted(raw[table])))
    row = data.draw(st.integers(0, len(raw[table][name]) - 1))
    raw[table][name][row] = data.draw(VALUES)
    try:
        careful = DispatchState.from_json(json.dumps(raw))
    except StateError:
        careful = None
    fast = _fast(json.loads(json.dumps(raw)))
    if careful is None:
        assert fast is None
        with pytest.raises(UnreadableError):
            read_payload(packed(raw), 1)
    elif fast is not None:
        assert np.array_equal(fast.rows.drivers, careful.drivers)


@pytest.mark.parametrize(
    ("payload", "schema", "reason"),
    [
        (b"no zlib at all", 1, DAMAGED),
        (packed(STATE)[:-20], 1, DAMAGED),
        (zlib.compress(b"{not json"), 1, DAMAGED),
        (zlib.compress(b"\xff\xfe"), 1, DAMAGED),
        (zlib.compress(b"[]"), 1, DAMAGED),
        (packed({**STATE, "driver_ids": ["a", "b", "c"]}), 1, DAMAGED),
        (packed({**STATE, "extra": {"own_priority": {"1": 9}}}), 1, DAMAGED),
        (packed({**STATE, "extra": {"own_priority": "high"}}), 1, DAMAGED),
        (packed({**STATE, "schema": 0}), 1, DAMAGED),
        (packed(STATE), 0, OLDER),
    ],
)
def test_a_damaged_or_older_state_is_told_apart(payload, schema, reason):
    with pytest.raises(UnreadableError) as told:
        read_payload(payload, schema)
    assert told.value.reason == reason
