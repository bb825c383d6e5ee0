"""One epoch as the route search sees it: jobs, fleet, distances, and the neighbours of each job."""

import numpy as np

from services.rl.simulation.compiled import allocating, inlined, kernel
from services.rl.simulation.setup import Setup
from services.rl.simulation.travel import MATRIX, TravelTables, great_circle_km
from services.rl.simulation.types import FloatArray, IntArray
from services.rl.simulation.world import (
    B_WHEELCHAIR,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_WHEELCHAIR,
    D_X,
    D_Y,
    D_Z,
    D_ZONE,
    END_LAT,
    END_LON,
    END_ZONE,
    FREE_AT,
    IMMEDIATE,
    LOSS,
    NOW,
    NUM_OPEN,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_X,
    P_Y,
    P_Z,
    P_ZONE,
    PRIORITY,
    PROMISED,
    SHIFT_END,
    SHIFT_START,
    TRIP_KM,
    WINDOW_END,
    WORTH,
    World,
)

from .route_clock import (
    D_CELL,
    GAIN,
    JOB_D_SERVICE,
    JOB_D_ZONE,
    JOB_FLOATS,
    JOB_INTS,
    JOB_LATE,
    JOB_P_SERVICE,
    JOB_P_ZONE,
    JOB_PROMISED,
    JOB_TRIP_KM,
    JOB_WHEELCHAIR,
    JOB_WINDOW_END,
    NEIGHBOURS,
    NUM_TERMS,
    P_CELL,
    PICKUP_BY,
    T_BOOKING,
    T_LATE,
    T_LATE_URGENT,
    T_MINUTE,
    T_MINUTE_DEMAND,
    T_MINUTE_LOAD,
    T_PICKUP_DEMAND,
    T_PRE_BOOKED,
    T_PRIORITY,
    T_TRIP,
    T_URGENCY,
    DemandGrid,
    Fleet,
    Jobs,
    Problem,
    cell_of,
    slot,
)

FIRST_URGENT = 4
"""Priorities from this one on are urgent."""


@inlined
def _fill_job(
    w: World, s: Setup, g: DemandGrid, terms: FloatArray, e: int, b: int, now: float,
    learned: bool, number: FloatArray, integer: IntArray,
) -> None:  # fmt: skip
    promised, window_end = w.bookings[e, b, PROMISED], w.bookings[e, b, WINDOW_END]
    trip_km = w.bookings[e, b, TRIP_KM]
    number[JOB_PROMISED] = promised
    number[JOB_WINDOW_END] = window_end
    number[PICKUP_BY] = window_end + s.rules.grace
    number[JOB_P_SERVICE] = w.bookings[e, b, P_SERVICE]
    number[JOB_D_SERVICE] = w.bookings[e, b, D_SERVICE]
    number[JOB_TRIP_KM] = trip_km
    number[GAIN] = w.bookings[e, b, WORTH] + w.bookings[e, b, LOSS] - s.weights.loaded * trip_km
    number[JOB_LATE] = s.weights.late + terms[T_LATE]
    if w.booking_ints[e, b, PRIORITY] >= FIRST_URGENT:
        number[JOB_LATE] += terms[T_LATE_URGENT]
    integer[JOB_P_ZONE], integer[JOB_D_ZONE] = (
        w.booking_ints[e, b, P_ZONE],
        w.booking_ints[e, b, D_ZONE],
    )
    integer[JOB_WHEELCHAIR] = w.booking_ints[e, b, B_WHEELCHAIR]
    integer[P_CELL] = cell_of(g, w.bookings[e, b, P_LAT], w.bookings[e, b, P_LON])
    integer[D_CELL] = cell_of(g, w.bookings[e, b, D_LAT], w.bookings[e, b, D_LON])
    if learned:
        weight = s.weights.priority[w.booking_ints[e, b, PRIORITY] - 1]
        number[GAIN] += (
            terms[T_BOOKING]
            + terms[T_PRIORITY] * (weight - 1.0)
            + terms[T_PICKUP_DEMAND] * g.near[slot(g, promised), integer[P_CELL]]
            + terms[T_URGENCY] * np.exp(-max(0.0, window_end - now) / 20.0)
            + terms[T_TRIP] * trip_km / s.travel.mean_speed / 10.0
        )
        if w.booking_ints[e, b, IMMEDIATE] == 0:
            number[GAIN] += terms[T_PRE_BOOKED]


@inlined
def _onward_km(w: World, tt: TravelTables, e: int, b: int, c: int) -> float:
    if tt.kind == MATRIX:
        return tt.km[w.booking_ints[e, b, D_ZONE], w.booking_ints[e, c, P_ZONE]]
    return tt.circuity * great_circle_km(
        w.bookings[e, b, D_X], w.bookings[e, b, D_Y], w.bookings[e, b, D_Z],
        w.bookings[e, c, P_X], w.bookings[e, c, P_Y], w.bookings[e, c, P_Z],
    )  # fmt: skip


@inlined
def _minutes(tt: TravelTables, km: float, zone_from: int, zone_to: int) -> float:
    return tt.minutes[zone_from, zone_to] if tt.kind == MATRIX else km / tt.mean_speed


@kernel
def _neighbours(q: Problem, cost: FloatArray) -> None:
    """Note each job's cheapest predecessors by a rough clock; ``cost`` is scratch."""
    s, jobs, fleet = q.setup, q.jobs, q.fleet
    count, drivers = jobs.row.size, fleet.free.size
    for j in range(count):
        for k in range(NEIGHBOURS):
            jobs.near[j, k] = count
            cost[k] = np.inf
        promised, by = jobs.number[j, JOB_PROMISED], jobs.number[j, PICKUP_BY]
        to = jobs.integer[j, JOB_P_ZONE]
        for k in range(-drivers, count):
            if k == j:
                continue
            if k < 0:
                d = -1 - k
                if not jobs.allowed[d, j]:
                    continue
                km = jobs.start[d, j]
                arrive = fleet.free[d] + _minutes(s.travel, km, fleet.zone[d], to)
            else:
                km = jobs.between[k, j]
                trip = _minutes(
                    s.travel,
                    jobs.number[k, JOB_TRIP_KM],
                    jobs.integer[k, JOB_P_ZONE],
                    jobs.integer[k, JOB_D_ZONE],
                )
                arrive = (
                    jobs.number[k, JOB_PROMISED]
                    + jobs.number[k, JOB_P_SERVICE]
                    + trip
                    + jobs.number[k, JOB_D_SERVICE]
                    + _minutes(s.travel, km, jobs.integer[k, JOB_D_ZONE], to)
                )
            if arrive > by:
                continue
            rough = (
                s.weights.deadhead * km
                + s.weights.late * max(0.0, arrive - jobs.number[j, JOB_WINDOW_END])
                + 0.05 * max(0.0, promised - arrive)
            )
            if rough >= cost[NEIGHBOURS - 1]:
                continue
            i = NEIGHBOURS - 1
            while i > 0 and cost[i - 1] > rough:
                cost[i] = cost[i - 1]
                jobs.near[j, i] = jobs.near[j, i - 1]
                i -= 1
            cost[i] = rough
            jobs.near[j, i] = k


@allocating
def problem_of(
    w: World, s: Setup, e: int, look_ahead_min: float, g: DemandGrid, terms: FloatArray
) -> Problem:
    """Environment ``e`` now; bookings promised later than ``look_ahead_min`` from now are left out.

    ``terms`` may be empty: nothing learned counts.
    """
    now, drivers = w.clock[e, NOW], w.drivers.shape[2]
    # Days with fewer drivers than others beside them are filled up with drivers without a shift:
    # they must not move the search's draws, or a day would depend on its neighbours.
    while (
        drivers > 0
        and w.drivers[e, SHIFT_END, drivers - 1] <= w.drivers[e, SHIFT_START, drivers - 1]
    ):
        drivers -= 1
    learned = terms.size > 0
    used = terms if learned else np.zeros(NUM_TERMS)
    opened = w.counters[e, NUM_OPEN]
    positions = np.empty(opened, dtype=np.int64)
    count = 0
    until = now + look_ahead_min
    for i in range(opened):
        if w.bookings[e, w.open_rows[e, i], PROMISED] <= until:
            positions[count] = i
            count += 1
    jobs = Jobs(
        np.empty((count, JOB_FLOATS)),
        np.empty((count, JOB_INTS), dtype=np.int64),
        np.empty(count, dtype=np.int64),
        np.empty((count, count)),
        np.empty((drivers, count)),
        np.empty((drivers, count), dtype=np.bool_),
        np.empty((count, NEIGHBOURS), dtype=np.int64),
    )
    fleet = Fleet(
        np.empty(drivers),
        np.empty(drivers, dtype=np.int64),
        np.empty(drivers, dtype=np.int64),
        np.empty(drivers),
        np.empty(drivers, dtype=np.int64),
    )
    on_duty = 0
    for d in range(drivers):
        fleet.free[d] = max(now, w.drivers[e, FREE_AT, d])
        fleet.zone[d] = w.driver_ints[e, END_ZONE, d]
        fleet.cell[d] = cell_of(g, w.drivers[e, END_LAT, d], w.drivers[e, END_LON, d])
        fleet.wheelchair[d] = w.driver_ints[e, D_WHEELCHAIR, d]
        fleet.work_end[d] = w.drivers[e, SHIFT_END, d] + s.rules.overtime
        if np.isfinite(fleet.free[d]) and fleet.work_end[d] > now:
            on_duty += 1
    for j in range(count):
        b = w.open_rows[e, positions[j]]
        jobs.row[j] = b
        _fill_job(w, s, g, used, e, b, now, learned, jobs.number[j], jobs.integer[j])
        column = w.open_columns[e, positions[j]]
        for d in range(drivers):
            jobs.start[d, j] = w.pair_km[e, d, column]
            jobs.allowed[d, j] = w.pair_latest[e, d, column] > -np.inf and np.isfinite(
                fleet.free[d]
            )
    for j in range(count):
        b = jobs.row[j]
        for k in range(count):
            jobs.between[j, k] = _onward_km(w, s.travel, e, b, jobs.row[k])
    load = np.log1p(count / max(1, on_duty))
    price = np.empty(g.hour.size if learned else 0)
    for t in range(price.size):
        price[t] = used[T_MINUTE] + used[T_MINUTE_LOAD] * load + used[T_MINUTE_DEMAND] * g.hour[t]
    q = Problem(s, jobs, fleet, g, used, price, load, now)
    _neighbours(q, np.empty(NEIGHBOURS))
    return q
