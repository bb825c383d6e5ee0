"""Pair tables (how far, and until when) and the open bookings in their order of urgency."""

import numpy as np

from .compiled import inlined
from .ledger import OPEN
from .travel import MATRIX, TravelTables, depart_min, great_circle_km
from .world import (
    B_WHEELCHAIR,
    COMMITTED,
    D_EMERGENCY,
    D_SERVICE,
    D_WHEELCHAIR,
    D_ZONE,
    DRIVER,
    END_X,
    END_Y,
    END_Z,
    END_ZONE,
    FREE_AT,
    NEXT_EXPIRY,
    NOW,
    NUM_OPEN,
    P_SERVICE,
    P_X,
    P_Y,
    P_Z,
    P_ZONE,
    PRIORITY,
    PROMISED,
    SHIFT_END,
    STATUS,
    TRIP_KM,
    URGENCY,
    WINDOW_END,
    RulesTable,
    World,
)


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
def close_booking(w: World, e: int, i: int) -> None:
    """Take the i-th open booking off the list; its pair column becomes free."""
    n = w.counters[e, NUM_OPEN] - 1
    column = w.open_columns[e, i]
    for j in range(i, n):
        w.open_rows[e, j] = w.open_rows[e, j + 1]
        w.open_columns[e, j] = w.open_columns[e, j + 1]
    w.open_columns[e, n] = column
    w.counters[e, NUM_OPEN] = n
