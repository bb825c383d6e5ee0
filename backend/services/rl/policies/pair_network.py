"""The pair network's forward pass in compiled code: scoring and serving need no Torch.

The same arithmetic as `q_networks.PairQNetwork.advantages`, for one state with any number of
drivers and bookings; a test holds both to 1e-4. Only valid pairs are computed. A few tens of
pairs take some tens of microseconds, where a call into an inference library costs as much again.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.rl.errors import PolicyError
from services.rl.simulation.compiled import allocating, inlined
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.observation import CONTEXT, ROW_BOOKING, ROW_DRIVER
from services.rl.simulation.types import IntArray

Array = npt.NDArray[np.float32]

_C, _RD, _RB = len(CONTEXT), len(ROW_DRIVER), len(ROW_BOOKING)
_FD, _FB = _RD - 2, _RB - 2  # features: without presence and zone, without zones


class PairWeights(NamedTuple):
    """Parameters, float32, each matrix ``(inputs, outputs)`` so that rows lie in order."""

    encode_driver: Array
    encode_driver_bias: Array
    encode_booking: Array
    encode_booking_bias: Array
    encode_context: Array
    encode_context_bias: Array
    pair_driver: Array
    pair_driver_bias: Array
    pair_booking: Array
    pair_context: Array
    pair_edge: Array
    pair_hidden: Array
    pair_hidden_bias: Array
    pair_score: Array  # (h,)
    pair_score_bias: Array  # (1,)
    edge_score: Array  # (NUM_EDGE,)
    wait_hidden: Array
    wait_hidden_bias: Array
    wait_score: Array  # (h,)
    wait_score_bias: Array  # (1,)


def pair_weights(parameters: dict[str, npt.NDArray[Any]], *, scale: float = 1.0) -> PairWeights:
    """Parameters of a `PairQNetwork` by their Torch names, as compiled code takes them.

    Args:
        parameters: ``state_dict`` as arrays.
        scale: The scores are multiplied by it (1 / reward scale: rewards as reported).

    Raises:
        PolicyError: If a parameter is missing, or was trained on other features.
    """

    def matrix(name: str) -> Array:
        return np.ascontiguousarray(_get(parameters, f"{name}.weight").T, dtype=np.float32)

    def vector(name: str) -> Array:
        return np.ascontiguousarray(_get(parameters, name).reshape(-1), dtype=np.float32)

    weights = PairWeights(
        matrix("encode_driver"),
        vector("encode_driver.bias"),
        matrix("encode_booking"),
        vector("encode_booking.bias"),
        matrix("encode_context"),
        vector("encode_context.bias"),
        matrix("pair_driver"),
        vector("pair_driver.bias"),
        matrix("pair_booking"),
        matrix("pair_context"),
        matrix("pair_edge"),
        matrix("pair_hidden"),
        vector("pair_hidden.bias"),
        vector("pair_score.weight") * np.float32(scale),
        vector("pair_score.bias") * np.float32(scale),
        vector("edge_score.weight") * np.float32(scale),
        matrix("wait_hidden"),
        vector("wait_hidden.bias"),
        vector("wait_score.weight") * np.float32(scale),
        vector("wait_score.bias") * np.float32(scale),
    )
    if (
        len(weights.encode_driver) != _FD
        or len(weights.encode_booking) != _FB
        or len(weights.pair_edge) != NUM_EDGE
    ):
        raise PolicyError("the pair network was trained on other features; train it again")
    return weights


def _get(parameters: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    if name not in parameters:
        raise PolicyError(f"the pair network has no parameter {name!r}")
    return parameters[name]


NO_NETWORK = PairWeights(
    *(
        np.zeros((1, 1) if "bias" not in name and "score" not in name else 1, dtype=np.float32)
        for name in PairWeights._fields
    )
)
"""Stands for the network where a matcher is linear: compiled code wants its type."""


@inlined
def _add_product(x: Any, first: int, count: int, matrix: Array, out: Any) -> None:
    """``out += x[first:first + count] @ matrix``, row by row: the inner loop vectorises."""
    for i in range(count):
        value = x[first + i]
        if value != 0.0:
            for h in range(out.size):
                out[h] += value * matrix[i, h]


@inlined
def _rectify(x: Any) -> None:
    for h in range(x.size):
        x[h] = max(x[h], np.float32(0.0))


@inlined
def _dot(a: Any, b: Any) -> np.float32:
    total = np.float32(0.0)
    for h in range(a.size):
        total += a[h] * b[h]
    return total


@allocating
def pair_scores(
    net: PairWeights,
    rows: Array,
    drivers: int,
    bookings: int,
    edges: Array,
    pair_driver: IntArray,
    pair_booking: IntArray,
    scores: Array,
) -> None:
    """Advantage of each valid pair over waiting, ``Q(d, b) - Q(WAIT)``, into ``scores``.

    Args:
        net: Parameters.
        rows: ``(size,)`` of the ``rows`` layout of this state.
        drivers: N.
        bookings: M.
        edges: ``(P, NUM_EDGE)``.
        pair_driver: ``(P,)``.
        pair_booking: ``(P,)``.
        scores: ``(P,)``, written.
    """
    pool, width = net.encode_driver.shape[1], net.pair_hidden.shape[0]
    summary = np.zeros(_C + 4 * pool + 2, dtype=np.float32)
    summary[:_C] = rows[:_C]
    encoded = np.empty(pool, dtype=np.float32)
    n = m = 0
    for d in range(drivers):
        k = _C + d * _RD
        if rows[k + _FD] == 0.0:
            continue
        n += 1
        encoded[:] = net.encode_driver_bias
        _add_product(rows, k, _FD, net.encode_driver, encoded)
        _rectify(encoded)
        for h in range(pool):
            summary[_C + h] += encoded[h]
            summary[_C + pool + h] = max(summary[_C + pool + h], encoded[h])
    for b in range(bookings):
        k = _C + drivers * _RD + b * _RB
        if rows[k] == 0.0:
            continue
        m += 1
        encoded[:] = net.encode_booking_bias
        _add_product(rows, k, _FB, net.encode_booking, encoded)
        _rectify(encoded)
        for h in range(pool):
            summary[_C + 2 * pool + h] += encoded[h]
            summary[_C + 3 * pool + h] = max(summary[_C + 3 * pool + h], encoded[h])
    for h in range(pool):
        summary[_C + h] /= np.float32(max(1, n))
        summary[_C + 2 * pool + h] /= np.float32(max(1, m))
    summary[_C + 4 * pool] = np.float32(np.log1p(n) / 5.0)
    summary[_C + 4 * pool + 1] = np.float32(np.log1p(m) / 5.0)
    context = net.encode_context_bias.copy()
    _add_product(summary, 0, summary.size, net.encode_context, context)
    _rectify(context)
    hidden = net.wait_hidden_bias.copy()
    _add_product(context, 0, width, net.wait_hidden, hidden)
    _rectify(hidden)
    wait = _dot(hidden, net.wait_score) + net.wait_score_bias[0]
    from_context = net.pair_driver_bias.copy()
    _add_product(context, 0, width, net.pair_context, from_context)
    from_driver = np.empty(width, dtype=np.float32)
    from_booking = np.empty((bookings, width), dtype=np.float32)
    seen = np.zeros(bookings, dtype=np.bool_)
    mixed = np.empty(width, dtype=np.float32)
    last_driver = -1
    for p in range(scores.size):
        d, b = pair_driver[p], pair_booking[p]
        if d != last_driver:
            last_driver = d
            from_driver[:] = from_context
            _add_product(rows, _C + d * _RD, _FD, net.pair_driver, from_driver)
        if not seen[b]:
            seen[b] = True
            from_booking[b, :] = np.float32(0.0)
            _add_product(rows, _C + drivers * _RD + b * _RB, _FB, net.pair_booking, from_booking[b])
        for h in range(width):
            mixed[h] = from_driver[h] + from_booking[b, h]
        _add_product(edges[p], 0, NUM_EDGE, net.pair_edge, mixed)
        _rectify(mixed)
        hidden[:] = net.pair_hidden_bias
        _add_product(mixed, 0, width, net.pair_hidden, hidden)
        _rectify(hidden)
        scores[p] = (
            _dot(hidden, net.pair_score)
            + net.pair_score_bias[0]
            + _dot(edges[p], net.edge_score)
            - wait
        )
