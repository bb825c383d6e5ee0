"""One block of memory for everything that compiled code works on.

Handing sixty arrays to a compiled function costs fifty microseconds: more than the step itself.
So all arrays and numbers of `World`, `Setup` and `Outputs` lie in one byte buffer, cache-line
aligned, with an index of offsets and shapes. Python keeps NumPy views of it; compiled entries
receive the buffer and its index (`Memory`) and rebuild the same tuples for free.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import carray, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .compiled import inlined_views
from .sampling import DemandTables
from .setup import DayTables, Outputs, Setup
from .travel import TravelTables
from .types import IntArray
from .world import RulesTable, Weights, World

Buffer = npt.NDArray[np.uint8]

_ALIGNMENT = 64
_INDEX_COLUMNS = 4  # byte offset and up to three dimensions

T = TypeVar("T", bound=tuple[Any, ...])


class Memory(NamedTuple):
    """The buffer and its index, as handed to compiled entries: ``entry(*memory, ...)``."""

    buffer: Buffer
    layout: IntArray  # (K, 4)


def pack(world: World, setup: Setup, outputs: Outputs) -> tuple[Memory, World, Setup, Outputs]:
    """Move three tuples into one buffer; returns it and the tuples as views of it.

    Numbers in ``setup`` are copied in: changing them later needs another `pack`.
    """
    leaves: list[npt.NDArray[Any]] = []
    for group in (world, setup, outputs):
        _collect(group, leaves)
    index = np.zeros((len(leaves), _INDEX_COLUMNS), dtype=np.int64)
    offset = 0
    for k, leaf in enumerate(leaves):
        index[k, 0] = offset
        index[k, 1 : 1 + leaf.ndim] = leaf.shape
        offset += -(-leaf.nbytes // _ALIGNMENT) * _ALIGNMENT
    raw = np.zeros(offset + _ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    buffer = raw[start : start + offset]
    views = []
    for k, leaf in enumerate(leaves):
        begin = int(index[k, 0])
        view = buffer[begin : begin + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
        view[...] = leaf
        views.append(view)
    remaining = iter(views)
    return (
        Memory(buffer, index),
        _rebuilt(world, remaining),
        _rebuilt(setup, remaining),
        _rebuilt(outputs, remaining),
    )


def _collect(group: tuple[Any, ...], leaves: list[npt.NDArray[Any]]) -> None:
    for value in group:
        if isinstance(value, np.ndarray):
            leaves.append(value)
        elif isinstance(value, tuple):
            _collect(value, leaves)
        else:
            kind = np.float64 if isinstance(value, float) else np.int64
            leaves.append(np.array([value], dtype=kind))


def _rebuilt(group: T, views: Any) -> T:
    values: list[Any] = []
    for value in group:
        if isinstance(value, tuple):
            values.append(_rebuilt(value, views))
        else:
            view = next(views)
            values.append(view if isinstance(value, np.ndarray) else value)
    return type(group)(*values)


# --- compiled: the same tuples, from the buffer --------------------------------------------------


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(_context: Any, buffer: Any, offset: Any, dtype: Any) -> Any:
    """Typed pointer to ``buffer + offset``."""
    target = types.CPointer(dtype.dtype)
    signature = target(buffer, offset, dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = make_array(sig.args[0])(context, builder, args[0])
        address = builder.gep(array.data, [args[1]])
        return builder.bitcast(address, context.get_value_type(sig.return_type))

    return signature, codegen


@inlined_views
def _a1(m, x, dtype):
    return carray(_pointer(m, x[0], dtype), (x[1],))


@inlined_views
def _a2(m, x, dtype):
    return carray(_pointer(m, x[0], dtype), (x[1], x[2]))


@inlined_views
def _a3(m, x, dtype):
    return carray(_pointer(m, x[0], dtype), (x[1], x[2], x[3]))


@inlined_views
def _f(m, x):
    return carray(_pointer(m, x[0], np.float64), (1,))[0]


@inlined_views
def _i(m, x):
    return carray(_pointer(m, x[0], np.int64), (1,))[0]


@inlined_views
def _world(m, x):
    return World(
        _a2(m, x[0], np.float64),  # clock
        _a2(m, x[1], np.int64),  # count
        _a3(m, x[2], np.float64),  # drivers
        _a3(m, x[3], np.int64),  # driver_ints
        _a3(m, x[4], np.int64),  # queue
        _a3(m, x[5], np.float64),  # bookings
        _a3(m, x[6], np.int64),  # booking_ints
        _a2(m, x[7], np.int64),  # open_rows
        _a2(m, x[8], np.int64),  # open_columns
        _a3(m, x[9], np.float64),  # pair_km
        _a3(m, x[10], np.float64),  # pair_latest
        _a2(m, x[11], np.float64),  # terms
        _a2(m, x[12], np.float64),  # totals
        _a1(m, x[13], np.float64),  # credit
        _a3(m, x[14], np.float64),  # events
        _a2(m, x[15], np.uint64),  # random
    )


@inlined_views
def _travel(m, x):
    return TravelTables(
        _i(m, x[16]),  # kind
        _f(m, x[17]),  # circuity
        _f(m, x[18]),  # day_start_min
        _a1(m, x[19], np.float64),  # speed
        _a1(m, x[20], np.float64),  # pace
        _f(m, x[21]),  # mean_speed
        _a2(m, x[22], np.float64),  # minutes
        _a2(m, x[23], np.float64),  # km
    )


@inlined_views
def _rules(m, x):
    return RulesTable(
        _f(m, x[24]),  # horizon
        _f(m, x[25]),  # epoch
        _f(m, x[26]),  # grace
        _f(m, x[27]),  # overtime
        _i(m, x[28]),  # capacity
        _i(m, x[29]) != 0,  # decide_once
        _i(m, x[30]),  # emergency_min_priority
        _f(m, x[31]),  # no_show_wait
        _f(m, x[32]),  # on_time
        _f(m, x[33]),  # slowest_min_per_km
        _f(m, x[34]),  # base_lat
        _f(m, x[35]),  # base_lon
        _f(m, x[36]),  # km_per_degree_lon
        _i(m, x[37]) != 0,  # disturbed
    )


@inlined_views
def _weights(m, x):
    return Weights(
        _f(m, x[38]),  # completion
        _a1(m, x[39], np.float64),  # priority
        _f(m, x[40]),  # late
        _f(m, x[41]),  # deadhead
        _f(m, x[42]),  # loaded
        _f(m, x[43]),  # cancellation
        _f(m, x[44]),  # invalid_action
        _f(m, x[45]),  # balance
        _f(m, x[46]),  # idle
        _i(m, x[47]),  # timing
        _f(m, x[48]),  # gamma
    )


@inlined_views
def _demand(m, x):
    return DemandTables(
        _a1(m, x[49], np.float64),  # lat
        _a1(m, x[50], np.float64),  # lon
        _a1(m, x[51], np.float64),  # spread_km
        _f(m, x[52]),  # mean
        _f(m, x[53]),  # cv
        _a1(m, x[54], np.float64),  # stream
        _a1(m, x[55], np.bool_),  # is_return
        _a1(m, x[56], np.float64),  # edges
        _a2(m, x[57], np.float64),  # time
        _a2(m, x[58], np.float64),  # od
        _a1(m, x[59], np.float64),  # immediate
        _a2(m, x[60], np.float64),  # lead
        _a2(m, x[61], np.float64),  # priority
        _a1(m, x[62], np.float64),  # wheelchair
        _a2(m, x[63], np.float64),  # pickup_service
        _a2(m, x[64], np.float64),  # dropoff_service
        _f(m, x[65]),  # window
        _f(m, x[66]),  # horizon
        _f(m, x[67]),  # noise_sigma
        _f(m, x[68]),  # no_show
        _f(m, x[69]),  # call_off
        _f(m, x[70]),  # breakdown
        _f(m, x[71]),  # repair
        _a2(m, x[72], np.float64),  # drivers
    )


@inlined_views
def _days(m, x):
    return DayTables(
        _a1(m, x[73], np.int64),  # num_bookings
        _a3(m, x[74], np.float64),  # bookings
        _a3(m, x[75], np.int64),  # booking_ints
        _a3(m, x[76], np.float64),  # drivers
        _a3(m, x[77], np.int64),  # driver_ints
    )


@inlined_views
def _setup(m, x):
    return Setup(
        _travel(m, x),
        _rules(m, x),
        _weights(m, x),
        _demand(m, x),
        _days(m, x),
        _i(m, x[78]) != 0,  # sampled
        _i(m, x[79]),  # training_seeds
        _i(m, x[80]),  # visible
        _i(m, x[81]),  # kind
        _i(m, x[82]),  # max_steps
    )


@inlined_views
def _outputs(m, x):
    return Outputs(
        _a2(m, x[83], np.float32),  # observation
        _a2(m, x[84], np.int8),  # mask
        _a1(m, x[85], np.float64),  # reward
        _a1(m, x[86], np.bool_),  # terminated
        _a1(m, x[87], np.bool_),  # truncated
        _a1(m, x[88], np.float64),  # epochs
        _a2(m, x[89], np.float64),  # terms
        _a2(m, x[90], np.float32),  # final_observation
        _a2(m, x[91], np.float64),  # final_kpis
        _a1(m, x[92], np.int64),  # day
    )


@inlined_views
def unpack(m, x):
    """The tuples that `pack` stored, in compiled code; the order of fields is the contract."""
    return _world(m, x), _setup(m, x), _outputs(m, x)
