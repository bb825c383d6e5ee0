"""What holds on every day, whatever is played and whatever goes wrong."""

from collections import defaultdict

import numpy as np
import pytest

from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import BookingStatus

from .worlds import disturbed, manhattan, play_random, small_with_shift_ends

TIME, KIND, DRIVER, BOOKING, KM = range(world.EVENT_FIELDS)
ROUND = 1e-6

WORLDS = {
    "geneva": lambda: load_scenario("geneva"),
    "overload": lambda: load_scenario("geneva_overload"),
    "shift ends": small_with_shift_ends,
    "disturbed": disturbed,
    "disturbed, no queue": lambda: disturbed("geneva_overload", queue=0),
    "disturbed, three queued": lambda: disturbed("geneva_overload", queue=3, epoch_min=13),
}


@pytest.fixture(scope="module", params=WORLDS)
def played(request):
    """Finished days of one world, with their engine each."""
    scenario = WORLDS[request.param]()
    plays = []
    for seed in (11, 12, 13):
        engine = Engine(scenario, record_events=True, max_bookings=25)
        plays.append(play_random(engine, seed, seed=seed))
    return scenario, plays


def raw_events(engine):
    count = engine.world.counters[0, world.NUM_EVENTS]
    assert count < engine.world.events.shape[1], "the log has room for a whole day"
    return engine.world.events[0, :count]


def events_by_booking(engine):
    found = defaultdict(list)
    for event in engine.events():
        if event["booking"] >= 0:
            found[event["booking"]].append(event)
    return found


def test_no_driver_is_in_two_places(played):
    """Jobs of a driver follow each other; each leg starts where the last one ended."""
    _, plays = played
    for play in plays:
        history, engine = play.engine.history(), play.engine
        day = engine.day()
        halted = {e["driver"] for e in engine.events() if e["km"] > 0 and _undone(e)}
        for d in range(engine.num_drivers):
            jobs = np.flatnonzero(
                (history["driver"] == d)
                & np.isin(history["status"], [BookingStatus.COMPLETED, BookingStatus.NO_SHOW])
            )
            jobs = jobs[np.argsort(history["depart_min"][jobs], kind="stable")]
            place = (day.drivers["lat"][d], day.drivers["lon"][d])
            free = day.drivers["shift_start_min"][d]
            for b in jobs:
                job = history[b]
                assert job["depart_min"] >= free - ROUND
                if d not in halted:
                    km = _road_km(engine, place, (job["pickup_lat"], job["pickup_lon"]))
                    assert job["deadhead_km"] == pytest.approx(km, abs=ROUND)
                free = job["done_min"]
                if job["status"] == BookingStatus.NO_SHOW:
                    place = (job["pickup_lat"], job["pickup_lon"])
                else:
                    place = (job["dropoff_lat"], job["dropoff_lon"])


def _undone(event):
    return event["kind"] in ("released", "called_off")


def _road_km(engine, a, b):
    return float(engine.travel.km_matrix([a[0]], [a[1]], [0], [b[0]], [b[1]], [0])[0, 0])


def test_nothing_teleports(played):
    """Every drive takes what the travel model says, times the day's noise."""
    _, plays = played
    for play in plays:
        tables = play.engine.setup.travel
        for job in play.engine.history():
            if job["driver"] < 0:
                continue
            drive = _minutes(tables, job["depart_min"], job["deadhead_km"])
            took = job["arrive_min"] - job["depart_min"]
            assert took == pytest.approx(drive * job["deadhead_noise"], abs=ROUND)
            if job["status"] == BookingStatus.COMPLETED:
                ride = _minutes(tables, job["leave_min"], job["trip_km"])
                took = job["dropoff_min"] - job["leave_min"]
                assert took == pytest.approx(ride * job["trip_noise"], abs=ROUND)
                assert job["pickup_min"] >= job["promised_min"]
                assert job["leave_min"] - job["pickup_min"] == pytest.approx(
                    job["pickup_service_min"]
                )


def _minutes(tables, depart, km):
    """By small steps of the speed profile, not by the engine's own integral."""
    assert tables.kind == 0
    clock, left = depart + tables.day_start_min, km
    while left > 0:
        hour = int(clock // 60)
        speed = tables.speed[hour % 24]
        reach = (60 * (hour + 1) - clock) * speed
        if reach >= left:
            return clock + left / speed - tables.day_start_min - depart
        left, clock = left - reach, 60.0 * (hour + 1)
    return 0.0


def test_a_booking_has_one_fate(played):
    ends = {"completed", "unserved", "no_show", "called_off"}
    fate = {
        BookingStatus.COMPLETED: "completed",
        BookingStatus.UNSERVED: "unserved",
        BookingStatus.NO_SHOW: "no_show",
        BookingStatus.CALLED_OFF: "called_off",
    }
    for play in played[1]:
        history, by_booking = play.engine.history(), events_by_booking(play.engine)
        for b, job in enumerate(history):
            kinds = [event["kind"] for event in by_booking[b]]
            assert [k for k in kinds if k in ends] == [fate[BookingStatus(job["status"])]]
            assert kinds.count("picked_up") <= 1
            assert kinds.count("assigned") == (
                kinds.count("released")
                + sum(e["kind"] == "called_off" and e["driver"] >= 0 for e in by_booking[b])
                + (job["driver"] >= 0)
            )
            assert kinds.index(fate[BookingStatus(job["status"])]) == len(kinds) - 1


def test_the_clock_never_runs_back(played):
    for play in played[1]:
        events = raw_events(play.engine)
        for step in play.steps:
            assert step.after >= step.before
            assert (step.after > step.before) == (step.action == 0)
            times = events[step.first_event : step.last_event, TIME]
            if step.action != 0:
                assert (times == step.before).all()
            else:
                assert (times >= step.before - ROUND).all()
                if step is not play.steps[-1]:
                    assert (times <= step.after + ROUND).all()
        for events_of_one in events_by_booking(play.engine).values():
            order = [event["kind"] for event in events_of_one]
            assert _in_order(order), order


def _in_order(kinds):
    """assigned, departed, picked up, completed; again from the start after a release."""
    rank = {"assigned": 0, "departed": 1, "picked_up": 2, "completed": 3}
    last = -1
    for kind in kinds:
        if kind == "released":
            last = -1
        elif kind in rank:
            if rank[kind] <= last:
                return False
            last = rank[kind]
    return True


def test_distance_is_conserved(played):
    """Legs of the log = odometers = KPIs = reward terms over their weights."""
    scenario, plays = played
    for play in plays:
        engine = play.engine
        events = raw_events(engine)
        empty_kinds = [
            int(k)
            for k in (world.EV_PICKED_UP, world.EV_NO_SHOW, world.EV_CALLED_OFF, world.EV_RELEASED)
        ]
        empty = events[np.isin(events[:, KIND], empty_kinds), KM].sum()
        loaded = events[events[:, KIND] == world.EV_COMPLETED, KM].sum()
        odometer = engine.world.drivers[0]
        kpis, terms = engine.kpis(), engine.reward_terms()
        assert odometer[world.DEADHEAD_KM].sum() == pytest.approx(empty)
        assert odometer[world.LOADED_KM].sum() == pytest.approx(loaded)
        assert kpis["deadhead_km"] == pytest.approx(empty)
        assert kpis["total_km"] == pytest.approx(empty + loaded)
        assert -terms["deadhead"] / scenario.reward.deadhead_per_km == pytest.approx(empty)


def test_step_terms_sum_to_the_day(played):
    for play in played[1]:
        total = sum(step.terms for step in play.steps)
        np.testing.assert_allclose(total, play.engine.world.totals[0], atol=1e-9)
        assert sum(step.reward for step in play.steps) == pytest.approx(
            play.engine.kpis()["reward"]
        )


def test_every_booking_is_due_or_excused(played):
    for play in played[1]:
        kpis, count = play.engine.kpis(), len(play.engine.history())
        assert kpis["bookings_due"] + kpis["no_shows"] + kpis["called_off"] == count
        assert kpis["completed"] + kpis["unserved"] == kpis["bookings_due"]


@pytest.mark.parametrize("name", ["shift ends", "disturbed"])
def test_the_mask_is_what_is_accepted(name):
    """A masked action changes nothing and is counted; an unmasked one is carried out."""
    scenario = WORLDS[name]()
    engine = Engine(scenario, max_bookings=15)
    rng = np.random.default_rng(1)
    refused = 0
    for seed in (21, 22):
        engine.start([seed])
        while not engine.ended():
            mask = engine.out.mask[0].copy()
            forbidden = np.flatnonzero(mask == 0)
            tried = rng.choice(forbidden, min(3, len(forbidden)), replace=False).tolist()
            for action in [*tried, mask.size, -1, 10**12]:
                before, seen = _world_bytes(engine), engine.out.observation[0].copy()
                out = engine.step(np.array([action]))
                refused += 1
                assert out.reward[0] == -scenario.reward.invalid_action
                assert _world_bytes(engine) == before
                np.testing.assert_array_equal(out.observation[0], seen)
                np.testing.assert_array_equal(out.mask[0], mask)
            valid = np.flatnonzero(mask[1:]) + 1
            action = int(rng.choice(valid)) if len(valid) and rng.random() < 0.6 else 0
            d, slot = divmod(action - 1, 15)
            row = engine.open_rows()[slot] if action else -1
            engine.step(np.array([action]))
            if action:
                assert engine.history()["driver"][row] == d
        assert engine.kpis()["invalid_actions"] == refused
        refused = 0


def _world_bytes(engine):
    """Everything that makes up the state, except what counts and books the refusal."""
    w = engine.world
    blocks = [w.clock, w.drivers, w.driver_ints, w.bookings, w.booking_ints]
    counted = np.delete(w.counters, [world.STEPS, world.INVALID], axis=1)
    kept = [w.open_rows, w.pair_km, w.pair_latest, np.delete(w.totals, world.INVALID_ACTION, 1)]
    return b"".join(np.ascontiguousarray(a).tobytes() for a in (*blocks, counted, *kept))


def test_every_pair_that_may_be_committed_keeps_its_promise():
    """Undisturbed: within the grace, and work done within the overtime."""
    scenario = small_with_shift_ends()
    play = play_random(Engine(scenario, max_bookings=60), 31, seed=1, wait_share=0.7)
    day, history = play.engine.day(), play.engine.history()
    served = history[history["driver"] >= 0]
    assert len(served) > 5
    latest = served["window_end_min"] + scenario.rules.grace_min
    assert (served["pickup_min"] <= latest + ROUND).all()
    work_end = day.drivers["shift_end_min"][served["driver"]] + scenario.rules.overtime_min
    assert (served["done_min"] <= work_end + ROUND).all()
    assert (served["depart_min"] >= served["assigned_min"]).all()


def test_the_matrix_world_keeps_the_same_laws(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    engine = Engine(scenario, days=days, source=source, record_events=True)
    play = play_random(engine, 0, wait_share=0.1)
    history = engine.history()
    served = history[history["status"] == BookingStatus.COMPLETED]
    assert len(served) > 10
    minutes = source.tables.minutes[served["pickup_zone"], served["dropoff_zone"]]
    np.testing.assert_array_equal(served["dropoff_min"] - served["leave_min"], minutes)
    for d in range(engine.num_drivers):
        mine = np.sort(served[served["driver"] == d], order="depart_min")
        assert (mine["depart_min"][1:] >= mine["done_min"][:-1]).all()
    assert sum(step.reward for step in play.steps) == pytest.approx(engine.kpis()["reward"])


def test_the_day_it_tells_is_the_day_it_played():
    """Call-offs and breakdowns must not vanish from the day once they happened."""
    scenario = disturbed()
    engine = Engine(scenario)
    engine.start([5])
    before = engine.day()
    play_random(engine, 5)
    after = engine.day()
    assert np.isfinite(before.bookings["cancelled_min"]).any()
    assert np.isfinite(before.drivers["breakdown_min"]).any()
    assert before.bookings.tobytes() == after.bookings.tobytes()
    assert before.drivers.tobytes() == after.drivers.tobytes()
