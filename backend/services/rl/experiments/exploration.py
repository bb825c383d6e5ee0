"""Exploration: now and then another driver, so that later estimates have something to stand on.

Per booking, after planning: with probability ε the driver is drawn uniformly among k ≤ 5
candidates, the planned one among them. A candidate may take the booking behind everything planned
at this epoch, without its predicted lateness rising by more than 3 minutes. Never explored are
bookings of priority 4 and 5, deferrals, and a booking behind which this epoch has put another in
the same driver's queue: so nobody else's plan changes. So the planned driver has the propensity
1 − ε + ε/k and each other candidate ε/k, exactly; bookings are taken in the canonical order, and
a propensity is conditional on what was drawn for the bookings before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.rl.policies.base import Decision
from services.rl.simulation.types import DispatchState

from .epoch_world import EpochWorld

MOST_CANDIDATES: Final = 5
MOST_LATER_MIN: Final = 3.0
NEVER_FROM_PRIORITY: Final = 4


@dataclass(frozen=True)
class Choice:
    """What exploration made of one planned assignment.

    Attributes:
        booking: Row of the booking.
        driver: Row of the driver who takes it.
        candidates: Rows of the drivers it could be, the planned one first; k of them.
        propensity: Probability of this driver.
    """

    booking: int
    driver: int
    candidates: tuple[int, ...]
    propensity: float

    @property
    def k(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    @property
    def explored(self) -> bool:
        """Whether it is another driver than planned."""
        return self.driver != self.candidates[0]


def drawn(candidates: Sequence[int], epsilon: float, u: float) -> tuple[int, float]:
    """The driver that a uniform ``u`` in [0, 1) picks, and the probability of that driver."""
    k = len(candidates)
    planned, other = 1.0 - epsilon + epsilon / k, epsilon / k
    if k == 1 or u < planned:
        return candidates[0], planned if k > 1 else 1.0
    return candidates[1 + min(int((u - planned) / other), k - 2)], other


def explore(
    world: EpochWorld,
    state: DispatchState,
    planned: Sequence[Decision],
    epsilon: float,
    draw: Callable[[int], float],
) -> tuple[list[int], dict[int, Choice]]:
    """Draw for each planned assignment.

    Args:
        world: To try commitments on.
        state: The epoch's.
        planned: Assignments in canonical order, together feasible.
        epsilon: Probability of drawing.
        draw: Of a booking's row, in [0, 1).

    Returns:
        Rows of bookings in an order in which all can be committed, and the choice for each.
    """
    plan = list(planned)
    choices: dict[int, Choice] = {}
    late, _refused = world.committed(state, plan)
    for decision in planned:
        row, driver = decision.booking, decision.driver
        assert driver is not None
        candidates = [driver]
        last = next(d.booking for d in reversed(plan) if d.driver == driver) == row
        urgent = int(state.bookings["priority"][row]) >= NEVER_FROM_PRIORITY
        if epsilon > 0.0 and last and not urgent:
            candidates += _others(world, late[row], row, driver)
        taken, propensity = drawn(candidates, epsilon, draw(row))
        choices[row] = Choice(row, taken, tuple(candidates), propensity)
        if taken != driver:
            # Behind everything planned: the place its candidate was tried at.
            plan = [d for d in plan if d.booking != row]
            plan.append(Decision(row, taken))
            late, _refused = world.committed(state, plan)
    return [d.booking for d in plan], choices


def _others(world: EpochWorld, late_min: float, row: int, driver: int) -> list[int]:
    """Candidates beside the planned driver, the least late and nearest first."""
    later, travel = world.forecast(row)
    order = sorted(
        (float(later[d]), float(travel[d]), d)
        for d in np.flatnonzero(later <= late_min + MOST_LATER_MIN).tolist()
        if d != driver
    )
    return [d for _, _, d in order[: MOST_CANDIDATES - 1]]
