"""From experiences to what a learner trains on: observations, masks and actions.

Rows are loaded into the simulator's own memory, what was committed earlier in the epoch is
committed again by its own function, and the one encoder observes: what a network learns from in
production is what it learned from in training.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from services.rl.errors import StateError
from services.rl.simulation.days import DaySource
from services.rl.simulation.host import HostWorld
from services.rl.simulation.observation import ObservationKind, ObservationLayout
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import STATE_DRIVER_DTYPE, DispatchState

from .experience import Experience, Rows

Pairs = tuple[tuple[int, int], ...]

SKIPPED = {
    "scenario": "decided in a world of another hash",
    "fleet": "more drivers than the layout has",
    "state": "rows with values that the rules do not admit",
    "infeasible": "commits what the rules do not allow there",
    "not_shown": "assigns a booking that is not among the M most urgent ones",
}
"""Why an experience is left out."""


@dataclass(frozen=True, eq=False)
class EncodedExperiences:
    """K experiences as arrays; A = N · M + 1 actions, 0 waits, ``1 + d · M + b`` assigns.

    Attributes:
        state: ``(K, S)`` observations.
        mask: ``(K, A)`` valid actions.
        action: ``(K,)``.
        next_state: ``(K, S)``; where nothing follows, the state itself.
        next_mask: ``(K, A)``; where ``done``, WAIT alone.
        done: ``(K,)``.
        dt: ``(K,)`` decision epochs until the next state.
        rows: ``(K,)``: which of the given experiences each is.
        skipped: Why and how many were left out; see `SKIPPED`.
    """

    state: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    action: npt.NDArray[np.int64]
    next_state: npt.NDArray[np.float32]
    next_mask: npt.NDArray[np.bool_]
    done: npt.NDArray[np.bool_]
    dt: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


_NO_SHIFT = {"free_at_min": 1.0e6, "shift_start_min": 1.0e6, "shift_end_min": 1.0e6}
"""What the simulator's days say of a driver who is not there."""


class _Skip(Exception):  # noqa: N818 - not a failure
    """This experience cannot be learned from."""


class ExperienceEncoder:
    """Observes experiences in a scenario's world.

    Args:
        scenario: The world; experiences of another one are left out.
        observation: ``"full"``, ``"rows"`` or ``"compact"``: what the network takes.
        max_bookings: M of the network's layout.
        num_drivers: N of the network's layout (default: the scenario's fleet). Smaller fleets
            are filled up with drivers who have no shift, as the simulator does.
        source: Where zone matrices come from, if the scenario travels by zones.

    Attributes:
        layout: Of the observations.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        observation: ObservationKind = "rows",
        max_bookings: int = 20,
        num_drivers: int | None = None,
        source: DaySource | None = None,
    ) -> None:
        self._host = HostWorld(
            scenario, max_bookings=max_bookings, observation=observation, source=source
        )
        self._hash = scenario.sha256
        self._drivers = num_drivers or scenario.fleet.num_drivers
        self.layout = ObservationLayout(observation, self._drivers, max_bookings)
        self._names: dict[tuple[str, int], tuple[str, ...]] = {}
        self._loaded: tuple[Rows, Pairs] | None = None

    def encode(self, experiences: Sequence[Experience]) -> EncodedExperiences:
        """Arrays of those that can be learned from, in the given order.

        An epoch's decisions given one after another are observed without loading the epoch again.
        """
        room, size, actions = len(experiences), self.layout.size, self.layout.num_actions
        state = np.empty((room, size), np.float32)
        next_state = np.empty((room, size), np.float32)
        mask = np.empty((room, actions), np.bool_)
        next_mask = np.empty((room, actions), np.bool_)
        action = np.empty(room, np.int64)
        skipped: Counter[str] = Counter()
        rows: list[int] = []
        self._loaded = None  # the caller may have changed rows since
        for row, experience in enumerate(experiences):
            k = len(rows)
            try:
                self._show(experience, experience.state, experience.prior, state[k], mask[k])
                action[k] = self._action(experience, mask[k])
                self._show_next(experience, state[k], next_state[k], next_mask[k])
            except _Skip as reason:
                skipped[str(reason)] += 1
                continue
            rows.append(row)
        k = len(rows)
        kept = [experiences[row] for row in rows]
        return EncodedExperiences(
            state[:k],
            mask[:k],
            action[:k],
            next_state[:k],
            next_mask[:k],
            np.array([e.done for e in kept], np.bool_),
            np.array([e.dt for e in kept], np.float64),
            np.array(rows, np.int64),
            dict(skipped),
        )

    def _show(
        self,
        experience: Experience,
        rows: Rows,
        commitments: Pairs,
        state: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
    ) -> None:
        """Observe rows with something committed already.

        Raises:
            _Skip: If the rules do not admit it.
        """
        done = self._open(experience, rows, commitments)
        for driver, booking in commitments[done:]:
            if not self._host.engine.commit(0, driver, booking):
                self._loaded = None
                raise _Skip("infeasible")
        if commitments[done:]:
            self._host.engine.observe(0)
        self._loaded = rows, commitments
        out = self._host.engine.out
        state[:] = out.observation[0]
        mask[:] = out.mask[0]

    def _open(self, experience: Experience, rows: Rows, commitments: Pairs) -> int:
        """Have the rows loaded; how many of the commitments are made in them already."""
        if self._loaded is not None:
            loaded, made = self._loaded
            if commitments[: len(made)] == made and _equal(loaded, rows):
                return len(made)
        if experience.scenario_hash != self._hash:
            raise _Skip("scenario")
        if not 0 < len(rows.drivers) <= self._drivers:
            raise _Skip("fleet")
        self._loaded = None
        try:
            self._host.load(self._as_state(rows))
        except StateError:
            raise _Skip("state") from None
        return 0

    def _as_state(self, rows: Rows) -> DispatchState:
        drivers = rows.drivers
        if len(drivers) < self._drivers:
            absent = np.zeros(self._drivers - len(drivers), STATE_DRIVER_DTYPE)
            for name, value in _NO_SHIFT.items():
                absent[name] = value
            drivers = np.concatenate([drivers, absent])
        return DispatchState(
            now_min=rows.now_min,
            driver_ids=self._ids("driver", len(drivers)),
            drivers=drivers,
            booking_ids=self._ids("booking", len(rows.bookings)),
            bookings=rows.bookings,
        )

    def _ids(self, word: str, count: int) -> tuple[str, ...]:
        key = word, count
        if key not in self._names:
            self._names[key] = tuple(f"{word}-{row}" for row in range(count))
        return self._names[key]

    def _action(self, experience: Experience, mask: npt.NDArray[np.bool_]) -> int:
        """Place of the action in the layout, for the world that is loaded."""
        if experience.action is None:
            return 0
        driver, booking = experience.action
        slot = np.flatnonzero(self._host.open_rows() == booking)
        if not slot.size:
            raise _Skip("infeasible")
        if slot[0] >= self.layout.max_bookings:
            raise _Skip("not_shown")
        action = 1 + driver * self.layout.max_bookings + int(slot[0])
        if not mask[action]:
            raise _Skip("infeasible")
        return action

    def _show_next(
        self,
        experience: Experience,
        state: npt.NDArray[np.float32],
        next_state: npt.NDArray[np.float32],
        next_mask: npt.NDArray[np.bool_],
    ) -> None:
        if experience.action is not None:
            commitments = (*experience.prior, experience.action)
            self._show(experience, experience.state, commitments, next_state, next_mask)
        elif experience.next_state is not None:
            self._show(experience, experience.next_state, (), next_state, next_mask)
        else:
            next_state[:] = state
        if experience.done:
            next_mask[:] = False
            next_mask[0] = True


def _equal(one: Rows, other: Rows) -> bool:
    """Whether two epochs are the same, byte for byte."""
    return one is other or (
        one.now_min == other.now_min
        and one.drivers.tobytes() == other.drivers.tobytes()
        and one.bookings.tobytes() == other.bookings.tobytes()
    )
