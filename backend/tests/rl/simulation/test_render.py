"""Frames show what happens: where everybody is, how urgent the open bookings are, the KPIs."""

import copy
import dataclasses
import gc

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest

from services.rl.dispatch_env import DispatchEnv
from services.rl.simulation import render
from services.rl.simulation.engine import Engine
from services.rl.simulation.map_canvas import AMBER, BLUE, GREEN, PURPLE, RED, Projection
from services.rl.simulation.render import render_ansi, render_rgb
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.snapshot import Activity, take_snapshot

from ..worlds import disturbed, keep_busy, serve_urgent_first, wait_until

MAP = (slice(46, 642), slice(0, 698))  # rows and columns of the frame that are the map


def pixels_of(frame: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """How many pixels of the map have (nearly) a colour."""
    distance = np.abs(frame[MAP].astype(int) - colour).max(axis=-1)
    return int((distance < 12).sum())


@pytest.fixture(scope="module")
def busy() -> DispatchEnv:
    env = DispatchEnv(scenario="geneva_overload", render_mode="rgb_array")
    env.reset(seed=7)
    serve_urgent_first(env, 150.0)
    return env


def test_the_map_shows_drivers_routes_and_bookings_by_slack(busy: DispatchEnv) -> None:
    frame = busy.render()
    assert frame.shape == (720, 960, 3) and frame.dtype == np.uint8
    now = take_snapshot(busy.engine)
    assert len({driver.activity for driver in now.drivers}) >= 3
    assert pixels_of(frame, BLUE) > 100 and pixels_of(frame, PURPLE) > 200
    slack = np.array([booking.slack_min for booking in now.bookings])
    assert pixels_of(frame, GREEN) > 10 * (slack > 45).sum() > 0


def test_colours_follow_the_slack() -> None:
    env = DispatchEnv(scenario="geneva_overload", render_mode="rgb_array")
    env.reset(seed=7)
    seen = {AMBER: False, RED: False}
    for minute in range(0, 240, 10):  # nobody is sent: bookings ripen, then are lost
        if minute:
            wait_until(env, float(minute))
        slack = np.array([b.slack_min for b in take_snapshot(env.engine).bookings])
        frame = env.render()
        for colour, due in ((AMBER, (slack >= 15) & (slack < 45)), (RED, slack < 15)):
            if due.sum() >= 3:
                assert pixels_of(frame, colour) > 40
                seen[colour] = True
            if not due.any():
                assert pixels_of(frame, colour) == 0
    assert all(seen.values())
    assert take_snapshot(env.engine).lost


def test_drawing_changes_nothing(busy: DispatchEnv) -> None:
    before = copy.deepcopy(busy.engine.memory.buffer)
    first = render_rgb(busy.engine)
    render_ansi(busy.engine)
    assert np.array_equal(first, render_rgb(busy.engine))
    assert np.array_equal(before, busy.engine.memory.buffer)


def test_drivers_move_along_their_leg_between_epochs(busy: DispatchEnv) -> None:
    start = busy.engine.now_min()
    minutes = np.arange(start, start + 5, 0.25)
    places = np.array(
        [[d.place for d in take_snapshot(busy.engine, 0, at).drivers] for at in minutes]
    )
    km = np.abs(np.diff(places, axis=0)).sum(axis=-1) * 111
    assert (km.sum(axis=0) > 0.5).sum() >= 3  # several are on their way
    assert km.max() < 1.0  # and nobody jumps: below 240 km/h along the axes
    assert not np.array_equal(render_rgb(busy.engine), render_rgb(busy.engine, 0, start + 4.9))


def test_a_forecast_is_what_happens_when_nothing_goes_wrong() -> None:
    env = DispatchEnv(scenario="geneva")
    env.reset(seed=3)
    serve_urgent_first(env, 120.0)
    ahead = take_snapshot(env.engine, 0, 125.0)
    env.step(0)
    arrived = take_snapshot(env.engine)
    for forecast, fact in zip(ahead.drivers, arrived.drivers, strict=True):
        assert forecast.activity == fact.activity
        assert forecast.place == pytest.approx(fact.place, abs=1e-9)


def test_every_activity_is_told_apart_on_a_bad_day() -> None:
    env = DispatchEnv(scenario=disturbed("geneva"))
    seen: set[Activity] = set()
    for seed in range(4):
        _, info = env.reset(seed=seed)
        for minute in range(0, 475, 5):
            info = keep_busy(env, info, float(minute), seed)
            seen |= {driver.activity for driver in take_snapshot(env.engine).drivers}
            render_ansi(env.engine)
    assert seen == set(Activity)


def test_text_tells_time_drivers_bookings_and_kpis(busy: DispatchEnv) -> None:
    text = render_ansi(busy.engine)
    now = take_snapshot(busy.engine)
    assert text.startswith("10:30  geneva_overload · seed 7 · 150 of 480 min")
    assert f"open bookings ({len(now.bookings)}), slack" in text
    assert "drivers (10)" in text and "wheelchair" in text and "priority" in text
    assert f"completed {now.kpis['completed']:.0f} of" in text and "km/trip" in text
    assert all(len(line) < 110 for line in text.splitlines())


def test_the_day_over_is_drawn_too() -> None:
    env = DispatchEnv(scenario="geneva_small", render_mode="ansi")
    env.reset(seed=1)
    wait_until(env, 480.0)
    assert "day over" in env.render() and "off shift" in env.render()
    assert pixels_of(render_rgb(env.engine), PURPLE) == 0


def test_a_large_fleet_is_counted_instead_of_listed() -> None:
    engine = Engine(load_scenario("geneva").resized(num_drivers=60), num_envs=2)
    engine.start([1, 2])
    assert "… and 45 drivers more" in render_ansi(engine, 1)
    assert render_rgb(engine, 1).shape == (720, 960, 3)
    assert not np.array_equal(render_rgb(engine, 0), render_rgb(engine, 1))


def test_real_days_are_charted_where_they_took_place() -> None:
    source = DispatchEnv(scenario="geneva_small")
    source.reset(seed=1)
    day = source.engine.day()
    moved = day.bookings.copy()
    moved["pickup_lat"] += 0.5
    env = DispatchEnv(
        scenario="geneva_small",
        days=[dataclasses.replace(day, label="2026-03-02", bookings=moved)],
        render_mode="ansi",
    )
    env.reset(seed=0)
    assert "2026-03-02" in env.render()
    assert render.chart_of(env.engine).projection.north > 46.6


def test_a_single_place_still_makes_a_map() -> None:
    projection = Projection.around(np.array([[46.2, 6.1], [46.2, 6.1]]))
    assert projection.to_pixel((46.2, 6.1), 600, 400, 0, 0) == pytest.approx((300, 200))
    assert projection.pixels_per_km(600, 400) < 300


def test_base_maps_go_with_their_engines() -> None:
    engine = Engine(load_scenario("geneva_small"))
    engine.start(1)
    render_rgb(engine)
    known = len(render._frames)
    del engine
    gc.collect()
    assert len(render._frames) == known - 1


def test_without_a_render_mode_gymnasium_warns() -> None:
    env = DispatchEnv(scenario="geneva_small")
    env.reset(seed=1)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_gymnasium_collects_frames() -> None:
    env = gymnasium.make(
        "services.rl.registration:atmr/Dispatch-v1",
        scenario="geneva_small",
        render_mode="rgb_array_list",
    )
    env.reset(seed=1)
    env.step(0)
    assert len(env.render()) == 2


def test_a_ring_marks_one_booking_and_nothing_else():
    engine = Engine(load_scenario("geneva_small"))
    engine.start([1_000_000])
    plain = render_rgb(engine)
    rows = engine.open_rows()
    ringed = render_rgb(engine, ringed=rows[:1].tolist())
    where = np.argwhere((plain != ringed).any(axis=2))
    assert 0 < np.ptp(where[:, 0]) <= 30 and 0 < np.ptp(where[:, 1]) <= 30
    beyond = render_rgb(engine, ringed=[10_000])
    assert np.array_equal(plain, beyond)
