"""A compiled any-time search over drivers' routes, with the simulator's own clock and reward.

At every decision epoch all known open bookings (up to a look-ahead) are *planned* into routes, one
per driver, by simulated annealing that starts from the previous
plan. The objective is the reward the plan would earn, timed exactly as the simulator drives
(`simulation.commitments`): a booking left out of the plan earns nothing, a planned one its worth
plus the penalty avoided, less lateness and deadhead. Only what must depart before the next epoch
is committed; all else stays open to better plans.

The search is laid out in four files: what an epoch looks like (`route_problem`), what a route is
worth (`route_clock`), the moves (`route_moves`), and here what an epoch does with them.

Values learned for what the plan does not know (`planner_values`) enter as plain numbers: a
booking's bonus, a price of drivers' minutes, a worth of where and when a route ends.

Everything is deterministic by seed under a budget of moves.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from services.rl.simulation.compiled import allocating, kernel
from services.rl.simulation.kernels import wait
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.pairs import can_commit, find_open
from services.rl.simulation.setup import Setup
from services.rl.simulation.types import FloatArray, IntArray
from services.rl.simulation.world import (
    COMMITTED,
    ENDED,
    STEPS,
    World,
)

from .kernels import take
from .route_clock import NO_PLAN, DemandGrid, Problem, Routes, adopt, visit
from .route_moves import anneal, next_bits
from .route_problem import problem_of

# Settings of the search: an array, so that changing one compiles nothing.
MOVES, LOOK_AHEAD_MIN, HOT, COLD, _SETTINGS = range(5)
NUM_SETTINGS: Final = _SETTINGS


class Plan(NamedTuple):
    """What survives from epoch to epoch, by booking row, for E environments."""

    rows: IntArray  # (E, N, B)
    length: IntArray  # (E, N)


@kernel
def _restore(
    q: Problem,
    r: Routes,
    job_of_row: IntArray,
    rows: IntArray,
    length: IntArray,
    order: IntArray,
) -> None:
    """The previous plan, less what is no longer open or cannot be driven any more."""
    for d in range(q.fleet.free.size):
        free, last, n = q.fleet.free[d], -1, 0
        for k in range(length[d]):
            b = rows[d, k]
            if b < 0 or b >= job_of_row.size or job_of_row[b] < 0:
                continue
            j = job_of_row[b]
            if r.driver[j] >= 0:
                continue
            _depart, done, value = visit(q, d, last, free, j)
            if value == NO_PLAN:
                continue
            order[n] = j
            r.driver[j] = d
            free, last = done, j
            n += 1
        adopt(q, r, d, order, n, 0)


@allocating
def search_epoch(
    w: World,
    s: Setup,
    e: int,
    settings: FloatArray,
    g: DemandGrid,
    terms: FloatArray,
    plan: Plan,
    seed: np.uint64,
    commits: bool,
    chosen: FloatArray,
) -> int:
    """Plan environment ``e``'s epoch from its last plan, and commit what must leave now.

    Args:
        w: World.
        s: Constants.
        e: Environment.
        settings: ``(NUM_SETTINGS,)``.
        g: Unknown demand.
        terms: ``(NUM_TERMS,)`` value terms, or ``(0,)``: the plan's own reward alone.
        plan: Read and replaced, for environment ``e``.
        seed: Of the search.
        commits: Whether to commit, or only to say what would be committed; the plan then keeps it.
        chosen: ``(E, K, 3)``: driver, booking row and score of each commitment.
    """
    q = problem_of(w, s, e, settings[LOOK_AHEAD_MIN], g, terms)
    jobs, fleet, now = q.jobs, q.fleet, q.now
    drivers, count = fleet.free.size, jobs.row.size
    job_of_row = np.full(w.bookings.shape[1], -1, dtype=np.int64)
    for j in range(count):
        job_of_row[jobs.row[j]] = j
    r = Routes(
        np.zeros((drivers, count + 1), dtype=np.int64),
        np.zeros(drivers, dtype=np.int64),
        np.zeros((drivers, count + 1)),
        np.zeros((drivers, count + 1)),
        np.zeros(drivers),
        np.full(count, -1, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
    )
    first_order = np.empty(count + 1, dtype=np.int64)
    second_order = np.empty(count + 1, dtype=np.int64)
    _restore(q, r, job_of_row, plan.rows[e], plan.length[e], first_order)
    random = np.empty(1, dtype=np.uint64)
    random[0] = (seed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        np.int64(now * 16.0) + 1
    ) * np.uint64(0xBF58476D1CE4E5B9)
    if random[0] == np.uint64(0):
        random[0] = np.uint64(1)
    for _ in range(4):
        next_bits(random)
    anneal(
        q, r,
        np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64),
        first_order, second_order,
        int(settings[MOVES]), settings[HOT], settings[COLD], random,
    )  # fmt: skip
    n = 0
    next_epoch = now + s.rules.epoch
    everything = s.rules.decide_once or next_epoch >= s.rules.horizon
    for d in range(drivers):
        free, last, kept, leaving = fleet.free[d], -1, 0, True
        room = s.rules.capacity - w.driver_ints[e, COMMITTED, d]
        for k in range(r.length[d]):
            j = r.order[d, k]
            depart, free, value = visit(q, d, last, free, j)
            last = j
            leaving = leaving and k < room and (everything or depart < next_epoch)
            if leaving and commits:
                i = find_open(w, e, jobs.row[j])
                if can_commit(w, s.rules, e, d, w.open_columns[e, i]):
                    n = take(w, s, e, d, i, value, chosen, n)
                    continue
                leaving = False
            if leaving and n < chosen.shape[1]:
                chosen[e, n, 0], chosen[e, n, 1], chosen[e, n, 2] = d, jobs.row[j], value
                n += 1
            plan.rows[e, d, kept] = jobs.row[j]
            kept += 1
        plan.length[e, d] = kept
    return n


@allocating  # what returns arrays must count references
def _grid(
    near: FloatArray, hour: FloatArray, from_base: FloatArray, grid: FloatArray
) -> DemandGrid:
    """From what Python hands over; ``grid``: the numbers of `DemandGrid` after its arrays."""
    return DemandGrid(
        near, hour, from_base, grid[0], grid[1], grid[2], grid[3], int(grid[4]), grid[5]
    )


@allocating
def decide_search(
    m: Buffer,
    x: IntArray,
    e: int,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    rows: IntArray,
    length: IntArray,
    seed: np.uint64,
    commits: bool,
    chosen: FloatArray,
) -> int:
    """One epoch of one environment; see `search_epoch`."""
    w, s, _out = unpack(m, x)
    g = _grid(near, hour, from_base, grid)
    return search_epoch(w, s, e, settings, g, terms, Plan(rows, length), seed, commits, chosen)


@allocating
def advise_search(
    m: Buffer,
    x: IntArray,
    envs: IntArray,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    rows: IntArray,
    length: IntArray,
    seed: np.uint64,
    chosen: FloatArray,
    counts: IntArray,
) -> None:
    """What would be committed now in some environments; nothing is. ``counts``: per environment."""
    w, s, _out = unpack(m, x)
    g = _grid(near, hour, from_base, grid)
    plan = Plan(rows, length)
    for i in range(envs.size):
        e = envs[i]
        counts[e] = search_epoch(w, s, e, settings, g, terms, plan, seed, False, chosen)


@allocating
def play_search(
    m: Buffer,
    x: IntArray,
    settings: FloatArray,
    near: FloatArray,
    hour: FloatArray,
    from_base: FloatArray,
    grid: FloatArray,
    terms: FloatArray,
    seeds: npt.NDArray[np.uint64],
) -> None:
    """Run every environment to the end of its day; ``seeds`` one per environment."""
    w, s, _out = unpack(m, x)
    g = _grid(near, hour, from_base, grid)
    envs, drivers = w.clock.shape[0], w.drivers.shape[2]
    nowhere = np.empty((envs, 0, 3))
    plan = Plan(
        np.zeros((envs, drivers, w.bookings.shape[1]), dtype=np.int64),
        np.zeros((envs, drivers), dtype=np.int64),
    )
    for e in range(envs):
        while w.counters[e, ENDED] == 0:
            search_epoch(w, s, e, settings, g, terms, plan, seeds[e], True, nowhere)
            w.counters[e, STEPS] += 1
            wait(w, s.travel, s.rules, s.weights, e)
