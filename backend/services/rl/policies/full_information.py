"""The full-information bound under profit rules: a linear programme on a time-space network.

Nodes are (zone, minute); a unit of flow is a car. *Idle* arcs lead from (z, τ) to (z, τ + 1) and
cost nothing. A *ride* arc of request r (from o to d, known at minute t) leaves (p, τ) with
τ ≥ t and τ + minutes(p, o) ≤ the window's end, arrives at (d, τ + minutes(p, o) + minutes(o, d))
and earns fare - deadhead - loaded cost. Each request is used at most once; cars enter at the
nodes where their shifts start. Rides accepted in the hour count in full, so no flow is followed
past the last minute at which a ride can begin.

Why it is an upper bound for *every* policy: the schedule that any policy produces, seen
afterwards, is an integer flow of this network (a car that serves a ride leaves its zone when it
is free and the request is known, and is idle otherwise), and its profit is the flow's. The
programme relaxes four things: decisions may know the future, a car may leave later than a
dispatched car would, any number of rides may be queued on a car, and flows may be fractional.
Rides at a loss stay in: a policy may take one to get a car where it is needed. Travel times must
be whole minutes, so that the network's clock is exact (rounding down would keep the bound, but
no scenario needs it).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from services.rl.errors import PolicyError
from services.rl.simulation.scenarios import RewardWeights, Rules
from services.rl.simulation.travel import MATRIX, TravelTables
from services.rl.simulation.types import Day, FloatArray, IntArray


@dataclass(frozen=True)
class BoundResult:
    """What no policy can exceed on a day.

    Attributes:
        value: The programme's optimum, in units of reward (USD).
        accepted: Requests served in the optimum; a sum of fractions where it is not integer.
        requests: Requests of the day.
        zone_minute_value: ``(Z, T)`` dual prices: what one more free car at (zone, minute) is
            worth to a clairvoyant.
    """

    value: float
    accepted: float
    requests: int
    zone_minute_value: FloatArray


@dataclass(frozen=True)
class _RideArcs:
    request: IntArray  # (A,)
    start: IntArray  # (A,) node
    end: IntArray  # (A,) node; -1: after the last minute that matters
    profit: FloatArray  # (A,)


def full_information_bound(
    day: Day,
    tables: TravelTables,
    rules: Rules,
    weights: RewardWeights,
    *,
    method: str = "highs",
) -> BoundResult:
    """Solve the programme with HiGHS.

    Args:
        day: The day.
        tables: Travel between zones.
        rules: The scenario's.
        weights: The scenario's.
        method: Of `scipy.optimize.linprog`; it decides which of several optimal dual prices are
            found, not the value.

    Raises:
        PolicyError: If travel is not between zones in whole minutes, a booking has no fare or
            has service times, or the solver fails.
    """
    _check(day, tables)
    zones = tables.minutes.shape[0]
    if len(day.bookings) == 0:
        return BoundResult(0.0, 0.0, 0, np.zeros((zones, 1)))
    last = int(np.floor(day.bookings["window_end_min"].max() + rules.grace_min))
    rides = _ride_arcs(day, tables, rules, weights, last)
    nodes = zones * (last + 1)
    idle_start = np.arange(nodes - zones)  # node = zones * minute + zone
    entry = np.zeros(nodes)
    for driver in day.drivers:
        minute = int(np.ceil(driver["shift_start_min"]))
        if minute <= last:
            entry[zones * minute + driver["zone"]] += 1.0

    # Columns: rides, then idle arcs. Rows: cars leaving a node minus cars arriving <= entries.
    ride = np.arange(rides.request.size)
    idle = rides.request.size + np.arange(idle_start.size)
    inside = rides.end >= 0
    rows = np.concatenate([rides.start, idle_start, rides.end[inside], idle_start + zones])
    columns = np.concatenate([ride, idle, ride[inside], idle])
    signs = np.concatenate(
        [np.ones(ride.size + idle.size), -np.ones(int(inside.sum()) + idle.size)]
    )
    num_columns = ride.size + idle.size
    flow = csr_array((signs, (rows, columns)), shape=(nodes, num_columns))
    once = csr_array(
        (np.ones(ride.size), (rides.request, ride)), shape=(len(day.bookings), num_columns)
    )
    profit = np.concatenate([rides.profit, np.zeros(idle.size)])
    return _solve(profit, flow, once, entry, zones, method)


def _check(day: Day, tables: TravelTables) -> None:
    if tables.kind != MATRIX:
        raise PolicyError("the full-information bound needs travel between zones")
    if np.any(tables.minutes != np.round(tables.minutes)):
        raise PolicyError("the full-information bound needs travel times in whole minutes")
    bookings = day.bookings
    if np.isnan(bookings["fare"]).any():
        raise PolicyError("the full-information bound needs a fare for every booking")
    if np.any(bookings["pickup_service_min"] + bookings["dropoff_service_min"] > 0):
        raise PolicyError("the full-information bound knows no service times")


def _ride_arcs(
    day: Day, tables: TravelTables, rules: Rules, weights: RewardWeights, last: int
) -> _RideArcs:
    minutes = np.round(tables.minutes).astype(np.int64)
    zones = minutes.shape[0]
    parts: list[IntArray] = []
    profits: list[FloatArray] = []
    for r, booking in enumerate(day.bookings):
        origin, destination = int(booking["pickup_zone"]), int(booking["dropoff_zone"])
        known = int(np.ceil(max(booking["created_min"], 0.0)))
        until = int(np.floor(booking["window_end_min"] + rules.grace_min))
        trip = minutes[origin, destination]
        for place in range(zones):
            leave = np.arange(known, until - minutes[place, origin] + 1)
            if leave.size == 0:
                continue
            pickup = np.maximum(leave + minutes[place, origin], int(booking["promised_min"]))
            arrive = pickup + trip
            end = np.where(arrive <= last, zones * arrive + destination, -1)
            parts.append(np.stack([np.full(leave.size, r), zones * leave + place, end]))
            late = np.maximum(0.0, pickup - booking["window_end_min"])
            profits.append(
                weights.completion * booking["fare"]
                - weights.late_per_min * late
                - weights.deadhead_per_km * tables.km[place, origin]
                - weights.loaded_per_km * tables.km[origin, destination]
            )
    request, start, end = np.concatenate(parts, axis=1)
    return _RideArcs(request, start, end, np.concatenate(profits))


def _solve(
    profit: FloatArray, flow: csr_array, once: csr_array, entry: FloatArray, zones: int, method: str
) -> BoundResult:
    from scipy.sparse import vstack

    requests = once.shape[0]
    answer = linprog(
        -profit,
        A_ub=vstack([flow, once], format="csr"),
        b_ub=np.concatenate([entry, np.ones(requests)]),
        bounds=(0.0, None),
        method=method,
    )
    if not answer.success:
        raise PolicyError(f"the full-information programme was not solved: {answer.message}")
    accepted = float((once @ answer.x).sum())
    prices = -np.asarray(answer.ineqlin.marginals[: entry.size], dtype=np.float64)
    return BoundResult(
        value=float(-answer.fun),
        accepted=accepted,
        requests=requests,
        zone_minute_value=np.ascontiguousarray(prices.reshape(-1, zones).T),
    )
