"""What goes wrong: patients who call off, vehicles that break down and come back."""

from .commitments import replan, withdraw_credit
from .compiled import inlined, kernel
from .driving import drive_empty, pop_job, run_driver
from .ledger import (
    ASSIGNED,
    CALLED_OFF,
    IS_DOWN,
    NOT_YET_DOWN,
    OPEN,
    PAID_AT_COMMITMENT,
    RELATIVE_TO_UNSERVED,
    WAS_DOWN,
    log_event,
    lose_booking,
)
from .pairs import close_booking, find_open, open_booking
from .travel import TravelTables
from .world import (
    ARRIVE,
    AT_FREE,
    AT_LAT,
    AT_LON,
    AT_ZONE,
    BACK_AT,
    BREAKDOWN,
    BUSY_MIN,
    CALLED_OFF_AT,
    COMMITTED,
    DEPART,
    DONE,
    DOWN,
    DRIVER,
    EV_BROKE_DOWN,
    EV_CALLED_OFF,
    EV_RELEASED,
    LEG_KM,
    LOSS,
    NOBODY,
    P_LAT,
    P_LON,
    P_ZONE,
    RELEASED,
    REPAIRED,
    REVEALED,
    STAGE,
    STATUS,
    TO_DEPART,
    TO_LEAVE,
    TO_PICK_UP,
    WINDOW_END,
    WORK_MIN,
    RulesTable,
    Weights,
    World,
)


@kernel
def disturb(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, until: float
) -> None:
    """Call-offs, breakdowns and repairs up to ``until``, in order of time."""
    while True:
        first, kind, which = until, NOBODY, NOBODY
        for b in range(w.counters[e, REVEALED]):
            status = w.booking_ints[e, b, STATUS]
            time = w.bookings[e, b, CALLED_OFF_AT]
            if status in (OPEN, ASSIGNED) and time <= first:
                # Once its grace ran out, an open booking is lost: nothing is left to call off.
                if status == ASSIGNED or time <= w.bookings[e, b, WINDOW_END] + rules.grace:
                    first, kind, which = time, 0, b
        for d in range(w.drivers.shape[2]):
            if w.driver_ints[e, DOWN, d] == NOT_YET_DOWN and w.drivers[e, BREAKDOWN, d] <= first:
                first, kind, which = w.drivers[e, BREAKDOWN, d], 1, d
            if w.driver_ints[e, DOWN, d] == IS_DOWN and w.drivers[e, BACK_AT, d] <= first:
                first, kind, which = w.drivers[e, BACK_AT, d], 2, d
        if kind < 0:
            return
        if kind == 0:
            d = w.booking_ints[e, which, DRIVER]
            if w.booking_ints[e, which, STATUS] == ASSIGNED:
                run_driver(w, tt, rules, wt, e, d, first)
            _call_off(w, tt, rules, wt, e, which, first)
        elif kind == 1:
            run_driver(w, tt, rules, wt, e, which, first)
            _break_down(w, tt, rules, wt, e, which, first)
        else:
            w.driver_ints[e, DOWN, which] = WAS_DOWN
            w.drivers[e, AT_FREE, which] = max(w.drivers[e, AT_FREE, which], first)
            replan(w, tt, rules, e, which, first)


@kernel
def _call_off(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, b: int, time: float
) -> None:
    """The patient cancels: nobody's failure, but an assigned driver is freed where it is."""
    status = w.booking_ints[e, b, STATUS]
    if status == OPEN:
        close_booking(w, e, find_open(w, e, b))
        w.booking_ints[e, b, STATUS] = CALLED_OFF
        log_event(w, e, time, EV_CALLED_OFF, NOBODY, b, 0.0)
    elif status == ASSIGNED:
        d = w.booking_ints[e, b, DRIVER]
        km = _undo_commitment(w, rules, wt, e, d, b, time)
        w.booking_ints[e, b, STATUS] = CALLED_OFF
        # Without the commitment it would have been lost before the patient called.
        lost = time > w.bookings[e, b, WINDOW_END] + rules.grace
        if lost and wt.timing >= RELATIVE_TO_UNSERVED:
            w.credit[e] += w.bookings[e, b, LOSS]
        replan(w, tt, rules, e, d, time)
        log_event(w, e, time, EV_CALLED_OFF, d, b, km)


@kernel
def _undo_commitment(
    w: World, rules: RulesTable, wt: Weights, e: int, d: int, b: int, time: float
) -> float:
    """Take a job that was not picked up out of a driver's queue; books and returns its empty km."""
    k = 0
    while w.queue[e, d, k] != b:
        k += 1
    work = km = 0.0
    if k == 0 and w.driver_ints[e, STAGE, d] == TO_PICK_UP:
        depart, arrive = w.bookings[e, b, DEPART], w.bookings[e, b, ARRIVE]
        share = 1.0 if arrive <= time else (time - depart) / (arrive - depart)
        km = share * w.bookings[e, b, LEG_KM]
        drive_empty(w, wt, e, d, km)
        if wt.timing >= PAID_AT_COMMITMENT:
            w.credit[e] -= wt.deadhead * km
        # Halted on the straight line to the pickup; between zones, at the nearer end.
        lat, lon, zone = _driver_origin(w, e, d)
        lat += share * (w.bookings[e, b, P_LAT] - lat)
        lon += share * (w.bookings[e, b, P_LON] - lon)
        if share >= 0.5:
            zone = w.booking_ints[e, b, P_ZONE]
        work = min(time, arrive) - depart
        pop_job(w, e, d, time, lat, lon, zone)
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
    withdraw_credit(w, rules, wt, e, b, time)
    return km


@inlined
def _driver_origin(w: World, e: int, d: int) -> tuple[float, float, int]:
    return w.drivers[e, AT_LAT, d], w.drivers[e, AT_LON, d], w.driver_ints[e, AT_ZONE, d]


@kernel
def _break_down(
    w: World, tt: TravelTables, rules: RulesTable, wt: Weights, e: int, d: int, time: float
) -> None:
    """The vehicle fails. With a patient aboard the trip is finished first; the rest is released."""
    aboard = w.driver_ints[e, COMMITTED, d] > 0 and w.driver_ints[e, STAGE, d] >= TO_LEAVE
    w.driver_ints[e, DOWN, d] = IS_DOWN
    w.drivers[e, BACK_AT, d] = max(time, w.drivers[e, REPAIRED, d])
    first = 1 if aboard else 0
    if aboard:
        w.drivers[e, BACK_AT, d] += w.bookings[e, w.queue[e, d, 0], DONE] - time
    while w.driver_ints[e, COMMITTED, d] > first:
        b = w.queue[e, d, w.driver_ints[e, COMMITTED, d] - 1]
        km = _undo_commitment(w, rules, wt, e, d, b, time)
        w.counters[e, RELEASED] += 1
        log_event(w, e, time, EV_RELEASED, d, b, km)
        if time > w.bookings[e, b, WINDOW_END] + rules.grace or time >= rules.horizon:
            lose_booking(w, wt, e, b, time)  # too late for anybody else
        else:
            open_booking(w, tt, rules, e, b)
    log_event(w, e, time, EV_BROKE_DOWN, d, NOBODY, 0.0)
    replan(w, tt, rules, e, d, time)
