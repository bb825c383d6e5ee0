"""The engine's memory: blocks for E environments, and the names of their fields.

Driver blocks are field-major (``world.drivers[e, FREE_AT, d]``): rules walk one field of all
drivers. Booking blocks are row-major (``world.bookings[e, b, PROMISED]``): rules touch many
fields of a few open bookings out of hundreds of rows. The pair tables are indexed by a small pool
of columns, not by booking row, so that they stay dense. When it was introduced, under load, this
layout showed no measurable gain in steps per second; what did was to hand compiled functions one
block of memory (see `memory`).
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .types import FloatArray, IntArray


def _argument(value: int) -> int:
    """A constant that is passed to compiled functions, which are compiled anew per literal."""
    return np.int64(value)  # type: ignore[return-value]


# --- drivers: float fields --------------------------------------------------------------------
# Where committed work ends: what the next commitment starts from.
END_LAT: Final = 0
END_LON: Final = 1
END_X: Final = 2  # unit vector of the same place
END_Y: Final = 3
END_Z: Final = 4
FREE_AT: Final = 5  # when committed work ends; infinite while the vehicle is down
SHIFT_START: Final = 6
SHIFT_END: Final = 7
# Where the driver last became free: what a re-plan of the queue starts from.
AT_LAT: Final = 8
AT_LON: Final = 9
AT_FREE: Final = 10
BREAKDOWN: Final = 11  # as the day brings it; never changed by play
REPAIRED: Final = 12
DEADHEAD_KM: Final = 13  # driven so far
LOADED_KM: Final = 14
BUSY_MIN: Final = 15  # driving and serving, committed work included
NEXT_EVENT: Final = 16  # when something next happens to the driver, by forecast
BACK_AT: Final = 17  # when a vehicle that broke down drives again
DRIVER_FLOATS: Final = 18

# --- drivers: integer fields ------------------------------------------------------------------
END_ZONE: Final = 0
AT_ZONE: Final = 1
D_WHEELCHAIR: Final = 2
D_EMERGENCY: Final = 3
COMMITTED: Final = 4  # jobs in progress or queued
STAGE: Final = 5  # of the job in progress: the next thing to happen
DOWN: Final = 6  # 0: not yet, 1: out of service now, 2: repaired
SERVED: Final = 7
DRIVER_INTS: Final = 8

# --- stages of the job in progress ------------------------------------------------------------
TO_DEPART: Final = 0
TO_PICK_UP: Final = 1
TO_LEAVE: Final = 2
TO_FINISH: Final = 3

# --- bookings: float fields -------------------------------------------------------------------
CREATED: Final = 0
PROMISED: Final = 1
WINDOW_END: Final = 2
P_LAT: Final = 3
P_LON: Final = 4
D_LAT: Final = 5
D_LON: Final = 6
P_SERVICE: Final = 7
D_SERVICE: Final = 8
FARE: Final = 9
DEADHEAD_NOISE: Final = 10
TRIP_NOISE: Final = 11
CALLED_OFF_AT: Final = 12
INPUT_FLOATS: Final = 13  # the fields above come with the day; those below are derived
P_X: Final = 13
P_Y: Final = 14
P_Z: Final = 15
D_X: Final = 16
D_Y: Final = 17
D_Z: Final = 18
TRIP_KM: Final = 19
URGENCY: Final = 20  # latest departure from the base; orders the open bookings
WORTH: Final = 21  # reward of completing it
LOSS: Final = 22  # penalty of leaving it unserved
ASSIGNED_AT: Final = 23
PLAN_PICKUP: Final = 24  # as planned at commitment
PLAN_LATE: Final = 25
PLAN_DEADHEAD: Final = 26
DEPART: Final = 27  # forecasts, replaced by facts as the driver goes
ARRIVE: Final = 28
PICKUP: Final = 29
LEAVE: Final = 30
DROPOFF: Final = 31
DONE: Final = 32
LEG_KM: Final = 33  # deadhead of this job
WORK_MIN: Final = 34  # driving and service minutes of this job
BOOKING_FLOATS: Final = 35

# --- bookings: integer fields -----------------------------------------------------------------
PRIORITY: Final = 0
B_WHEELCHAIR: Final = 1
IMMEDIATE: Final = 2
IS_RETURN: Final = 3
P_ZONE: Final = 4
D_ZONE: Final = 5
NO_SHOW: Final = 6
INPUT_INTS: Final = 7
STATUS: Final = 7  # a BookingStatus
DRIVER: Final = 8  # -1: none
BOOKING_INTS: Final = 9

# --- clock and counters of an environment -----------------------------------------------------
NOW: Final = 0
NEXT_EXPIRY: Final = 1  # earliest time at which an open booking is lost
CLOCK_FLOATS: Final = 2
NUM_BOOKINGS: Final = 0
REVEALED: Final = 1  # bookings already created
NUM_OPEN: Final = 2
STEPS: Final = 3  # actions taken, WAIT included
INVALID: Final = 4
ENDED: Final = 5
RELEASED: Final = 6  # commitments undone by breakdowns
NUM_EVENTS: Final = 7
COUNTERS: Final = 8

# --- reward terms (events, booked at simulated times) -----------------------------------------
COMPLETION: Final = _argument(0)
LATENESS: Final = _argument(1)
DEADHEAD: Final = _argument(2)
LOADED: Final = _argument(3)
CANCELLATION: Final = _argument(4)
INVALID_ACTION: Final = _argument(5)
BALANCE: Final = _argument(6)
IDLE: Final = _argument(7)
TERMS: Final = 8
REWARD_TERMS: Final = (
    "completion",
    "lateness",
    "deadhead",
    "loaded",
    "cancellation",
    "invalid_action",
    "balance",
    "idle",
)

# --- event log: (time, kind, driver, booking, km) ---------------------------------------------
NOBODY: Final = _argument(-1)
EV_ASSIGNED: Final = _argument(0)
EV_DEPARTED: Final = _argument(1)
EV_PICKED_UP: Final = _argument(2)
EV_COMPLETED: Final = _argument(3)
EV_UNSERVED: Final = _argument(4)
EV_NO_SHOW: Final = _argument(5)
EV_CALLED_OFF: Final = _argument(6)
EV_RELEASED: Final = _argument(7)
EV_BROKE_DOWN: Final = _argument(8)
EVENT_FIELDS: Final = 5
EVENT_KINDS: Final = (
    "assigned",
    "departed",
    "picked_up",
    "completed",
    "unserved",
    "no_show",
    "called_off",
    "released",
    "broke_down",
)


class World(NamedTuple):
    """State of E environments with N drivers and room for B bookings each."""

    clock: FloatArray  # (E, CLOCK_FLOATS)
    counters: IntArray  # (E, COUNTERS)
    drivers: FloatArray  # (E, DRIVER_FLOATS, N)
    driver_ints: IntArray  # (E, DRIVER_INTS, N)
    queue: IntArray  # (E, N, capacity) booking rows, first in first out
    bookings: FloatArray  # (E, B, BOOKING_FLOATS), sorted by CREATED
    booking_ints: IntArray  # (E, B, BOOKING_INTS)
    open_rows: IntArray  # (E, B) rows of open bookings by URGENCY; NUM_OPEN of them count
    open_columns: IntArray  # (E, B) their columns in the pair tables; then the free columns
    pair_km: FloatArray  # (E, N, B) deadhead from END to pickup, by column
    pair_latest: FloatArray  # (E, N, B) latest feasible departure; -inf: not eligible
    terms: FloatArray  # (E, TERMS) of the current step
    totals: FloatArray  # (E, TERMS) of the day
    credit: FloatArray  # (E,) learning reward of the current step
    events: FloatArray  # (E, C, EVENT_FIELDS); C = 0: not recorded
    random: npt.NDArray[np.uint64]  # (E, 2) day stream, episode stream


def allocate(
    num_envs: int, num_drivers: int, capacity: int, max_bookings: int, record_events: bool = False
) -> World:
    """A zeroed world; ``capacity`` is jobs per driver (one in progress and the queue)."""
    rows = max(1, max_bookings)
    # Four events per booking served; three more per commitment that a breakdown undoes, and each
    # driver breaks down once at most, with `capacity` commitments at most.
    num_events = 5 * rows + (3 * capacity + 2) * num_drivers if record_events else 0
    return World(
        clock=np.zeros((num_envs, CLOCK_FLOATS)),
        counters=np.zeros((num_envs, COUNTERS), dtype=np.int64),
        drivers=np.zeros((num_envs, DRIVER_FLOATS, num_drivers)),
        driver_ints=np.zeros((num_envs, DRIVER_INTS, num_drivers), dtype=np.int64),
        queue=np.zeros((num_envs, num_drivers, capacity), dtype=np.int64),
        bookings=np.zeros((num_envs, rows, BOOKING_FLOATS)),
        booking_ints=np.zeros((num_envs, rows, BOOKING_INTS), dtype=np.int64),
        open_rows=np.zeros((num_envs, rows), dtype=np.int64),
        open_columns=np.zeros((num_envs, rows), dtype=np.int64),
        pair_km=np.zeros((num_envs, num_drivers, rows)),
        pair_latest=np.zeros((num_envs, num_drivers, rows)),
        terms=np.zeros((num_envs, TERMS)),
        totals=np.zeros((num_envs, TERMS)),
        credit=np.zeros(num_envs),
        events=np.zeros((num_envs, num_events, EVENT_FIELDS)),
        random=np.zeros((num_envs, 2), dtype=np.uint64),
    )


class RulesTable(NamedTuple):
    """The scenario's rules as numbers for compiled code (minutes)."""

    horizon: float
    epoch: float
    grace: float
    overtime: float
    capacity: int
    decide_once: bool
    emergency_min_priority: int
    no_show_wait: float
    on_time: float
    slowest_min_per_km: float  # bound on the pace, for a quick feasibility test
    base_lat: float
    base_lon: float
    km_per_degree_lon: float  # at the base
    disturbed: bool  # any call-off or breakdown possible


class Weights(NamedTuple):
    """The scenario's reward weights, and how a learner is credited."""

    completion: float
    priority: FloatArray  # (5,)
    late: float
    deadhead: float
    loaded: float
    cancellation: float
    invalid_action: float
    balance: float
    idle: float
    timing: int  # EVENT, COMMITMENT or PLANNED_PICKUP
    gamma: float  # discount per epoch, for PLANNED_PICKUP
