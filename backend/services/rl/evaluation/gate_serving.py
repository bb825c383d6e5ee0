"""Whether a bundle serves as it was judged: the engine's own decisions, their time, its export.

Some gate days are played through the inference engine, decision by decision, as production asks.
It must not fall back, nothing it says may be refused, and every day must end as in the batch that
was judged. A network that runs on another backend than our compiled code must decide as that does.
Nothing here imports Torch: the trained network in Torch was compared when it was exported, and
what was found then is in the bundle's metrics.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy import stats

from services.rl.policies.edge_policies import pair_policy
from services.rl.serving.bundle import NETWORK, NETWORK_FOLDER, Bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.policies import NUMBA
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day, DispatchState, FloatArray

from .gate_lines import FAIL, INFO, PASS, GateLimits, Line, Verdict
from .gate_play import TALLY, Played, tally

PATIENCE_MS: Final = 60_000.0
"""A decision is not cut off here: what is judged is the model, not how busy this machine is."""


@dataclass
class Asked:
    """What the inference engine did on some days.

    Attributes:
        sums: ``(D, len(TALLY))``.
        spent_ms: Processor time of each decision, of all threads.
        fallbacks: By reason.
        refused: Assignments that the simulator did not allow.
        states: Met on the way, with at least one open booking.
    """

    sums: FloatArray
    spent_ms: FloatArray
    fallbacks: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    states: list[DispatchState] = field(default_factory=list)


def ask(
    bundle: Bundle, scenario: Scenario, days: Sequence[Day], source: DaySource | None = None
) -> Asked:
    """Play days through the inference engine, decision by decision."""
    serving = InferenceEngine(scenario, bundle, source=source)
    try:
        serving.warm_up()
        return _asked(serving, scenario, days, source)
    finally:
        serving.close()


def _asked(
    serving: InferenceEngine, scenario: Scenario, days: Sequence[Day], source: DaySource | None
) -> Asked:
    engine = Engine(scenario, len(days), days=days, source=source)
    engine.start(np.arange(len(days)))
    spent: list[float] = []
    states: list[DispatchState] = []
    refused = 0
    for e in range(len(days)):
        plan: Any = None
        while not engine.ended(e):
            rows, state = engine.open_rows(e), engine.state(e)
            begun = time.process_time()
            answer = serving.decide(state, plan=plan, budget_ms=PATIENCE_MS)
            spent.append((time.process_time() - begun) * 1e3)
            plan = answer.decisions.plan
            if len(rows):
                states.append(state)
            for decision in answer.decisions.decisions:
                if decision.driver is not None and not engine.commit(
                    e, decision.driver, int(rows[decision.booking])
                ):
                    refused += 1
            engine.wait(e)
    fallbacks = {
        name.removeprefix("fallback:"): count
        for name, count in serving.counters.items()
        if name.startswith("fallback:")
    }
    sums = np.array([tally(engine, e) for e in range(len(days))])
    return Asked(sums, np.array(spent), fallbacks, refused, states)


def serving_lines(
    bundle: Bundle,
    asked: Asked,
    judged: Played,
    limits: GateLimits,
    source: DaySource | None = None,
) -> list[Line]:
    """Fallbacks, refusals, agreement with the batch, export parity, latency.

    Args:
        bundle: The candidate.
        asked: What it did through the engine, on the first of the judged days.
        judged: What it did in batches.
        limits: What is asked for.
        source: Where zone matrices come from.
    """
    fell = sum(asked.fallbacks.values())
    lines = [
        _count("serving.fallbacks", "decisions that fell back", fell,
               f"the model failed: {asked.fallbacks}; look at the log, train or export again"),
        _count("serving.refused", "decisions refused", asked.refused + judged.refused,
               "a defect of the policy, not of its training: do not deploy this code"),
        _as_judged(asked, judged),
        _latency(bundle, asked),
    ]  # fmt: skip
    if bundle.kind == NETWORK:
        lines.append(_network_parity(bundle, asked.states, limits, source))
    return lines


def _count(name: str, title: str, count: int, lever: str) -> Line:
    verdict: Verdict = FAIL if count else PASS
    advice = lever if count else ""
    return Line(name, title, "count", float(count), None, None, 0.0, verdict, advice)


def _as_judged(asked: Asked, judged: Played) -> Line:
    """Share of days that ended the same through the engine and in the batch."""
    close = np.isclose(asked.sums, judged.sums[: len(asked.sums)], rtol=1e-9, atol=1e-6)
    share = float(close.all(axis=1).mean())
    worst = float(
        np.abs(asked.sums - judged.sums[: len(asked.sums)])[:, TALLY.index("reward")].max()
    )
    return Line(
        "serving.as_judged",
        "days that end as judged when served",
        "share",
        share,
        None,
        None,
        1.0,
        PASS if share == 1.0 else FAIL,
        "" if share == 1.0 else "what would be served is not what was judged: export again",
        {"days": len(asked.sums), "largest_reward_difference": worst},
    )


def _latency(bundle: Bundle, asked: Asked) -> Line:
    """99th percentile, with the interval of order statistics; judged by the value."""
    ordered = np.sort(asked.spent_ms)
    count = len(ordered)
    p99 = float(np.percentile(ordered, 99))
    low, high = (int(k) for k in stats.binom.ppf([0.025, 0.975], count, 0.99))
    budget = float(bundle.manifest.budget_ms)
    fits = p99 <= budget
    return Line(
        "serving.latency_p99",
        "processor time of a decision, 99th percentile",
        "ms",
        p99,
        float(ordered[max(0, min(low - 1, count - 1))]),
        float(ordered[min(high, count - 1)]),
        budget,
        PASS if fits else FAIL,
        "" if fits else "fewer moves (planner) or an INT8 backend (network): export again",
        {"p50_ms": float(np.percentile(ordered, 50)), "decisions": count},
    )


def _network_parity(
    bundle: Bundle, states: Sequence[DispatchState], limits: GateLimits, source: DaySource | None
) -> Line:
    """Share of states on which the bundle's backend decides as the trained network's numbers do."""
    recorded = bundle.manifest.metrics.get("agreement")
    title, name = "states on which the export decides as the trained network", "serving.parity"
    backend = bundle.manifest.backend
    facts = {"backend": backend, "recorded_at_export": recorded}
    if backend == NUMBA:
        return Line(name, title, "share", 1.0, None, None, limits.agreement, INFO,
                    "served from the trained numbers themselves; compared with Torch at export",
                    facts)  # fmt: skip
    from services.rl.serving.policies import learned_of

    served = learned_of(bundle, bundle.scenario, source, "cpu")
    assert served is not None
    trained = pair_policy(bundle.kind, bundle.path / NETWORK_FOLDER, bundle.scenario, source)
    same = np.array(
        [
            {(d.booking, d.driver) for d in served.decide(state).decisions}
            == {(d.booking, d.driver) for d in trained.decide(state).decisions}
            for state in states
        ]
    )
    share = float(same.mean()) if len(same) else float("nan")
    fits = share >= limits.agreement
    interval = stats.binomtest(int(same.sum()), len(same)).proportion_ci(method="wilson")
    return Line(name, title, "share", share, float(interval.low), float(interval.high),
                limits.agreement, PASS if fits else FAIL,
                "" if fits else "export again; choose a float backend",
                {**facts, "states": len(same)})  # fmt: skip
