"""Key performance indicators of a finished day: one definition for every table and chart.

Denominators are all bookings *due*: those neither called off by the patient nor missed because
the patient was not there. An unserved booking is not on time.
"""

import numpy as np

from .compiled import allocating, inlined
from .kernels import workload_gini
from .ledger import CALLED_OFF, COMPLETED, MISSED, UNSERVED
from .types import FloatArray
from .world import (
    CREATED,
    DEADHEAD_KM,
    IMMEDIATE,
    INVALID,
    LOADED_KM,
    NUM_BOOKINGS,
    PICKUP,
    PRIORITY,
    PROMISED,
    RELEASED,
    SHIFT_END,
    SHIFT_START,
    STATUS,
    STEPS,
    TERMS,
    WINDOW_END,
    RulesTable,
    World,
)

KPIS = (
    "reward",  # undiscounted sum of the reward terms
    "reward_per_step",  # over all actions of the day, WAIT included
    "bookings_due",
    "completed",
    "completion_pct",
    "on_time_pct",  # picked up within on_time_min of the promise (or the request)
    "late_pct",  # served, not on time
    "unserved",
    "unserved_p1",
    "unserved_p2",
    "unserved_p3",
    "unserved_p4",
    "unserved_p5",
    "deadhead_km_per_trip",
    "total_km_per_trip",
    "deadhead_km",
    "total_km",
    "wait_mean_min",  # of served bookings, from the promised time (the request if immediate)
    "wait_p95_min",
    "workload_gini",
    "trips_per_vehicle_hour",
    "satisfaction",  # 1..5
    "no_shows",
    "called_off",
    "released",  # commitments undone by breakdowns
    "invalid_actions",
    "steps",
)
"""Names, in the order of the array that `day_kpis` fills."""

HIGHER_IS_BETTER = frozenset(
    {
        "reward",
        "reward_per_step",
        "completed",
        "completion_pct",
        "on_time_pct",
        "trips_per_vehicle_hour",
        "satisfaction",
    }
)


@inlined
def wait_min(created: float, promised: float, pickup: float, immediate: bool) -> float:
    """Minutes a patient waited beyond the promise (beyond the request if immediate)."""
    return max(0.0, pickup - (created if immediate else promised))


@inlined
def satisfaction(late_min: float, waited_min: float) -> float:
    """Score of one served booking, 1 (worst) to 5; an unserved one scores 1."""
    return min(5.0, max(1.0, 5.0 - late_min / 7.5 - max(0.0, waited_min - 15.0) / 15.0))


@inlined
def _percentile(values: FloatArray, n: int, share: float) -> float:
    """Percentile of the first n values by linear interpolation; sorts them in place."""
    if n == 0:
        return 0.0
    for i in range(1, n):
        x = values[i]
        j = i
        while j > 0 and values[j - 1] > x:
            values[j] = values[j - 1]
            j -= 1
        values[j] = x
    position = share * (n - 1)
    low = int(position)
    high = min(low + 1, n - 1)
    return values[low] + (position - low) * (values[high] - values[low])


@allocating
def day_kpis(w: World, rules: RulesTable, e: int, out: FloatArray) -> None:
    """Fill ``out`` (``len(KPIS)``) with the KPIs of environment ``e``'s day so far.

    A day still running counts only what has happened; its open bookings count as due. Where
    nothing was due nothing failed: 100 % complete and on time; before any booking is decided
    satisfaction is full.
    """
    n = w.counters[e, NUM_BOOKINGS]
    waits = np.empty(n)
    served = on_time = unserved = no_shows = called_off = 0
    wait_total = score = 0.0
    by_priority = np.zeros(5)
    for b in range(n):
        status = w.booking_ints[e, b, STATUS]
        if status == MISSED:
            no_shows += 1
        elif status == CALLED_OFF:
            called_off += 1
        elif status == COMPLETED:
            pickup = w.bookings[e, b, PICKUP]
            waited = wait_min(
                w.bookings[e, b, CREATED],
                w.bookings[e, b, PROMISED],
                pickup,
                w.booking_ints[e, b, IMMEDIATE] == 1,
            )
            waits[served] = waited
            served += 1
            wait_total += waited
            on_time += 1 if waited <= rules.on_time + 1e-9 else 0
            score += satisfaction(max(0.0, pickup - w.bookings[e, b, WINDOW_END]), waited)
        elif status == UNSERVED:
            unserved += 1
            by_priority[w.booking_ints[e, b, PRIORITY] - 1] += 1
            score += 1.0
    due = n - no_shows - called_off
    empty_km = loaded_km = hours = 0.0
    for d in range(w.drivers.shape[2]):
        empty_km += w.drivers[e, DEADHEAD_KM, d]
        loaded_km += w.drivers[e, LOADED_KM, d]
        hours += (w.drivers[e, SHIFT_END, d] - w.drivers[e, SHIFT_START, d]) / 60.0
    reward = 0.0
    for k in range(TERMS):
        reward += w.totals[e, k]
    steps = w.counters[e, STEPS]
    trips = max(1, served)
    decided = served + unserved
    out[0] = reward
    out[1] = reward / max(1, steps)
    out[2] = due
    out[3] = served
    out[4] = 100.0 * served / due if due > 0 else 100.0
    out[5] = 100.0 * on_time / due if due > 0 else 100.0
    out[6] = 100.0 * (served - on_time) / max(1, due)
    out[7] = unserved
    for p in range(5):
        out[8 + p] = by_priority[p]
    out[13] = empty_km / trips
    out[14] = (empty_km + loaded_km) / trips
    out[15] = empty_km
    out[16] = empty_km + loaded_km
    out[17] = wait_total / trips
    out[18] = _percentile(waits, served, 0.95)
    out[19] = workload_gini(w, e)
    out[20] = served / hours if hours > 0.0 else 0.0
    out[21] = score / decided if decided > 0 else 5.0
    out[22] = no_shows
    out[23] = called_off
    out[24] = w.counters[e, RELEASED]
    out[25] = w.counters[e, INVALID]
    out[26] = steps
