"""Moves of the route search: simulated annealing on routes (Kirkpatrick, Gelatt, Vecchi 1983).

Moves are *granular* (Toth, Vigo 2003): a booking goes behind one of the few predecessors from
whose end it is cheap to reach. They are: insert, insert in place of the successor, relocate,
exchange of route tails (2-opt*), swap, and removal. A move is valued by driving the changed part
of the routes; the walk stops where the clock agrees with the old route's again.
"""

import numpy as np
import numpy.typing as npt

from services.rl.simulation.compiled import inlined, kernel
from services.rl.simulation.types import IntArray

from .route_clock import NEIGHBOURS, NO_PLAN, Problem, Routes, adopt, drive

# --- the search --------------------------------------------------------------------------------


@inlined
def next_bits(random: npt.NDArray[np.uint64]) -> np.uint64:
    """xorshift64* (Vigna 2016)."""
    x = random[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    random[0] = x
    return x * np.uint64(2685821657736338717)


@inlined
def _below(random: npt.NDArray[np.uint64], n: int) -> int:
    return np.int64((next_bits(random) >> np.uint64(33)) % np.uint64(n))  # type: ignore[return-value]


@inlined
def _unit(random: npt.NDArray[np.uint64]) -> float:
    return np.float64(next_bits(random) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def anneal(
    q: Problem,
    r: Routes,
    best_driver: IntArray,
    best_place: IntArray,
    first_order: IntArray,
    second_order: IntArray,
    moves: int,
    hot: float,
    cold: float,
    random: npt.NDArray[np.uint64],
) -> None:
    """Improve the plan ``r`` by ``moves`` moves; it ends as the best one seen."""
    jobs = q.jobs
    count, drivers = jobs.row.size, q.fleet.free.size
    if count == 0 or drivers == 0 or moves <= 0:
        return
    present = 0.0
    for d in range(drivers):
        present += r.value[d]
    best = present
    for j in range(count):
        best_driver[j], best_place[j] = r.driver[j], r.place[j]
    cooling = (cold / hot) ** (1.0 / moves)
    heat = hot
    for _move in range(moves):
        heat *= cooling
        j = min(_below(random, count), _below(random, count))  # jobs come most urgent first
        own, at = r.driver[j], r.place[j]
        draw = _unit(random)
        if own >= 0 and draw < 0.04:
            n = 0
            for k in range(r.length[own]):
                if k != at:
                    first_order[n] = r.order[own, k]
                    n += 1
            value = drive(q, r, own, first_order, n, at, n - at)
            delta = value - r.value[own]
            if delta >= 0.0 or delta > heat * np.log(1.0 - _unit(random)):
                r.driver[j] = -1
                adopt(q, r, own, first_order, n, at)
                present += delta
            else:
                continue
        else:
            # Where to: behind a cheap predecessor, now and then behind any.
            if _unit(random) < 0.9:
                before = jobs.near[j, _below(random, NEIGHBOURS)]
                if before >= count:
                    continue
                if before >= 0:
                    d = r.driver[before]
                    p = r.place[before] + 1
                else:
                    d, p = -1 - before, 0
            else:
                d = _below(random, drivers)
                p = _below(random, r.length[d] + 1)
            if d < 0 or not jobs.allowed[d, j]:
                continue
            if own == d and (p == at or p == at + 1):
                continue
            if own >= 0 and own != d and draw < 0.25:
                # 2-opt*: j and all behind it go behind the predecessor, and the other way round.
                n = p + r.length[own] - at
                m = at + r.length[d] - p
                for k in range(p):
                    first_order[k] = r.order[d, k]
                for k in range(at, r.length[own]):
                    first_order[p + k - at] = r.order[own, k]
                for k in range(at):
                    second_order[k] = r.order[own, k]
                for k in range(p, r.length[d]):
                    second_order[at + k - p] = r.order[d, k]
                value = drive(q, r, d, first_order, n, p, 0)
                if value == NO_PLAN:
                    continue
                other = drive(q, r, own, second_order, m, at, 0)
                delta = value + other - r.value[d] - r.value[own]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                adopt(q, r, d, first_order, n, p)
                adopt(q, r, own, second_order, m, at)
                present += delta
            elif own == d:
                # Within the route: out of one place, into another.
                n = 0
                for k in range(r.length[d]):
                    if k == p:
                        first_order[n] = j
                        n += 1
                    if k != at:
                        first_order[n] = r.order[d, k]
                        n += 1
                if p == r.length[d]:
                    first_order[n] = j
                    n += 1
                begin = min(p, at)
                value = drive(
                    q, r, d, first_order, n, begin,
                    n - 1 - max(p - 1, at),
                )  # fmt: skip
                delta = value - r.value[d]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                adopt(q, r, d, first_order, n, begin)
                present += delta
            else:
                # Insert; the successor may make room: it goes where j came from, or out.
                out = -1
                if p < r.length[d] and draw > 0.7:
                    out = r.order[d, p]
                    if own >= 0 and not jobs.allowed[own, out]:
                        continue
                n = 0
                for k in range(p):
                    first_order[n] = r.order[d, k]
                    n += 1
                first_order[n] = j
                n += 1
                for k in range(p if out < 0 else p + 1, r.length[d]):
                    first_order[n] = r.order[d, k]
                    n += 1
                value = drive(q, r, d, first_order, n, p, n - 1 - p)
                if value == NO_PLAN:
                    continue
                delta = value - r.value[d]
                m = 0
                if own >= 0:
                    for k in range(r.length[own]):
                        if k != at:
                            second_order[m] = r.order[own, k]
                            m += 1
                        elif out >= 0:
                            second_order[m] = out
                            m += 1
                    other = drive(
                        q, r, own, second_order, m, at,
                        m - at if out < 0 else m - 1 - at,
                    )  # fmt: skip
                    delta += other - r.value[own]
                if delta < 0.0 and delta <= heat * np.log(1.0 - _unit(random)):
                    continue
                if out >= 0:
                    r.driver[out] = -1
                adopt(q, r, d, first_order, n, p)
                if own >= 0:
                    adopt(q, r, own, second_order, m, at)
                present += delta
        if present > best + 1e-9:
            best = present
            for k in range(count):
                best_driver[k], best_place[k] = r.driver[k], r.place[k]
    if present < best - 1e-9:
        for d in range(drivers):
            r.length[d] = 0
        for j in range(count):
            r.driver[j] = best_driver[j]
            if best_driver[j] >= 0:
                d = best_driver[j]
                r.order[d, best_place[j]] = j
                r.length[d] += 1
        for d in range(drivers):
            n = r.length[d]
            for k in range(n):
                first_order[k] = r.order[d, k]
            adopt(q, r, d, first_order, n, 0)
