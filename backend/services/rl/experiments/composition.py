"""One epoch decided by two arms that share a fleet: whose booking gets which driver.

Each arm decides the whole state; of its decisions those for its own bookings count. Where both
arms want one driver, they are served in turn:

* Every booking has a draw in [0, 1), from the experiment's salt, the epoch and the booking's id,
  never from its arm. Per driver the two lists are merged, each in its own order (a queue is
  first in, first out), the lower draw of the two heads going first. So no arm has the
  preference, and exchanging the arms exchanges the results.
* A decision *stands* if the driver can still take the booking, and it is not planned to be more
  than `TOLERATED_LATER_MIN` later than its own arm planned it.
* What does not stand is decided again, by its own arm, on the capacity that is left; after
  `ROUNDS` rounds it waits for the next epoch.

With one arm only, its decisions stand as they are. The order of the result is canonical: drivers
by row, each in the order of the queue.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.rl.policies.base import Decision, DecisionSet
from services.rl.simulation.types import DispatchState

from .epoch_world import EpochWorld

TOLERATED_LATER_MIN: Final = 3.0
ROUNDS: Final = 3


@dataclass(frozen=True)
class Placed:
    """An assignment that stands.

    Attributes:
        arm: Whose booking it is.
        decision: Of that arm; rows are those of the epoch's state.
        rounds: In which round it stood; 1: at once.
    """

    arm: str
    decision: Decision
    rounds: int


@dataclass(frozen=True)
class Composition:
    """What an epoch's decisions come to.

    Attributes:
        placed: Assignments in canonical order, together feasible.
        lost: Rows of bookings that an arm wanted to assign and that found no place.
    """

    placed: tuple[Placed, ...]
    lost: frozenset[int]


Redecide = Callable[[str, DispatchState], DecisionSet]


def compose(
    world: EpochWorld,
    state: DispatchState,
    arm_of_row: Mapping[int, str],
    answers: Mapping[str, DecisionSet],
    redecide: Redecide,
    draw: Callable[[int], float],
) -> Composition:
    """Merge the arms' decisions; see the module's description.

    Args:
        world: To try commitments on.
        state: The epoch's.
        arm_of_row: Arm of each booking to be decided, by row; others stay open.
        answers: What each arm decided on ``state``.
        redecide: Asks an arm again, on another state.
        draw: Of a booking's row, in [0, 1).
    """
    placed: list[Placed] = []
    now, rows = state, list(range(len(state.bookings)))
    wanted = dict(arm_of_row)
    for number in range(1, ROUNDS + 1):
        lists = {
            arm: _own(world, now, rows, answer, arm, wanted) for arm, answer in answers.items()
        }
        if number == 1 and len(answers) == 1 and len(wanted) == len(rows):
            wishes = next(iter(lists.values()))
            placed += [Placed(wanted[w.decision.booking], w.decision, 1) for w in wishes]
            lost: list[int] = []
            break
        stood, lost = _merge(world, now, rows, lists, draw)
        placed += [Placed(wanted[d.booking], d, number) for d in stood]
        if not lost or number == ROUNDS:
            break
        now, rows = world.remaining(rows)
        wanted = {row: arm_of_row[row] for row in lost}
        answers = {arm: redecide(arm, now) for arm in answers if arm in wanted.values()}
    placed.sort(key=lambda p: p.decision.driver or 0)  # stable: the order of the queue stays
    asked = {row for row in lost if row not in {p.decision.booking for p in placed}}
    return Composition(tuple(placed), frozenset(asked))


@dataclass(frozen=True)
class _Wish:
    """A decision with its row in the present state, and how late its arm planned it."""

    decision: Decision  # rows of the epoch's state
    driver: int
    row: int
    late_min: float


def _own(
    world: EpochWorld,
    now: DispatchState,
    rows: Sequence[int],
    answer: DecisionSet,
    arm: str,
    wanted: Mapping[int, str],
) -> list[_Wish]:
    """An arm's assignments of its own bookings, with the lateness of its whole plan."""
    late, _refused = world.lateness(now, answer.decisions)
    wishes = []
    for decision in answer.decisions:
        if decision.booking not in late or decision.driver is None:
            continue
        original = rows[decision.booking]
        if wanted.get(original) == arm:
            wish = replace(decision, booking=original)
            wishes.append(_Wish(wish, decision.driver, decision.booking, late[decision.booking]))
    return wishes


def _merge(
    world: EpochWorld,
    now: DispatchState,
    rows: Sequence[int],
    lists: Mapping[str, Sequence[_Wish]],
    draw: Callable[[int], float],
) -> tuple[list[Decision], list[int]]:
    """Commit the lists in turn, driver by driver; what stood, and rows of what did not."""
    world.load(now)
    stood: list[Decision] = []
    lost: list[int] = []
    for driver in sorted({wish.driver for wishes in lists.values() for wish in wishes}):
        queues = [[w for w in wishes if w.driver == driver] for wishes in lists.values()]
        while any(queues):
            queue = min((q for q in queues if q), key=lambda q: draw(q[0].decision.booking))
            wish = queue.pop(0)
            late, _travel = world.forecast(wish.row)
            if late[driver] <= wish.late_min + TOLERATED_LATER_MIN and world.commit(
                driver, wish.row
            ):
                stood.append(wish.decision)
            else:
                lost.append(rows[wish.row])
    return stood, lost
