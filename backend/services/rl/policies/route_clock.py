"""What a route is worth: the simulator's own clock and reward, and learned value terms.

The structures of the compiled route search (`route_search`), and the functions that drive a route
or its changed part.
"""

from typing import Final, NamedTuple

import numpy as np

from services.rl.simulation.compiled import inlined
from services.rl.simulation.setup import Setup
from services.rl.simulation.travel import arrive_min, depart_min
from services.rl.simulation.types import BoolArray, FloatArray, IntArray

# Numbers of a job.
(
    JOB_PROMISED, JOB_WINDOW_END, PICKUP_BY, JOB_P_SERVICE, JOB_D_SERVICE, JOB_TRIP_KM, GAIN,
    JOB_LATE,
) = range(8)  # fmt: skip
JOB_FLOATS = 8
# Its integers.
JOB_P_ZONE, JOB_D_ZONE, P_CELL, D_CELL, JOB_WHEELCHAIR = range(5)
JOB_INTS = 5

_TOLERANCE_MIN = 1e-9
NO_PLAN = -1.0e18
_FAR_RATE = 0.1 / 60.0
NEIGHBOURS = 8

# --- value terms --------------------------------------------------------------------------------
TERM = (
    "booking",  # bonus of every planned booking
    "priority",  # times its weight less one
    "pre_booked",
    "pickup_demand",  # unknown demand around the pickup when promised
    "urgency",  # e^(-minutes to the window's end / 20)
    "trip",  # minutes aboard / 10
    "late",  # per minute, beside the reward's own
    "deadhead",  # per km, beside the reward's own
    "minute",  # price of a driver's minute / 10
    "minute_load",  # the same, times the load
    "minute_demand",  # the same, times the demand of the hour
    "idle",  # price of an idle minute / 10
    "slack",  # worth of slack at a pickup, min(slack, 15) / 15
    "far",  # what is far away counts less: e^(-far / 10 per hour until the pickup)
    "end_demand",  # unknown demand around the end when the driver is free there
    "end_later",  # the same an hour later
    "end_from_base",  # km / 10
    "free_early",  # hours of work left after the end, capped at 1
    "free_early_load",  # the same, times the load
    "free_later",  # hours of work left after the end, capped at 3
    "minute_left",  # price of a driver's minute / 10, times hours of work left, capped at 2
    "spare_van",  # a wheelchair van for a patient who needs none
    "late_urgent",  # per minute, for priorities 4 and 5: the reward knows no such difference
)
NUM_TERMS: Final = len(TERM)
(
    T_BOOKING, T_PRIORITY, T_PRE_BOOKED, T_PICKUP_DEMAND, T_URGENCY, T_TRIP, T_LATE,
    T_DEADHEAD, T_MINUTE, T_MINUTE_LOAD, T_MINUTE_DEMAND, T_IDLE, T_SLACK, T_FAR,
    T_END_DEMAND, T_END_LATER, T_END_FROM_BASE, T_FREE, T_FREE_LOAD, T_FREE_LATER,
    T_MINUTE_LEFT, T_SPARE_VAN, T_LATE_URGENT,
) = range(NUM_TERMS)  # fmt: skip


class DemandGrid(NamedTuple):
    """Unknown demand by place and time: what is not booked yet, on average.

    ``near[t, c]`` around cell c in time slot t, and ``hour[t]`` of the whole area; both are about
    1 on average. Cells are a square grid in degrees.
    """

    near: FloatArray  # (T, C)
    hour: FloatArray  # (T,)
    from_base: FloatArray  # (C,) km / 10
    south: float
    west: float
    cell_lat: float  # degrees
    cell_lon: float
    columns: int
    slot_min: float


class Jobs(NamedTuple):
    """J plannable bookings."""

    number: FloatArray  # (J, JOB_FLOATS)
    integer: IntArray  # (J, JOB_INTS)
    row: IntArray  # (J,) booking row
    between: FloatArray  # (J, J) km from the row's dropoff to the column's pickup
    start: FloatArray  # (N, J) km from where the driver becomes free
    allowed: BoolArray  # (N, J)
    near: IntArray  # (J, NEIGHBOURS) predecessors: a job, or -1 - driver; past the last: J


class Fleet(NamedTuple):
    """N drivers, as a plan finds them."""

    free: FloatArray  # (N,)
    zone: IntArray  # (N,)
    cell: IntArray  # (N,)
    work_end: FloatArray  # (N,)
    wheelchair: IntArray  # (N,)


class Problem(NamedTuple):
    """One epoch, as a search sees it.

    ``price`` is what a driver's minute costs by time slot; empty: nothing learned counts.
    """

    setup: Setup
    jobs: Jobs
    fleet: Fleet
    grid: DemandGrid
    terms: FloatArray  # (NUM_TERMS,)
    price: FloatArray  # (T,) or (0,)
    load: float  # log(1 + jobs per driver on duty)
    now: float


class Routes(NamedTuple):
    """A plan, with the clock at every visit."""

    order: IntArray  # (N, J + 1)
    length: IntArray  # (N,)
    done: FloatArray  # (N, J + 1) when the visit is over
    worth: FloatArray  # (N, J + 1) of the visits up to this one
    value: FloatArray  # (N,) of the route and its end
    driver: IntArray  # (J,) -1: not planned
    place: IntArray  # (J,) in the driver's order


# --- driving -----------------------------------------------------------------------------------


@inlined
def cell_of(g: DemandGrid, lat: float, lon: float) -> int:
    """The grid cell of a place; outside: the nearest one."""
    rows = g.near.shape[1] // g.columns
    i = min(rows - 1, max(0, int((lat - g.south) / g.cell_lat)))
    j = min(g.columns - 1, max(0, int((lon - g.west) / g.cell_lon)))
    return i * g.columns + j


@inlined
def slot(g: DemandGrid, minute: float) -> int:
    """The time slot of a minute."""
    return min(g.near.shape[0] - 1, max(0, int(minute / g.slot_min)))


@inlined
def visit(
    q: Problem,
    d: int,
    last: int,
    free: float,
    j: int,
) -> tuple[float, float, float]:
    """Drive job j after job ``last``: departure, end, and value (`NO_PLAN`: it cannot be)."""
    s, jobs, fleet, terms = q.setup, q.jobs, q.fleet, q.terms
    if not jobs.allowed[d, j]:  # nor may the clock be asked about a driver who is never free
        return free, free, NO_PLAN
    if last < 0:
        km, zone = jobs.start[d, j], fleet.zone[d]
    else:
        km, zone = jobs.between[last, j], jobs.integer[last, JOB_D_ZONE]
    to = jobs.integer[j, JOB_P_ZONE]
    promised = jobs.number[j, JOB_PROMISED]
    depart = free
    if promised > free:
        depart = max(free, depart_min(s.travel, promised, km, zone, to))
    pickup = max(arrive_min(s.travel, depart, km, zone, to), promised)
    leave = pickup + jobs.number[j, JOB_P_SERVICE]
    done = jobs.number[j, JOB_D_SERVICE] + arrive_min(
        s.travel, leave, jobs.number[j, JOB_TRIP_KM], to, jobs.integer[j, JOB_D_ZONE]
    )
    if (
        pickup > jobs.number[j, PICKUP_BY] + _TOLERANCE_MIN
        or done > fleet.work_end[d] + _TOLERANCE_MIN
    ):
        return depart, done, NO_PLAN
    slack = jobs.number[j, JOB_WINDOW_END] - pickup
    late = max(0.0, -slack)
    value = (
        jobs.number[j, GAIN]
        - jobs.number[j, JOB_LATE] * late
        - (s.weights.deadhead + terms[T_DEADHEAD]) * km
    )
    if q.price.size > 0:
        value += terms[T_SLACK] * min(max(slack, 0.0), 15.0) / 15.0
        if fleet.wheelchair[d] > jobs.integer[j, JOB_WHEELCHAIR]:
            value += terms[T_SPARE_VAN]
        value *= np.exp(-_FAR_RATE * terms[T_FAR] * max(0.0, pickup - q.now))
        left = min(120.0, max(0.0, fleet.work_end[d] - done)) / 60.0
        minute = q.price[slot(q.grid, 0.5 * (depart + done))] + terms[T_MINUTE_LEFT] * left
        value -= 0.1 * (minute * (done - depart) + terms[T_IDLE] * (depart - free))
    return depart, done, value


@inlined
def _end_value(
    q: Problem,
    d: int,
    last: int,
    free: float,
) -> float:
    """Worth of where and when a route ends."""
    if q.price.size == 0:
        return 0.0
    jobs, fleet, g, terms = q.jobs, q.fleet, q.grid, q.terms
    cell = fleet.cell[d] if last < 0 else jobs.integer[last, D_CELL]
    left = min(1.0, max(0.0, fleet.work_end[d] - free) / 60.0)
    t = slot(g, free)
    later = slot(g, free + 60.0)
    return (
        left
        * (
            terms[T_END_DEMAND] * g.near[t, cell]
            + terms[T_END_LATER] * g.near[later, cell]
            + terms[T_END_FROM_BASE] * g.from_base[cell]
            + terms[T_FREE]
            + terms[T_FREE_LOAD] * q.load
        )
        + terms[T_FREE_LATER] * min(180.0, max(0.0, fleet.work_end[d] - free)) / 60.0
    )


@inlined
def drive(
    q: Problem,
    r: Routes,
    d: int,
    order: IntArray,
    n: int,
    first: int,
    same: int,
) -> float:
    """Value of driver d's route were it ``order[:n]``; `NO_PLAN` if it cannot be driven.

    The first ``first`` visits and the last ``same`` ones are those of the present route.
    """
    free, worth, last = q.fleet.free[d], 0.0, -1
    if first > 0:
        free, worth, last = r.done[d, first - 1], r.worth[d, first - 1], order[first - 1]
    shift = r.length[d] - n
    for k in range(first, n):
        _depart, free, value = visit(q, d, last, free, order[k])
        if value == NO_PLAN:
            return NO_PLAN
        worth += value
        last = order[k]
        if k >= n - same and free == r.done[d, k + shift]:
            end = r.length[d] - 1
            worth += r.worth[d, end] - r.worth[d, k + shift]
            free, last = r.done[d, end], r.order[d, end]
            break
    return worth + _end_value(q, d, last, free)


@inlined
def adopt(
    q: Problem,
    r: Routes,
    d: int,
    order: IntArray,
    n: int,
    first: int,
) -> None:
    """Make ``order[:n]`` driver d's route; its first ``first`` visits are the present ones."""
    free, worth, last = q.fleet.free[d], 0.0, -1
    if first > 0:
        free, worth, last = r.done[d, first - 1], r.worth[d, first - 1], order[first - 1]
    for k in range(first, n):
        j = order[k]
        _depart, free, value = visit(q, d, last, free, j)
        worth += value
        last = j
        r.order[d, k] = j
        r.done[d, k] = free
        r.worth[d, k] = worth
        r.driver[j] = d
        r.place[j] = k
    r.length[d] = n
    r.value[d] = worth + _end_value(q, d, last, free)
