"""The pair network's forward pass in compiled code: scoring and serving need no Torch.

The same arithmetic as `q_networks.PairQNetwork.advantages`, for one state with any number of
drivers and bookings; a test holds both to 1e-4. Only valid pairs are computed. A few tens of
pairs take some tens of microseconds, where a call into an inference library costs as much again.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from services.rl.errors import PolicyError
from services.rl.simulation.compiled import allocating, inlined
from services.rl.simulation.edges import DEMAND, FOLLOW_UP, FOLLOW_UP_RANGE, NUM_EDGE, Ceiling
from services.rl.simulation.observation import CLIP, CONTEXT, ROW_BOOKING, ROW_DRIVER
from services.rl.simulation.types import FloatArray, IntArray

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
def context_of(
    net: PairWeights, rows: Array, drivers: int, bookings: int, from_context: Array
) -> float:
    """What the whole state adds to every pair, ``(h,)``, and the advantage of waiting."""
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
    from_context[:] = net.pair_driver_bias
    _add_product(context, 0, width, net.pair_context, from_context)
    return _dot(hidden, net.wait_score) + net.wait_score_bias[0]


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
    from_context = np.empty(net.pair_hidden.shape[0], dtype=np.float32)
    wait = context_of(net, rows, drivers, bookings, from_context)
    scores_in_context(
        net, rows, drivers, bookings, from_context, wait, edges, pair_driver, pair_booking, scores
    )


@allocating
def scores_in_context(
    net: PairWeights,
    rows: Array,
    drivers: int,
    bookings: int,
    from_context: Array,
    wait: float,
    edges: Array,
    pair_driver: IntArray,
    pair_booking: IntArray,
    scores: Array,
) -> None:
    """`pair_scores` with what `context_of` found."""
    width = net.pair_hidden.shape[0]
    hidden = np.empty(width, dtype=np.float32)
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


# --- a bound ---------------------------------------------------------------------------------

_ROUNDING: Final = 1.0e-5  # of the largest sum that can arise: some hundred float32 roundings
_SAMPLE: Final = 64


@allocating
def linear_ceiling(linear: FloatArray, drivers: int, bookings: int) -> Ceiling:
    """What no pair's linear score exceeds; ``linear`` are its weights, ``(NUM_EDGE,)``."""
    slopes = linear.copy()
    slopes[FOLLOW_UP] = slopes[DEMAND] = 0.0
    constant = (
        max(0.0, linear[FOLLOW_UP] * FOLLOW_UP_RANGE[0])
        + max(0.0, linear[DEMAND] * FOLLOW_UP_RANGE[1])
        + _ROUNDING * CLIP * np.abs(linear).sum()
    )
    return Ceiling(
        slopes, slopes, np.zeros(NUM_EDGE), np.full(drivers, constant), np.zeros(bookings)
    )


@allocating
def pair_ceiling(
    net: PairWeights,
    linear: FloatArray,
    rows: Array,
    drivers: int,
    bookings: int,
    from_context: Array,
    wait: float,
    edges: Array,
) -> Ceiling:
    """What no pair's score exceeds, from features that cost little: most pairs are hopeless.

    A hidden unit that lowers the score counts as off; one that raises it gets the positive
    weights of its inputs alone; and ``relu(x + y) <= relu(x) + relu(y)`` parts each input into
    driver, booking and features. Features are taken from the mean of a sample, where the parts
    cancel the least. A pair whose ceiling is not above 0 is never committed, so the decisions are
    those of scoring all.

    Args:
        net: Parameters.
        linear: ``(NUM_EDGE,)``, added to the network's linear part.
        rows: As for `pair_scores`.
        drivers: N.
        bookings: M.
        from_context: Of `context_of`.
        wait: Of `context_of`.
        edges: ``(P, NUM_EDGE)``, rows of `present_edges`, at least one.
    """
    width = net.pair_hidden.shape[0]
    gain = np.zeros(width)  # of the score, at most, per unit of each first-layer unit
    reach = np.zeros(width)  # the same, whatever the sign
    constant = np.float64(net.pair_score_bias[0]) - wait
    for j in range(width):
        constant += max(0.0, net.pair_score[j]) * max(0.0, net.pair_hidden_bias[j])
    for h in range(width):
        for j in range(width):
            each = np.float64(net.pair_hidden[h, j])
            gain[h] += max(0.0, net.pair_score[j]) * max(0.0, each)
            reach[h] += abs(net.pair_score[j]) * abs(each)
    centre = _mean_of_some(edges)
    centre[FOLLOW_UP] = centre[DEMAND] = 0.0
    rising, falling, middle = np.empty(NUM_EDGE), np.empty(NUM_EDGE), np.zeros(width)
    largest = abs(constant)
    for k in range(NUM_EDGE):
        slope = linear[k] + net.edge_score[k]
        up = down = every = 0.0
        for h in range(width):
            each = np.float64(net.pair_edge[k, h])
            up += gain[h] * max(0.0, each)
            down += gain[h] * max(0.0, -each)
            every += reach[h] * abs(each)
        largest += CLIP * (abs(slope) + every)
        rising[k], falling[k] = slope + up, slope - down
        if k in (FOLLOW_UP, DEMAND):
            # Not known yet: the worse end of its range, seen from where the linear part is larger.
            most = FOLLOW_UP_RANGE[0] if k == FOLLOW_UP else FOLLOW_UP_RANGE[1]
            centre[k] = most if slope > 0.0 else 0.0
            constant += max(0.0, -most * falling[k] if slope > 0.0 else most * rising[k])
            rising[k] = falling[k] = 0.0
        constant += slope * centre[k]
        for h in range(width):
            middle[h] += centre[k] * net.pair_edge[k, h]
    constant += _ROUNDING * largest
    by_driver, by_booking = np.full(drivers, constant), np.zeros(bookings)
    _add_sides(net, rows, from_context, gain, middle, by_driver, by_booking)
    return Ceiling(rising, falling, centre, by_driver, by_booking)


@allocating
def _mean_of_some(edges: Array) -> FloatArray:
    mean, count = np.zeros(NUM_EDGE), 0
    for p in range(0, len(edges), max(1, len(edges) // _SAMPLE)):
        count += 1
        for k in range(NUM_EDGE):
            mean[k] += edges[p, k]
    return mean / count


@allocating
def _add_sides(
    net: PairWeights,
    rows: Array,
    from_context: Array,
    gain: FloatArray,
    middle: FloatArray,
    by_driver: FloatArray,
    by_booking: FloatArray,
) -> None:
    """Add what drivers and bookings can raise a score by, ``(N,)`` and ``(M,)``."""
    drivers, bookings, width = by_driver.size, by_booking.size, middle.size
    part = np.zeros((bookings, width), dtype=np.float32)
    count = 0
    mean = np.zeros(width)
    for b in range(bookings):
        k = _C + drivers * _RD + b * _RB
        if rows[k] == 0.0:
            break  # open bookings come first
        count += 1
        _add_product(rows, k, _FB, net.pair_booking, part[b])
        for h in range(width):
            mean[h] += part[b, h]
    mean /= max(1, count)
    for b in range(count):
        for h in range(width):
            by_booking[b] += gain[h] * max(0.0, part[b, h] - mean[h])
    own = np.empty(width, dtype=np.float32)
    for d in range(drivers):
        own[:] = from_context
        _add_product(rows, _C + d * _RD, _FD, net.pair_driver, own)
        for h in range(width):
            by_driver[d] += gain[h] * max(0.0, own[h] + middle[h] + mean[h])
