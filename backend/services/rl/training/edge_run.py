"""A training run of `matching_values`: its modes, and its score on validation days.

The folder is that of `evolution_run`; the best model is ``edge_values.json``.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from services.rl.data.manhattan import ManhattanDays
from services.rl.errors import TrainingError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate, estimate
from services.rl.evaluation.runner import evaluate_policy
from services.rl.policies.edge_values import EDGE_VALUES_FILE, EdgeValues, require_zones
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario, Split

from .edge_fit import EdgeFit, edge_days, fit_edges
from .evolution_run import evolution_run, write_document

EDGE_MODES: dict[str, EdgeFit] = {
    "sanity": EdgeFit(generations=2, population=4, days=2, worth_days=2, check_days=2),
    "quick": EdgeFit(generations=40, population=16, days=15, worth_days=20, check_days=20),
    "production": EdgeFit(),
}
"""Budgets by mode."""


@dataclass(frozen=True)
class EdgeResult:
    """What a run achieved, on validation days.

    Attributes:
        folder: ``results/<name>``.
        values: The fitted values.
        score: Reward a day.
        reference: Reward a day of ``matching_profit``.
        over_matching: Paired gain over it.
        seconds: Of this process.
    """

    folder: Path
    values: EdgeValues
    score: float
    reference: float
    over_matching: Estimate
    seconds: float


def edge_fit_of(mode: str) -> EdgeFit:
    """The budget of a mode.

    Raises:
        TrainingError: If `matching_values` has no such mode.
    """
    if mode not in EDGE_MODES:
        raise TrainingError(
            f"--mode {mode}: matching_values trains on processors; choose among "
            f"{', '.join(EDGE_MODES)}"
        )
    return EDGE_MODES[mode]


def train_edges(
    scenario: Scenario,
    plan: EdgeFit,
    folder: Path,
    *,
    source: DaySource | None = None,
    resume: bool = False,
    provenance: dict[str, Any] | None = None,
    on_worth_day: Callable[[], None] | None = None,
    on_generation: Callable[[int, float, float], None] | None = None,
) -> EdgeResult:
    """Fit, save and judge.

    Args:
        scenario: The world.
        plan: The budget.
        folder: ``results/<name>``.
        source: Where real days come from.
        resume: Go on from the folder's journal.
        provenance: What else the values should say about their origin.
        on_worth_day: See `fit_edges`.
        on_generation: See `fit_edges`.

    Raises:
        PolicyError: If the scenario is not one for `matching_values`.
        TrainingError: If there is nothing to resume, it is of another fit, another process trains
            under this name, or a file cannot be written.
    """
    require_zones(scenario)
    if not isinstance(source, ManhattanDays):
        raise TrainingError(f"scenario {scenario.name!r} has no days to tune matching_values on")
    begun = time.monotonic()
    origin = provenance or {}
    days = edge_days(source, source.labels(Split.TRAIN), source.tuning_labels(), plan)
    config = {
        "policy": "matching_values",
        "config": asdict(plan),
        "scenario": scenario.name,
        "scenario_hash": scenario.sha256,
        **origin,
    }
    with evolution_run(folder, resume, config) as (journal, best):
        values = fit_edges(
            scenario,
            plan,
            days,
            source=source,
            journal=journal,
            on_worth_day=on_worth_day,
            on_generation=on_generation,
        )
        values = replace(values, provenance={**values.provenance, **origin})
        values.save(best / EDGE_VALUES_FILE)
        return _judged(scenario, source, values, folder, begun)


def _judged(
    scenario: Scenario, source: DaySource, values: EdgeValues, folder: Path, begun: float
) -> EdgeResult:
    """Play the validation days, and note what came out in ``eval/validation.json``."""
    book = day_book(scenario, source, Split.VALIDATION, None, 0)
    model = folder / "checkpoints" / "best"
    own = evaluate_policy("matching_values", book, model=model).kpi("reward")
    matching = evaluate_policy("matching_profit", book).kpi("reward")
    result = EdgeResult(
        folder=folder,
        values=values,
        score=float(own.mean()),
        reference=float(matching.mean()),
        over_matching=estimate(own - matching),
        seconds=time.monotonic() - begun,
    )
    write_document(
        folder / "eval" / "validation.json",
        {
            "days": len(book),
            "reward": result.score,
            "matching_profit": result.reference,
            "minus_matching_profit": asdict(result.over_matching),
        },
    )
    return result
