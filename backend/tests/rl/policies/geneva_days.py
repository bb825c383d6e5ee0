"""Small hand-made days and states on the map of Geneva, and a plain player of policies."""

import numpy as np

from services.rl.policies.routing import problem_of_day, scenario_travel, visit_next
from services.rl.simulation.scenarios import Scenario, load_scenario, parse_scenario
from services.rl.simulation.types import (
    BOOKING_DTYPE,
    DRIVER_DTYPE,
    NEVER,
    STATE_BOOKING_DTYPE,
    STATE_DRIVER_DTYPE,
    Day,
    DispatchState,
)

LAT, LON = 46.2, 6.15
KM_LAT = 1 / 111.1950802  # degrees of latitude per great-circle kilometre


def even_scenario(**rules) -> Scenario:
    """Geneva at 30 km/h all day and no detours: a kilometre is two minutes."""
    raw = load_scenario("geneva").model_dump(mode="json")
    raw["name"] = "even"
    raw["travel"] = {"kind": "haversine", "circuity": 1.0, "speed_kmh": [30.0] * 24}
    raw["rules"] |= rules
    return parse_scenario(raw, source="even")


def booking(promised, at_km, to_km, created=-60.0, window=30.0, **fields):
    """A booking along a meridian: pickup and dropoff in kilometres north of the origin."""
    row = np.zeros(1, dtype=BOOKING_DTYPE)
    row["created_min"], row["promised_min"] = created, promised
    row["window_end_min"] = promised + window
    row["priority"], row["fare"] = 2, np.nan  # weight 1.0
    row["pickup_lat"], row["dropoff_lat"] = LAT + KM_LAT * at_km, LAT + KM_LAT * to_km
    row["pickup_lon"] = row["dropoff_lon"] = LON
    row["pickup_zone"] = row["dropoff_zone"] = -1
    row["deadhead_noise"] = row["trip_noise"] = 1.0
    row["cancelled_min"] = NEVER
    for name, value in fields.items():
        row[name] = value
    return row


def driver(at_km=0.0, start=0.0, end=480.0, **fields):
    row = np.zeros(1, dtype=DRIVER_DTYPE)
    row["lat"], row["lon"], row["zone"] = LAT + KM_LAT * at_km, LON, -1
    row["shift_start_min"], row["shift_end_min"] = start, end
    row["breakdown_min"] = row["repaired_min"] = NEVER
    for name, value in fields.items():
        row[name] = value
    return row


def day_of(bookings, drivers, label="by hand") -> Day:
    table = np.concatenate(bookings)
    return Day(
        label, table[np.argsort(table["created_min"], kind="stable")], np.concatenate(drivers)
    )


def state_of(day, now, rows=None, **driver_fields) -> DispatchState:
    """The state at ``now`` in which nothing was committed and ``rows`` (or all known) are open."""
    if rows is None:
        rows = np.flatnonzero(day.bookings["created_min"] <= now)
    bookings = np.zeros(len(rows), dtype=STATE_BOOKING_DTYPE)
    for name in STATE_BOOKING_DTYPE.names:
        bookings[name] = day.bookings[name][rows]
    drivers = np.zeros(len(day.drivers), dtype=STATE_DRIVER_DTYPE)
    for name in (
        "lat",
        "lon",
        "zone",
        "shift_start_min",
        "shift_end_min",
        "wheelchair",
        "emergency",
    ):
        drivers[name] = day.drivers[name]
    drivers["free_at_min"] = day.drivers["shift_start_min"]
    for name, value in driver_fields.items():
        drivers[name] = value
    return DispatchState(
        now_min=float(now),
        driver_ids=tuple(f"d{i}" for i in range(len(drivers))),
        drivers=drivers,
        booking_ids=tuple(f"b{row}" for row in rows),
        bookings=bookings,
    )


def random_day(seed, num_bookings=14, num_drivers=3, horizon=480.0) -> Day:
    rng = np.random.default_rng(seed)
    bookings = []
    for _ in range(num_bookings):
        promised = rng.uniform(10, horizon - 60)
        at, to = rng.uniform(-8, 8, size=2)
        bookings.append(
            booking(
                promised,
                at,
                to,
                created=promised - rng.choice([0.0, 45.0, 600.0]),
                priority=rng.integers(1, 6),
                wheelchair=rng.random() < 0.25,
                pickup_service_min=rng.uniform(3, 8),
                dropoff_service_min=rng.uniform(3, 7),
            )
        )
    drivers = [
        driver(rng.uniform(-3, 3), wheelchair=i % 2 == 0, emergency=i == num_drivers - 1)
        for i in range(num_drivers)
    ]
    return day_of(bookings, drivers, label=f"random {seed}")


def play(day, scenario, policy):
    """Play a day with a policy, checking every commitment; returns (reward, visits per driver)."""
    rules = scenario.rules
    problem = problem_of_day(day, scenario, scenario_travel(scenario))
    done = [[] for _ in day.drivers]
    taken = set()
    plan, now = None, 0.0
    while now < rules.horizon_min:
        rows = [
            b
            for b in range(len(day.bookings))
            if b not in taken and day.bookings["created_min"][b] <= now <= problem.pickup_by[b]
        ]
        state = _state_during(day, now, rows, done)
        answer = policy.decide(state, plan=plan)
        plan = answer.plan
        for decision in answer.decisions:
            d, b = decision.driver, rows[decision.booking]
            last, free = (done[d][-1].job, done[d][-1].done) if done[d] else (-1, 0.0)
            visit = visit_next(problem, d, last, max(now, free, problem.start_min[d]), b)
            assert b not in taken, "a booking is committed once"
            assert visit.feasible, "the engine's mask would refuse this"
            assert sum(v.done > now for v in done[d]) <= rules.queue, "the queue is full"
            done[d].append(visit)
            taken.add(b)
        now += rules.epoch_min
    lost = [b for b in range(len(day.bookings)) if b not in taken]
    reward = sum(v.value for route in done for v in route) - problem.loss[lost].sum()
    return float(reward), done


def _state_during(day, now, rows, done):
    state = state_of(day, now, np.array(rows, dtype=np.int64))
    for d, visits in enumerate(done):
        if visits:
            last = day.bookings[visits[-1].job]
            state.drivers["lat"][d] = last["dropoff_lat"]
            state.drivers["lon"][d] = last["dropoff_lon"]
            state.drivers["free_at_min"][d] = visits[-1].done
            state.drivers["committed"][d] = sum(v.done > now for v in visits)
    return state
