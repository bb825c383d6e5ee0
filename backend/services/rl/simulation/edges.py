"""Edges: features of every valid (driver, booking) pair, computed from an observation's rows.

Rows are what the replay buffer stores and what production logs; pair features are computed from
them, here and nowhere else, when acting, when learning and when serving, so that a learner never
sees other numbers than the policy does. Besides what concerns the pair alone, edges carry what a
matcher on single pairs cannot know: how much better another driver would be, what else the driver
could do, and which bookings start near where this one ends.

Everything is in the order of one and clipped to ±10 (the regret to ±3).
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import allocating, inlined, kernel
from .memory import Buffer, unpack
from .observation import CLIP, CONTEXT, ROW_BOOKING, ROW_DRIVER
from .reward import planned_value
from .setup import Setup
from .travel import MATRIX, arrive_min, depart_min
from .types import FloatArray, IntArray

EDGES_VERSION: Final = 1
EDGE = (
    "value",  # / 10, planned reward of the assignment
    "travel_min",  # / 10, deadhead
    "late_min",  # / 10, after the window's end
    "wait_min",  # / 10, beyond the promise (the request if immediate)
    "idle_min",  # / 10, the driver would stand before a just-in-time departure
    "slack_min",  # / 30, until the latest on-time departure
    "busy_min",  # / 10, until the driver is free
    "pickup_in_min",  # / 30, until the pickup if assigned now
    "trip_min",  # / 10, with the patient aboard
    "priority",  # weight of the priority
    "immediate",
    "queued",  # the driver already has a job
    "regret_min",  # / 10, by how much the next best driver would pick up later (negative: earlier)
    "detour_min",  # / 10, deadhead beyond that of the nearest driver who may take it
    "missed_min",  # / 10, deadhead beyond that of the nearest booking the driver may take
    "drivers",  # log(1 + n), who may take the booking
    "bookings",  # log(1 + n), that the driver may take
    "follow_up_min",  # / 30, cost of going on to the best next booking from the dropoff
    "demand",  # bookings near the dropoff at the time it ends, weighted by nearness
    "shift_left",  # hours / 2 from the end of the job to the end of the shift
    "end_east",  # of the dropoff, km from the base / 10
    "end_north",
    "end_from_base",  # km / 10
    "wheelchair_spare",  # a wheelchair van for a patient who needs none
    "emergency",  # the emergency driver
    "load",  # open bookings per driver, log(1 + x)
    "day_left",  # hours to the horizon / 4
    "bias",
)
NUM_EDGE: Final = len(EDGE)
SLACK: Final = EDGE.index("slack_min")
SLACK_UNIT_MIN: Final = 30.0
FOLLOW_UP, DEMAND = EDGE.index("follow_up_min"), EDGE.index("demand")
FOLLOW_UP_RANGE: Final = (2.0, CLIP)
"""`FOLLOW_UP` and `DEMAND` lie between 0 and these."""

_C, _RD, _RB = len(CONTEXT), len(ROW_DRIVER), len(ROW_BOOKING)
# Rows of the work table: numbers of each booking, in minutes and km.
_PROMISED, _WINDOW_END, _P_EAST, _P_NORTH, _D_EAST, _D_NORTH, _P_ZONE, _D_ZONE = range(8)
_BEST, _SECOND, _BEST_TRAVEL, _COUNT = 8, 9, 10, 11
_LAST_SO_FAR, _FIRST_FROM_HERE = 12, 13  # latest window end up to a booking, earliest promise on
_DONE_AT, _FOLLOW_UP, _DEMAND = 14, 15, 16  # what came out for the driver before
_BOOKING_WORK = 17
WORK_ROWS: Final = _BOOKING_WORK + 1
"""Rows of scratch that `pair_edges` needs beside one per booking."""
_FOLLOW_UP_MOST_MIN: Final = 60.0
_FOLLOW_UP_WAIT: Final = 0.5  # a minute's standing costs half a minute's driving
_ROUNDING_MIN: Final = 1.0  # what may be left out is left out this far beyond the exact limit
# A promise this far after the dropoff costs the most, wherever it is.
_FOLLOW_UP_AHEAD_MIN: Final = _FOLLOW_UP_MOST_MIN / _FOLLOW_UP_WAIT + _ROUNDING_MIN
_NEAR_MIN: Final = 30.0

Rows = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@inlined
def _clip(x: float) -> np.float32:
    return np.float32(min(CLIP, max(-CLIP, x)))


@inlined
def _km(s: Setup, east: float, north: float, zone_from: int, zone_to: int) -> float:
    if s.travel.kind == MATRIX:
        return s.travel.km[zone_from, zone_to]
    return s.travel.circuity * np.sqrt(east * east + north * north)


@kernel
def pair_edges(
    s: Setup,
    rows: Rows,
    mask: Any,
    drivers: int,
    bookings: int,
    hold_back: float,
    keep: int,
    work: FloatArray,
    edges: Rows,
    pair_driver: IntArray,
    pair_booking: IntArray,
    first: int,
) -> int:
    """Write one state's edges from row ``first`` on, in the order of actions; returns the end.

    Pairs with more slack than ``hold_back`` get none: what may wait loses nothing by waiting, and
    a commitment cannot be undone. They count as alternatives for the others.

    Args:
        s: The scenario's constants.
        rows: ``(size,)`` of the ``rows`` layout.
        mask: ``(drivers * bookings + 1,)``; WAIT first.
        drivers: N.
        bookings: M.
        hold_back: Minutes.
        keep: An action that gets its edge even so; -1: none.
        work: Scratch, at least ``(WORK_ROWS + bookings, bookings)``.
        edges: ``(P, NUM_EDGE)`` to write to.
        pair_driver: ``(P,)`` to write to.
        pair_booking: ``(P,)`` to write to.
        first: Where to begin.
    """
    end = present_edges(
        s, rows, mask, drivers, bookings, hold_back, keep, work, edges, pair_driver, pair_booking,
        first,
    )  # fmt: skip
    add_follow_ups(s, rows, drivers, bookings, work, edges, pair_booking, first, end)
    return end


@kernel
def present_edges(
    s: Setup,
    rows: Rows,
    mask: Any,
    drivers: int,
    bookings: int,
    hold_back: float,
    keep: int,
    work: FloatArray,
    edges: Rows,
    pair_driver: IntArray,
    pair_booking: IntArray,
    first: int,
) -> int:
    """`pair_edges` without what follows the job, which takes the most time.

    Until `add_follow_ups` has been there, `FOLLOW_UP` holds the minutes until the job is done.
    """
    now = rows[0] * s.rules.horizon
    first_booking = _C + drivers * _RD
    open_now = 0
    for b in range(bookings):
        k = first_booking + b * _RB
        if rows[k] == 0.0:
            break  # open bookings come first
        open_now += 1
        work[_PROMISED, b] = now + rows[k + 1] * 60.0
        work[_WINDOW_END, b] = now + rows[k + 2] * 60.0
        work[_P_EAST, b], work[_P_NORTH, b] = rows[k + 8] * 10.0, rows[k + 9] * 10.0
        work[_D_EAST, b], work[_D_NORTH, b] = rows[k + 10] * 10.0, rows[k + 11] * 10.0
        work[_P_ZONE, b] = np.floor(rows[k + 16] * 100.0 + 0.5)
        work[_D_ZONE, b] = np.floor(rows[k + 17] * 100.0 + 0.5)
        work[_BEST, b] = work[_SECOND, b] = np.inf
        work[_BEST_TRAVEL, b] = np.inf
        work[_COUNT, b] = 0.0
    end = first
    for d in range(drivers):
        for b in range(open_now):
            if mask[1 + d * bookings + b]:
                most = np.inf if 1 + d * bookings + b == keep else hold_back
                if _own_features(s, rows, now, d, b, drivers, most, work, edges[end]):
                    pair_driver[end], pair_booking[end] = d, b
                    end += 1
    on_duty = 0
    for d in range(drivers):
        on_duty += rows[_C + d * _RD + 11] > 0.0
    load = np.log1p(open_now / max(1, on_duty))
    day_left = (s.rules.horizon - now) / 240.0
    p = first
    while p < end:
        d, behind, nearest = pair_driver[p], p, np.inf
        while behind < end and pair_driver[behind] == d:
            nearest = min(nearest, edges[behind, 1])
            behind += 1
        choice = np.float32(np.log1p(behind - p))
        for q in range(p, behind):
            b = pair_booking[q]
            out = edges[q]
            pickup = now + out[7] * 30.0
            better = work[_SECOND, b] if pickup <= work[_BEST, b] else work[_BEST, b]
            out[12] = np.float32(min(3.0, max(-3.0, (better - pickup) / 10.0)))
            out[7] = _clip(out[7])
            out[13] = _clip(out[1] - work[_BEST_TRAVEL, b])
            out[14] = _clip(out[1] - nearest)
            out[15] = np.float32(np.log1p(work[_COUNT, b]))
            out[16] = choice
            out[FOLLOW_UP], out[DEMAND] = out[19], np.float32(0.0)
            out[19] = _clip((rows[_C + d * _RD + 3] * 240.0 - out[19]) / 120.0)
            out[25] = np.float32(load)
            out[26] = _clip(day_left)
        p = behind
    return end


@kernel
def add_follow_ups(
    s: Setup,
    rows: Rows,
    drivers: int,
    bookings: int,
    work: FloatArray,
    edges: Rows,
    pair_booking: IntArray,
    first: int,
    end: int,
) -> None:
    """Complete rows ``first:end`` of `present_edges`, or those of them that were left."""
    if end == first:
        return
    now = rows[0] * s.rules.horizon
    open_now = 0
    while open_now < bookings and rows[_C + drivers * _RD + open_now * _RB] != 0.0:
        open_now += 1
    # Minutes from each dropoff to each pickup, at the day's mean speed.
    onward = work[_BOOKING_WORK:]
    done = work[_BOOKING_WORK + bookings]
    last = -np.inf
    for b in range(open_now):
        done[b] = 0.0
        work[_DONE_AT, b] = np.inf
        last = max(last, work[_WINDOW_END, b])
        work[_LAST_SO_FAR, b] = last
    soonest = np.inf
    for b in range(open_now - 1, -1, -1):
        soonest = min(soonest, work[_PROMISED, b])
        work[_FIRST_FROM_HERE, b] = soonest
    for q in range(first, end):
        b = pair_booking[q]
        if done[b] == 0.0:
            done[b] = 1.0
            _onward_minutes(s, work, b, open_now, onward[b])
        _follow_up(s, work, onward, open_now, b, now + edges[q, FOLLOW_UP], edges[q])


class Ceiling(NamedTuple):
    """A score that no edge exceeds: convex and piecewise linear in its features.

    ``driver[d] + booking[b] + sum over k of max(rising[k] * x, falling[k] * x)`` with ``x`` the
    k-th feature less its ``centre``; what follows the job does not enter, its most is in
    ``driver``.
    """

    rising: FloatArray  # (NUM_EDGE,)
    falling: FloatArray  # (NUM_EDGE,)
    centre: FloatArray  # (NUM_EDGE,)
    driver: FloatArray  # (N,)
    booking: FloatArray  # (M,)


@kernel
def drop_hopeless(
    ceiling: Ceiling,
    edges: Rows,
    pair_driver: IntArray,
    pair_booking: IntArray,
    first: int,
    end: int,
) -> int:
    """Close up the rows ``first:end`` that may score above 0; returns their end."""
    left = first
    for p in range(first, end):
        d, b = pair_driver[p], pair_booking[p]
        most = ceiling.driver[d] + ceiling.booking[b]
        for k in range(NUM_EDGE):
            x = edges[p, k] - ceiling.centre[k]
            most += max(ceiling.rising[k] * x, ceiling.falling[k] * x)
        if most <= 0.0:
            continue
        if left < p:
            for k in range(NUM_EDGE):
                edges[left, k] = edges[p, k]
            pair_driver[left], pair_booking[left] = d, b
        left += 1
    return left


@inlined
def _onward_minutes(s: Setup, work: FloatArray, b: int, open_now: int, out: FloatArray) -> None:
    """Fill ``out`` with the minutes from booking b's dropoff to every pickup."""
    if s.travel.kind == MATRIX:
        zone_from = int(work[_D_ZONE, b])
        for c in range(open_now):
            out[c] = s.travel.minutes[zone_from, int(work[_P_ZONE, c])]
        return
    from_east, from_north = work[_D_EAST, b], work[_D_NORTH, b]
    to_east, to_north = work[_P_EAST], work[_P_NORTH]
    circuity, speed = s.travel.circuity, s.travel.mean_speed
    for c in range(open_now):
        east, north = to_east[c] - from_east, to_north[c] - from_north
        out[c] = circuity * np.sqrt(east * east + north * north) / speed


@inlined
def _own_features(
    s: Setup,
    rows: Rows,
    now: float,
    d: int,
    b: int,
    drivers: int,
    hold_back: float,
    work: FloatArray,
    out: Rows,
) -> bool:
    """Write what concerns the pair alone; feature 19 holds the minutes until the job is done.

    False, and the row is left unfinished, where the pair has more slack than ``hold_back``.
    """
    k, j = _C + d * _RD, _C + drivers * _RD + b * _RB
    ready = now + rows[k] * 60.0
    zone_from, zone_to = int(rows[k + 12] * 100.0 + 0.5), int(work[_P_ZONE, b])
    km = _km(
        s,
        work[_P_EAST, b] - rows[k + 5] * 10.0,
        work[_P_NORTH, b] - rows[k + 6] * 10.0,
        zone_from,
        zone_to,
    )
    promised, window_end = work[_PROMISED, b], work[_WINDOW_END, b]
    arrive = arrive_min(s.travel, ready, km, zone_from, zone_to)
    pickup = max(arrive, promised)
    travel = arrive - ready
    out[1] = _clip(travel / 10.0)
    out[7] = np.float32((pickup - now) / 30.0)
    work[_COUNT, b] += 1.0
    work[_BEST_TRAVEL, b] = min(work[_BEST_TRAVEL, b], np.float64(out[1]))
    shown = np.float64(now + out[7] * 30.0)
    if shown < work[_BEST, b]:
        work[_SECOND, b] = work[_BEST, b]
        work[_BEST, b] = shown
    else:
        work[_SECOND, b] = min(work[_SECOND, b], shown)
    # Most pairs wait: a bound on the pace spares the exact departure.
    if s.travel.kind != MATRIX and (
        window_end - km * s.rules.slowest_min_per_km - ready > hold_back + _ROUNDING_MIN
    ):
        return False
    slack = depart_min(s.travel, window_end, km, zone_from, zone_to) - ready
    if slack > hold_back:
        return False
    late = max(0.0, pickup - window_end)
    since = now - rows[j + 3] * 60.0 if rows[j + 6] > 0.5 else promised
    leave = pickup + rows[j + 14] * 10.0
    trip_km = rows[j + 12] * 10.0
    trip = arrive_min(s.travel, leave, trip_km, zone_to, int(work[_D_ZONE, b])) - leave
    out[0] = _clip(planned_value(s.weights, rows[j + 13] * 10.0, late, km, trip_km) / 10.0)
    out[2] = _clip(late / 10.0)
    out[3] = _clip(max(0.0, pickup - since) / 10.0)
    out[4] = _clip(max(0.0, promised - arrive) / 10.0)
    out[5] = _clip(slack / SLACK_UNIT_MIN)
    out[6] = _clip((ready - now) / 10.0)
    out[8] = _clip(trip / 10.0)
    out[9] = np.float32(s.weights.priority[int(rows[j + 4] * 5.0 + 0.5) - 1])
    out[10] = rows[j + 6]
    out[11] = np.float32(1.0 if rows[k + 1] > 0.0 else 0.0)
    out[19] = np.float32(leave + trip + rows[j + 15] * 10.0 - now)
    out[20], out[21] = rows[j + 10], rows[j + 11]
    out[22] = _clip(np.sqrt(rows[j + 10] * rows[j + 10] + rows[j + 11] * rows[j + 11]))
    out[23] = np.float32(1.0 if rows[k + 7] > rows[j + 5] else 0.0)
    out[24] = rows[k + 8]
    out[27] = np.float32(1.0)
    return True


@inlined
def _first_at_least(ascending: FloatArray, size: int, least: float) -> int:
    """First place in an array that never descends whose value is at least so much."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _follow_up(
    s: Setup, work: FloatArray, onward: FloatArray, open_now: int, b: int, done: float, out: Rows
) -> None:
    """Write what the driver could do after booking b: the cheapest next one, and how many."""
    # Whoever waits at the pickup for the promised time is done at the same minute.
    if done == work[_DONE_AT, b]:
        out[17], out[18] = np.float32(work[_FOLLOW_UP, b]), np.float32(work[_DEMAND, b])
        return
    cheapest, near = _FOLLOW_UP_MOST_MIN, 0.0
    minutes, promised, window_end = onward[b], work[_PROMISED], work[_WINDOW_END]
    # Bookings lie roughly in order of time: those before and behind cannot follow at any place.
    expired = done - s.rules.grace - _ROUNDING_MIN
    first = _first_at_least(work[_LAST_SO_FAR], open_now, expired)
    behind = _first_at_least(work[_FIRST_FROM_HERE], open_now, done + _FOLLOW_UP_AHEAD_MIN)
    for c in range(first, behind):
        if c == b:
            continue
        arrive = done + minutes[c]
        if arrive > window_end[c] + s.rules.grace:
            continue
        wait = max(0.0, promised[c] - arrive)
        cost = minutes[c] + _FOLLOW_UP_WAIT * wait
        cheapest = min(cheapest, cost)
        near += max(0.0, 1.0 - cost / _NEAR_MIN)
    out[17] = np.float32(cheapest / 30.0)
    out[18] = _clip(near)
    work[_DONE_AT, b], work[_FOLLOW_UP, b], work[_DEMAND, b] = done, out[17], out[18]


@allocating
def edges_of_rows(
    m: Buffer,
    x: IntArray,
    rows: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    drivers: int,
    bookings: int,
    hold_back: float,
    keep: IntArray,
    ends: IntArray,
    edges: npt.NDArray[np.float32],
    pair_driver: IntArray,
    pair_booking: IntArray,
) -> None:
    """Edges of a batch: state i's pairs lie in rows ``ends[i - 1]:ends[i]``.

    Args:
        m: Memory of an engine of the scenario (its constants are used, its world is not).
        x: The memory's index.
        rows: ``(B, size)``.
        mask: ``(B, N * M + 1)``.
        drivers: N.
        bookings: M.
        hold_back: Minutes; pairs with more slack are left out.
        keep: ``(B,)``, an action each that is never left out; -1: none.
        ends: ``(B,)``, written.
        edges: ``(P, NUM_EDGE)``, written; P is at least the number of valid pairs, plus one.
        pair_driver: ``(P,)``, written.
        pair_booking: ``(P,)``, written.
    """
    _w, s, _out = unpack(m, x)
    work = np.empty((WORK_ROWS + bookings, bookings))
    end = 0
    for i in range(rows.shape[0]):
        end = pair_edges(
            s,
            rows[i],
            mask[i],
            drivers,
            bookings,
            hold_back,
            keep[i],
            work,
            edges,
            pair_driver,
            pair_booking,
            end,
        )
        ends[i] = end
