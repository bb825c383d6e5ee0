"""The compiled baselines: what each commits at one epoch, and whole days of it.

An ``*_epoch`` function commits bookings in environment ``e`` of a `World` and notes each
commitment in ``chosen`` (driver, booking row, score); the same function serves a rollout of many
days and a single decision on a state loaded from the backend.
"""

import numpy as np
import numpy.typing as npt

from services.rl.simulation.commitments import commit
from services.rl.simulation.compiled import allocating, inlined, kernel
from services.rl.simulation.kernels import wait
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.pairs import can_commit
from services.rl.simulation.reward import planned_value
from services.rl.simulation.sampling import random_bits
from services.rl.simulation.setup import Setup
from services.rl.simulation.travel import MATRIX, arrive_min, depart_min
from services.rl.simulation.types import FloatArray, IntArray
from services.rl.simulation.world import (
    COMMITTED,
    CREATED,
    D_ZONE,
    END_ZONE,
    ENDED,
    FARE,
    FREE_AT,
    IMMEDIATE,
    NOW,
    NUM_OPEN,
    P_SERVICE,
    P_ZONE,
    PRIORITY,
    PROMISED,
    STEPS,
    TRIP_KM,
    WINDOW_END,
    WORTH,
    World,
)

RANDOM, NEAREST, CHEAPEST, MATCHING = 0, 1, 2, 3

PAIR_FEATURES = (
    "value",  # planned reward of the assignment
    "travel_min",  # deadhead minutes / 10
    "late_min",  # / 10, after the window's end
    "wait_min",  # / 10, beyond the promise (the request if immediate)
    "idle_min",  # / 10, the driver would stand before a just-in-time departure
    "slack_min",  # / 30, until the latest on-time departure
    "busy_min",  # / 10, until the driver is free
    "priority",  # weight w of the priority
    "immediate",
    "trip_min",  # / 10, with the patient aboard
    "queued",  # the driver already has a job
    "bias",
)
"""What `matching` weighs; the score of deferring is 0."""

_F = len(PAIR_FEATURES)
_NO_SCORE = -1.0e18


@inlined
def _slack(w: World, s: Setup, e: int, d: int, i: int) -> float:
    """Minutes / 30 until driver d must leave to pick up the i-th open booking in its window."""
    b = w.open_rows[e, i]
    leave_by = depart_min(
        s.travel,
        w.bookings[e, b, WINDOW_END],
        w.pair_km[e, d, w.open_columns[e, i]],
        w.driver_ints[e, END_ZONE, d],
        w.booking_ints[e, b, P_ZONE],
    )
    return (leave_by - max(w.clock[e, NOW], w.drivers[e, FREE_AT, d])) / 30.0


@inlined
def pair_features(w: World, s: Setup, e: int, d: int, i: int, out: FloatArray) -> None:
    """Features of driver d taking the i-th open booking now; the pair must be feasible."""
    b, column = w.open_rows[e, i], w.open_columns[e, i]
    now = w.clock[e, NOW]
    km = w.pair_km[e, d, column]
    zone_from, zone_to = w.driver_ints[e, END_ZONE, d], w.booking_ints[e, b, P_ZONE]
    ready = max(now, w.drivers[e, FREE_AT, d])
    promised, window_end = w.bookings[e, b, PROMISED], w.bookings[e, b, WINDOW_END]
    arrive = arrive_min(s.travel, ready, km, zone_from, zone_to)
    pickup = max(arrive, promised)
    late = max(0.0, pickup - window_end)
    immediate = w.booking_ints[e, b, IMMEDIATE]
    since = w.bookings[e, b, CREATED] if immediate == 1 else promised
    leave = pickup + w.bookings[e, b, P_SERVICE]
    trip_km = w.bookings[e, b, TRIP_KM]
    trip = arrive_min(s.travel, leave, trip_km, zone_to, w.booking_ints[e, b, D_ZONE]) - leave
    out[0] = planned_value(s.weights, w.bookings[e, b, WORTH], late, km, trip_km)
    out[1] = (arrive - ready) / 10.0
    out[2] = late / 10.0
    out[3] = max(0.0, pickup - since) / 10.0
    out[4] = max(0.0, promised - arrive) / 10.0
    out[5] = _slack(w, s, e, d, i)
    out[6] = (ready - now) / 10.0
    out[7] = s.weights.priority[w.booking_ints[e, b, PRIORITY] - 1]
    out[8] = immediate
    out[9] = trip / 10.0
    out[10] = 1.0 if w.driver_ints[e, COMMITTED, d] > 0 else 0.0
    out[11] = 1.0


@inlined
def take(
    w: World, s: Setup, e: int, d: int, i: int, score: float, chosen: FloatArray, n: int
) -> int:
    """Commit the i-th open booking to driver d and note it."""
    if n < chosen.shape[1]:
        chosen[e, n, 0] = d
        chosen[e, n, 1] = w.open_rows[e, i]
        chosen[e, n, 2] = score
    w.counters[e, STEPS] += 1
    commit(w, s.travel, s.rules, s.weights, e, d, i)
    return n + 1


# --- random ------------------------------------------------------------------------------------


@kernel
def random_epoch(
    w: World, s: Setup, e: int, random: npt.NDArray[np.uint64], chosen: FloatArray
) -> int:
    """Valid actions drawn uniformly, WAIT among them, until WAIT is drawn."""
    n = 0
    drivers = w.drivers.shape[2]
    while True:
        valid = 1
        for d in range(drivers):
            for i in range(w.counters[e, NUM_OPEN]):
                if can_commit(w, s.rules, e, d, w.open_columns[e, i]):
                    valid += 1
        pick = np.int64((random_bits(random, e) >> np.uint64(11)) % np.uint64(valid))
        if pick == 0:
            return n
        found = False
        for d in range(drivers):
            for i in range(w.counters[e, NUM_OPEN]):
                if not found and can_commit(w, s.rules, e, d, w.open_columns[e, i]):
                    pick -= 1
                    if pick == 0:
                        n = take(w, s, e, d, i, 0.0, chosen, n)
                        found = True
                        break
            if found:
                break


# --- nearest: first come, nearest car ----------------------------------------------------------


@inlined
def _due(w: World, e: int, b: int, lead: float) -> bool:
    """Whether a booking is up for dispatch: its promise is at most ``lead`` minutes away."""
    return w.bookings[e, b, PROMISED] <= w.clock[e, NOW] + lead


@inlined
def _worthwhile(w: World, e: int, b: int, value: float) -> bool:
    """Under profit rules a ride that loses money is not worth taking; a patient always is."""
    return np.isnan(w.bookings[e, b, FARE]) or value > 0.0


@kernel
def nearest_epoch(
    w: World, s: Setup, e: int, lead: float, features: FloatArray, chosen: FloatArray
) -> int:
    """Due bookings in order of creation; each to the driver who picks up first, then nearest."""
    n = 0
    while True:
        first, earliest = -1, np.inf
        for i in range(w.counters[e, NUM_OPEN]):
            b = w.open_rows[e, i]
            created = w.bookings[e, b, CREATED]
            # Ties go to the more urgent: the order in which every state lists its bookings.
            if (
                created < earliest
                and _due(w, e, b, lead)
                and _best_driver(w, s, e, i, features) >= 0
            ):
                first, earliest = i, created
        if first < 0:
            return n
        d = _best_driver(w, s, e, first, features)
        n = take(w, s, e, d, first, 0.0, chosen, n)


@kernel
def _best_driver(w: World, s: Setup, e: int, i: int, features: FloatArray) -> int:
    best, best_pickup, best_km = -1, np.inf, np.inf
    b = w.open_rows[e, i]
    for d in range(w.drivers.shape[2]):
        if not can_commit(w, s.rules, e, d, w.open_columns[e, i]):
            continue
        pair_features(w, s, e, d, i, features)
        if not _worthwhile(w, e, b, features[0]):
            continue
        pickup = features[3]  # the same booking: waits order as pickups do
        km = w.pair_km[e, d, w.open_columns[e, i]]
        if pickup < best_pickup or (pickup == best_pickup and km < best_km):
            best, best_pickup, best_km = d, pickup, km
    return best


# --- cheapest: the best pair first -------------------------------------------------------------


@kernel
def cheapest_epoch(
    w: World, s: Setup, e: int, lead: float, features: FloatArray, chosen: FloatArray
) -> int:
    """Repeatedly commit, among due bookings, the pair of the highest planned reward."""
    n = 0
    while True:
        best, best_d, best_i = _NO_SCORE, -1, -1
        for i in range(w.counters[e, NUM_OPEN]):
            b = w.open_rows[e, i]
            if not _due(w, e, b, lead):
                continue
            for d in range(w.drivers.shape[2]):
                if can_commit(w, s.rules, e, d, w.open_columns[e, i]):
                    pair_features(w, s, e, d, i, features)
                    if features[0] > best and _worthwhile(w, e, b, features[0]):
                        best, best_d, best_i = features[0], d, i
        if best_i < 0:
            return n
        n = take(w, s, e, best_d, best_i, best, chosen, n)


# --- matching: per-epoch assignment on weighted features ---------------------------------------


@allocating
def matching_epoch(
    w: World,
    s: Setup,
    e: int,
    weights: FloatArray,
    hold_back: float,
    features: FloatArray,
    chosen: FloatArray,
) -> int:
    """Rounds of optimal one-to-one matching of drivers and open bookings.

    A booking is offered to a driver once its slack (minutes until the latest on-time departure)
    is at most ``hold_back``; the pair scores ``weights · features``, deferring scores 0. A round
    maximises the total score; rounds follow while drivers have places in their queue.
    """
    n = 0
    drivers, count = w.drivers.shape[2], w.counters[e, NUM_OPEN]
    score = np.zeros((drivers, count))
    place = np.arange(count)  # of each booking among those still open; -1: taken
    stale = np.ones(drivers, dtype=np.bool_)
    while True:
        offered = False
        for d in range(drivers):
            if stale[d]:  # a commitment changes the scores of its own driver only
                stale[d] = False
                _score_driver(w, s, e, d, place, weights, hold_back, features, score[d])
            for j in range(count):
                offered |= score[d, j] > 0.0
        if not offered:
            return n
        match = assign(score)
        # Commit from the last open position to the first: earlier positions stay valid.
        for j in range(count - 1, -1, -1):
            for d in range(drivers):
                if match[d] == j and score[d, j] > 0.0:
                    n = take(w, s, e, d, place[j], score[d, j], chosen, n)
                    stale[d] = True
                    place[j] = -1
                    place[j + 1 :] -= 1
                    score[:, j] = 0.0


@inlined
def _waits(w: World, s: Setup, e: int, d: int, i: int, hold_back: float) -> bool:
    """Whether a bound on the pace already says that there is more slack than ``hold_back``."""
    if s.travel.kind == MATRIX:
        return False
    b = w.open_rows[e, i]
    driving = w.pair_km[e, d, w.open_columns[e, i]] * s.rules.slowest_min_per_km
    ready = max(w.clock[e, NOW], w.drivers[e, FREE_AT, d])
    return w.bookings[e, b, WINDOW_END] - driving - ready > hold_back + 1.0  # rounding is less


@inlined
def _score_driver(
    w: World,
    s: Setup,
    e: int,
    d: int,
    place: IntArray,
    weights: FloatArray,
    hold_back: float,
    features: FloatArray,
    score: FloatArray,
) -> None:
    """Write a driver's score for each booking; 0 where it is not offered to this driver."""
    for j in range(place.size):
        score[j] = 0.0
        i = place[j]
        if i < 0 or not can_commit(w, s.rules, e, d, w.open_columns[e, i]):
            continue
        if _waits(w, s, e, d, i, hold_back) or _slack(w, s, e, d, i) * 30.0 > hold_back:
            continue
        pair_features(w, s, e, d, i, features)
        total = 0.0
        for k in range(_F):
            total += weights[k] * features[k]
        if total > 0.0:
            score[j] = total


@allocating
def assign(score: FloatArray) -> IntArray:
    """Maximum-weight matching of rows to columns, rows may stay free (score 0).

    Shortest augmenting paths with potentials (Jonker, Volgenant 1987; Crouse 2016), rows being
    the fewer side in dispatch. Returns for each row its column, or -1. Columns without a
    positive score are left out first: most open bookings are held back.
    """
    rows, all_columns = score.shape
    positive = np.zeros(all_columns, dtype=np.bool_)
    for i in range(rows):
        for j in range(all_columns):
            positive[j] |= score[i, j] > 0.0
    used = np.flatnonzero(positive)
    m = used.size
    columns = m + rows  # one empty column per row: stay free
    u = np.zeros(rows)
    v = np.zeros(columns)
    row_of = np.full(columns, -1, dtype=np.int64)
    column_of = np.full(rows, -1, dtype=np.int64)
    shortest = np.empty(columns)
    came_from = np.empty(columns, dtype=np.int64)
    done = np.empty(columns, dtype=np.bool_)
    reached = np.empty(rows, dtype=np.bool_)
    for start in range(rows):
        shortest[:] = np.inf
        came_from[:] = -1
        done[:] = False
        reached[:] = False
        i, lowest, sink = start, 0.0, -1
        while sink < 0:
            reached[i] = True
            nearest, at = np.inf, -1
            for j in range(columns):
                if done[j]:
                    continue
                cost = -score[i, used[j]] if j < m else (0.0 if j - m == i else 1.0e15)
                distance = lowest + cost - u[i] - v[j]
                if distance < shortest[j]:
                    shortest[j] = distance
                    came_from[j] = i
                if shortest[j] < nearest or (shortest[j] == nearest and row_of[j] < 0):
                    nearest, at = shortest[j], j
            lowest = nearest
            done[at] = True
            if row_of[at] < 0:
                sink = at
            else:
                i = row_of[at]
        u[start] += lowest
        for k in range(rows):
            if reached[k] and k != start:
                u[k] += lowest - shortest[column_of[k]]
        for j in range(columns):
            if done[j]:
                v[j] -= lowest - shortest[j]
        j = sink
        while True:
            i = came_from[j]
            row_of[j] = i
            following = column_of[i]
            column_of[i] = j
            if i == start:
                break
            j = following
    for i in range(rows):
        column_of[i] = used[column_of[i]] if column_of[i] < m else -1
    return column_of


# --- epochs and days, for Python ---------------------------------------------------------------


@allocating
def decide_epoch(
    m: Buffer,
    x: IntArray,
    policy: int,
    e: int,
    weights: FloatArray,
    hold_back: float,
    random: npt.NDArray[np.uint64],
    chosen: FloatArray,
) -> int:
    """Commit what a policy commits now in environment ``e``; returns how many."""
    w, s, _out = unpack(m, x)
    features = np.empty(_F)
    if policy == RANDOM:
        return random_epoch(w, s, e, random, chosen)
    if policy == NEAREST:
        return nearest_epoch(w, s, e, hold_back, features, chosen)
    if policy == CHEAPEST:
        return cheapest_epoch(w, s, e, hold_back, features, chosen)
    return matching_epoch(w, s, e, weights, hold_back, features, chosen)


@allocating
def play_days(
    m: Buffer,
    x: IntArray,
    policy: int,
    weights: FloatArray,
    hold_back: float,
    random: npt.NDArray[np.uint64],
) -> None:
    """Run every environment to the end of its day under a policy."""
    w, s, _out = unpack(m, x)
    features = np.empty(_F)
    nowhere = np.empty((w.clock.shape[0], 0, 3))
    for e in range(w.clock.shape[0]):
        while w.counters[e, ENDED] == 0:
            if policy == RANDOM:
                random_epoch(w, s, e, random, nowhere)
            elif policy == NEAREST:
                nearest_epoch(w, s, e, hold_back, features, nowhere)
            elif policy == CHEAPEST:
                cheapest_epoch(w, s, e, hold_back, features, nowhere)
            else:
                matching_epoch(w, s, e, weights, hold_back, features, nowhere)
            w.counters[e, STEPS] += 1
            wait(w, s.travel, s.rules, s.weights, e)
