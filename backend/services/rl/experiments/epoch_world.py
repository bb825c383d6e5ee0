"""A dispatch state on which commitments are tried: feasibility, lateness, what capacity remains."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from services.rl.policies.base import Decision
from services.rl.policies.kernels import PAIR_FEATURES, pair_features
from services.rl.simulation import world
from services.rl.simulation.compiled import allocating
from services.rl.simulation.days import DaySource
from services.rl.simulation.host import HostWorld
from services.rl.simulation.memory import Buffer, unpack
from services.rl.simulation.pairs import _refresh_pair, can_commit, find_open
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState, FloatArray, IntArray
from services.rl.simulation.world import NUM_OPEN

_FEATURES = len(PAIR_FEATURES)


@allocating
def _forecast(m: Buffer, x: IntArray, b: int, late: FloatArray, travel: FloatArray) -> None:
    """Minutes late and of deadhead for each driver who may take booking b now; inf for others.

    A booking that is committed already is looked at as if it were open as well: it borrows the
    row and the pair column behind the open ones, which are scratch.
    """
    w, s, _out = unpack(m, x)  # type: ignore[no-untyped-call]
    features = np.empty(_FEATURES)
    count = w.counters[0, NUM_OPEN]
    i = find_open(w, 0, b)
    if i == count:
        w.open_rows[0, i] = b
        for d in range(late.size):
            _refresh_pair(w, s.travel, s.rules, 0, d, b, w.open_columns[0, i])
    for d in range(late.size):
        late[d] = np.inf
        travel[d] = np.inf
        if can_commit(w, s.rules, 0, d, w.open_columns[0, i]):
            pair_features(w, s, 0, d, i, features)  # type: ignore[no-untyped-call,unused-ignore]
            travel[d] = features[1] * 10.0
            late[d] = features[2] * 10.0


class EpochWorld:
    """One state in compiled memory, by the simulator's own rules; for one thread at a time."""

    def __init__(self, scenario: Scenario, source: DaySource | None = None) -> None:
        self._host = HostWorld(scenario, source=source)
        self._state: DispatchState | None = None
        self._late = np.empty(0)
        self._travel = np.empty(0)
        self._known: list[
            tuple[DispatchState, Iterable[Decision], tuple[dict[int, float], list[int]]]
        ] = []

    def load(self, state: DispatchState) -> None:
        """Begin at a state with nothing committed yet.

        Raises:
            StateError: If the state is malformed or of another scenario.
        """
        self._host.load(state)
        self._state = state
        if self._late.size != len(state.drivers):
            self._late = np.empty(len(state.drivers))
            self._travel = np.empty(len(state.drivers))

    def forecast(self, row: int) -> tuple[FloatArray, FloatArray]:
        """Minutes late and minutes of deadhead if each driver took the booking now, ``(N,)``.

        Infinite for drivers who may not. The arrays are overwritten by the next call.
        """
        _forecast(*self._host.memory, row, self._late, self._travel)
        return self._late, self._travel

    def commit(self, driver: int, row: int) -> bool:
        """Commit a booking to a driver; False, and nothing done, if that is not allowed."""
        assert self._state is not None
        if not (0 <= driver < len(self._state.drivers) and 0 <= row < len(self._state.bookings)):
            return False
        return self._host.engine.commit(0, driver, row)

    def late_min(self, row: int) -> float:
        """Planned lateness of a booking that was committed."""
        return float(self._host.engine.world.bookings[0, row, world.PLAN_LATE])

    def lateness(
        self, state: DispatchState, decisions: Iterable[Decision]
    ) -> tuple[dict[int, float], list[int]]:
        """Commit all assignments in their order: planned minutes late by row, and refused rows.

        What was asked a moment ago is remembered: loading a city's state takes milliseconds. The
        world then need not hold these commitments; `committed` makes sure.
        """
        for known_state, known, found in self._known:
            if known_state is state and known is decisions:
                return found
        found = self.committed(state, decisions)
        self._known = [(state, decisions, found), *self._known[:3]]
        return found

    def committed(
        self, state: DispatchState, decisions: Iterable[Decision]
    ) -> tuple[dict[int, float], list[int]]:
        """The same as `lateness`; the world holds the commitments afterwards."""
        self.load(state)
        late: dict[int, float] = {}
        refused = []
        for decision in decisions:
            if decision.driver is None:
                continue
            if self.commit(decision.driver, decision.booking):
                late[decision.booking] = self.late_min(decision.booking)
            else:
                refused.append(decision.booking)
        return late, refused

    def remaining(self, rows: Sequence[int]) -> tuple[DispatchState, list[int]]:
        """The state after what was committed, and the original row of each of its bookings.

        Args:
            rows: For each booking of the loaded state, its original row.
        """
        assert self._state is not None
        after = self._host.engine.state(0)
        left = np.sort(self._host.open_rows())
        drivers = after.drivers.copy()
        drivers["zone"] = np.where(self._state.drivers["zone"] < 0, -1, drivers["zone"])
        state = replace(
            self._state,
            drivers=drivers,
            booking_ids=tuple(self._state.booking_ids[i] for i in left),
            bookings=self._state.bookings[left],
        )
        return state, [rows[i] for i in left]
