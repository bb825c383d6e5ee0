"""Deciding on edges: `matching_linear`, `dqn_matching` and `dqn`, compiled.

At every epoch each open booking and driver is scored by the *edges* of `simulation.edges`, either
with linear weights or by a pair network, and a round of optimal one-to-one matching commits the
pairs that beat deferring; rounds follow while drivers have places in their queue. `dqn` instead
commits the best pair, looks again, and stops when waiting is best. The same
functions play whole batches of days and decide a single state.
"""

from typing import Any

import numpy as np

from services.rl.simulation.compiled import allocating
from services.rl.simulation.edges import (
    NUM_EDGE,
    WORK_ROWS,
    add_follow_ups,
    drop_hopeless,
    present_edges,
)
from services.rl.simulation.kernels import wait
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.observation import encode_mask, encode_rows, rows_size
from services.rl.simulation.setup import Setup
from services.rl.simulation.types import FloatArray, IntArray
from services.rl.simulation.world import ENDED, NUM_OPEN, STEPS, World, _argument

from .kernels import assign, take
from .pair_network import PairWeights, context_of, linear_ceiling, pair_ceiling, scores_in_context

LINEAR, NETWORK, NETWORK_ONE_BY_ONE = _argument(0), _argument(1), _argument(2)


@allocating
def edge_matching_epoch(
    w: World,
    s: Setup,
    e: int,
    kind: int,
    weights: FloatArray,
    network: PairWeights,
    hold_back: float,
    chosen: FloatArray,
) -> int:
    """Commit what the matcher commits now in environment ``e``; returns how many.

    Args:
        w: World.
        s: Constants.
        e: Environment.
        kind: `LINEAR`, `NETWORK` (the network's score plus the linear one), or
            `NETWORK_ONE_BY_ONE`: the same score, without matching.
        weights: ``(NUM_EDGE,)``, the linear score.
        network: The pair network's parameters.
        hold_back: Pairs with more slack than this (minutes) wait.
        chosen: ``(E, K, 3)``: driver, booking row and score of each commitment.
    """
    n = 0
    drivers = w.drivers.shape[2]
    while True:
        count = w.counters[e, NUM_OPEN]
        if count == 0:
            return n
        rows = np.empty(rows_size(drivers, count), dtype=np.float32)
        mask = np.empty(drivers * count + 1, dtype=np.int8)
        encode_rows(w, s.travel, s.rules, e, count, rows)
        encode_mask(w, s.rules, e, count, mask)
        valid = 0
        for a in range(1, mask.size):
            valid += mask[a]
        if valid == 0:
            return n
        edges = np.empty((valid + 1, NUM_EDGE), dtype=np.float32)
        pair_driver = np.empty(valid + 1, dtype=np.int64)
        pair_booking = np.empty(valid + 1, dtype=np.int64)
        work = np.empty((WORK_ROWS + count, count))
        valid = present_edges(
            s, rows, mask, drivers, count, hold_back, -1, work, edges, pair_driver, pair_booking, 0
        )
        if valid == 0:
            return n
        from_context, waiting = np.zeros(network.pair_hidden.shape[0], dtype=np.float32), 0.0
        if kind == LINEAR:
            ceiling = linear_ceiling(weights, drivers, count)
        else:
            waiting = context_of(network, rows, drivers, count, from_context)
            ceiling = pair_ceiling(
                network, weights, rows, drivers, count, from_context, waiting, edges[:valid]
            )
        valid = drop_hopeless(ceiling, edges, pair_driver, pair_booking, 0, valid)
        add_follow_ups(s, rows, drivers, count, work, edges, pair_booking, 0, valid)
        score = np.zeros((drivers, count))
        learned = np.zeros(valid, dtype=np.float32)
        if kind != LINEAR:
            scores_in_context(
                network, rows, drivers, count, from_context, waiting, edges, pair_driver,
                pair_booking, learned,
            )  # fmt: skip
        offered = False
        for p in range(valid):
            total = np.float64(learned[p])
            for k in range(NUM_EDGE):
                total += weights[k] * edges[p, k]
            if total > 0.0:
                score[pair_driver[p], pair_booking[p]] = total
                offered = True
        if not offered:
            return n
        if kind == NETWORK_ONE_BY_ONE:
            best_d, best_i = 0, 0
            for d in range(drivers):
                for i in range(count):
                    if score[d, i] > score[best_d, best_i]:
                        best_d, best_i = d, i
            n = take(w, s, e, best_d, best_i, score[best_d, best_i], chosen, n)
            continue
        match = assign(score)
        # Commit from the last open position to the first: earlier positions stay valid.
        for i in range(count - 1, -1, -1):
            for d in range(drivers):
                if match[d] == i and score[d, i] > 0.0:
                    n = take(w, s, e, d, i, score[d, i], chosen, n)


@allocating
def decide_edge_matching(
    m: Buffer,
    x: IntArray,
    e: int,
    kind: int,
    weights: FloatArray,
    network: Any,
    hold_back: float,
    chosen: FloatArray,
) -> int:
    """One epoch of one environment; see `edge_matching_epoch`."""
    w, s, _out = unpack(m, x)
    return edge_matching_epoch(w, s, e, kind, weights, network, hold_back, chosen)


@allocating
def play_edge_matching(
    m: Buffer,
    x: IntArray,
    kind: int,
    weights: FloatArray,
    network: Any,
    hold_back: float,
) -> None:
    """Run every environment to the end of its day."""
    w, s, _out = unpack(m, x)
    nowhere = np.empty((w.clock.shape[0], 0, 3))
    for e in range(w.clock.shape[0]):
        while w.counters[e, ENDED] == 0:
            edge_matching_epoch(w, s, e, kind, weights, network, hold_back, nowhere)
            w.counters[e, STEPS] += 1
            wait(w, s.travel, s.rules, s.weights, e)
