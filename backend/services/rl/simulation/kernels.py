"""The rules of the world, compiled: the only implementation of them.

Every function acts on environment ``e`` of a `World`. Callers above are `Engine` (Python face),
the environments, and the policies' kernels. Nothing here allocates per step.
"""

import numpy as np

from .compiled import inlined, kernel
from .reward import completion_worth, credit_factor, planned_value, unserved_loss
from .travel import (
    MATRIX,
    TravelTables,
    arrive_min,
    depart_min,
    great_circle_km,
    unit_vector,
)
from .types import BookingStatus
from .world import (
    ARRIVE,
    ASSIGNED_AT,
    AT_FREE,
    AT_LAT,
    AT_LON,
    AT_ZONE,
    B_WHEELCHAIR,
    BALANCE,
    BREAKDOWN,
    BUSY_MIN,
    CALLED_OFF_AT,
    CANCELLATION,
    COMMITTED,
    COMPLETION,
    CREATED,
    D_EMERGENCY,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_WHEELCHAIR,
    D_X,
    D_Y,
    D_Z,
    D_ZONE,
    DEADHEAD,
    DEADHEAD_KM,
    DEADHEAD_NOISE,
    DEPART,
    DONE,
    DOWN,
    DRIVER,
    DROPOFF,
    END_LAT,
    END_LON,
    END_X,
    END_Y,
    END_Z,
    END_ZONE,
    ENDED,
    EV_ASSIGNED,
    EV_BROKE_DOWN,
    EV_CALLED_OFF,
    EV_COMPLETED,
    EV_DEPARTED,
    EV_NO_SHOW,
    EV_PICKED_UP,
    EV_RELEASED,
    EV_UNSERVED,
    FARE,
    FREE_AT,
    IDLE,
    INVALID,
    INVALID_ACTION,
    LATENESS,
    LEAVE,
    LEG_KM,
    LOADED,
    LOADED_KM,
    LOSS,
    NEXT_EVENT,
    NEXT_EXPIRY,
    NO_SHOW,
    NOBODY,
    NOW,
    NUM_BOOKINGS,
    NUM_EVENTS,
    NUM_OPEN,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_X,
    P_Y,
    P_Z,
    P_ZONE,
    PICKUP,
    PLAN_DEADHEAD,
    PLAN_LATE,
    PLAN_PICKUP,
    PRIORITY,
    PROMISED,
    RELEASED,
    REPAIRED,
    REVEALED,
    SERVED,
    SHIFT_END,
    SHIFT_START,
    STAGE,
    STATUS,
    STEPS,
    TERMS,
    TO_DEPART,
    TO_FINISH,
    TO_LEAVE,
    TO_PICK_UP,
    TRIP_KM,
    TRIP_NOISE,
    URGENCY,
    WINDOW_END,
    WORK_MIN,
    WORTH,
    RulesTable,
    Weights,
    World,
)

UNKNOWN = int(BookingStatus.UNKNOWN)
OPEN = int(BookingStatus.OPEN)
ASSIGNED = int(BookingStatus.ASSIGNED)
ONBOARD = int(BookingStatus.ONBOARD)
COMPLETED = int(BookingStatus.COMPLETED)
UNSERVED = int(BookingStatus.UNSERVED)
MISSED = int(BookingStatus.NO_SHOW)
CALLED_OFF = int(BookingStatus.CALLED_OFF)

_END_OF_TIME = 1.0e9
_PLANNED = 1  # reward timings from here on pay at commitment


# --- bookkeeping -------------------------------------------------------------------------------


@inlined
def _log(w: World, e: int, time: float, kind: int, driver: int, row: int, km: float) -> None:
    n = w.counters[e, NUM_EVENTS]
    if n < w.events.shape[1]:
        w.events[e, n, 0] = time
        w.events[e, n, 1] = kind
        w.events[e, n, 2] = driver
        w.events[e, n, 3] = row
        w.events[e, n, 4] = km
        w.counters[e, NUM_EVENTS] = n + 1


@inlined
def _book(w: World, e: int, term: int, amount: float) -> None:
    w.terms[e, term] += amount
    w.totals[e, term] += amount


# --- pairs: how far, and until when -------------------------------------------------------------


@inlined
def _refresh_pair(
    w: World, tt: TravelTables, rules: RulesTable, e: int, d: int, b: int, column: int
) -> None:
    """Distance from where driver d ends to booking b, and the latest feasible departure.

    A commitment is feasible while ``max(now, free) <= pair_latest``: the pickup lies within the
    grace period and the work ends within the overtime. Both bounds are monotone in the
    departure, so one number per pair stands for the whole test.
    """
    if (w.booking_ints[e, b, B_WHEELCHAIR] == 1 and w.driver_ints[e, D_WHEELCHAIR, d] == 0) or (
        w.driver_ints[e, D_EMERGENCY, d] == 1
        and w.booking_ints[e, b, PRIORITY] < rules.emergency_min_priority
    ):
        eligible = False
    else:
        eligible = True
    zone_from, zone_to = w.driver_ints[e, END_ZONE, d], w.booking_ints[e, b, P_ZONE]
    if tt.kind == MATRIX:
        km = tt.km[zone_from, zone_to]
    else:
        km = tt.circuity * great_circle_km(
            w.drivers[e, END_X, d],
            w.drivers[e, END_Y, d],
            w.drivers[e, END_Z, d],
            w.bookings[e, b, P_X],
            w.bookings[e, b, P_Y],
            w.bookings[e, b, P_Z],
        )
    w.pair_km[e, d, column] = km
    if not eligible:
        w.pair_latest[e, d, column] = -np.inf
        return
    promised = w.bookings[e, b, PROMISED]
    pickup_by = w.bookings[e, b, WINDOW_END] + rules.grace
    work_end = w.drivers[e, SHIFT_END, d] + rules.overtime
    service = w.bookings[e, b, P_SERVICE] + w.bookings[e, b, D_SERVICE]
    trip_km = w.bookings[e, b, TRIP_KM]
    # Most pairs are far from the end of the shift: a bound on the pace spares the exact test.
    if tt.kind == MATRIX or (
        max(pickup_by, promised) + service + trip_km * rules.slowest_min_per_km > work_end
    ):
        leave_by = depart_min(
            tt,
            work_end - w.bookings[e, b, D_SERVICE],
            trip_km,
            zone_to,
            w.booking_ints[e, b, D_ZONE],
        )
        pickup_by = min(pickup_by, leave_by - w.bookings[e, b, P_SERVICE])
        if pickup_by < promised:
            w.pair_latest[e, d, column] = -np.inf
            return
    w.pair_latest[e, d, column] = depart_min(tt, pickup_by, km, zone_from, zone_to)


@inlined
def refresh_driver_pairs(w: World, tt: TravelTables, rules: RulesTable, e: int, d: int) -> None:
    """Recompute a driver's row of the pair tables, for the open bookings."""
    for i in range(w.counters[e, NUM_OPEN]):
        _refresh_pair(w, tt, rules, e, d, w.open_rows[e, i], w.open_columns[e, i])


@inlined
def can_commit(w: World, rules: RulesTable, e: int, d: int, column: int) -> bool:
    """Whether driver d may take the open booking of a pair column now: the mask's definition."""
    if w.driver_ints[e, COMMITTED, d] >= rules.capacity:
        return False
    return max(w.clock[e, NOW], w.drivers[e, FREE_AT, d]) <= w.pair_latest[e, d, column]


# --- open bookings, kept in order of urgency ----------------------------------------------------


@inlined
def open_booking(w: World, tt: TravelTables, rules: RulesTable, e: int, b: int) -> None:
    """Put a booking among the open ones, in order of (URGENCY, row), on a free pair column."""
    n = w.counters[e, NUM_OPEN]
    key = w.bookings[e, b, URGENCY]
    column = w.open_columns[e, n]  # the columns beyond the open ones are the free ones
    i = n
    while i > 0:
        other = w.open_rows[e, i - 1]
        other_key = w.bookings[e, other, URGENCY]
        if other_key < key or (other_key == key and other < b):
            break
        w.open_rows[e, i] = other
        w.open_columns[e, i] = w.open_columns[e, i - 1]
        i -= 1
    w.open_rows[e, i] = b
    w.open_columns[e, i] = column
    w.counters[e, NUM_OPEN] = n + 1
    w.booking_ints[e, b, STATUS] = OPEN
    w.booking_ints[e, b, DRIVER] = -1
    expiry = w.bookings[e, b, WINDOW_END] + rules.grace
    w.clock[e, NEXT_EXPIRY] = min(w.clock[e, NEXT_EXPIRY], expiry)
    for d in range(w.drivers.shape[2]):
        _refresh_pair(w, tt, rules, e, d, b, column)


@inlined
def find_open(w: World, e: int, b: int) -> int:
    """Position of a booking among the open ones; NUM_OPEN if it is not there."""
    n = w.counters[e, NUM_OPEN]
    i = 0
    while i < n and w.open_rows[e, i] != b:
        i += 1
    return i


@inlined
def _close_booking(w: World, e: int, i: int) -> None:
    """Take the i-th open booking off the list; its pair column becomes free."""
    n = w.counters[e, NUM_OPEN] - 1
    column = w.open_columns[e, i]
    for j in range(i, n):
        w.open_rows[e, j] = w.open_rows[e, j + 1]
        w.open_columns[e, j] = w.open_columns[e, j + 1]
    w.open_columns[e, n] = column
    w.counters[e, NUM_OPEN] = n


# --- commitments -------------------------------------------------------------------------------


@inlined
def _time_job(
    w: World, tt: TravelTables, e: int, b: int, earliest: float, zone_from: int, km: float
) -> None:
    """Forecast a job that starts from ``zone_from``, ``km`` away, not before ``earliest``.

    The driver departs just in time for the window's start.
    """
    zone_to, zone_end = w.booking_ints[e, b, P_ZONE], w.booking_ints[e, b, D_ZONE]
    promised = w.bookings[e, b, PROMISED]
    depart = earliest
    if promised > earliest:
        depart = max(earliest, depart_min(tt, promised, km, zone_from, zone_to))
    arrive = arrive_min(tt, depart, km, zone_from, zone_to)
    pickup = max(arrive, promised)
    leave = pickup + w.bookings[e, b, P_SERVICE]
    dropoff = arrive_min(tt, leave, w.bookings[e, b, TRIP_KM], zone_to, zone_end)
    w.bookings[e, b, LEG_KM] = km
    w.bookings[e, b, DEPART] = depart
    w.bookings[e, b, ARRIVE] = arrive
    w.bookings[e, b, PICKUP] = pickup
    w.bookings[e, b, LEAVE] = leave
    w.bookings[e, b, DROPOFF] = dropoff
    w.bookings[e, b, DONE] = dropoff + w.bookings[e, b, D_SERVICE]


@inlined
def _account_work(w: World, e: int, d: int, b: int) -> None:
    """Bring the driver's busy minutes up to the job's present forecast."""
    work = (
        (w.bookings[e, b, ARRIVE] - w.bookings[e, b, DEPART])
        + (w.bookings[e, b, LEAVE] - w.bookings[e, b, PICKUP])
        + (w.bookings[e, b, DONE] - w.bookings[e, b, LEAVE])
    )
    w.drivers[e, BUSY_MIN, d] += work - w.bookings[e, b, WORK_MIN]
    w.bookings[e, b, WORK_MIN] = work


@inlined
def _end_at_dropoff(w: World, e: int, d: int, b: int) -> None:
    w.drivers[e, FREE_AT, d] = w.bookings[e, b, DONE]
    w.drivers[e, END_LAT, d] = w.bookings[e, b, D_LAT]
    w.drivers[e, END_LON, d] = w.bookings[e, b, D_LON]
    w.drivers[e, END_X, d] = w.bookings[e, b, D_X]
    w.drivers[e, END_Y, d] = w.bookings[e, b, D_Y]
    w.drivers[e, END_Z, d] = w.bookings[e, b, D_Z]
    w.driver_ints[e, END_ZONE, d] = w.booking_ints[e, b, D_ZONE]


@inlined
def _late_min(w: World, e: int, b: int) -> float:
    return max(0.0, w.bookings[e, b, PICKUP] - w.bookings[e, b, WINDOW_END])


@inlined
def commit(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, d: int, i: int
) -> None:
    """Append the i-th open booking to driver d's queue, irrevocably; `can_commit` must hold."""
    now = w.clock[e, NOW]
    b = w.open_rows[e, i]
    k = w.driver_ints[e, COMMITTED, d]
    earliest = max(now, w.drivers[e, FREE_AT, d])
    _time_job(
        w, tt, e, b, earliest, w.driver_ints[e, END_ZONE, d], w.pair_km[e, d, w.open_columns[e, i]]
    )
    w.bookings[e, b, WORK_MIN] = 0.0
    _account_work(w, e, d, b)
    w.bookings[e, b, ASSIGNED_AT] = now
    w.bookings[e, b, PLAN_PICKUP] = w.bookings[e, b, PICKUP]
    w.bookings[e, b, PLAN_LATE] = _late_min(w, e, b)
    w.bookings[e, b, PLAN_DEADHEAD] = w.bookings[e, b, LEG_KM]
    w.booking_ints[e, b, STATUS] = ASSIGNED
    w.booking_ints[e, b, DRIVER] = d
    if k == 0:
        w.driver_ints[e, STAGE, d] = TO_DEPART
    w.queue[e, d, k] = b
    w.driver_ints[e, COMMITTED, d] = k + 1
    _end_at_dropoff(w, e, d, b)
    if k == 0:
        w.drivers[e, NEXT_EVENT, d] = w.bookings[e, b, DEPART]
    _close_booking(w, e, i)
    refresh_driver_pairs(w, tt, rules, e, d)
    if wt.timing >= _PLANNED:
        w.credit[e] += _plan_worth(w, wt, e, b) * credit_factor(
            wt, w.bookings[e, b, PLAN_PICKUP] - now, rules.epoch
        )
    _log(w, e, now, EV_ASSIGNED, d, b, w.bookings[e, b, LEG_KM])


@inlined
def _plan_worth(w: World, wt: Weights, e: int, b: int) -> float:
    return planned_value(
        wt,
        w.bookings[e, b, WORTH],
        w.bookings[e, b, PLAN_LATE],
        w.bookings[e, b, PLAN_DEADHEAD],
        w.bookings[e, b, TRIP_KM],
    )


@inlined
def _withdraw_credit(w: World, rules: RulesTable, wt: Weights, e: int, b: int, time: float) -> None:
    """A commitment came to nothing: take back what its plan was credited."""
    if wt.timing >= _PLANNED:
        w.credit[e] -= _plan_worth(w, wt, e, b) * credit_factor(
            wt, w.bookings[e, b, PLAN_PICKUP] - time, rules.epoch
        )


@kernel
def _replan(w: World, tt: TravelTables, rules: RulesTable, e: int, d: int, now: float) -> None:
    """Re-forecast a driver's queue after something changed; order and commitments stand."""
    lat, lon = w.drivers[e, AT_LAT, d], w.drivers[e, AT_LON, d]
    x, y, z = unit_vector(lat, lon)
    zone = w.driver_ints[e, AT_ZONE, d]
    free = w.drivers[e, AT_FREE, d]
    last = NOBODY
    for k in range(w.driver_ints[e, COMMITTED, d]):
        b = w.queue[e, d, k]
        if k > 0 or w.driver_ints[e, STAGE, d] == TO_DEPART:
            if tt.kind == MATRIX:
                km = tt.km[zone, w.booking_ints[e, b, P_ZONE]]
            else:
                km = tt.circuity * great_circle_km(
                    x, y, z, w.bookings[e, b, P_X], w.bookings[e, b, P_Y], w.bookings[e, b, P_Z]
                )
            _time_job(w, tt, e, b, max(free, now), zone, km)
            _account_work(w, e, d, b)
        free = w.bookings[e, b, DONE]
        x, y, z = w.bookings[e, b, D_X], w.bookings[e, b, D_Y], w.bookings[e, b, D_Z]
        zone = w.booking_ints[e, b, D_ZONE]
        last = b
    if last >= 0:
        _end_at_dropoff(w, e, d, last)
    else:
        w.drivers[e, FREE_AT, d] = free
        w.drivers[e, END_LAT, d] = lat
        w.drivers[e, END_LON, d] = lon
        w.drivers[e, END_X, d] = x
        w.drivers[e, END_Y, d] = y
        w.drivers[e, END_Z, d] = z
        w.driver_ints[e, END_ZONE, d] = zone
    if w.driver_ints[e, DOWN, d] == 1:
        w.drivers[e, FREE_AT, d] = np.inf
    _set_next_event(w, e, d)
    refresh_driver_pairs(w, tt, rules, e, d)


# --- time passes --------------------------------------------------------------------------------


@inlined
def _pop_job(w: World, e: int, d: int, free: float, lat: float, lon: float, zone: int) -> None:
    """The job in progress is over: the driver is free here and now, the queue moves up."""
    n = w.driver_ints[e, COMMITTED, d] - 1
    for k in range(n):
        w.queue[e, d, k] = w.queue[e, d, k + 1]
    w.driver_ints[e, COMMITTED, d] = n
    w.driver_ints[e, STAGE, d] = TO_DEPART
    w.drivers[e, AT_FREE, d] = free
    w.drivers[e, AT_LAT, d] = lat
    w.drivers[e, AT_LON, d] = lon
    w.driver_ints[e, AT_ZONE, d] = zone


@inlined
def _drive_empty(w: World, wt: Weights, e: int, d: int, km: float) -> None:
    w.drivers[e, DEADHEAD_KM, d] += km
    _book(w, e, DEADHEAD, -wt.deadhead * km)


@kernel
def _shift_from_arrival(w: World, tt: TravelTables, e: int, b: int) -> None:
    """The arrival at the pickup became known: forecast what follows from it."""
    pickup = max(w.bookings[e, b, ARRIVE], w.bookings[e, b, PROMISED])
    leave = pickup + w.bookings[e, b, P_SERVICE]
    w.bookings[e, b, PICKUP] = pickup
    w.bookings[e, b, LEAVE] = leave
    w.bookings[e, b, DROPOFF] = arrive_min(
        tt,
        leave,
        w.bookings[e, b, TRIP_KM],
        w.booking_ints[e, b, P_ZONE],
        w.booking_ints[e, b, D_ZONE],
    )
    w.bookings[e, b, DONE] = w.bookings[e, b, DROPOFF] + w.bookings[e, b, D_SERVICE]


@inlined
def _set_next_event(w: World, e: int, d: int) -> None:
    """Note when something next happens to a driver, by forecast."""
    time = np.inf
    if w.driver_ints[e, COMMITTED, d] > 0:
        b = w.queue[e, d, 0]
        stage = w.driver_ints[e, STAGE, d]
        if stage == TO_DEPART:
            time = w.bookings[e, b, DEPART]
        elif stage == TO_PICK_UP:
            time = w.bookings[e, b, PICKUP]
        elif stage == TO_LEAVE:
            time = w.bookings[e, b, LEAVE]
        else:
            time = w.bookings[e, b, DONE]
    w.drivers[e, NEXT_EVENT, d] = time


@kernel
def _run_driver(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, d: int, until: float
) -> None:
    """Let everything happen that driver d does up to and including ``until``."""
    while w.driver_ints[e, COMMITTED, d] > 0:
        b = w.queue[e, d, 0]
        stage = w.driver_ints[e, STAGE, d]
        if stage == TO_DEPART:
            depart = w.bookings[e, b, DEPART]
            if depart > until:
                return
            w.driver_ints[e, STAGE, d] = TO_PICK_UP
            _log(w, e, depart, EV_DEPARTED, d, b, w.bookings[e, b, LEG_KM])
            noise = w.bookings[e, b, DEADHEAD_NOISE]
            if noise != 1.0:
                w.bookings[e, b, ARRIVE] = depart + (w.bookings[e, b, ARRIVE] - depart) * noise
                _shift_from_arrival(w, tt, e, b)
                _account_work(w, e, d, b)
                _replan(w, tt, rules, e, d, depart)
        elif stage == TO_PICK_UP:
            pickup = w.bookings[e, b, PICKUP]
            if pickup > until:
                return
            _pick_up(w, tt, rules, wt, e, d, b, pickup)
        elif stage == TO_LEAVE:
            leave = w.bookings[e, b, LEAVE]
            if leave > until:
                return
            w.driver_ints[e, STAGE, d] = TO_FINISH
            noise = w.bookings[e, b, TRIP_NOISE]
            if noise != 1.0:
                dropoff = leave + (w.bookings[e, b, DROPOFF] - leave) * noise
                w.bookings[e, b, DROPOFF] = dropoff
                w.bookings[e, b, DONE] = dropoff + w.bookings[e, b, D_SERVICE]
                _account_work(w, e, d, b)
                _replan(w, tt, rules, e, d, leave)
        else:
            done = w.bookings[e, b, DONE]
            if done > until:
                return
            km = w.bookings[e, b, TRIP_KM]
            w.booking_ints[e, b, STATUS] = COMPLETED
            w.driver_ints[e, SERVED, d] += 1
            w.drivers[e, LOADED_KM, d] += km
            _book(w, e, LOADED, -wt.loaded * km)
            _book(w, e, COMPLETION, w.bookings[e, b, WORTH])
            _log(w, e, done, EV_COMPLETED, d, b, km)
            _pop_job(
                w,
                e,
                d,
                done,
                w.bookings[e, b, D_LAT],
                w.bookings[e, b, D_LON],
                w.booking_ints[e, b, D_ZONE],
            )


@kernel
def _pick_up(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, d: int, b: int, time: float
) -> None:
    """The driver meets the patient, or finds nobody."""
    km = w.bookings[e, b, LEG_KM]
    _drive_empty(w, wt, e, d, km)
    if w.booking_ints[e, b, NO_SHOW] == 1:
        w.booking_ints[e, b, STATUS] = MISSED
        _log(w, e, time, EV_NO_SHOW, d, b, km)
        _withdraw_credit(w, rules, wt, e, b, time)
        if wt.timing >= _PLANNED:
            w.credit[e] -= wt.deadhead * km
        free = time + rules.no_show_wait
        w.bookings[e, b, LEAVE] = free
        w.bookings[e, b, DROPOFF] = free
        w.bookings[e, b, DONE] = free
        _account_work(w, e, d, b)
        _pop_job(
            w,
            e,
            d,
            free,
            w.bookings[e, b, P_LAT],
            w.bookings[e, b, P_LON],
            w.booking_ints[e, b, P_ZONE],
        )
        _replan(w, tt, rules, e, d, time)
        return
    late = _late_min(w, e, b)
    w.booking_ints[e, b, STATUS] = ONBOARD
    w.driver_ints[e, STAGE, d] = TO_LEAVE
    _book(w, e, LATENESS, -wt.late * late)
    if wt.timing >= _PLANNED:
        w.credit[e] -= wt.late * (late - w.bookings[e, b, PLAN_LATE])
        w.credit[e] -= wt.deadhead * (km - w.bookings[e, b, PLAN_DEADHEAD])
    _log(w, e, time, EV_PICKED_UP, d, b, km)


@inlined
def _lose_booking(w: World, e: int, b: int, time: float) -> None:
    """Nobody came: the operation's failure."""
    w.booking_ints[e, b, STATUS] = UNSERVED
    loss = w.bookings[e, b, LOSS]
    _book(w, e, CANCELLATION, -loss)
    w.credit[e] -= loss
    _log(w, e, time, EV_UNSERVED, NOBODY, b, 0.0)


@kernel
def _expire(w: World, rules: RulesTable, e: int, now: float) -> None:
    """Drop the open bookings whose grace ran out (or all of them, where each epoch decides)."""
    earliest = np.inf
    i = 0
    while i < w.counters[e, NUM_OPEN]:
        b = w.open_rows[e, i]
        expiry = w.bookings[e, b, WINDOW_END] + rules.grace
        if rules.decide_once or now > expiry:
            _close_booking(w, e, i)
            _lose_booking(w, e, b, now if rules.decide_once else expiry)
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
            _log(w, e, w.bookings[e, b, CALLED_OFF_AT], EV_CALLED_OFF, NOBODY, b, 0.0)
        else:
            open_booking(w, tt, rules, e, b)
        b += 1
    w.counters[e, REVEALED] = b


@kernel
def wait(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """WAIT: time moves to the next decision epoch; at the horizon the day is finished."""
    before = w.clock[e, NOW]
    now = min(before + rules.epoch, rules.horizon)
    if rules.disturbed:
        _disturb(w, tt, rules, wt, e, now)
    for d in range(w.drivers.shape[2]):
        if w.drivers[e, NEXT_EVENT, d] <= now:
            _run_driver(w, tt, rules, wt, e, d, now)
            _set_next_event(w, e, d)
    if wt.idle != 0.0:
        for d in range(w.drivers.shape[2]):
            idle = now - max(before, w.drivers[e, FREE_AT, d])
            if idle > 0.0 and w.drivers[e, SHIFT_END, d] >= now:
                _book(w, e, IDLE, -wt.idle * idle)
                w.credit[e] -= wt.idle * idle
    w.clock[e, NOW] = now
    if w.counters[e, NUM_OPEN] > 0 and (rules.decide_once or now > w.clock[e, NEXT_EXPIRY]):
        _expire(w, rules, e, now)
    if now >= rules.horizon:
        _finish(w, tt, rules, wt, e)
    else:
        reveal(w, tt, rules, e)


@kernel
def _finish(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """The day is over: open bookings are lost, committed jobs run to completion."""
    now = w.clock[e, NOW]
    if rules.disturbed:
        _disturb(w, tt, rules, wt, e, _END_OF_TIME)
    for d in range(w.drivers.shape[2]):
        _run_driver(w, tt, rules, wt, e, d, _END_OF_TIME)
    for b in range(w.counters[e, NUM_BOOKINGS]):
        status = w.booking_ints[e, b, STATUS]
        if status == UNKNOWN and w.bookings[e, b, CALLED_OFF_AT] < _END_OF_TIME:
            w.booking_ints[e, b, STATUS] = CALLED_OFF
        elif status in (OPEN, UNKNOWN):
            _lose_booking(w, e, b, now)
    w.counters[e, NUM_OPEN] = 0
    w.counters[e, ENDED] = 1
    if wt.balance != 0.0:
        unevenness = wt.balance * workload_gini(w, e)
        _book(w, e, BALANCE, -unevenness)
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


# --- disturbances -------------------------------------------------------------------------------


@kernel
def _disturb(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, until: float
) -> None:
    """Call-offs, breakdowns and repairs up to ``until``, in order of time."""
    while True:
        first, kind, which = until, NOBODY, NOBODY
        for b in range(w.counters[e, REVEALED]):
            status = w.booking_ints[e, b, STATUS]
            if status in (OPEN, ASSIGNED) and w.bookings[e, b, CALLED_OFF_AT] <= first:
                first, kind, which = w.bookings[e, b, CALLED_OFF_AT], 0, b
        for d in range(w.drivers.shape[2]):
            if w.drivers[e, BREAKDOWN, d] <= first:
                first, kind, which = w.drivers[e, BREAKDOWN, d], 1, d
            if w.driver_ints[e, DOWN, d] == 1 and w.drivers[e, REPAIRED, d] <= first:
                first, kind, which = w.drivers[e, REPAIRED, d], 2, d
        if kind < 0:
            return
        if kind == 0:
            d = w.booking_ints[e, which, DRIVER]
            if w.booking_ints[e, which, STATUS] == ASSIGNED:
                _run_driver(w, tt, rules, wt, e, d, first)
            _call_off(w, tt, rules, wt, e, which, first)
        elif kind == 1:
            _run_driver(w, tt, rules, wt, e, which, first)
            _break_down(w, tt, rules, wt, e, which, first)
        else:
            w.driver_ints[e, DOWN, which] = 0
            w.drivers[e, AT_FREE, which] = max(w.drivers[e, AT_FREE, which], first)
            _replan(w, tt, rules, e, which, first)


@kernel
def _call_off(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, b: int, time: float
) -> None:
    """The patient cancels: nobody's failure, but an assigned driver is freed where it is."""
    w.bookings[e, b, CALLED_OFF_AT] = np.inf  # handled
    status = w.booking_ints[e, b, STATUS]
    if status == OPEN:
        _close_booking(w, e, find_open(w, e, b))
        w.booking_ints[e, b, STATUS] = CALLED_OFF
        _log(w, e, time, EV_CALLED_OFF, NOBODY, b, 0.0)
    elif status == ASSIGNED:
        d = w.booking_ints[e, b, DRIVER]
        _undo_commitment(w, rules, wt, e, d, b, time)
        w.booking_ints[e, b, STATUS] = CALLED_OFF
        _replan(w, tt, rules, e, d, time)
        _log(w, e, time, EV_CALLED_OFF, d, b, 0.0)


@kernel
def _undo_commitment(
    w: World, rules: RulesTable, wt: Weights, e: int, d: int, b: int, time: float
) -> None:
    """Take a job that was not picked up out of a driver's queue; book what was driven for it."""
    k = 0
    while w.queue[e, d, k] != b:
        k += 1
    work = 0.0
    if k == 0 and w.driver_ints[e, STAGE, d] == TO_PICK_UP:
        depart, arrive = w.bookings[e, b, DEPART], w.bookings[e, b, ARRIVE]
        share = 1.0 if arrive <= time else (time - depart) / (arrive - depart)
        km = share * w.bookings[e, b, LEG_KM]
        _drive_empty(w, wt, e, d, km)
        if wt.timing >= _PLANNED:
            w.credit[e] -= wt.deadhead * km
        # Halted on the straight line to the pickup; between zones, at the nearer end.
        lat, lon, zone = _driver_origin(w, e, d)
        lat += share * (w.bookings[e, b, P_LAT] - lat)
        lon += share * (w.bookings[e, b, P_LON] - lon)
        if share >= 0.5:
            zone = w.booking_ints[e, b, P_ZONE]
        work = min(time, arrive) - depart
        _pop_job(w, e, d, time, lat, lon, zone)
    else:
        n = w.driver_ints[e, COMMITTED, d] - 1
        for j in range(k, n):
            w.queue[e, d, j] = w.queue[e, d, j + 1]
        w.driver_ints[e, COMMITTED, d] = n
        if k == 0:
            w.driver_ints[e, STAGE, d] = TO_DEPART
    w.drivers[e, BUSY_MIN, d] += work - w.bookings[e, b, WORK_MIN]
    w.bookings[e, b, WORK_MIN] = 0.0
    w.booking_ints[e, b, DRIVER] = -1
    _withdraw_credit(w, rules, wt, e, b, time)


@inlined
def _driver_origin(w: World, e: int, d: int) -> tuple[float, float, int]:
    return w.drivers[e, AT_LAT, d], w.drivers[e, AT_LON, d], w.driver_ints[e, AT_ZONE, d]


@kernel
def _break_down(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, d: int, time: float
) -> None:
    """The vehicle fails. With a patient aboard the trip is finished first; the rest is released."""
    aboard = w.driver_ints[e, COMMITTED, d] > 0 and w.driver_ints[e, STAGE, d] >= TO_LEAVE
    w.drivers[e, BREAKDOWN, d] = np.inf
    w.driver_ints[e, DOWN, d] = 1
    first = 1 if aboard else 0
    if aboard:
        delay = w.bookings[e, w.queue[e, d, 0], DONE] - time
        w.drivers[e, REPAIRED, d] += delay
    while w.driver_ints[e, COMMITTED, d] > first:
        b = w.queue[e, d, w.driver_ints[e, COMMITTED, d] - 1]
        _undo_commitment(w, rules, wt, e, d, b, time)
        w.counters[e, RELEASED] += 1
        _log(w, e, time, EV_RELEASED, d, b, 0.0)
        open_booking(w, tt, rules, e, b)
    _log(w, e, time, EV_BROKE_DOWN, d, NOBODY, 0.0)
    _replan(w, tt, rules, e, d, time)


# --- a day begins --------------------------------------------------------------------------------


@kernel
def begin_day(w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int) -> None:
    """Derive what follows from a day's inputs, already in the blocks; open the first bookings."""
    n = w.counters[e, NUM_BOOKINGS]
    base_x, base_y, base_z = unit_vector(rules.base_lat, rules.base_lon)
    for b in range(n):
        px, py, pz = unit_vector(w.bookings[e, b, P_LAT], w.bookings[e, b, P_LON])
        dx, dy, dz = unit_vector(w.bookings[e, b, D_LAT], w.bookings[e, b, D_LON])
        w.bookings[e, b, P_X], w.bookings[e, b, P_Y], w.bookings[e, b, P_Z] = px, py, pz
        w.bookings[e, b, D_X], w.bookings[e, b, D_Y], w.bookings[e, b, D_Z] = dx, dy, dz
        if tt.kind == MATRIX:
            w.bookings[e, b, TRIP_KM] = tt.km[
                w.booking_ints[e, b, P_ZONE], w.booking_ints[e, b, D_ZONE]
            ]
            w.bookings[e, b, URGENCY] = w.bookings[e, b, WINDOW_END]
        else:
            w.bookings[e, b, TRIP_KM] = tt.circuity * great_circle_km(px, py, pz, dx, dy, dz)
            from_base = tt.circuity * great_circle_km(base_x, base_y, base_z, px, py, pz)
            w.bookings[e, b, URGENCY] = depart_min(
                tt,
                w.bookings[e, b, WINDOW_END],
                from_base,
                w.booking_ints[e, b, P_ZONE],
                w.booking_ints[e, b, P_ZONE],
            )
        priority = w.booking_ints[e, b, PRIORITY]
        w.bookings[e, b, WORTH] = completion_worth(wt, priority, w.bookings[e, b, FARE])
        w.bookings[e, b, LOSS] = unserved_loss(wt, priority)
        w.booking_ints[e, b, STATUS] = UNKNOWN
        w.booking_ints[e, b, DRIVER] = -1
        w.bookings[e, b, WORK_MIN] = 0.0
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
        w.driver_ints[e, DOWN, d] = 0
        w.driver_ints[e, SERVED, d] = 0
    w.clock[e, NOW] = 0.0
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
    reveal(w, tt, rules, e)


# --- an action ------------------------------------------------------------------------------------


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

    An action that the mask forbids changes nothing: it is counted and penalised.
    """
    for k in range(TERMS):
        w.terms[e, k] = 0.0
    w.credit[e] = 0.0
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
    _book(w, e, INVALID_ACTION, -wt.invalid_action)
    w.credit[e] -= wt.invalid_action
    return 0
