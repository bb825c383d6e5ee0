"""What a driver does as time passes: depart, pick up, leave, finish."""

from .commitments import account_work, late_min, replan, withdraw_credit
from .compiled import inlined, kernel
from .ledger import (
    COMPLETED,
    MISSED,
    ONBOARD,
    PAID_AT_COMMITMENT,
    RELATIVE_TO_UNSERVED,
    book_term,
    log_event,
)
from .travel import TravelTables, arrive_min
from .world import (
    ARRIVE,
    AT_FREE,
    AT_LAT,
    AT_LON,
    AT_ZONE,
    COMMITTED,
    COMPLETION,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_ZONE,
    DEADHEAD,
    DEADHEAD_KM,
    DEADHEAD_NOISE,
    DEPART,
    DONE,
    DROPOFF,
    EV_COMPLETED,
    EV_DEPARTED,
    EV_NO_SHOW,
    EV_PICKED_UP,
    LATENESS,
    LEAVE,
    LEG_KM,
    LOADED,
    LOADED_KM,
    LOSS,
    NO_SHOW,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_ZONE,
    PICKUP,
    PLAN_DEADHEAD,
    PLAN_LATE,
    PROMISED,
    SERVED,
    STAGE,
    STATUS,
    TO_DEPART,
    TO_FINISH,
    TO_LEAVE,
    TO_PICK_UP,
    TRIP_KM,
    TRIP_NOISE,
    WORTH,
    RulesTable,
    Weights,
    World,
)


@inlined
def pop_job(w: World, e: int, d: int, free: float, lat: float, lon: float, zone: int) -> None:
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
def drive_empty(w: World, wt: Weights, e: int, d: int, km: float) -> None:
    """Book empty kilometres: odometer and reward."""
    w.drivers[e, DEADHEAD_KM, d] += km
    book_term(w, e, DEADHEAD, -wt.deadhead * km)


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


@kernel
def run_driver(
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
            log_event(w, e, depart, EV_DEPARTED, d, b, w.bookings[e, b, LEG_KM])
            noise = w.bookings[e, b, DEADHEAD_NOISE]
            if noise != 1.0:
                w.bookings[e, b, ARRIVE] = depart + (w.bookings[e, b, ARRIVE] - depart) * noise
                _shift_from_arrival(w, tt, e, b)
                account_work(w, e, d, b)
                replan(w, tt, rules, e, d, depart)
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
                account_work(w, e, d, b)
                replan(w, tt, rules, e, d, leave)
        else:
            done = w.bookings[e, b, DONE]
            if done > until:
                return
            km = w.bookings[e, b, TRIP_KM]
            w.booking_ints[e, b, STATUS] = COMPLETED
            w.driver_ints[e, SERVED, d] += 1
            w.drivers[e, LOADED_KM, d] += km
            book_term(w, e, LOADED, -wt.loaded * km)
            book_term(w, e, COMPLETION, w.bookings[e, b, WORTH])
            log_event(w, e, done, EV_COMPLETED, d, b, km)
            pop_job(
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
    drive_empty(w, wt, e, d, km)
    if w.booking_ints[e, b, NO_SHOW] == 1:
        w.booking_ints[e, b, STATUS] = MISSED
        log_event(w, e, time, EV_NO_SHOW, d, b, km)
        withdraw_credit(w, rules, wt, e, b, time)
        if wt.timing >= PAID_AT_COMMITMENT:
            w.credit[e] -= wt.deadhead * km
        if wt.timing >= RELATIVE_TO_UNSERVED:
            w.credit[e] += w.bookings[e, b, LOSS]  # nobody's failure, where not to go is one
        free = time + rules.no_show_wait
        w.bookings[e, b, LEAVE] = free
        w.bookings[e, b, DROPOFF] = free
        w.bookings[e, b, DONE] = free
        account_work(w, e, d, b)
        pop_job(
            w,
            e,
            d,
            free,
            w.bookings[e, b, P_LAT],
            w.bookings[e, b, P_LON],
            w.booking_ints[e, b, P_ZONE],
        )
        replan(w, tt, rules, e, d, time)
        return
    late = late_min(w, e, b)
    w.booking_ints[e, b, STATUS] = ONBOARD
    w.driver_ints[e, STAGE, d] = TO_LEAVE
    book_term(w, e, LATENESS, -wt.late * late)
    if wt.timing >= PAID_AT_COMMITMENT:
        w.credit[e] -= wt.late * (late - w.bookings[e, b, PLAN_LATE])
        w.credit[e] -= wt.deadhead * (km - w.bookings[e, b, PLAN_DEADHEAD])
    log_event(w, e, time, EV_PICKED_UP, d, b, km)
