"""What `matching_values` learns: worth of cars from clairvoyant days, weights by evolution.

Three disjoint parts of the training dates: on some the result is checked, on others clairvoyant
solutions give the worth of a free car by zone and minute (the average of their dual prices) and
the usual demand, and on the scenario's tuning dates and all that are left the weights of the edges
evolve: with 120 dates instead of the last 40 they hold better on days they never saw. A
clairvoyant's prices are not of the days that the weights are fitted on: there they would know too
much.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.errors import TrainingError
from services.rl.policies.edge_values import EdgeValues, require_zones
from services.rl.policies.hindsight import zone_minute_values
from services.rl.policies.zone_matching import (
    EDGE_TERM,
    NUM_EDGE_TERMS,
    ZoneTables,
    play_zone_matching,
)
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine, travel_tables
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day, FloatArray, IntArray

from .evolution import Evolution, Journal, evolve

_SIGMA = 0.3
_SHARE = 0.6  # of the worth that counts at the start: dual prices alone do best there
_PREFER_EARLY = -1e-3  # USD a minute of wait decides between equals


@dataclass(frozen=True)
class EdgeFit:
    """Budget of one fit.

    Attributes:
        generations: Of the evolution.
        population: Candidates per generation.
        days: Tuning days that every candidate of a generation plays.
        worth_days: Days solved by a clairvoyant.
        check_days: Days that decide whether the result is kept.
        terms: Terms whose weights evolve; those of worth are 0 where they do not.
        threads: Candidates played at once.
        seed: Of everything random.
    """

    generations: int = 120
    population: int = 20
    days: int = 20
    worth_days: int = 40
    check_days: int = 40
    terms: tuple[str, ...] = EDGE_TERM[1:]
    threads: int = max(1, min(2, os.cpu_count() or 1))
    seed: int = 0


@dataclass(frozen=True)
class EdgeDays:
    """Training days by their part in a fit; no day has two, where there are enough.

    Attributes:
        worth: Solved by a clairvoyant.
        tuning: The weights evolve on these.
        check: The result is kept or not by these.
    """

    worth: tuple[Day, ...]
    tuning: tuple[Day, ...]
    check: tuple[Day, ...]


def edge_days(
    source: DaySource, train: Sequence[str], tuning: Sequence[str], plan: EdgeFit
) -> EdgeDays:
    """Deal out training dates.

    Args:
        source: Reads them.
        train: All training dates, in order.
        tuning: Those that parameters may be chosen on in any case.
        plan: How many of the others are for worth and check.
    """
    others = [label for label in train if label not in set(tuning)]
    split = max(0, len(others) - plan.worth_days)
    worth, older = others[split:] or list(tuning), others[:split]
    split = max(0, len(older) - plan.check_days)
    check, oldest = older[split:] or list(tuning), older[:split]
    parts = (worth, [*oldest, *tuning], check)
    return EdgeDays(*(tuple(source.day(label) for label in part) for part in parts))


def fit_edges(
    scenario: Scenario,
    plan: EdgeFit,
    days: EdgeDays,
    *,
    source: DaySource | None = None,
    journal: Path | None = None,
    on_worth_day: Callable[[], None] | None = None,
    on_generation: Callable[[int, float, float], None] | None = None,
) -> EdgeValues:
    """Fit edge values to a scenario.

    Args:
        scenario: The world.
        plan: The budget.
        days: Training days.
        source: Where they come from.
        journal: Scores of finished generations, to resume from.
        on_worth_day: Called after each day solved by the clairvoyant (kept on disk).
        on_generation: Called with the generation, the score of the distribution's mean and that of
            the start, on the generation's days.

    Raises:
        PolicyError: If the scenario is not one for `matching_values`.
        TrainingError: If the journal is damaged or of another fit, or a term is unknown.
    """
    require_zones(scenario)
    unknown = [name for name in plan.terms if name not in EDGE_TERM]
    if unknown:
        raise TrainingError(f"there is no edge term {unknown[0]!r}")
    travel = travel_tables(scenario, source)
    worth, requests = _worth(scenario, days.worth, source, on_worth_day)
    start = _start(plan)
    evolving = np.array([EDGE_TERM.index(name) for name in plan.terms], dtype=np.int64)

    def values(weights: FloatArray, provenance: dict[str, Any]) -> EdgeValues:
        return EdgeValues(
            terms=EDGE_TERM,
            weights=tuple(round(float(v), 6) for v in weights),
            worth=tuple(tuple(round(float(v), 6) for v in row) for row in worth),
            requests=tuple(round(float(v), 6) for v in requests),
            scenario=scenario.name,
            scenario_hash=scenario.sha256,
            provenance=provenance,
        )

    tables = values(start, {}).tables(travel)

    def weights_of(point: FloatArray) -> FloatArray:
        weights = start.copy()
        weights[evolving] = point
        return weights

    batch = min(plan.days, len(days.tuning))
    rng = np.random.default_rng(plan.seed)
    labels = [rng.choice(len(days.tuning), batch, replace=False) for _ in range(plan.generations)]
    fit = {k: v for k, v in asdict(plan).items() if k != "threads"}
    head = {
        "fit": fit,
        "scenario_hash": scenario.sha256,
        "start": start.tolist(),
        "dates": [day.label for day in (*days.tuning, *days.worth)],
        "worth_sha256": hashlib.sha256(worth.tobytes()).hexdigest(),  # another data folder's differ
    }
    point, _ = evolve(
        Evolution(plan.generations, plan.population, _SIGMA, plan.threads, plan.seed),
        start[evolving],
        lambda: Engine(scenario, batch, days=days.tuning, source=source),
        lambda engine, point, g: _mean_reward(engine, labels[g], weights_of(point), tables),
        journal=Journal(journal, head),
        on_generation=on_generation,
    )
    judge = Engine(scenario, len(days.check), days=days.check, source=source)
    checks = np.arange(len(days.check))
    before = _mean_reward(judge, checks, start, tables)
    after = _mean_reward(judge, checks, weights_of(point), tables)
    return values(
        weights_of(point) if after >= before else start,
        {
            **fit,
            **{f"{part}_dates": [d.label for d in each] for part, each in vars(days).items()},
            "check_before": round(before, 3),
            "check_after": round(after, 3),
        },
    )


def _start(plan: EdgeFit) -> FloatArray:
    """Profit, and a share of what the clairvoyant's prices say, where they take part."""
    start = np.zeros(NUM_EDGE_TERMS)
    start[EDGE_TERM.index("profit")] = 1.0
    start[EDGE_TERM.index("wait")] = _PREFER_EARLY
    for name in ("worth_after", "worth_before"):
        start[EDGE_TERM.index(name)] = _SHARE if name in plan.terms else 0.0
    return start


def _worth(
    scenario: Scenario,
    days: Sequence[Day],
    source: DaySource | None,
    on_day: Callable[[], None] | None,
) -> tuple[FloatArray, FloatArray]:
    """Worth of a free car ``(Z, T)`` and requests a minute by zone ``(Z,)``, averages of days."""
    travel = travel_tables(scenario, source)
    rules, zones = scenario.rules, len(travel.minutes)
    # A car that is free after the last decision still counts: a ride can be queued for it before.
    minutes = int(rules.horizon_min + rules.window_min + rules.grace_min)
    worth, requests = np.zeros((zones, minutes)), np.zeros(zones)
    for day in days:
        prices = zone_minute_values(day, scenario, travel)[:, :minutes]
        worth[:, : prices.shape[1]] += prices / len(days)
        requests += np.bincount(day.bookings["pickup_zone"], minlength=zones) / len(days)
        if on_day is not None:
            on_day()
    # Averages of three minutes: a price of one minute is mostly of its own days.
    padded = np.pad(worth, ((0, 0), (1, 1)), mode="edge")
    smooth = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3.0
    return smooth, requests / rules.horizon_min


def _mean_reward(
    engine: Engine, labels: IntArray, weights: FloatArray, tables: ZoneTables
) -> float:
    """Mean reward of a day with these weights."""
    engine.start(labels)
    play_zone_matching(*engine.memory, weights, tables)
    return float(engine.world.totals.sum(axis=1).mean())
