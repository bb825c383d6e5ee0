"""Bookkeeping of the rules: what a booking can be, the event log, the reward terms."""

from .compiled import inlined
from .types import BookingStatus
from .world import CANCELLATION, EV_UNSERVED, LOSS, NOBODY, NUM_EVENTS, STATUS, Weights, World

UNKNOWN = int(BookingStatus.UNKNOWN)
OPEN = int(BookingStatus.OPEN)
ASSIGNED = int(BookingStatus.ASSIGNED)
ONBOARD = int(BookingStatus.ONBOARD)
COMPLETED = int(BookingStatus.COMPLETED)
UNSERVED = int(BookingStatus.UNSERVED)
MISSED = int(BookingStatus.NO_SHOW)
CALLED_OFF = int(BookingStatus.CALLED_OFF)
NOT_YET_DOWN, IS_DOWN, WAS_DOWN = 0, 1, 2  # a vehicle fails at most once a day
PAID_AT_COMMITMENT = 1  # reward timings from here on pay at commitment
RELATIVE_TO_UNSERVED = 3  # and from here on, what serving is worth beyond leaving unserved


@inlined
def log_event(w: World, e: int, time: float, kind: int, driver: int, row: int, km: float) -> None:
    """Write one line of the event log, if it is kept."""
    n = w.counters[e, NUM_EVENTS]
    if n < w.events.shape[1]:
        w.events[e, n, 0] = time
        w.events[e, n, 1] = kind
        w.events[e, n, 2] = driver
        w.events[e, n, 3] = row
        w.events[e, n, 4] = km
        w.counters[e, NUM_EVENTS] = n + 1


@inlined
def book_term(w: World, e: int, term: int, amount: float) -> None:
    """Add to a reward term, of this step and of the day."""
    w.terms[e, term] += amount
    w.totals[e, term] += amount


@inlined
def lose_booking(w: World, wt: Weights, e: int, b: int, time: float) -> None:
    """Nobody came: the operation's failure."""
    w.booking_ints[e, b, STATUS] = UNSERVED
    loss = w.bookings[e, b, LOSS]
    book_term(w, e, CANCELLATION, -loss)
    if wt.timing < RELATIVE_TO_UNSERVED:
        w.credit[e] -= loss
    log_event(w, e, time, EV_UNSERVED, NOBODY, b, 0.0)
