"""The two arms as the dispatcher calls them, and what they answer."""

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from services.rl.policies.base import DecisionSet, Policy
from services.rl.simulation.types import DispatchState


class Answered(Protocol):
    """What an arm answers; the serving engine's ``Answer`` is one."""

    @property
    def decisions(self) -> DecisionSet:
        """What to commit."""
        ...

    @property
    def policy(self) -> str:
        """Name of the policy that answered."""
        ...

    @property
    def fallback_reason(self) -> str | None:
        """Why another policy than the arm's own answered; None: it did not."""
        ...

    @property
    def latency_ms(self) -> float:
        """How long it took."""
        ...

    @property
    def model(self) -> str:
        """Version of the model behind the arm."""
        ...


class Decider(Protocol):
    """An arm. The serving engine is one for the learned arm, as it is."""

    def decide(
        self, state: DispatchState, *, plan: Any = None, budget_ms: float | None = None
    ) -> Answered:
        """Decide one epoch; called by several threads at once."""
        ...


@dataclass(frozen=True)
class ArmAnswer:
    """A plain `Answered`."""

    decisions: DecisionSet
    policy: str
    fallback_reason: str | None = None
    latency_ms: float = 0.0
    model: str = ""


class PolicyArm:
    """A policy as an arm: one decision at a time, because policies keep memory."""

    def __init__(self, policy: Policy, model: str = "") -> None:
        self._policy = policy
        self._model = model
        self._lock = threading.Lock()

    def decide(
        self, state: DispatchState, *, plan: Any = None, budget_ms: float | None = None
    ) -> ArmAnswer:
        """Decide one epoch."""
        with self._lock:
            begun = time.perf_counter()
            decisions = self._policy.decide(state, plan=plan, budget_ms=budget_ms)
            took_ms = 1e3 * (time.perf_counter() - begun)
        return ArmAnswer(decisions, self._policy.name, None, took_ms, self._model)


class _Engine(Protocol):
    """The part of the serving engine that is needed here."""

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        use: Any = "rl",
    ) -> Answered: ...


class EngineArm:
    """One use (``"heuristic"`` or ``"rl"``) of a serving engine as an arm."""

    def __init__(self, engine: _Engine, use: str) -> None:
        self._engine = engine
        self._use = use

    def decide(
        self, state: DispatchState, *, plan: Any = None, budget_ms: float | None = None
    ) -> Answered:
        """Decide one epoch."""
        return self._engine.decide(state, plan=plan, budget_ms=budget_ms, use=self._use)
