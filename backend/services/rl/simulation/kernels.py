"""The rules of the world, compiled: waiting, the day's end and beginning, an action.

The rules are implemented once, in this module and those it stands on: `ledger`, `pairs`,
`commitments`, `driving`, `disturbances`. Every function acts on environment ``e`` of a `World`;
nothing here allocates per step.
"""

import numpy as np

from .commitments import commit, set_next_event
from .compiled import inlined, kernel
from .disturbances import disturb
from .driving import run_driver
from .ledger import (
    CALLED_OFF,
    IS_DOWN,
    NOT_YET_DOWN,
    OPEN,
    UNKNOWN,
    book_term,
    log_event,
    lose_booking,
)
from .pairs import can_commit, close_booking, open_booking
from .reward import completion_worth, unserved_loss
from .travel import MATRIX, TravelTables, depart_min, great_circle_km, unit_vector
from .world import (
    AT_FREE,
    AT_LAT,
    AT_LON,
    AT_ZONE,
    BACK_AT,
    BALANCE,
    BUSY_MIN,
    CALLED_OFF_AT,
    COMMITTED,
    CREATED,
    D_LAT,
    D_LON,
    D_X,
    D_Y,
    D_Z,
    D_ZONE,
    DEADHEAD_KM,
    DOWN,
    DRIVER,
    END_LAT,
    END_LON,
    END_X,
    END_Y,
    END_Z,
    END_ZONE,
    ENDED,
    EV_CALLED_OFF,
    FARE,
    FREE_AT,
    IDLE,
    INVALID,
    INVALID_ACTION,
    LOADED_KM,
    LOSS,
    NEXT_EVENT,
    NEXT_EXPIRY,
    NOBODY,
    NOW,
    NUM_BOOKINGS,
    NUM_EVENTS,
    NUM_OPEN,
    P_LAT,
    P_LON,
    P_X,
    P_Y,
    P_Z,
    P_ZONE,
    PRIORITY,
    RELEASED,
    REVEALED,
    SERVED,
    SHIFT_END,
    SHIFT_START,
    STAGE,
    STATUS,
    STEPS,
    TERMS,
    TO_DEPART,
    TRIP_KM,
    URGENCY,
    WINDOW_END,
    WORK_MIN,
    WORTH,
    RulesTable,
    Weights,
    World,
)

_END_OF_TIME = 1.0e9
_ROUNDING = 1.0e-6


@kernel
def _expire(w: World, rules: RulesTable, wt: Weights, e: int, before: float, now: float) -> None:
    """Drop the open bookings whose grace ran out (or all of them, where each epoch decides).

    ``before`` is the previous epoch: what was hopeless when it was opened is lost after that.
    """
    earliest = np.inf
    i = 0
    while i < w.counters[e, NUM_OPEN]:
        b = w.open_rows[e, i]
        expiry = w.bookings[e, b, WINDOW_END] + rules.grace
        if rules.decide_once or now > expiry:
            close_booking(w, e, i)
            lose_booking(w, wt, e, b, now if rules.decide_once else max(expiry, before))
        else:
            i += 1
            earliest = min(earliest, expiry)
    w.clock[e, NEXT_EXPIRY] = earliest


@inlined
def reveal(w: World, tt: TravelTables, rules: RulesTable, e: int) -> None:
    """Open the bookings created up to now."""
    now = w.clock[e, NOW]
    b = w.counters[e, REVEALED]
    while b < w.counters[e, NUM_BOOKINGS] and w.bookings[e, b, CREATED] <= now:
        if w.bookings[e, b, CALLED_OFF_AT] <= now:
            w.booking_ints[e, b, STATUS] = CALLED_OFF
            log_event(w, e, w.bookings[e, b, CALLED_OFF_AT], EV_CALLED_OFF, NOBODY, b, 0.0)
        else:
            open_booking(w, tt, rules, e, b)
        b += 1
    w.counters[e, REVEALED] = b


@kernel
def wait(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """WAIT: time moves to the next decision epoch; at the horizon the day is finished."""
    if w.counters[e, ENDED] == 1:
        return
    before = w.clock[e, NOW]
    now = before + rules.epoch
    if now > rules.horizon - _ROUNDING:  # sums of epochs such as 0.1 miss it by a hair
        now = rules.horizon
    if rules.disturbed:
        disturb(w, tt, rules, wt, e, now)
    for d in range(w.drivers.shape[2]):
        if w.drivers[e, NEXT_EVENT, d] <= now:
            run_driver(w, tt, rules, wt, e, d, now)
            set_next_event(w, e, d)
    if wt.idle != 0.0:
        for d in range(w.drivers.shape[2]):
            idle = now - max(before, w.drivers[e, FREE_AT, d])
            if idle > 0.0 and w.drivers[e, SHIFT_END, d] >= now:
                book_term(w, e, IDLE, -wt.idle * idle)
                w.credit[e] -= wt.idle * idle
    w.clock[e, NOW] = now
    if w.counters[e, NUM_OPEN] > 0 and (rules.decide_once or now > w.clock[e, NEXT_EXPIRY]):
        _expire(w, rules, wt, e, before, now)
    if now >= rules.horizon:
        _finish(w, tt, rules, wt, e)
    else:
        reveal(w, tt, rules, e)


@kernel
def _finish(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """The day is over: open bookings are lost, committed jobs run to completion."""
    now = w.clock[e, NOW]
    if rules.disturbed:
        disturb(w, tt, rules, wt, e, _END_OF_TIME)
    for d in range(w.drivers.shape[2]):
        run_driver(w, tt, rules, wt, e, d, _END_OF_TIME)
    for b in range(w.counters[e, NUM_BOOKINGS]):
        status = w.booking_ints[e, b, STATUS]
        if status == UNKNOWN and w.bookings[e, b, CALLED_OFF_AT] < _END_OF_TIME:
            w.booking_ints[e, b, STATUS] = CALLED_OFF
            log_event(w, e, w.bookings[e, b, CALLED_OFF_AT], EV_CALLED_OFF, NOBODY, b, 0.0)
        elif status in (OPEN, UNKNOWN):
            lose_booking(w, wt, e, b, now)
    w.counters[e, NUM_OPEN] = 0
    w.counters[e, ENDED] = 1
    if wt.balance != 0.0:
        unevenness = wt.balance * workload_gini(w, e)
        book_term(w, e, BALANCE, -unevenness)
        w.credit[e] -= unevenness


@kernel
def workload_gini(w: World, e: int) -> float:
    """Gini coefficient of the drivers' busy minutes (0: equal shares)."""
    total = 0.0
    spread = 0.0
    on_duty = 0
    for i in range(w.drivers.shape[2]):
        if w.drivers[e, SHIFT_END, i] <= w.drivers[e, SHIFT_START, i]:
            continue  # fills up a smaller fleet
        on_duty += 1
        total += w.drivers[e, BUSY_MIN, i]
        for j in range(w.drivers.shape[2]):
            if w.drivers[e, SHIFT_END, j] > w.drivers[e, SHIFT_START, j]:
                spread += abs(w.drivers[e, BUSY_MIN, i] - w.drivers[e, BUSY_MIN, j])
    return spread / (2.0 * on_duty * total) if total > 0.0 else 0.0


@kernel
def _derive_booking(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, b: int
) -> None:
    """Compute what follows from a booking's inputs; nobody knows of it yet."""
    px, py, pz = unit_vector(w.bookings[e, b, P_LAT], w.bookings[e, b, P_LON])
    dx, dy, dz = unit_vector(w.bookings[e, b, D_LAT], w.bookings[e, b, D_LON])
    w.bookings[e, b, P_X], w.bookings[e, b, P_Y], w.bookings[e, b, P_Z] = px, py, pz
    w.bookings[e, b, D_X], w.bookings[e, b, D_Y], w.bookings[e, b, D_Z] = dx, dy, dz
    zone = w.booking_ints[e, b, P_ZONE]
    if tt.kind == MATRIX:
        w.bookings[e, b, TRIP_KM] = tt.km[zone, w.booking_ints[e, b, D_ZONE]]
        w.bookings[e, b, URGENCY] = w.bookings[e, b, WINDOW_END]
    else:
        w.bookings[e, b, TRIP_KM] = tt.circuity * great_circle_km(px, py, pz, dx, dy, dz)
        bx, by, bz = unit_vector(rules.base_lat, rules.base_lon)
        from_base = tt.circuity * great_circle_km(bx, by, bz, px, py, pz)
        w.bookings[e, b, URGENCY] = depart_min(
            tt, w.bookings[e, b, WINDOW_END], from_base, zone, zone
        )
    priority = w.booking_ints[e, b, PRIORITY]
    w.bookings[e, b, WORTH] = completion_worth(wt, priority, w.bookings[e, b, FARE])
    w.bookings[e, b, LOSS] = unserved_loss(wt, priority)
    w.booking_ints[e, b, STATUS] = UNKNOWN
    w.booking_ints[e, b, DRIVER] = -1
    w.bookings[e, b, WORK_MIN] = 0.0


@kernel
def begin_day(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """Derive what follows from a day's inputs, already in the blocks; open the first bookings."""
    for b in range(w.counters[e, NUM_BOOKINGS]):
        _derive_booking(w, tt, rules, wt, e, b)
    for d in range(w.drivers.shape[2]):
        lat, lon = w.drivers[e, AT_LAT, d], w.drivers[e, AT_LON, d]
        x, y, z = unit_vector(lat, lon)
        w.drivers[e, END_LAT, d], w.drivers[e, END_LON, d] = lat, lon
        w.drivers[e, END_X, d], w.drivers[e, END_Y, d], w.drivers[e, END_Z, d] = x, y, z
        w.driver_ints[e, END_ZONE, d] = w.driver_ints[e, AT_ZONE, d]
        w.drivers[e, AT_FREE, d] = w.drivers[e, SHIFT_START, d]
        w.drivers[e, FREE_AT, d] = w.drivers[e, SHIFT_START, d]
        w.drivers[e, DEADHEAD_KM, d] = 0.0
        w.drivers[e, LOADED_KM, d] = 0.0
        w.drivers[e, BUSY_MIN, d] = 0.0
        w.drivers[e, NEXT_EVENT, d] = np.inf
        w.driver_ints[e, COMMITTED, d] = 0
        w.driver_ints[e, STAGE, d] = TO_DEPART
        w.drivers[e, BACK_AT, d] = np.inf
        w.driver_ints[e, DOWN, d] = NOT_YET_DOWN
        w.driver_ints[e, SERVED, d] = 0
    _reset_counters(w, e)
    w.clock[e, NOW] = 0.0
    reveal(w, tt, rules, e)


@kernel
def _reset_counters(w: World, e: int) -> None:
    """Nothing is open, nothing has happened, every pair column is free."""
    w.clock[e, NEXT_EXPIRY] = np.inf
    w.counters[e, REVEALED] = 0
    w.counters[e, NUM_OPEN] = 0
    w.counters[e, STEPS] = 0
    w.counters[e, INVALID] = 0
    w.counters[e, ENDED] = 0
    w.counters[e, RELEASED] = 0
    w.counters[e, NUM_EVENTS] = 0
    w.credit[e] = 0.0
    for i in range(w.open_columns.shape[1]):
        w.open_columns[e, i] = i
    for k in range(TERMS):
        w.terms[e, k] = 0.0
        w.totals[e, k] = 0.0


@kernel
def begin_at_state(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """Derive what follows from a state, already in the blocks: NUM_BOOKINGS rows, all open.

    Of a driver's commitments only the end is known, not the jobs: the world can be observed and
    committed to, but its time cannot move.
    """
    for d in range(w.drivers.shape[2]):
        lat, lon = w.drivers[e, END_LAT, d], w.drivers[e, END_LON, d]
        x, y, z = unit_vector(lat, lon)
        w.drivers[e, END_X, d], w.drivers[e, END_Y, d], w.drivers[e, END_Z, d] = x, y, z
        w.drivers[e, AT_LAT, d], w.drivers[e, AT_LON, d] = lat, lon
        w.driver_ints[e, AT_ZONE, d] = w.driver_ints[e, END_ZONE, d]
        if w.driver_ints[e, DOWN, d] == IS_DOWN:
            w.drivers[e, FREE_AT, d] = np.inf
        w.drivers[e, AT_FREE, d] = w.drivers[e, FREE_AT, d]
        w.drivers[e, NEXT_EVENT, d] = np.inf
    _reset_counters(w, e)
    for b in range(w.counters[e, NUM_BOOKINGS]):
        _derive_booking(w, tt, rules, wt, e, b)
        open_booking(w, tt, rules, e, b)
    w.counters[e, REVEALED] = w.counters[e, NUM_BOOKINGS]


@kernel
def act(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    wt: Weights,
    e: int,
    action: int,
    visible: int,
) -> int:
    """Carry out one action of ``Discrete(N * visible + 1)``; returns epochs passed (WAIT: 1).

    An action that the mask forbids changes nothing: it is counted and penalised. After the end of
    the day nothing happens any more.
    """
    for k in range(TERMS):
        w.terms[e, k] = 0.0
    w.credit[e] = 0.0
    if w.counters[e, ENDED] == 1:
        return 0
    w.counters[e, STEPS] += 1
    if action == 0:
        wait(w, tt, rules, wt, e)
        return 1
    d = (action - 1) // visible
    slot = (action - 1) % visible
    if 0 <= d < w.drivers.shape[2] and slot < w.counters[e, NUM_OPEN]:
        if can_commit(w, rules, e, d, w.open_columns[e, slot]):
            commit(w, tt, rules, wt, e, d, slot)
            return 0
    w.counters[e, INVALID] += 1
    book_term(w, e, INVALID_ACTION, -wt.invalid_action)
    w.credit[e] -= wt.invalid_action
    return 0
