"""Commitments: timing a job, joining a queue, and re-forecasting it after a change."""

import numpy as np

from .compiled import inlined, kernel
from .ledger import ASSIGNED, IS_DOWN, PAID_AT_COMMITMENT, RELATIVE_TO_UNSERVED, log_event
from .pairs import close_booking, refresh_driver_pairs
from .reward import credit_factor, planned_value
from .travel import MATRIX, TravelTables, arrive_min, depart_min, great_circle_km, unit_vector
from .world import (
    ARRIVE,
    ASSIGNED_AT,
    AT_FREE,
    AT_LAT,
    AT_LON,
    AT_ZONE,
    BUSY_MIN,
    COMMITTED,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_X,
    D_Y,
    D_Z,
    D_ZONE,
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
    EV_ASSIGNED,
    FREE_AT,
    LEAVE,
    LEG_KM,
    LOSS,
    NEXT_EVENT,
    NOBODY,
    NOW,
    P_SERVICE,
    P_X,
    P_Y,
    P_Z,
    P_ZONE,
    PICKUP,
    PLAN_DEADHEAD,
    PLAN_LATE,
    PLAN_PICKUP,
    PROMISED,
    STAGE,
    STATUS,
    TO_DEPART,
    TO_LEAVE,
    TO_PICK_UP,
    TRIP_KM,
    WINDOW_END,
    WORK_MIN,
    WORTH,
    RulesTable,
    Weights,
    World,
)


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
def account_work(w: World, e: int, d: int, b: int) -> None:
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
def late_min(w: World, e: int, b: int) -> float:
    """Minutes by which the pickup, as forecast or as it happened, misses the window."""
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
    account_work(w, e, d, b)
    w.bookings[e, b, ASSIGNED_AT] = now
    w.bookings[e, b, PLAN_PICKUP] = w.bookings[e, b, PICKUP]
    w.bookings[e, b, PLAN_LATE] = late_min(w, e, b)
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
    close_booking(w, e, i)
    refresh_driver_pairs(w, tt, rules, e, d)
    if wt.timing >= PAID_AT_COMMITMENT:
        w.credit[e] += _plan_worth(w, wt, e, b) * credit_factor(
            wt, w.bookings[e, b, PLAN_PICKUP] - now, rules.epoch
        )
    log_event(w, e, now, EV_ASSIGNED, d, b, w.bookings[e, b, LEG_KM])


@inlined
def _plan_worth(w: World, wt: Weights, e: int, b: int) -> float:
    worth = w.bookings[e, b, WORTH]
    if wt.timing >= RELATIVE_TO_UNSERVED:
        worth += w.bookings[e, b, LOSS]
    return planned_value(
        wt,
        worth,
        w.bookings[e, b, PLAN_LATE],
        w.bookings[e, b, PLAN_DEADHEAD],
        w.bookings[e, b, TRIP_KM],
    )


@inlined
def withdraw_credit(w: World, rules: RulesTable, wt: Weights, e: int, b: int, time: float) -> None:
    """A commitment came to nothing: take back what its plan was credited."""
    if wt.timing >= PAID_AT_COMMITMENT:
        w.credit[e] -= _plan_worth(w, wt, e, b) * credit_factor(
            wt, w.bookings[e, b, PLAN_PICKUP] - time, rules.epoch
        )


@inlined
def set_next_event(w: World, e: int, d: int) -> None:
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
def replan(w: World, tt: TravelTables, rules: RulesTable, e: int, d: int, now: float) -> None:
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
            account_work(w, e, d, b)
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
    if w.driver_ints[e, DOWN, d] == IS_DOWN:
        w.drivers[e, FREE_AT, d] = np.inf
    set_next_event(w, e, d)
    refresh_driver_pairs(w, tt, rules, e, d)
