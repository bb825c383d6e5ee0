"""Stepping E environments at once, compiled: act, observe, begin the next day where one ends."""

import numpy as np
import numpy.typing as npt

from .commitments import commit
from .compiled import allocating, entry, inlined, kernel
from .kernels import act, begin_at_state, begin_day, wait
from .kpis import day_kpis
from .memory import Buffer, unpack
from .observation import KIND_NUMBER, encode_compact, encode_full, encode_mask, encode_rows
from .pairs import can_commit, find_open
from .sampling import next_training_seed, sample_day, seed_episodes
from .setup import DAY_DRIVER_FIELDS, DAY_DRIVER_INTS, DayTables, Outputs, Setup
from .types import MOST_MIN, FloatArray, IntArray
from .world import (
    BUSY_MIN,
    COMMITTED,
    CREATED,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_ZONE,
    END_LAT,
    END_LON,
    END_ZONE,
    ENDED,
    FARE,
    FREE_AT,
    INPUT_FLOATS,
    INPUT_INTS,
    NUM_BOOKINGS,
    NUM_OPEN,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_ZONE,
    PRIORITY,
    PROMISED,
    SERVED,
    SHIFT_END,
    SHIFT_START,
    STEPS,
    TERMS,
    WINDOW_END,
    World,
)

_FULL, _ROWS = KIND_NUMBER["full"], KIND_NUMBER["rows"]


@kernel
def load_day(w: World, days: DayTables, e: int, row: int) -> None:
    """Copy a real day into environment ``e``'s blocks."""
    n = days.num_bookings[row]
    w.counters[e, NUM_BOOKINGS] = n
    for b in range(n):
        for i in range(INPUT_FLOATS):
            w.bookings[e, b, i] = days.bookings[row, b, i]
        for i in range(INPUT_INTS):
            w.booking_ints[e, b, i] = days.booking_ints[row, b, i]
    for d in range(w.drivers.shape[2]):
        for i in range(len(DAY_DRIVER_FIELDS)):
            w.drivers[e, DAY_DRIVER_FIELDS[i], d] = days.drivers[row, i, d]
        for i in range(len(DAY_DRIVER_INTS)):
            w.driver_ints[e, DAY_DRIVER_INTS[i], d] = days.driver_ints[row, i, d]


@inlined
def observe(w: World, s: Setup, out: Outputs, e: int) -> None:
    """Write observation and mask of environment ``e``."""
    if s.kind == _FULL:
        encode_full(w, s.travel, s.rules, e, s.visible, out.observation[e])
    elif s.kind == _ROWS:
        encode_rows(w, s.travel, s.rules, e, s.visible, out.observation[e])
    else:
        encode_compact(w, s.travel, s.rules, e, s.visible, out.observation[e])
    encode_mask(w, s.rules, e, s.visible, out.mask[e])


@kernel
def start_day(w: World, s: Setup, out: Outputs, e: int, day: int) -> None:
    """Begin the day of a seed (or a row of the day tables) in environment ``e``."""
    if s.sampled:
        sample_day(w, s.demand, e, day)
    else:
        load_day(w, s.days, e, day)
    out.day[e] = day
    begin_day(w, s.travel, s.rules, s.weights, e)


@entry
def start_days(m: Buffer, x: IntArray, envs: IntArray, days: IntArray) -> None:
    """Begin given days in given environments, and observe them."""
    w, s, out = unpack(m, x)
    for i in range(envs.size):
        start_day(w, s, out, envs[i], days[i])
        observe(w, s, out, envs[i])


@entry
def step_batch(m: Buffer, x: IntArray, actions: IntArray, autoreset: bool) -> None:
    """One action in every environment.

    With ``autoreset`` an ended episode leaves its last observation and KPIs in the final arrays
    and the next day begins within the step (Gymnasium's SAME_STEP).
    """
    w, s, out = unpack(m, x)
    for e in range(actions.size):
        out.epochs[e] = act(w, s.travel, s.rules, s.weights, e, actions[e], s.visible)
        reward = 0.0
        for k in range(TERMS):
            out.terms[e, k] = w.terms[e, k]
            reward += w.terms[e, k]
        out.reward[e] = w.credit[e] if s.weights.timing > 0 else reward
        ended = w.counters[e, ENDED] == 1
        out.terminated[e] = ended
        out.truncated[e] = not ended and w.counters[e, STEPS] >= s.max_steps
        if ended or out.truncated[e]:
            day_kpis(w, s.rules, e, out.final_kpis[e])
            if autoreset:
                observe(w, s, out, e)
                for i in range(out.observation.shape[1]):
                    out.final_observation[e, i] = out.observation[e, i]
                start_day(w, s, out, e, next_training_seed(w, e, s.training_seeds))
        observe(w, s, out, e)


@entry
def random_valid_actions(
    mask: npt.NDArray[np.int8], random: npt.NDArray[np.uint64], actions: IntArray
) -> None:
    """Draw, for each environment, one action uniformly among the valid ones.

    ``random`` is an ``(E,)`` state of a xorshift generator (Marsaglia 2003), never zero.
    """
    for e in range(actions.size):
        x = random[e]
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
        random[e] = x
        valid = 0
        for a in range(mask.shape[1]):
            valid += mask[e, a]
        chosen = np.int64((x >> np.uint64(11)) % np.uint64(valid))
        for a in range(mask.shape[1]):
            chosen -= mask[e, a]
            if chosen < 0:
                actions[e] = a
                break


# --- single environments, for Python -----------------------------------------------------------


@entry
def observe_one(m: Buffer, x: IntArray, e: int) -> None:
    """Refresh observation and mask of one environment."""
    w, s, out = unpack(m, x)
    observe(w, s, out, e)


@inlined
def _within(value: float, low: float, high: float) -> bool:
    return low <= value <= high  # not so for NaN


@kernel
def _admissible(w: World, s: Setup, e: int) -> bool:
    """Whether the plain fields of a state are what the rules can handle."""
    zones = s.travel.km.shape[0]  # 1 where travel is by coordinates
    ok = True
    for b in range(w.counters[e, NUM_BOOKINGS]):
        booking, ints = w.bookings[e, b], w.booking_ints[e, b]
        ok &= _within(booking[CREATED], -MOST_MIN, MOST_MIN)
        ok &= _within(booking[PROMISED], -MOST_MIN, MOST_MIN)
        ok &= _within(booking[WINDOW_END], booking[PROMISED], MOST_MIN)
        ok &= _within(booking[P_LAT], -90, 90) and _within(booking[P_LON], -180, 180)
        ok &= _within(booking[D_LAT], -90, 90) and _within(booking[D_LON], -180, 180)
        ok &= _within(booking[P_SERVICE], 0, MOST_MIN) and _within(booking[D_SERVICE], 0, MOST_MIN)
        ok &= not np.isinf(booking[FARE])
        ok &= 1 <= ints[PRIORITY] <= 5
        ok &= 0 <= ints[P_ZONE] < zones and 0 <= ints[D_ZONE] < zones
    for d in range(w.drivers.shape[2]):
        ok &= _within(w.drivers[e, END_LAT, d], -90, 90)
        ok &= _within(w.drivers[e, END_LON, d], -180, 180)
        ok &= _within(w.drivers[e, FREE_AT, d], -MOST_MIN, MOST_MIN)
        ok &= _within(w.drivers[e, SHIFT_START, d], -MOST_MIN, MOST_MIN)
        ok &= _within(w.drivers[e, SHIFT_END, d], -MOST_MIN, MOST_MIN)
        ok &= _within(w.drivers[e, BUSY_MIN, d], 0, MOST_MIN)
        ok &= 0 <= w.driver_ints[e, COMMITTED, d] <= s.rules.capacity
        ok &= 0 <= w.driver_ints[e, SERVED, d] <= MOST_MIN
        ok &= 0 <= w.driver_ints[e, END_ZONE, d] < zones
    return ok


@entry
def load_state_one(m: Buffer, x: IntArray, e: int) -> bool:
    """Open all bookings of a state whose plain fields lie in the blocks, and observe it.

    False, and nothing done, if a field has a value that the rules cannot handle.
    """
    w, s, out = unpack(m, x)
    if not _admissible(w, s, e):
        return False
    begin_at_state(w, s.travel, s.rules, s.weights, e)
    observe(w, s, out, e)
    return True


@entry
def can_commit_one(m: Buffer, x: IntArray, e: int, d: int, b: int) -> bool:
    """Whether booking b (a row of the day) is open and may be committed to driver d now."""
    w, s, _out = unpack(m, x)
    i = find_open(w, e, b)
    return i < w.counters[e, NUM_OPEN] and can_commit(w, s.rules, e, d, w.open_columns[e, i])


@entry
def commit_one(m: Buffer, x: IntArray, e: int, d: int, b: int) -> bool:
    """Commit booking b (a row of the day) to driver d; False, and nothing done, if not allowed."""
    w, s, _out = unpack(m, x)
    i = find_open(w, e, b)
    if i >= w.counters[e, NUM_OPEN] or not can_commit(w, s.rules, e, d, w.open_columns[e, i]):
        return False
    w.counters[e, STEPS] += 1
    commit(w, s.travel, s.rules, s.weights, e, d, i)
    return True


@entry
def seed_one(m: Buffer, x: IntArray, e: int, seed: int) -> None:
    """Start the stream from which one environment draws its later days."""
    w, _s, _out = unpack(m, x)
    seed_episodes(w, e, seed)


@entry
def next_day_one(m: Buffer, x: IntArray, e: int) -> int:
    """Draw the next training day of one environment."""
    w, s, _out = unpack(m, x)
    return next_training_seed(w, e, s.training_seeds)


@allocating
def kpis_one(m: Buffer, x: IntArray, e: int, values: FloatArray) -> None:
    """Fill ``values`` with the KPIs of one environment's day so far."""
    w, s, _out = unpack(m, x)
    day_kpis(w, s.rules, e, values)


@entry
def wait_one(m: Buffer, x: IntArray, e: int) -> None:
    """Move one environment to its next decision epoch."""
    w, s, _out = unpack(m, x)
    w.counters[e, STEPS] += 1 - w.counters[e, ENDED]
    wait(w, s.travel, s.rules, s.weights, e)
