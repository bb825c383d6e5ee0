"""States in the middle of a busy day, and arms that answer what a test wants."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from services.rl.ab_dispatcher import (
    ABDispatcher,
    ArmAnswer,
    ExperimentConfig,
    MemoryUnits,
    PolicyArm,
)
from services.rl.experiments.epoch_world import EpochWorld
from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SCENARIO = load_scenario("geneva_overload")


class Arm:
    """Answers what a function of the state says; counts how often it is asked."""

    def __init__(self, name: str, decide: Callable, model: str = "m1", fallback=None) -> None:
        self.name, self.model, self.fallback, self._decide = name, model, fallback, decide
        self.asked = 0

    def decide(self, state, *, plan=None, budget_ms=None):
        self.asked += 1
        answer = self._decide(state)
        if not isinstance(answer, DecisionSet):
            answer = DecisionSet(tuple(Decision(b, d) for d, b in answer))
        return ArmAnswer(answer, self.name, self.fallback, 1.5, self.model)


class Clock:
    def __init__(self, at=AT):
        self.at = at

    def now(self):
        return self.at


def real_arm(name: str) -> PolicyArm:
    return PolicyArm(make_policy(name, SCENARIO))


def dispatcher(heuristic, rl, units=None, monitor=None, experiments=None, **config) -> ABDispatcher:
    settings = experiments or ExperimentConfig(**{"mode": "ab", "unit": "booking", **config})
    return ABDispatcher(
        settings,
        heuristic,
        rl,
        MemoryUnits() if units is None else units,
        monitor,
        scenario=SCENARIO,
        clock=Clock(),
    )


@cache
def busy_state(minute: float = 120.0, seed: int = 1_000_000):
    """A state after a while without dispatching: both arms want the same drivers."""
    engine = Engine(SCENARIO)
    engine.start([seed], [0])
    policy = make_policy("nearest", SCENARIO)
    while engine.now_min() < minute:
        if engine.now_min() < minute - 20:
            rows = engine.open_rows()
            for d in policy.decide(engine.state()).decisions:
                assert engine.commit(0, d.driver, int(rows[d.booking]))
        engine.wait(0)
    return engine.state()


@cache
def world() -> EpochWorld:
    return EpochWorld(SCENARIO)


def committable(state, pairs) -> bool:
    """Whether (driver, booking) rows can all be committed in their order, by the engine's rules."""
    checked = world()
    checked.load(state)
    return all(checked.commit(d, b) for d, b in pairs)
