"""Matching with learned edge values, compiled: `matching_values` between zones.

Where every request is decided at once, what a car is worth later is all that today's profit does
not tell. Each edge (request, car) is scored by its profit plus learned weights on `EDGE_TERM`:
what a free car is worth where and when the ride ends, and where and when this car would be free
without it, both from clairvoyant solutions of training days; how short of cars both places are;
the minutes taken; the demand of this minute and the load of the fleet. A round of optimal
one-to-one matching takes the edges that beat refusing; rounds follow while cars have places in
their queue.

Everything is computed from one state: no memory of earlier minutes is needed.
"""

from typing import Final, NamedTuple

import numpy as np

from services.rl.simulation.compiled import allocating, inlined
from services.rl.simulation.kernels import wait
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.pairs import can_commit
from services.rl.simulation.reward import planned_value
from services.rl.simulation.setup import Setup
from services.rl.simulation.types import FloatArray, IntArray
from services.rl.simulation.world import (
    D_ZONE,
    END_ZONE,
    ENDED,
    FREE_AT,
    NOW,
    NUM_OPEN,
    P_ZONE,
    STEPS,
    TRIP_KM,
    WORTH,
    World,
)

from .kernels import assign, take

EDGE_TERM: Final = (
    "profit",  # planned reward of the assignment
    "worth_after",  # of a free car where and when the ride ends
    "worth_before",  # minus that of this car where and when it would be free
    "worth_after_balance",  # the same times how many cars there are for the demand there
    "worth_before_balance",
    "worth_gain_rush",  # (after - before) times the demand of this minute
    "worth_gain_load",  # (after - before) times the load of the fleet
    "wait",  # minutes / 10 until the pickup
    "busy",  # minutes / 10 until the car is free
    "deadhead",  # km
    "taken",  # minutes / 10 of the car until the day's end
    "taken_balance",
    "taken_rush",
    "taken_load",
    "bias",
    "taken_left",  # taken times the share of the day that is left
    "queued",  # the car has a ride
    "trip",  # minutes / 10 with the passenger
    "balance_gain",  # balance after minus before, for rides that end within the day
    "balance",  # before
    "taken_squared",
    "left",  # share of the day that is left
    "rush",
    "load",
)
"""What an edge is weighed by; refusing scores 0. Profit's weight is 1 unless trained otherwise."""

NUM_EDGE_TERMS: Final = len(EDGE_TERM)
_UNIT = 0.3  # brings the terms without money near the spread of the others, for the evolution
_FIRST_WITHOUT_MONEY = EDGE_TERM.index("wait")
_PICKUP_MIN = 2.0  # typical, to look at the place of the dropoff before a car is chosen
_SMOOTH = 0.3  # cars and requests added to both before their ratio is taken
_SMOOTH_RUSH = 2.0
_LOAD_MIN = 10.0
_AHEAD = 48  # minutes; a car that is free later counts nowhere


class ZoneTables(NamedTuple):
    """What is known of zones beforehand."""

    worth: FloatArray  # (Z, T) of a free car by zone and minute; 0 from T on
    demand: FloatArray  # (Z,) requests expected within reach in the next minutes
    near: FloatArray  # (Z, Z) how much a car in the second zone counts in the first
    decay: float  # how much a car counts that is free a minute earlier or later
    rush: float  # requests in a usual minute


class _Cars(NamedTuple):
    """Where and when each car is free."""

    zone: IntArray  # (N,)
    ready: FloatArray  # (N,) minutes; infinite: out of service
    worth: FloatArray  # (N,) of being free there and then
    balance: FloatArray  # (N,) logarithm of cars over requests there and then
    free: FloatArray  # (_AHEAD, Z) cars free by minute from now and zone, near minutes included


@inlined
def _worth_at(t: ZoneTables, zone: int, minute: float) -> float:
    return t.worth[zone, int(minute)] if minute < t.worth.shape[1] else 0.0


@inlined
def _balance_at(t: ZoneTables, cars: _Cars, zone: int, ahead: float) -> float:
    """Logarithm of the cars that are free near a zone, so far ahead, over the usual demand."""
    minute = int(min(ahead, _AHEAD - 1.0))
    found = 0.0
    for other in range(t.demand.size):
        found += cars.free[minute, other] * t.near[zone, other]
    return np.log((found + _SMOOTH) / (t.demand[zone] + _SMOOTH))


@inlined
def _look_at_cars(w: World, t: ZoneTables, e: int, cars: _Cars) -> float:
    """Fill ``cars``; returns the load of the fleet, -1 (all free) to 1 (busy for long)."""
    now, n, zones = w.clock[e, NOW], cars.zone.size, t.demand.size
    load = 0.0
    cars.free[:] = 0.0
    for c in range(n):
        cars.zone[c] = w.driver_ints[e, END_ZONE, c]
        cars.ready[c] = max(now, w.drivers[e, FREE_AT, c])
        ahead = cars.ready[c] - now
        load += min(_LOAD_MIN, ahead)
        if ahead < _AHEAD:
            cars.free[int(ahead), cars.zone[c]] += 1.0
    # A car counts in other minutes too, by decay^(minutes between): one pass each way.
    for m in range(1, _AHEAD):
        for z in range(zones):
            cars.free[m, z] += t.decay * cars.free[m - 1, z]
    # So far x_m = sum of c_k d^(m-k) over k <= m; with y_m = x_m + d (y_{m+1} - d x_m) both sides.
    for m in range(_AHEAD - 2, -1, -1):
        for z in range(zones):
            before = cars.free[m, z]
            cars.free[m, z] = before + t.decay * (cars.free[m + 1, z] - t.decay * before)
    for c in range(n):
        cars.worth[c] = _worth_at(t, cars.zone[c], cars.ready[c])
        cars.balance[c] = _balance_at(t, cars, cars.zone[c], cars.ready[c] - now)
    return 2.0 * load / (_LOAD_MIN * n) - 1.0


@inlined
def _edge_terms(
    w: World,
    s: Setup,
    t: ZoneTables,
    e: int,
    i: int,
    c: int,
    cars: _Cars,
    after: float,
    rush: float,
    load: float,
    out: FloatArray,
) -> None:
    """Fill ``(NUM_EDGE_TERMS,)`` for car c taking the i-th open request; it must be feasible."""
    b, horizon, now = w.open_rows[e, i], s.rules.horizon, w.clock[e, NOW]
    origin, destination = w.booking_ints[e, b, P_ZONE], w.booking_ints[e, b, D_ZONE]
    km, ready = w.pair_km[e, c, w.open_columns[e, i]], cars.ready[c]
    trip = s.travel.minutes[origin, destination]
    pickup = ready + s.travel.minutes[cars.zone[c], origin]
    end = pickup + trip
    worth_after, worth_before = _worth_at(t, destination, end), cars.worth[c]
    taken = (min(end, horizon) - min(ready, horizon)) / 10.0
    left = (horizon - now) / horizon
    before = cars.balance[c]
    out[0] = planned_value(s.weights, w.bookings[e, b, WORTH], 0.0, km, w.bookings[e, b, TRIP_KM])
    out[1] = worth_after
    out[2] = -worth_before
    out[3] = worth_after * after
    out[4] = -worth_before * before
    out[5] = (worth_after - worth_before) * rush
    out[6] = (worth_after - worth_before) * load
    out[7] = (pickup - now) / 10.0
    out[8] = (ready - now) / 10.0
    out[9] = km
    out[10] = taken
    out[11] = taken * before
    out[12] = taken * rush
    out[13] = taken * load
    out[14] = 1.0
    out[15] = taken * left
    out[16] = 1.0 if ready > now else 0.0
    out[17] = trip / 10.0
    out[18] = after - before if end < horizon else 0.0
    out[19] = before
    out[20] = taken * taken
    out[21] = left
    out[22] = rush
    out[23] = load


@inlined
def _score(weights: FloatArray, terms: FloatArray) -> float:
    money, rest = 0.0, 0.0
    for k in range(_FIRST_WITHOUT_MONEY):
        money += weights[k] * terms[k]
    for k in range(_FIRST_WITHOUT_MONEY, NUM_EDGE_TERMS):
        rest += weights[k] * terms[k]
    return money + _UNIT * rest


@inlined
def _any_feasible(w: World, s: Setup, e: int) -> bool:
    for i in range(w.counters[e, NUM_OPEN]):
        for c in range(w.drivers.shape[2]):
            if can_commit(w, s.rules, e, c, w.open_columns[e, i]):
                return True
    return False


@allocating
def zone_matching_epoch(
    w: World, s: Setup, e: int, weights: FloatArray, t: ZoneTables, chosen: FloatArray
) -> int:
    """Commit what is to be taken now in environment ``e``; returns how many.

    Args:
        w: World.
        s: Constants; travel is between zones.
        e: Environment.
        weights: ``(NUM_EDGE_TERMS,)``.
        t: What is known of the zones.
        chosen: ``(E, K, 3)``: car, booking row and score of each commitment.
    """
    n, fleet = 0, w.drivers.shape[2]
    rush = np.log((w.counters[e, NUM_OPEN] + _SMOOTH_RUSH) / (t.rush + _SMOOTH_RUSH))
    terms = np.empty(NUM_EDGE_TERMS)
    cars = _Cars(
        np.empty(fleet, dtype=np.int64),
        np.empty(fleet),
        np.empty(fleet),
        np.empty(fleet),
        np.empty((_AHEAD, t.demand.size)),
    )
    while True:
        count = w.counters[e, NUM_OPEN]
        if not _any_feasible(w, s, e):
            return n
        load = _look_at_cars(w, t, e, cars)
        score = np.zeros((count, fleet))  # requests are the fewer: the rows of the matching
        offered = False
        for i in range(count):
            b = w.open_rows[e, i]
            origin, destination = w.booking_ints[e, b, P_ZONE], w.booking_ints[e, b, D_ZONE]
            about = _PICKUP_MIN + s.travel.minutes[origin, destination]
            after = _balance_at(t, cars, destination, about)
            for c in range(fleet):
                if can_commit(w, s.rules, e, c, w.open_columns[e, i]):
                    _edge_terms(w, s, t, e, i, c, cars, after, rush, load, terms)
                    total = _score(weights, terms)
                    if total > 0.0:
                        score[i, c] = total
                        offered = True
        if not offered:
            return n
        match = assign(score)
        # Commit from the last open position to the first: earlier positions stay valid.
        for i in range(count - 1, -1, -1):
            if match[i] >= 0 and score[i, match[i]] > 0.0:
                n = take(w, s, e, match[i], i, score[i, match[i]], chosen, n)


@allocating
def decide_zone_matching(
    m: Buffer, x: IntArray, e: int, weights: FloatArray, tables: ZoneTables, chosen: FloatArray
) -> int:
    """One epoch of one environment; see `zone_matching_epoch`."""
    w, s, _out = unpack(m, x)
    return zone_matching_epoch(w, s, e, weights, tables, chosen)


@allocating
def play_zone_matching(m: Buffer, x: IntArray, weights: FloatArray, tables: ZoneTables) -> None:
    """Run every environment to the end of its day."""
    w, s, _out = unpack(m, x)
    nowhere = np.empty((w.clock.shape[0], 0, 3))
    for e in range(w.clock.shape[0]):
        while w.counters[e, ENDED] == 0:
            zone_matching_epoch(w, s, e, weights, tables, nowhere)
            w.counters[e, STEPS] += 1
            wait(w, s.travel, s.rules, s.weights, e)
