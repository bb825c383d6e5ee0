"""Hindsight: what a dispatcher who knew the whole day could have earned.

Under profit rules (Manhattan) it is the linear programme of `full_information`: a proven *bound*.
Elsewhere it is the *best known* value of a day, from the clairvoyant search below or from any
policy that played it: an estimate, which more search time may raise. The search knows every
booking from the start and is valued exactly, by the simulator's clock and the scenario's weights,
never by the search's own approximate objective. It may commit at any moment and hold any number
of jobs in a queue.

On disturbed days it plays by the engine's rules for them. Bookings that will be called off are
left out: they cost nothing as long as nobody is sent. A no-show costs its penalty unless a car is
sent, which drives there, waits and earns nothing (`visits_to_make`); the search chooses the lesser
loss. Travel noise is foreseen. Breakdowns are not: on days with breakdowns the value may lie
beyond what any dispatcher could reach, and says so in the log.

Solutions are kept under ``paths.cache_dir()``, keyed by everything that shapes them.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from services.rl.paths import cache_dir
from services.rl.simulation.scenarios import ManhattanDemand, Rules, Scenario
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import Day, FloatArray, IntArray

from .full_information import full_information_bound
from .prize_collecting import Deadline, SearchSettings, search_routes
from .routing import (
    nearest_feasible,
    problem_of_day,
    scenario_travel,
)

logger = logging.getLogger(__name__)

CODE_VERSION = 2
"""Raise it when a change alters what is computed; cached results of other versions are ignored."""

HINDSIGHT_SETTINGS = SearchSettings()

Kind = Literal["bound", "best known"]


@dataclass(frozen=True)
class HindsightPlan:
    """A clairvoyant's routes of one day.

    Attributes:
        value: Exact reward of the day.
        routes: Rows of ``day.bookings`` in order, per driver; no-shows that are driven to included.
        due: Bookings that were due (not called off, patient there).
        served: Due bookings served.
        iterations: Of the search.
    """

    value: float
    routes: tuple[tuple[int, ...], ...]
    due: int
    served: int
    iterations: int


@dataclass(frozen=True)
class Hindsight:
    """The yardstick of a day.

    Attributes:
        label: The day.
        value: Reward.
        kind: ``bound`` (no policy can exceed it) or ``best known`` (an estimate).
        source: What reached it: a solver, or a policy's name.
    """

    label: str
    value: float
    kind: Kind
    source: str


def visits_to_make(day: Day, rules: Rules) -> tuple[Day, IntArray]:
    """What a clairvoyant can be paid or fined for, as bookings; and their rows in the day.

    A no-show becomes a visit that ends where it began, after the wait for the patient, and earns
    nothing; leaving it out costs what the engine books for it.
    """
    rows = np.flatnonzero(~np.isfinite(day.bookings["cancelled_min"]))
    bookings = day.bookings[rows]
    missing = bookings["no_show"]
    for name in ("lat", "lon", "zone"):
        bookings[f"dropoff_{name}"][missing] = bookings[f"pickup_{name}"][missing]
    bookings["pickup_service_min"][missing] = rules.no_show_wait_min
    bookings["dropoff_service_min"][missing] = 0.0
    bookings["fare"][missing] = 0.0
    return Day(label=day.label, bookings=bookings, drivers=day.drivers), rows


def hindsight_plan(
    day: Day,
    scenario: Scenario,
    tables: TravelTables | None = None,
    *,
    seconds: float | None = 10.0,
    max_iterations: int | None = None,
    seed: int = 0,
    settings: SearchSettings = HINDSIGHT_SETTINGS,
) -> HindsightPlan:
    """Search the best routes of a day with everything known from the start.

    Args:
        day: The day.
        scenario: Gives travel, rules and reward weights.
        tables: Travel tables, where the scenario's come from a data folder.
        seconds: Search time; None: ``max_iterations`` only, the same on every machine.
        max_iterations: Iterations of the search.
        seed: Of the search.
        settings: How PyVRP searches.
    """
    visits, rows = visits_to_make(day, scenario.rules)
    problem = problem_of_day(visits, scenario, scenario_travel(scenario, tables))
    missing = visits.bookings["no_show"]
    # Nobody is there to be picked up late.
    problem = replace(problem, window_end=np.where(missing, problem.pickup_by, problem.window_end))
    if np.isfinite(day.drivers["breakdown_min"]).any():
        logger.warning("day %s has breakdowns, which hindsight does not foresee", day.label)
    start = nearest_feasible(problem)
    until = None if seconds is None else time.perf_counter() + seconds
    result = search_routes(problem, start, Deadline(until, max_iterations), seed, settings)
    return HindsightPlan(
        value=result.value,
        routes=tuple(tuple(int(rows[job]) for job in route) for route in result.routes),
        due=int((~missing).sum()),
        served=sum(not missing[job] for route in result.routes for job in route),
        iterations=result.iterations,
    )


def hindsight(
    day: Day,
    scenario: Scenario,
    tables: TravelTables | None = None,
    *,
    policies: Mapping[str, float] | None = None,
    seconds: float = 10.0,
    seed: int = 0,
    cached: bool = True,
) -> Hindsight:
    """The day's bound where one is proven, else the best known reward.

    Args:
        day: The day.
        scenario: Gives travel, rules and reward weights.
        tables: Travel tables, where the scenario's come from a data folder.
        policies: Rewards that policies reached on this very day, by name.
        seconds: Search time of the clairvoyant solver, where there is no bound.
        seed: Of the search.
        cached: Read and write results on disk.
    """
    travel = scenario_travel(scenario, tables)
    if isinstance(scenario.demand, ManhattanDemand):
        bound = _remembered(
            _key(day, scenario, travel, "full information"),
            lambda: _bound_json(day, scenario, travel),
            cached,
        )
        return Hindsight(day.label, float(bound["value"]), "bound", "full information")
    method = f"pyvrp {seconds:g} s seed {seed} {HINDSIGHT_SETTINGS}"
    found = _remembered(
        _key(day, scenario, travel, method),
        lambda: _plan_json(hindsight_plan(day, scenario, travel, seconds=seconds, seed=seed)),
        cached,
    )
    known = {"pyvrp": float(found["value"]), **(policies or {})}
    source = max(known, key=lambda name: known[name])
    return Hindsight(day.label, known[source], "best known", source)


def zone_minute_values(
    day: Day, scenario: Scenario, tables: TravelTables | None = None, *, cached: bool = True
) -> FloatArray:
    """What one more free car at (zone, minute) is worth to a clairvoyant, ``(Z, T)``.

    The dual prices of the full-information programme, from an interior-point solution: of a day's
    many optimal prices it gives central ones, and at 38 zones it takes a fifth of the time.

    Raises:
        PolicyError: See `full_information.full_information_bound`.
    """
    travel = scenario_travel(scenario, tables)

    def solve() -> dict[str, Any]:
        bound = full_information_bound(
            day, travel, scenario.rules, scenario.reward, method="highs-ipm"
        )
        return {"value": bound.value, "zone_minute_value": bound.zone_minute_value.tolist()}

    found = _remembered(_key(day, scenario, travel, "dual prices"), solve, cached)
    return np.array(found["zone_minute_value"], dtype=np.float64)


def _bound_json(day: Day, scenario: Scenario, tables: TravelTables) -> dict[str, Any]:
    bound = full_information_bound(day, tables, scenario.rules, scenario.reward)
    return {"value": bound.value, "accepted": bound.accepted, "requests": bound.requests}


def _plan_json(plan: HindsightPlan) -> dict[str, Any]:
    return {
        "value": plan.value,
        "routes": [list(route) for route in plan.routes],
        "due": plan.due,
        "served": plan.served,
        "iterations": plan.iterations,
    }


# --- the cache ---------------------------------------------------------------------------------


def _key(day: Day, scenario: Scenario, tables: TravelTables, method: str) -> str:
    """SHA-256 of all that shapes a result: scenario, day, travel, method and this code."""
    digest = hashlib.sha256()
    names = [scenario.sha256, day.label, method, CODE_VERSION]
    digest.update(json.dumps(names).encode())
    # The label alone would take a miniature folder's day for the real one of that date.
    for table in (day.bookings, day.drivers, tables.minutes, tables.km, tables.speed):
        digest.update(table.tobytes())
    return digest.hexdigest()


def _remembered(key: str, compute: Callable[[], dict[str, Any]], cached: bool) -> dict[str, Any]:
    """The result kept under ``key``, or a fresh one, then kept."""
    if not cached:
        return compute()
    path = cache_dir() / "hindsight" / f"{key}.json"
    found = _read(path)
    if found is None:
        found = compute()
        _write(path, found)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("cached result %s cannot be read and is computed again: %s", path, error)
        return None
    if not isinstance(stored, dict) or not isinstance(stored.get("value"), float):
        logger.warning("cached result %s has no value and is computed again", path)
        return None
    return stored


def _write(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its own name per process: two that compute the same day do not disturb each other.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(path)
