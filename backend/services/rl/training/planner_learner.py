"""The nightly update of the planner: a short evolution of its values, from the champion's on.

Each generation plays sampled days of recent demand and real recent days, mixed at the budget's
share. What is kept is what earns most on sampled days that no generation plays: the champion as
it is, the champion's values with the demand now expected, or the values found. Then, as in a full
fit, the prices of lateness are raised as far as patients need it (`planner_care`).
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.data.experience import Experience
from services.rl.data.recalibrated import Simulator
from services.rl.errors import BundleError, PolicyError, TrainingError
from services.rl.policies.planner import SearchPolicy
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues, planner_values
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.serving.bundle import EXPECTED_DEMAND, PLANNER, Bundle, write_bundle
from services.rl.simulation.demand import DemandModel
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import FloatArray, IntArray

from .evolution import Evolution, Journal, evolve
from .export_run import export_model
from .learners import (
    BUNDLE_FOLDER,
    Budget,
    Say,
    Taken,
    begin_update,
    identity_of,
    nightly_metrics,
    out_of_time,
)
from .planner_care import STEPS, with_care

_FIRST_CHECK = 900_000  # seeds of the training range that no generation plays
_EVOLVED = NUM_TERMS - 1  # all but the last, `late_urgent`, which the reward cannot judge


@dataclass(frozen=True)
class _Playground:
    """Engines of one thread: sampled days, and real ones if there are any."""

    sampled: Engine
    real: Engine | None


class PlannerLearner:
    """See `Learner`."""

    kind = PLANNER

    def update(
        self,
        bundle: Bundle | None,
        simulator: Simulator,
        experiences: Iterable[Experience],
        *,
        folder: Path,
        budget: Budget,
        seed: int,
        say: Say = lambda _: None,
    ) -> Bundle:
        """See `Learner`; experiences are learned from as the real days they are part of."""
        _ = experiences
        identity = identity_of(self.kind, bundle, simulator, budget, seed)
        finished = begin_update(folder, identity, say)
        if finished is not None:
            return finished
        start, expected = _start(bundle, simulator)
        world = simulator.training_scenario
        found, played = self._evolved(simulator, start, folder, budget, seed)
        candidates = {
            "champion": (start, expected),
            "champion's values": (start, None),
            "found": (found, None),
        }
        checks = _FIRST_CHECK + np.arange(budget.planner.check_days)
        earned = _checked(world, candidates, checks, budget)
        kept = max(earned, key=lambda name: earned[name])  # the earliest of equals
        values, believed = candidates[kept]
        say(f"planner: {played} generations; on {len(checks)} check days {_shown(earned)}: {kept}")
        values = replace(
            values,
            scenario=simulator.scenario.name,
            scenario_hash=simulator.scenario.sha256,
            provenance={
                "fit": identity,
                "generations_played": played,
                "checked": {name: round(score, 3) for name, score in earned.items()},
                "kept": kept,
                "training_scenario_hash": world.sha256,
            },
        )
        if kept == "found":  # the champion's prices were raised when it was made
            values = with_care(
                world,
                values,
                STEPS,
                lambda: Engine(world, len(checks)),
                checks,
                moves=budget.planner.check_moves,
                threads=budget.threads,
            )
        return self._bundle(bundle, simulator, values, believed, kept, earned, folder, budget, say)

    def _evolved(
        self,
        simulator: Simulator,
        start: PlannerValues,
        folder: Path,
        budget: Budget,
        seed: int,
    ) -> tuple[PlannerValues, int]:
        """Values from the champion's on, and the generations behind them."""
        plan, world = budget.planner, simulator.training_scenario
        real = round(budget.production_share * plan.days) if simulator.days else 0
        real = min(real, len(simulator.days), plan.days - 1)
        rng = np.random.default_rng([seed, 11])
        seeds = [rng.integers(0, _FIRST_CHECK, plan.days - real) for _ in range(plan.generations)]
        rows = [
            rng.choice(len(simulator.days), real, replace=False) if real else np.zeros(0, np.int64)
            for _ in range(plan.generations)
        ]
        origin = start.array()

        def playground() -> _Playground:
            days = list(simulator.days)
            return _Playground(
                Engine(world, plan.days - real),
                Engine(world, real, days=days) if real else None,
            )

        def score(at: _Playground, point: FloatArray, generation: int) -> float:
            weights = np.concatenate([point, origin[_EVOLVED:]])
            policy = _search(world, replace(start, weights=tuple(weights.tolist())), plan.moves)
            total = _earned(policy, at.sampled, seeds[generation]).sum()
            if at.real is not None:
                total += _earned(policy, at.real, rows[generation]).sum()
            return float(total) / plan.days

        head = {"update": identity_of(self.kind, None, simulator, budget, seed),
                "start": list(start.weights)}  # fmt: skip
        path = folder / "evolution.jsonl"
        search = Evolution(plan.generations, plan.population, plan.sigma, budget.threads, seed)

        def run() -> tuple[FloatArray, int]:
            return evolve(
                search,
                origin[:_EVOLVED],
                playground,
                score,
                journal=Journal(path, head),
                out_of_time=out_of_time(budget.minutes),
            )

        try:
            point, played = run()
        except TrainingError:  # a journal that was damaged when the machine went down
            path.unlink(missing_ok=True)
            point, played = run()
        weights = np.concatenate([point, origin[_EVOLVED:]])
        return replace(start, weights=tuple(round(float(v), 6) for v in weights)), played

    def _bundle(
        self,
        champion: Bundle | None,
        simulator: Simulator,
        values: PlannerValues,
        believed: DemandModel | None,
        kept: str,
        earned: dict[str, float],
        folder: Path,
        budget: Budget,
        say: Say,
    ) -> Bundle:
        model = folder / "model"
        values.save(model / VALUES_FILE)
        expected = simulator.expected_demand
        if kept == "champion":  # with what it expected then, which may be the served demand
            expected = None
            if believed is not None:
                expected = model / EXPECTED_DEMAND
                believed.save(expected)
        common: dict[str, Any] = {
            "parent": None if champion is None else champion.version,
            "metrics": nightly_metrics(
                simulator,
                champion,
                Taken(),
                budget.production_share,
                kept=kept,
                earned={name: round(score, 3) for name, score in earned.items()},
            ),
            "transfer": True,
        }
        target = folder / BUNDLE_FOLDER
        if not budget.measured:
            policy = {} if champion is None or champion.kind != PLANNER else champion.policy
            extra = {} if expected is None else {EXPECTED_DEMAND: expected}
            return write_bundle(
                target,
                PLANNER,
                simulator.scenario,
                model=model,
                extra=extra,
                policy=policy,
                **common,
            )
        written, report = export_model(
            target,
            simulator.scenario,
            kind=PLANNER,
            model=model,
            expected=expected,
            days=budget.export_days,
            states=budget.export_states,
            must_earn=False,
            say=say,
            **common,
        )
        if not report.passes:
            raise BundleError(f"{target} must not be used: {'; '.join(report.failures)}")
        return written


def _start(bundle: Bundle | None, simulator: Simulator) -> tuple[PlannerValues, DemandModel | None]:
    """The values to start from, and the demand that they look ahead to by now.

    The champion's where it is a planner; else those filed for the scenario, or ``geneva``'s; else
    none at all.
    """
    served = simulator.scenario
    if bundle is not None and bundle.kind == PLANNER:
        values = PlannerValues.load(bundle.file(VALUES_FILE))
        if EXPECTED_DEMAND in bundle.manifest.files:
            return values, DemandModel.load(bundle.file(EXPECTED_DEMAND))
        return values, _served_demand(served)
    try:
        return planner_values(served, transfer=True)[0], _served_demand(served)
    except PolicyError:
        nothing = PlannerValues(
            TERM, (0.0,) * NUM_TERMS, 150.0, 4.0, served.name, served.sha256, {}
        )
        return nothing, _served_demand(served)


def _served_demand(served: Scenario) -> DemandModel | None:
    return None if served.demand.kind in ("replay", "manhattan") else served.demand_model()


def _search(
    world: Scenario, values: PlannerValues, moves: int, expected: DemandModel | None = None
) -> SearchPolicy:
    return SearchPolicy(PLANNER, world, values=values, expected=expected, moves=moves)


def _earned(policy: SearchPolicy, engine: Engine, labels: IntArray) -> FloatArray:
    """Reward of each day."""
    engine.start(labels)
    policy.play(engine)
    rewards: FloatArray = engine.world.totals.sum(axis=1)
    return rewards


def _checked(
    world: Scenario,
    candidates: dict[str, tuple[PlannerValues, DemandModel | None]],
    checks: IntArray,
    budget: Budget,
) -> dict[str, float]:
    """Mean reward of a check day."""

    def one(candidate: tuple[PlannerValues, DemandModel | None]) -> float:
        values, expected = candidate
        policy = _search(world, values, budget.planner.check_moves, expected)
        return float(_earned(policy, Engine(world, len(checks)), checks).mean())

    with ThreadPoolExecutor(budget.threads) as pool:
        return dict(zip(candidates, pool.map(one, candidates.values()), strict=True))


def _shown(earned: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.1f}" for name, score in earned.items())
