"""A compiled any-time search over drivers' routes, with the simulator's own clock and reward.

At every decision epoch all known open bookings (up to a look-ahead) are *planned* into routes, one
per driver, by simulated annealing (Kirkpatrick, Gelatt, Vecchi 1983) that starts from the previous
plan. The objective is the reward the plan would earn, timed exactly as the simulator drives
(`simulation.commitments`): a booking left out of the plan earns nothing, a planned one its worth
plus the penalty avoided, less lateness and deadhead. Only what must depart before the next epoch
is committed; all else stays open to better plans.

Moves are *granular* (Toth, Vigo 2003): a booking goes behind one of the few predecessors from
whose end it is cheap to reach. They are: insert, insert in place of the successor, relocate,
exchange of route tails (2-opt*), swap, and removal. A move is valued by driving the changed part
of the routes; the walk stops where the clock agrees with the old route's again.

Values learned for what the plan does not know (`planner_values`) enter as plain numbers: a
booking's bonus, a price of drivers' minutes, a worth of where and when a route ends.

Everything is deterministic by seed under a budget of moves.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from services.rl.simulation.compiled import allocating, inlined, kernel
from services.rl.simulation.kernels import wait
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.pairs import can_commit, find_open
from services.rl.simulation.setup import Setup
from services.rl.simulation.travel import (
    MATRIX,
    TravelTables,
    arrive_min,
    depart_min,
    great_circle_km,
)
from services.rl.simulation.types import BoolArray, FloatArray, IntArray
from services.rl.simulation.world import (
    B_WHEELCHAIR,
    COMMITTED,
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
    ENDED,
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
    STEPS,
    TRIP_KM,
    WINDOW_END,
    WORTH,
    World,
)

from .kernels import take

# Numbers of a job.
_PROMISED, _WINDOW_END, _PICKUP_BY, _P_SERVICE, _D_SERVICE, _TRIP_KM, _GAIN = range(7)
_JOB_FLOATS = 7
# Its integers.
_P_ZONE, _D_ZONE, _P_CELL, _D_CELL, _WHEELCHAIR = range(5)
_JOB_INTS = 5

_TOLERANCE_MIN = 1e-9
_NO_PLAN = -1.0e18
_FAR_RATE = 0.1 / 60.0
_NEIGHBOURS = 8

# --- settings of the search (an array, so that changing one compiles nothing) -------------------
MOVES, LOOK_AHEAD_MIN, HOT, COLD, _SETTINGS = range(5)
NUM_SETTINGS: Final = _SETTINGS

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
)
NUM_TERMS: Final = len(TERM)
(
    _T_BOOKING, _T_PRIORITY, _T_PRE_BOOKED, _T_PICKUP_DEMAND, _T_URGENCY, _T_TRIP, _T_LATE,
    _T_DEADHEAD, _T_MINUTE, _T_MINUTE_LOAD, _T_MINUTE_DEMAND, _T_IDLE, _T_SLACK, _T_FAR,
    _T_END_DEMAND, _T_END_LATER, _T_END_FROM_BASE, _T_FREE, _T_FREE_LOAD, _T_FREE_LATER,
    _T_MINUTE_LEFT, _T_SPARE_VAN,
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

    number: FloatArray  # (J, _JOB_FLOATS)
    integer: IntArray  # (J, _JOB_INTS)
    row: IntArray  # (J,) booking row
    between: FloatArray  # (J, J) km from the row's dropoff to the column's pickup
    start: FloatArray  # (N, J) km from where the driver becomes free
    allowed: BoolArray  # (N, J)
    near: IntArray  # (J, _NEIGHBOURS) predecessors: a job, or -1 - driver; past the last: J


class Fleet(NamedTuple):
    """N drivers, as a plan finds them."""

    free: FloatArray  # (N,)
    zone: IntArray  # (N,)
    cell: IntArray  # (N,)
    work_end: FloatArray  # (N,)
    wheelchair: IntArray  # (N,)


class Routes(NamedTuple):
    """A plan, with the clock at every visit."""

    order: IntArray  # (N, J + 1)
    length: IntArray  # (N,)
    done: FloatArray  # (N, J + 1) when the visit is over
    worth: FloatArray  # (N, J + 1) of the visits up to this one
    value: FloatArray  # (N,) of the route and its end
    driver: IntArray  # (J,) -1: not planned
    place: IntArray  # (J,) in the driver's order


class Plan(NamedTuple):
    """What survives from epoch to epoch, by booking row, for E environments."""

    rows: IntArray  # (E, N, B)
    length: IntArray  # (E, N)


# --- driving -----------------------------------------------------------------------------------


@inlined
def _cell(g: DemandGrid, lat: float, lon: float) -> int:
    rows = g.near.shape[1] // g.columns
    i = min(rows - 1, max(0, int((lat - g.south) / g.cell_lat)))
    j = min(g.columns - 1, max(0, int((lon - g.west) / g.cell_lon)))
    return i * g.columns + j


@inlined
def _slot(g: DemandGrid, minute: float) -> int:
    return min(g.near.shape[0] - 1, max(0, int(minute / g.slot_min)))


@inlined
def _visit(
    s: Setup,
    jobs: Jobs,
    fleet: Fleet,
    g: DemandGrid,
    terms: FloatArray,
    price: FloatArray,
    now: float,
    d: int,
    last: int,
    free: float,
    j: int,
) -> tuple[float, float, float]:
    """Drive job j after job ``last``: departure, end, and value (`_NO_PLAN`: it cannot be)."""
    if last < 0:
        km, zone = jobs.start[d, j], fleet.zone[d]
    else:
        km, zone = jobs.between[last, j], jobs.integer[last, _D_ZONE]
    to = jobs.integer[j, _P_ZONE]
    promised = jobs.number[j, _PROMISED]
    depart = free
    if promised > free:
        depart = max(free, depart_min(s.travel, promised, km, zone, to))
    pickup = max(arrive_min(s.travel, depart, km, zone, to), promised)
    leave = pickup + jobs.number[j, _P_SERVICE]
    done = jobs.number[j, _D_SERVICE] + arrive_min(
        s.travel, leave, jobs.number[j, _TRIP_KM], to, jobs.integer[j, _D_ZONE]
    )
    if (
        pickup > jobs.number[j, _PICKUP_BY] + _TOLERANCE_MIN
        or done > fleet.work_end[d] + _TOLERANCE_MIN
        or not jobs.allowed[d, j]
    ):
        return depart, done, _NO_PLAN
    slack = jobs.number[j, _WINDOW_END] - pickup
    late = max(0.0, -slack)
    value = (
        jobs.number[j, _GAIN]
        - (s.weights.late + terms[_T_LATE]) * late
        - (s.weights.deadhead + terms[_T_DEADHEAD]) * km
    )
    if price.size > 0:
        value += terms[_T_SLACK] * min(max(slack, 0.0), 15.0) / 15.0
        if fleet.wheelchair[d] > jobs.integer[j, _WHEELCHAIR]:
            value += terms[_T_SPARE_VAN]
        value *= np.exp(-_FAR_RATE * terms[_T_FAR] * max(0.0, pickup - now))
        left = min(120.0, max(0.0, fleet.work_end[d] - done)) / 60.0
        minute = price[_slot(g, 0.5 * (depart + done))] + terms[_T_MINUTE_LEFT] * left
        value -= 0.1 * (minute * (done - depart) + terms[_T_IDLE] * (depart - free))
    return depart, done, value


@inlined
def _end_value(
    fleet: Fleet,
    jobs: Jobs,
    g: DemandGrid,
    terms: FloatArray,
    price: FloatArray,
    load: float,
    d: int,
    last: int,
    free: float,
) -> float:
    """Worth of where and when a route ends."""
    if price.size == 0:
        return 0.0
    cell = fleet.cell[d] if last < 0 else jobs.integer[last, _D_CELL]
    left = min(1.0, max(0.0, fleet.work_end[d] - free) / 60.0)
    t = _slot(g, free)
    later = _slot(g, free + 60.0)
    return (
        left
        * (
            terms[_T_END_DEMAND] * g.near[t, cell]
            + terms[_T_END_LATER] * g.near[later, cell]
            + terms[_T_END_FROM_BASE] * g.from_base[cell]
            + terms[_T_FREE]
            + terms[_T_FREE_LOAD] * load
        )
        + terms[_T_FREE_LATER] * min(180.0, max(0.0, fleet.work_end[d] - free)) / 60.0
    )


@inlined
def _drive(
    s: Setup,
    jobs: Jobs,
    fleet: Fleet,
    g: DemandGrid,
    terms: FloatArray,
    price: FloatArray,
    load: float,
    now: float,
    r: Routes,
    d: int,
    order: IntArray,
    n: int,
    first: int,
    same: int,
) -> float:
    """Value of driver d's route were it ``order[:n]``; `_NO_PLAN` if it cannot be driven.

    The first ``first`` visits and the last ``same`` ones are those of the present route.
    """
    free, worth, last = fleet.free[d], 0.0, -1
    if first > 0:
        free, worth, last = r.done[d, first - 1], r.worth[d, first - 1], order[first - 1]
    shift = r.length[d] - n
    for k in range(first, n):
        _depart, free, value = _visit(s, jobs, fleet, g, terms, price, now, d, last, free, order[k])
        if value == _NO_PLAN:
            return _NO_PLAN
        worth += value
        last = order[k]
        if k >= n - same and free == r.done[d, k + shift]:
            end = r.length[d] - 1
            worth += r.worth[d, end] - r.worth[d, k + shift]
            free, last = r.done[d, end], r.order[d, end]
            break
    return worth + _end_value(fleet, jobs, g, terms, price, load, d, last, free)


@inlined
def _adopt(
    s: Setup,
    jobs: Jobs,
    fleet: Fleet,
    g: DemandGrid,
    terms: FloatArray,
    price: FloatArray,
    load: float,
    now: float,
    r: Routes,
    d: int,
    order: IntArray,
    n: int,
    first: int,
) -> None:
    """Make ``order[:n]`` driver d's route; its first ``first`` visits are the present ones."""
    free, worth, last = fleet.free[d], 0.0, -1
    if first > 0:
        free, worth, last = r.done[d, first - 1], r.worth[d, first - 1], order[first - 1]
    for k in range(first, n):
        j = order[k]
        _depart, free, value = _visit(s, jobs, fleet, g, terms, price, now, d, last, free, j)
        worth += value
        last = j
        r.order[d, k] = j
        r.done[d, k] = free
        r.worth[d, k] = worth
        r.driver[j] = d
        r.place[j] = k
    r.length[d] = n
    r.value[d] = worth + _end_value(fleet, jobs, g, terms, price, load, d, last, free)


# --- the search --------------------------------------------------------------------------------


@inlined
def _bits(random: npt.NDArray[np.uint64]) -> np.uint64:
    """xorshift64* (Vigna 2016)."""
    x = random[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    random[0] = x
    return x * np.uint64(2685821657736338717)


@inlined
def _below(random: npt.NDArray[np.uint64], n: int) -> int:
    return np.int64((_bits(random) >> np.uint64(33)) % np.uint64(n))  # type: ignore[return-value]


@inlined
def _unit(random: npt.NDArray[np.uint64]) -> float:
    return np.float64(_bits(random) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def _anneal(
    s: Setup,
    jobs: Jobs,
    fleet: Fleet,
    g: DemandGrid,
    terms: FloatArray,
    price: FloatArray,
    load: float,
    now: float,
    r: Routes,
    best_driver: IntArray,
    best_place: IntArray,
    first_order: IntArray,
    second_order: IntArray,
    moves: int,
    hot: float,
    cold: float,
    random: npt.NDArray[np.uint64],
) -> None:
    """Improve the plan ``r`` by ``moves`` moves; it ends as the best one seen."""
    count, drivers = jobs.row.size, fleet.free.size
    if count == 0 or moves <= 0:
        return
    present = 0.0
    for d in range(drivers):
        present += r.value[d]
    best = present
    for j in range(count):
        best_driver[j], best_place[j] = r.driver[j], r.place[j]
    cooling = (cold / hot) ** (1.0 / moves)
    heat = hot
    for _move in range(moves):
        heat *= cooling
        j = min(_below(random, count), _below(random, count))  # jobs come most urgent first
        own, at = r.driver[j], r.place[j]
        draw = _unit(random)
        if own >= 0 and draw < 0.04:
            n = 0
            for k in range(r.length[own]):
                if k != at:
                    first_order[n] = r.order[own, k]
                    n += 1
            value = _drive(
                s, jobs, fleet, g, terms, price, load, now, r, own, first_order, n, at, n - at
            )
            delta = value - r.value[own]
            if delta >= 0.0 or delta > heat * np.log(1.0 - _unit(random)):
                r.driver[j] = -1
                _adopt(s, jobs, fleet, g, terms, price, load, now, r, own, first_order, n, at)
                present += delta
            else:
                continue
        else:
            # Where to: behind a cheap predecessor, now and then behind any.
            if _unit(random) < 0.9:
                before = jobs.near[j, _below(random, _NEIGHBOURS)]
                if before >= count:
                    continue
                if before >= 0:
                    d = r.driver[before]
                    p = r.place[before] + 1
                else:
                    d, p = -1 - before, 0
            else:
                d = _below(random, drivers)
                p = _below(random, r.length[d] + 1)
            if d < 0 or not jobs.allowed[d, j]:
                continue
            if own == d and (p == at or p == at + 1):
                continue
            if own >= 0 and own != d and draw < 0.25:
                # 2-opt*: j and all behind it go behind the predecessor, and the other way round.
                n = p + r.length[own] - at
                m = at + r.length[d] - p
                for k in range(p):
                    first_order[k] = r.order[d, k]
                for k in range(at, r.length[own]):
                    first_order[p + k - at] = r.order[own, k]
                for k in range(at):
                    second_order[k] = r.order[own, k]
                for k in range(p, r.length[d]):
                    second_order[at + k - p] = r.order[d, k]
                value = _drive(
                    s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, p, 0
                )
                if value == _NO_PLAN:
                    continue
                other = _drive(
                    s, jobs, fleet, g, terms, price, load, now, r, own, second_order, m, at, 0
                )
                delta = value + other - r.value[d] - r.value[own]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                _adopt(s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, p)
                _adopt(s, jobs, fleet, g, terms, price, load, now, r, own, second_order, m, at)
                present += delta
            elif own == d:
                # Within the route: out of one place, into another.
                n = 0
                for k in range(r.length[d]):
                    if k == p:
                        first_order[n] = j
                        n += 1
                    if k != at:
                        first_order[n] = r.order[d, k]
                        n += 1
                if p == r.length[d]:
                    first_order[n] = j
                    n += 1
                begin = min(p, at)
                value = _drive(
                    s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, begin,
                    n - 1 - max(p - 1, at),
                )  # fmt: skip
                delta = value - r.value[d]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                _adopt(s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, begin)
                present += delta
            else:
                # Insert; the successor may make room: it goes where j came from, or out.
                out = -1
                if p < r.length[d] and draw > 0.7:
                    out = r.order[d, p]
                    if own >= 0 and not jobs.allowed[own, out]:
                        continue
                n = 0
                for k in range(p):
                    first_order[n] = r.order[d, k]
                    n += 1
                first_order[n] = j
                n += 1
                for k in range(p if out < 0 else p + 1, r.length[d]):
                    first_order[n] = r.order[d, k]
                    n += 1
                value = _drive(
                    s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, p, n - 1 - p
                )
                if value == _NO_PLAN:
                    continue
                delta = value - r.value[d]
                m = 0
                if own >= 0:
                    for k in range(r.length[own]):
                        if k != at:
                            second_order[m] = r.order[own, k]
                            m += 1
                        elif out >= 0:
                            second_order[m] = out
                            m += 1
                    other = _drive(
                        s, jobs, fleet, g, terms, price, load, now, r, own, second_order, m, at,
                        m - at if out < 0 else m - 1 - at,
                    )  # fmt: skip
                    delta += other - r.value[own]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                if out >= 0:
                    r.driver[out] = -1
                _adopt(s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, p)
                if own >= 0:
                    _adopt(s, jobs, fleet, g, terms, price, load, now, r, own, second_order, m, at)
                present += delta
        if present > best + 1e-9:
            best = present
            for k in range(count):
                best_driver[k], best_place[k] = r.driver[k], r.place[k]
    if present < best - 1e-9:
        for d in range(drivers):
            r.length[d] = 0
        for j in range(count):
            r.driver[j] = best_driver[j]
            if best_driver[j] >= 0:
                d = best_driver[j]
                r.order[d, best_place[j]] = j
                r.length[d] += 1
        for d in range(drivers):
            n = r.length[d]
            for k in range(n):
                first_order[k] = r.order[d, k]
            _adopt(s, jobs, fleet, g, terms, price, load, now, r, d, first_order, n, 0)


# --- one epoch ---------------------------------------------------------------------------------


@inlined
def _fill_job(
    w: World, s: Setup, g: DemandGrid, terms: FloatArray, e: int, b: int, now: float,
    learned: bool, number: FloatArray, integer: IntArray,
) -> None:  # fmt: skip
    promised, window_end = w.bookings[e, b, PROMISED], w.bookings[e, b, WINDOW_END]
    trip_km = w.bookings[e, b, TRIP_KM]
    number[_PROMISED] = promised
    number[_WINDOW_END] = window_end
    number[_PICKUP_BY] = window_end + s.rules.grace
    number[_P_SERVICE] = w.bookings[e, b, P_SERVICE]
    number[_D_SERVICE] = w.bookings[e, b, D_SERVICE]
    number[_TRIP_KM] = trip_km
    number[_GAIN] = w.bookings[e, b, WORTH] + w.bookings[e, b, LOSS] - s.weights.loaded * trip_km
    integer[_P_ZONE], integer[_D_ZONE] = w.booking_ints[e, b, P_ZONE], w.booking_ints[e, b, D_ZONE]
    integer[_WHEELCHAIR] = w.booking_ints[e, b, B_WHEELCHAIR]
    integer[_P_CELL] = _cell(g, w.bookings[e, b, P_LAT], w.bookings[e, b, P_LON])
    integer[_D_CELL] = _cell(g, w.bookings[e, b, D_LAT], w.bookings[e, b, D_LON])
    if learned:
        weight = s.weights.priority[w.booking_ints[e, b, PRIORITY] - 1]
        number[_GAIN] += (
            terms[_T_BOOKING]
            + terms[_T_PRIORITY] * (weight - 1.0)
            + terms[_T_PICKUP_DEMAND] * g.near[_slot(g, promised), integer[_P_CELL]]
            + terms[_T_URGENCY] * np.exp(-max(0.0, window_end - now) / 20.0)
            + terms[_T_TRIP] * trip_km / s.travel.mean_speed / 10.0
        )
        if w.booking_ints[e, b, IMMEDIATE] == 0:
            number[_GAIN] += terms[_T_PRE_BOOKED]


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
def _neighbours(s: Setup, jobs: Jobs, fleet: Fleet, cost: FloatArray) -> None:
    """Note each job's cheapest predecessors by a rough clock; ``cost`` is scratch."""
    count, drivers = jobs.row.size, fleet.free.size
    for j in range(count):
        for k in range(_NEIGHBOURS):
            jobs.near[j, k] = count
            cost[k] = np.inf
        promised, by = jobs.number[j, _PROMISED], jobs.number[j, _PICKUP_BY]
        to = jobs.integer[j, _P_ZONE]
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
                    jobs.number[k, _TRIP_KM],
                    jobs.integer[k, _P_ZONE],
                    jobs.integer[k, _D_ZONE],
                )
                arrive = (
                    jobs.number[k, _PROMISED]
                    + jobs.number[k, _P_SERVICE]
                    + trip
                    + jobs.number[k, _D_SERVICE]
                    + _minutes(s.travel, km, jobs.integer[k, _D_ZONE], to)
                )
            if arrive > by:
                continue
            rough = (
                s.weights.deadhead * km
                + s.weights.late * max(0.0, arrive - jobs.number[j, _WINDOW_END])
                + 0.05 * max(0.0, promised - arrive)
            )
            if rough >= cost[_NEIGHBOURS - 1]:
                continue
            i = _NEIGHBOURS - 1
            while i > 0 and cost[i - 1] > rough:
                cost[i] = cost[i - 1]
                jobs.near[j, i] = jobs.near[j, i - 1]
                i -= 1
            cost[i] = rough
            jobs.near[j, i] = k


@kernel
def _restore(
    s: Setup, jobs: Jobs, fleet: Fleet, g: DemandGrid, terms: FloatArray, price: FloatArray,
    load: float, now: float, r: Routes, job_of_row: IntArray, rows: IntArray, length: IntArray,
    order: IntArray,
) -> None:  # fmt: skip
    """The previous plan, less what is no longer open or cannot be driven any more."""
    for d in range(fleet.free.size):
        free, last, n = fleet.free[d], -1, 0
        for k in range(length[d]):
            b = rows[d, k]
            if b < 0 or b >= job_of_row.size or job_of_row[b] < 0:
                continue
            j = job_of_row[b]
            if r.driver[j] >= 0:
                continue
            _depart, done, value = _visit(s, jobs, fleet, g, terms, price, now, d, last, free, j)
            if value == _NO_PLAN:
                continue
            order[n] = j
            r.driver[j] = d
            free, last = done, j
            n += 1
        _adopt(s, jobs, fleet, g, terms, price, load, now, r, d, order, n, 0)


@allocating
def search_epoch(
    w: World,
    s: Setup,
    e: int,
    settings: FloatArray,
    g: DemandGrid,
    terms: FloatArray,
    plan: Plan,
    seed: np.uint64,
    commits: bool,
    chosen: FloatArray,
) -> int:
    """Plan environment ``e``'s epoch from its last plan, and commit what must leave now.

    Args:
        w: World.
        s: Constants.
        e: Environment.
        settings: ``(NUM_SETTINGS,)``.
        g: Unknown demand.
        terms: ``(NUM_TERMS,)`` value terms, or ``(0,)``: the plan's own reward alone.
        plan: Read and replaced, for environment ``e``.
        seed: Of the search.
        commits: Whether to commit, or only to say what would be committed; the plan then keeps it.
        chosen: ``(E, K, 3)``: driver, booking row and score of each commitment.
    """
    now, drivers = w.clock[e, NOW], w.drivers.shape[2]
    learned = terms.size > 0
    used = terms if learned else np.zeros(NUM_TERMS)
    opened = w.counters[e, NUM_OPEN]
    positions = np.empty(opened, dtype=np.int64)
    count = 0
    until = now + settings[LOOK_AHEAD_MIN]
    for i in range(opened):
        if w.bookings[e, w.open_rows[e, i], PROMISED] <= until:
            positions[count] = i
            count += 1
    jobs = Jobs(
        np.empty((count, _JOB_FLOATS)),
        np.empty((count, _JOB_INTS), dtype=np.int64),
        np.empty(count, dtype=np.int64),
        np.empty((count, count)),
        np.empty((drivers, count)),
        np.empty((drivers, count), dtype=np.bool_),
        np.empty((count, _NEIGHBOURS), dtype=np.int64),
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
        fleet.cell[d] = _cell(g, w.drivers[e, END_LAT, d], w.drivers[e, END_LON, d])
        fleet.wheelchair[d] = w.driver_ints[e, D_WHEELCHAIR, d]
        fleet.work_end[d] = w.drivers[e, SHIFT_END, d] + s.rules.overtime
        if np.isfinite(fleet.free[d]) and fleet.work_end[d] > now:
            on_duty += 1
    job_of_row = np.full(w.bookings.shape[1], -1, dtype=np.int64)
    for j in range(count):
        b = w.open_rows[e, positions[j]]
        jobs.row[j] = b
        job_of_row[b] = j
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
        price[t] = (
            used[_T_MINUTE] + used[_T_MINUTE_LOAD] * load + used[_T_MINUTE_DEMAND] * g.hour[t]
        )
    r = Routes(
        np.zeros((drivers, count + 1), dtype=np.int64),
        np.zeros(drivers, dtype=np.int64),
        np.zeros((drivers, count + 1)),
        np.zeros((drivers, count + 1)),
        np.zeros(drivers),
        np.full(count, -1, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
    )
    first_order = np.empty(count + 1, dtype=np.int64)
    second_order = np.empty(count + 1, dtype=np.int64)
    _restore(
        s, jobs, fleet, g, used, price, load, now, r, job_of_row, plan.rows[e], plan.length[e],
        first_order,
    )  # fmt: skip
    _neighbours(s, jobs, fleet, np.empty(_NEIGHBOURS))
    random = np.empty(1, dtype=np.uint64)
    random[0] = (seed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        np.int64(now * 16.0) + 1
    ) * np.uint64(0xBF58476D1CE4E5B9)
    if random[0] == np.uint64(0):
        random[0] = np.uint64(1)
    for _ in range(4):
        _bits(random)
    _anneal(
        s, jobs, fleet, g, used, price, load, now, r,
        np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64),
        first_order, second_order,
        int(settings[MOVES]), settings[HOT], settings[COLD], random,
    )  # fmt: skip
    n = 0
    next_epoch = now + s.rules.epoch
    everything = s.rules.decide_once or next_epoch >= s.rules.horizon
    for d in range(drivers):
        free, last, kept, leaving = fleet.free[d], -1, 0, True
        room = s.rules.capacity - w.driver_ints[e, COMMITTED, d]
        for k in range(r.length[d]):
            j = r.order[d, k]
            depart, free, value = _visit(s, jobs, fleet, g, used, price, now, d, last, free, j)
            last = j
            leaving = leaving and k < room and (everything or depart < next_epoch)
            if leaving and commits:
                i = find_open(w, e, jobs.row[j])
                if can_commit(w, s.rules, e, d, w.open_columns[e, i]):
                    n = take(w, s, e, d, i, value, chosen, n)
                    continue
                leaving = False
            if leaving and n < chosen.shape[1]:
                chosen[e, n, 0], chosen[e, n, 1], chosen[e, n, 2] = d, jobs.row[j], value
                n += 1
            plan.rows[e, d, kept] = jobs.row[j]
            kept += 1
        plan.length[e, d] = kept
    return n


@allocating
def decide_search(
    m: Buffer,
    x: IntArray,
    e: int,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    rows: IntArray,
    length: IntArray,
    seed: np.uint64,
    commits: bool,
    chosen: FloatArray,
) -> int:
    """One epoch of one environment; see `search_epoch`."""
    w, s, _out = unpack(m, x)
    g = DemandGrid(near, hour, from_base, grid[0], grid[1], grid[2], grid[3], int(grid[4]), grid[5])
    return search_epoch(w, s, e, settings, g, terms, Plan(rows, length), seed, commits, chosen)


@allocating
def advise_search(
    m: Buffer,
    x: IntArray,
    envs: IntArray,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    rows: IntArray,
    length: IntArray,
    seed: np.uint64,
    chosen: FloatArray,
    counts: IntArray,
) -> None:
    """What would be committed now in some environments; nothing is. ``counts``: per environment."""
    w, s, _out = unpack(m, x)
    g = DemandGrid(near, hour, from_base, grid[0], grid[1], grid[2], grid[3], int(grid[4]), grid[5])
    plan = Plan(rows, length)
    for i in range(envs.size):
        e = envs[i]
        counts[e] = search_epoch(w, s, e, settings, g, terms, plan, seed, False, chosen)


@allocating
def play_search(
    m: Buffer,
    x: IntArray,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    seeds: npt.NDArray[np.uint64],
) -> None:
    """Run every environment to the end of its day; ``seeds`` one per environment."""
    w, s, _out = unpack(m, x)
    g = DemandGrid(near, hour, from_base, grid[0], grid[1], grid[2], grid[3], int(grid[4]), grid[5])
    envs, drivers = w.clock.shape[0], w.drivers.shape[2]
    nowhere = np.empty((envs, 0, 3))
    plan = Plan(
        np.zeros((envs, drivers, w.bookings.shape[1]), dtype=np.int64),
        np.zeros((envs, drivers), dtype=np.int64),
    )
    for e in range(envs):
        while w.counters[e, ENDED] == 0:
            search_epoch(w, s, e, settings, g, terms, plan, seeds[e], True, nowhere)
            w.counters[e, STEPS] += 1
            wait(w, s.travel, s.rules, s.weights, e)
