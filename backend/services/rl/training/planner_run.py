"""A training run of the planner: its modes, and its score on validation days.

The folder is that of `evolution_run`; the best model is ``planner.json``.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from services.rl.errors import TrainingError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate, estimate
from services.rl.evaluation.runner import evaluate_policy
from services.rl.policies.planner import DEFAULT_MOVES
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario, Split

from .evolution_run import evolution_run, write_document
from .planner_fit import PlannerFit, Stage, fit_planner

PLANNER_MODES: dict[str, PlannerFit] = {
    "sanity": PlannerFit(
        busy=Stage(generations=1, days=2, moves=50, sigma=0.5),
        own=Stage(generations=1, days=2, moves=50, sigma=0.25),
        population=4,
        check_days=4,
        check_moves=50,
    ),
    "quick": PlannerFit(
        busy=Stage(generations=12, days=16, moves=500, sigma=0.5),
        own=Stage(generations=4, days=16, moves=1_000, sigma=0.25),
        population=12,
        check_days=50,
    ),
    "production": PlannerFit(),
}
"""Budgets by mode. Measured on two cores: 400 to 544 s for two productions at once."""

VALIDATION_DAYS = 64
"""Simulated days on which a finished fit is judged; it is not chosen by them."""


@dataclass(frozen=True)
class PlannerResult:
    """What a run achieved, on validation days.

    Attributes:
        folder: ``results/<name>``.
        values: The fitted values.
        score: Reward a day.
        over_search: Paired gain over the same search without values.
        over_matching: Paired gain over ``matching``.
        seconds: Of this process.
    """

    folder: Path
    values: PlannerValues
    score: float
    over_search: Estimate
    over_matching: Estimate
    seconds: float


def planner_fit_of(mode: str) -> PlannerFit:
    """The budget of a mode.

    Raises:
        TrainingError: If the planner has no such mode.
    """
    if mode not in PLANNER_MODES:
        raise TrainingError(
            f"--mode {mode}: the planner trains on processors; choose among "
            f"{', '.join(PLANNER_MODES)}"
        )
    return PLANNER_MODES[mode]


def train_planner(
    scenario: Scenario,
    plan: PlannerFit,
    folder: Path,
    *,
    source: DaySource | None = None,
    resume: bool = False,
    start: PlannerValues | None = None,
    provenance: dict[str, Any] | None = None,
    on_generation: Callable[[int, float, float], None] | None = None,
) -> PlannerResult:
    """Fit, save and judge.

    Args:
        scenario: The world.
        plan: The budget.
        folder: ``results/<name>``.
        source: Where real days come from.
        resume: Go on from the folder's journal.
        start: Values to start from and to beat; None: none.
        provenance: What else the values should say about their origin.
        on_generation: See `fit_planner`.

    Raises:
        TrainingError: If there is nothing to resume, it is of another fit, another process trains
            under this name, or a file cannot be written.
    """
    begun = time.monotonic()
    origin = provenance or {}
    config = {
        "policy": "planner",
        "config": asdict(plan),
        "scenario": scenario.name,
        "scenario_hash": scenario.sha256,
        **origin,
    }
    with evolution_run(folder, resume, config) as (journal, best):
        days = [source.day(label) for label in source.labels(Split.TRAIN)] if source else []
        values = fit_planner(
            scenario,
            plan,
            days=days,
            source=source,
            start=start,
            journal=journal,
            on_generation=on_generation,
        )
        values = replace(values, provenance={**values.provenance, **origin})
        values.save(best / VALUES_FILE)
        return _judged(scenario, source, values, folder, begun)


def _judged(
    scenario: Scenario,
    source: DaySource | None,
    values: PlannerValues,
    folder: Path,
    begun: float,
) -> PlannerResult:
    """Play validation days, and note what came out in ``eval/validation.json``."""
    book = day_book(scenario, source, Split.VALIDATION, None if source else VALIDATION_DAYS, 0)
    model = folder / "checkpoints" / "best"
    own = evaluate_policy("planner", book, model=model).kpi("reward")
    search = evaluate_policy("rolling_search", book).kpi("reward")
    matching = evaluate_policy("matching", book).kpi("reward")
    result = PlannerResult(
        folder=folder,
        values=values,
        score=float(own.mean()),
        over_search=estimate(own - search),
        over_matching=estimate(own - matching),
        seconds=time.monotonic() - begun,
    )
    write_document(
        folder / "eval" / "validation.json",
        {
            "days": len(book),
            "moves": DEFAULT_MOVES,
            "reward": result.score,
            "minus_rolling_search": asdict(result.over_search),
            "minus_matching": asdict(result.over_matching),
        },
    )
    return result
