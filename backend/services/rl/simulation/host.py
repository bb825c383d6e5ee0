"""A dispatch state as compiled code sees it: the encoder's and the policies' way in.

The environment encodes from its own memory; production and the policies' ``decide(state)`` have
only a `DispatchState`. `HostWorld` writes it into the memory of a one-environment engine and lets
the same compiled functions derive, encode and mask, so that both observations agree bit for bit.
"""

import numpy as np
import numpy.typing as npt

from services.rl.errors import StateError

from . import stepping, world
from .days import DaySource
from .engine import BOOKING_FIELD, BOOKING_INT, Engine, travel_tables
from .memory import Memory
from .observation import ObservationKind, ObservationLayout
from .scenarios import Scenario
from .travel import MATRIX
from .types import (
    BOOKING_DTYPE,
    DRIVER_DTYPE,
    MOST_MIN,
    NEVER,
    STATE_BOOKING_DTYPE,
    Day,
    DispatchState,
    IntArray,
)

_FEWEST_ROWS = 64

_DRIVER_FIELD = {
    "lat": world.END_LAT,
    "lon": world.END_LON,
    "free_at_min": world.FREE_AT,
    "shift_start_min": world.SHIFT_START,
    "shift_end_min": world.SHIFT_END,
    "busy_min": world.BUSY_MIN,
}
_DRIVER_INT = {
    "zone": world.END_ZONE,
    "committed": world.COMMITTED,
    "wheelchair": world.D_WHEELCHAIR,
    "emergency": world.D_EMERGENCY,
    "down": world.DOWN,
    "served": world.SERVED,
}
_BOOKING_FIELD = {n: i for n, i in BOOKING_FIELD.items() if n in (STATE_BOOKING_DTYPE.names or ())}
_BOOKING_INT = {n: i for n, i in BOOKING_INT.items() if n in (STATE_BOOKING_DTYPE.names or ())}

_RANGE: dict[str, tuple[float, float]] = {
    "lat": (-90, 90),
    "lon": (-180, 180),
    "pickup_lat": (-90, 90),
    "pickup_lon": (-180, 180),
    "dropoff_lat": (-90, 90),
    "dropoff_lon": (-180, 180),
    "pickup_service_min": (0, MOST_MIN),
    "dropoff_service_min": (0, MOST_MIN),
    "busy_min": (0, MOST_MIN),
    "served": (0, MOST_MIN),
    "priority": (1, 5),
}


class HostWorld:
    """One dispatch state in compiled memory.

    Policies run their kernels on ``memory``; row i of the state's bookings is row i of the
    world's, and ``world.open_rows[0]`` lists them by urgency, the order of the observation. The
    loaded world can be observed and committed to; its time cannot move, because a state tells
    when and where commitments end, not what they are.

    Args:
        scenario: The world that the states belong to.
        max_bookings: M, the open bookings that an observation shows.
        observation: ``"full"``, ``"rows"`` or ``"compact"``.
        source: Where zone matrices come from, if the scenario travels by zones.

    Attributes:
        scenario: As given.
        engine: The engine whose memory is used; replaced when a state needs more room.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        max_bookings: int = 20,
        observation: ObservationKind = "full",
        source: DaySource | None = None,
    ) -> None:
        self.scenario = scenario
        self._kind: ObservationKind = observation
        self._max_bookings = max_bookings
        self._source = source
        self._sha256 = scenario.sha256
        self._capacity = 1 + scenario.rules.queue
        travel = travel_tables(scenario, source)
        self._zones = len(travel.km) if travel.kind == MATRIX else 0
        self.engine = self._allocated(scenario.fleet.num_drivers, _FEWEST_ROWS)

    @property
    def memory(self) -> Memory:
        """The block that compiled entries take: ``entry(*host.memory, ...)``."""
        return self.engine.memory

    @property
    def layout(self) -> ObservationLayout:
        """Layout of the observation, for the number of drivers last loaded."""
        return self.engine.layout

    def load(self, state: DispatchState) -> None:
        """Write a state into the memory, derive what follows, and encode it.

        Raises:
            StateError: If the state is of another scenario, or has a value that the rules do
                not admit; naming row and field.
        """
        if state.scenario_hash and state.scenario_hash != self._sha256:
            raise StateError(
                f"the state belongs to scenario {state.scenario!r} with hash "
                f"{state.scenario_hash}, this host runs {self.scenario.name!r} with hash "
                f"{self._sha256}"
            )
        drivers, bookings = len(state.drivers), len(state.bookings)
        self._check_sizes(state)
        rows = self.engine.world.bookings.shape[1]
        if drivers != self.engine.num_drivers or bookings > rows:
            while rows < bookings:
                rows *= 2
            self.engine = self._allocated(drivers, rows)
        self._copy(state)
        if not stepping.load_state_one(*self.engine.memory, 0):
            raise StateError(self._complaint(state))

    def observation(
        self, state: DispatchState
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Observation and action mask of a state: copies, ``(layout.size,)`` and ``(N*M + 1,)``.

        Raises:
            StateError: See `load`.
        """
        self.load(state)
        return self.engine.out.observation[0].copy(), self.engine.out.mask[0].copy()

    def open_rows(self) -> IntArray:
        """Rows of ``state.bookings`` in the order of the observation, all of them."""
        return self.engine.open_rows(0)

    def _allocated(self, drivers: int, rows: int) -> Engine:
        return Engine(
            self.scenario,
            max_bookings=self._max_bookings,
            observation=self._kind,
            days=[_blank_day(drivers, rows)],
            source=self._source,
        )

    def _copy(self, state: DispatchState) -> None:
        w = self.engine.world
        n = len(state.bookings)
        floats, ints = w.bookings[0, :n], w.booking_ints[0, :n]
        for name, index in _BOOKING_FIELD.items():
            floats[:, index] = state.bookings[name]
        for name, index in _BOOKING_INT.items():
            ints[:, index] = state.bookings[name]
        for name, index in _DRIVER_FIELD.items():
            w.drivers[0, index] = state.drivers[name]
        for name, index in _DRIVER_INT.items():
            w.driver_ints[0, index] = state.drivers[name]
        w.clock[0, world.NOW] = state.now_min
        w.counters[0, world.NUM_BOOKINGS] = n
        if not self._zones:
            ints[:, world.P_ZONE : world.D_ZONE + 1] = 0
            w.driver_ints[0, world.END_ZONE] = 0

    def _complaint(self, state: DispatchState) -> str:
        """The sentence about the first value that `stepping.load_state_one` refused."""
        ranges = {**_RANGE, "committed": (0, self._capacity)}
        for where, table in (("driver", state.drivers), ("booking", state.bookings)):
            for name in table.dtype.names or ():
                if name == "fare" or table.dtype[name].kind == "b":
                    continue
                low, high = ranges.get(name, (-MOST_MIN, MOST_MIN))
                if name.endswith("zone"):
                    if not self._zones:
                        continue
                    low, high = 0, self._zones - 1
                wrong = ~((table[name] >= low) & (table[name] <= high))
                if wrong.any():
                    row = int(np.flatnonzero(wrong)[0])
                    return (
                        f"dispatch state: {name} of {where} {row} is {table[name][row]}, "
                        f"expected {low:g}..{high:g}"
                    )
        if np.isinf(state.bookings["fare"]).any():
            return "dispatch state: a booking's fare is infinite"
        return "dispatch state: a booking's window ends before its promised time"

    def _check_sizes(self, state: DispatchState) -> None:
        if len(state.driver_ids) != len(state.drivers) or not len(state.drivers):
            raise StateError(
                f"dispatch state: {len(state.driver_ids)} driver ids for {len(state.drivers)} "
                "drivers; at least one driver is needed"
            )
        if len(state.booking_ids) != len(state.bookings):
            raise StateError(
                f"dispatch state: {len(state.booking_ids)} booking ids for "
                f"{len(state.bookings)} bookings"
            )
        if len(set(state.booking_ids)) != len(state.booking_ids):
            raise StateError("dispatch state: a booking id appears twice")
        if len(set(state.driver_ids)) != len(state.driver_ids):
            raise StateError("dispatch state: a driver id appears twice")
        if not abs(state.now_min) <= MOST_MIN:
            raise StateError(f"dispatch state: now_min is {state.now_min}")


def _blank_day(drivers: int, rows: int) -> Day:
    """A valid day of the wanted size, to allocate by."""
    bookings = np.zeros(rows, dtype=BOOKING_DTYPE)
    bookings["priority"] = 1
    bookings["cancelled_min"] = NEVER
    fleet = np.zeros(drivers, dtype=DRIVER_DTYPE)
    fleet["breakdown_min"] = fleet["repaired_min"] = NEVER
    return Day("host", bookings, fleet)
