"""Evolution of the planner's value terms on whole training days.

Every candidate of a generation plays the same fresh days with the same seeds of the search; see
`evolution`. The answer is kept only if it earns at least as much as the start on other days:
training seeds that no fit plays. Real days are too few to keep some apart: there the check is on
all training days.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from services.rl.policies.planner import LOOK_AHEAD, SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_search import NUM_TERMS, TERM
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day, FloatArray, IntArray

from .evolution import LATE, Evolution, Journal, evolve

_FIRST_CHECK = 900_000  # seeds of the training range that are never fitted on
_SIGMA = 0.5
_HOT = 4.0


@dataclass(frozen=True)
class PlannerFit:
    """Budget of one fit.

    Attributes:
        generations: Of the evolution.
        population: Candidates per generation.
        days: Training days that every candidate of a generation plays.
        moves: Of the search in the first 60 % of the generations; fewer than in use, to get near.
        late_moves: After that: what a longer search finds by itself needs no value.
        check_days: Days that decide whether the result is kept.
        check_moves: Of the search then.
        threads: Candidates played at once.
        seed: Of everything random.
    """

    generations: int = 50
    population: int = 16
    days: int = 24
    moves: int = 700
    late_moves: int = 3_000
    check_days: int = 100
    check_moves: int = 6_000
    threads: int = max(1, min(2, os.cpu_count() or 1))
    seed: int = 0


def fit_planner(
    scenario: Scenario,
    plan: PlannerFit,
    *,
    days: Sequence[Day] = (),
    source: DaySource | None = None,
    start: PlannerValues | None = None,
    journal: Path | None = None,
    on_generation: Callable[[int, float, float], None] | None = None,
) -> PlannerValues:
    """Fit value terms to a scenario.

    Args:
        scenario: The world.
        plan: The budget.
        days: Real training days, for a scenario that replays them; else training seeds are drawn.
        source: Where real days come from.
        start: Values to start from and to beat; None: none at all.
        journal: Scores of finished generations, to resume from.
        on_generation: Called with the generation, the score of the distribution's mean and that of
            the start, on the generation's days.

    Raises:
        TrainingError: If the journal is damaged or of another fit.
    """
    rng = np.random.default_rng(plan.seed)
    batch = min(plan.days, len(days)) if days else plan.days
    labels = [
        rng.choice(len(days), batch, replace=False)
        if days
        else rng.integers(0, _FIRST_CHECK, batch)
        for _ in range(plan.generations)
    ]
    origin = np.zeros(NUM_TERMS) if start is None else start.array()

    def score(engine: Engine, point: FloatArray, generation: int) -> float:
        late = generation >= LATE * plan.generations
        moves = plan.late_moves if late else plan.moves
        return _score(engine, scenario, point, moves, labels[generation])

    fit = {k: v for k, v in asdict(plan).items() if k != "threads"}
    head = {"fit": fit, "scenario_hash": scenario.sha256, "start": origin.tolist()}
    found = evolve(
        Evolution(plan.generations, plan.population, _SIGMA, plan.threads, plan.seed),
        origin,
        lambda: Engine(scenario, batch, days=days or None, source=source),
        score,
        journal=Journal(journal, head),
        on_generation=on_generation,
    )
    checks = np.arange(len(days)) if days else _FIRST_CHECK + np.arange(plan.check_days)
    judge = Engine(scenario, len(checks), days=days or None, source=source)
    before = _score(judge, scenario, origin, plan.check_moves, checks)
    after = _score(judge, scenario, found, plan.check_moves, checks)
    if after < before:
        found = origin
    return PlannerValues(
        terms=TERM,
        weights=tuple(round(float(v), 6) for v in found),
        look_ahead_min=LOOK_AHEAD,
        hot=_HOT,
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
        provenance={
            **fit,
            "training_days": [day.label for day in days]
            if days
            else f"seeds 0..{_FIRST_CHECK - 1}",
            "check_before": round(before, 3),
            "check_after": round(after, 3),
        },
    )


def _values(scenario: Scenario, weights: FloatArray) -> PlannerValues:
    return PlannerValues(
        TERM,
        tuple(weights.tolist()),
        LOOK_AHEAD,
        _HOT,
        scenario.name,
        scenario.sha256,
        {},
    )


def _score(
    engine: Engine, scenario: Scenario, weights: FloatArray, moves: int, labels: IntArray
) -> float:
    """Mean reward of a day with these weights."""
    engine.start(labels)
    SearchPolicy("planner", scenario, values=_values(scenario, weights), moves=moves).play(engine)
    return float(engine.world.totals.sum(axis=1).mean())
