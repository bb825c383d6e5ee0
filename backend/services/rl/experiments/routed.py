"""What the dispatcher returns: each booking's fate, with all that a log needs to learn from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from services.rl.policies.base import Decision
from services.rl.simulation.types import DispatchState

from .arms import Answered
from .composition import Composition
from .config import HEURISTIC, RL, ExperimentConfig
from .exploration import Choice
from .units import UnitArm, draw


class Routed(NamedTuple):
    """One booking's fate, with all that a log needs to learn from it later.

    A named tuple, because a city has hundreds of them per epoch.

    Attributes:
        booking_id: As in the state.
        driver_id: Who takes it; None: deferred.
        arm: The arm of its unit (intention to treat), whoever answered in the end.
        unit: What was randomised; empty where nothing is (``off``, ``shadow``, stopped).
        policy: Who answered.
        model: Version of the model behind the answer.
        fallback_reason: Why the arm's own policy did not answer; None: it did.
        latency_ms: Of the arm's answer.
        decision: Rows, score and features of the arm's decision; where exploration chose another
            driver, that driver's row and no features.
        k: Candidates that exploration chose among; 1: nothing was drawn.
        propensity: Probability of this driver, given the arm's plan.
        explored: Whether it is another driver than planned.
        rounds: Round of the composition in which it stood; 0: deferred.
        conflict: Its arm wanted to assign it, and found no place left (then it is deferred).
        shadow: Logged, not acted on.
    """

    booking_id: str
    driver_id: str | None
    arm: str
    unit: str
    policy: str
    model: str
    fallback_reason: str | None
    latency_ms: float
    decision: Decision
    k: int = 1
    propensity: float = 1.0
    explored: bool = False
    rounds: int = 1
    conflict: bool = False
    shadow: bool = False


@dataclass(frozen=True)
class ArmPlans:
    """The arms' plans, to hand back at the next epoch; losing them costs time only."""

    heuristic: Any = None
    rl: Any = None


@dataclass(frozen=True)
class RoutedEpoch:
    """What an epoch comes to.

    Attributes:
        decisions: One per booking asked for: assignments in the order to commit them, then
            deferrals.
        shadow: What the learned policy would have done, in ``shadow``.
        plan: To hand back at the next epoch.
        config: The experiment's settings that were used.
        at: The epoch's time.
    """

    decisions: tuple[Routed, ...]
    shadow: tuple[Routed, ...]
    plan: ArmPlans
    config: ExperimentConfig
    at: datetime

    @property
    def assignments(self) -> tuple[Routed, ...]:
        """What to commit, in this order."""
        return tuple(d for d in self.decisions if d.driver_id is not None)


@dataclass(frozen=True)
class Epoch:
    """What all steps of one decision need."""

    state: DispatchState
    config: ExperimentConfig
    at: datetime
    rows: tuple[int, ...]  # of the bookings asked for
    units: Mapping[int, UnitArm]  # by row; empty where nothing is randomised
    plans: ArmPlans
    budget_ms: float | None

    def arm(self, row: int) -> str:
        """Arm of a booking."""
        return self.units[row].arm if row in self.units else HEURISTIC

    def draws(self, purpose: str) -> Callable[[int], float]:
        """A number per booking: the same whenever this epoch is decided again, by any process."""
        ids, config, now = self.state.booking_ids, self.config, repr(float(self.state.now_min))
        return lambda row: draw(config.salt, config.name, purpose, now, ids[row])


def routed(
    epoch: Epoch,
    answers: Mapping[str, Answered],
    composition: Composition,
    choices: Mapping[int, Choice],
    order: list[int],
) -> tuple[Routed, ...]:
    """What became of each booking asked for: assignments in ``order``, then deferrals."""
    placed = {p.decision.booking: p for p in composition.placed}
    result = []
    for row in order:
        decision, choice, k, explored = placed[row].decision, choices.get(row), 1, False
        if choice is not None:
            k, explored = choice.k, choice.explored
            if explored:
                decision = Decision(row, choice.driver, decision.score)
            decision = replace(decision, propensity=choice.propensity)
        rounds = placed[row].rounds
        result.append(_fate(epoch, answers, decision, k=k, explored=explored, rounds=rounds))
    for row in epoch.rows:
        if row not in placed:
            lost = row in composition.lost
            result.append(_fate(epoch, answers, Decision(row, None), rounds=0, conflict=lost))
    return tuple(result)


def shadowed(epoch: Epoch, answer: Answered) -> tuple[Routed, ...]:
    """What the learned arm, which does not act, would have done."""
    asked = set(epoch.rows)
    chosen = {
        d.booking: d
        for d in answer.decisions.decisions
        if d.driver is not None and d.booking in asked
    }
    decisions = [*chosen.values(), *(Decision(r, None) for r in epoch.rows if r not in chosen)]
    return tuple(_fate(epoch, {RL: answer}, d, arm=RL, shadow=True) for d in decisions)


def _fate(
    epoch: Epoch,
    answers: Mapping[str, Answered],
    decision: Decision,
    *,
    arm: str | None = None,
    k: int = 1,
    explored: bool = False,
    rounds: int = 1,
    conflict: bool = False,
    shadow: bool = False,
) -> Routed:
    state, row = epoch.state, decision.booking
    arm = epoch.arm(row) if arm is None else arm
    answer = answers[arm]
    return Routed(
        booking_id=state.booking_ids[row],
        driver_id=None if decision.driver is None else state.driver_ids[decision.driver],
        arm=arm,
        unit=epoch.units[row].unit if row in epoch.units else "",
        policy=answer.policy,
        model=answer.model,
        fallback_reason=answer.fallback_reason,
        latency_ms=answer.latency_ms,
        decision=decision,
        k=k,
        propensity=decision.propensity,
        explored=explored,
        rounds=rounds,
        conflict=conflict,
        shadow=shadow,
    )
