"""What every policy answers, and how.

A policy sees one `DispatchState` (all known open bookings, all drivers) and returns which
bookings to commit to which drivers *now*; everything it does not commit is deferred to the next
epoch. Commitments are irrevocable and join the end of a driver's queue, in the order given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from services.rl.simulation.types import DispatchState


@dataclass(frozen=True)
class Decision:
    """One booking's fate at this epoch.

    Attributes:
        booking: Row in ``state.bookings``.
        driver: Row in ``state.drivers``, or None to defer.
        score: What the policy thinks of it, in its own units; higher is better.
        features: Plain numbers that explain it (minutes, kilometres).
        propensity: Probability with which the policy takes this decision in this state.
    """

    booking: int
    driver: int | None
    score: float = 0.0
    features: Mapping[str, float] = field(default_factory=dict)
    propensity: float = 1.0


@dataclass(frozen=True)
class DecisionSet:
    """Decisions of one epoch, in the order in which assignments are to be committed.

    Attributes:
        decisions: Assignments and (optionally) explicit deferrals.
        plan: A disposable cache to hand back at the next epoch; losing it costs time, never
            correctness.
    """

    decisions: tuple[Decision, ...]
    plan: Any = None


@runtime_checkable
class Policy(Protocol):
    """Decides who takes which booking."""

    name: str

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Decide at one epoch; deterministic given ``rng`` (and, for anytime ones, the budget)."""
        ...
