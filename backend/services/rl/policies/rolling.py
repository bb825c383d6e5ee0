"""Policy ``rolling``: re-plan everything known at every epoch, commit only what must start now.

At each epoch PyVRP routes all known open bookings over the drivers' remaining day
(`prize_collecting`), starting from the previous plan. A driver's next planned job is committed
only if its just-in-time departure comes before the next epoch; all else stays open to better
plans, made with what becomes known meanwhile. Where requests are decided once (`Rules`), the
whole plan is committed at once.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import DispatchState

from .base import Decision, DecisionSet
from .prize_collecting import Deadline, MissingSolverError, SearchSettings, search_routes
from .routing import (
    RoutingProblem,
    Visit,
    feasible_route,
    nearest_feasible,
    plan_value,
    problem_of_state,
    scenario_travel,
)

logger = logging.getLogger(__name__)

ROLLING_SETTINGS = SearchSettings(phases=("fixed",), num_neighbours=50)
LOOK_AHEAD_MIN = 180.0

# What PyVRP raises on data it refuses; anything else is a defect of ours and should surface.
_SOLVER_FAILURES = (PolicyError, ValueError, IndexError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class RoutePlan:
    """The plan of an epoch, by names that survive to the next: booking ids per driver id."""

    routes: tuple[tuple[str, tuple[str, ...]], ...]

    def rows(self, state: DispatchState) -> list[list[int]]:
        """Routes of booking rows per driver row; what is no longer open or on duty is left out."""
        booking = {name: row for row, name in enumerate(state.booking_ids)}
        known = dict(self.routes)
        return [
            [booking[name] for name in known.get(driver, ()) if name in booking]
            for driver in state.driver_ids
        ]


class RollingPolicy:
    """Rolling-horizon prize-collecting routing with PyVRP; see `Policy`.

    Attributes:
        fallbacks: Epochs at which the solver failed and the nearest feasible drivers were
            committed instead.
        iterations: Iterations of PyVRP in the last epoch.
    """

    name = "rolling"

    def __init__(
        self,
        scenario: Scenario,
        tables: TravelTables | None = None,
        *,
        budget_ms: float | None = 200.0,
        max_iterations: int | None = None,
        seed: int = 0,
        look_ahead_min: float = LOOK_AHEAD_MIN,
        settings: SearchSettings = ROLLING_SETTINGS,
    ) -> None:
        """Plan for a scenario.

        Args:
            scenario: Gives travel, rules and reward weights.
            tables: Travel tables, where the scenario's come from a data folder.
            budget_ms: Time per epoch, building the model included; None: iterations only.
            max_iterations: Iterations per epoch; with ``budget_ms=None`` decisions are the same
                on every machine.
            seed: Of the search.
            look_ahead_min: Bookings promised later than this from now are not planned yet.
            settings: How PyVRP searches.
        """
        if budget_ms is None and max_iterations is None:
            raise PolicyError("rolling needs a time budget or a number of iterations")
        self.scenario = scenario
        self.budget_ms = budget_ms
        self.fallbacks = 0
        self.iterations = 0
        self._tables = scenario_travel(scenario, tables)
        self._max_iterations = max_iterations
        self._seed = seed
        self._look_ahead_min = look_ahead_min
        self._settings = settings

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Re-plan and commit what must start before the next epoch.

        Args:
            state: The epoch's state.
            plan: The previous epoch's `RoutePlan`; anything else is ignored.
            budget_ms: Replaces the constructor's.
            rng: Seeds the search instead of the constructor's seed.

        Raises:
            MissingSolverError: If PyVRP is not installed.
        """
        begun = time.perf_counter()
        budget = self.budget_ms if budget_ms is None else budget_ms
        seed = self._seed if rng is None else int(rng.integers(2**31))
        near = np.flatnonzero(
            state.bookings["promised_min"] <= state.now_min + self._look_ahead_min
        )
        planned = replace(
            state,
            bookings=state.bookings[near],
            booking_ids=tuple(state.booking_ids[row] for row in near),
        )
        problem = problem_of_state(planned, self.scenario, self._tables)
        start = _start(problem, plan.rows(planned) if isinstance(plan, RoutePlan) else None)
        deadline = Deadline(
            None if budget is None else begun + budget / 1000.0, self._max_iterations
        )
        routes = self._search(problem, start, deadline, seed)
        visits = [feasible_route(problem, d, route) for d, route in enumerate(routes)]
        decisions = [
            replace(decision, booking=int(near[decision.booking]))
            for decision in self._due(planned, visits)
        ]
        return DecisionSet(tuple(decisions), _named(planned, visits))

    def _search(
        self, problem: RoutingProblem, start: list[list[int]], deadline: Deadline, seed: int
    ) -> list[list[int]]:
        try:
            result = search_routes(problem, start, deadline, seed, self._settings)
        except MissingSolverError:
            raise
        except _SOLVER_FAILURES as error:
            self.fallbacks += 1
            self.iterations = 0
            logger.warning("rolling fell back to the nearest feasible drivers: %s", error)
            return start
        self.iterations = result.iterations
        return result.routes

    def _due(self, state: DispatchState, visits: list[list[Visit]]) -> list[Decision]:
        """The planned jobs that cannot wait for the next epoch, in order along each route."""
        rules = self.scenario.rules
        next_epoch = state.now_min + rules.epoch_min
        last_chance = rules.decide_once or next_epoch >= rules.horizon_min
        decisions = []
        for d, route in enumerate(visits):
            slots = 1 + rules.queue - int(state.drivers["committed"][d])
            for visit in route[: max(0, slots)]:
                if not last_chance and visit.depart >= next_epoch:
                    break
                decisions.append(
                    Decision(
                        booking=visit.job,
                        driver=d,
                        score=visit.value,
                        features={
                            "depart_min": visit.depart,
                            "pickup_min": visit.pickup,
                            "late_min": visit.late_min,
                            "deadhead_km": visit.deadhead_km,
                        },
                    )
                )
        return decisions


def _start(problem: RoutingProblem, previous: list[list[int]] | None) -> list[list[int]]:
    """The better of a plan made afresh and the previous one with the new jobs appended."""
    plans = [nearest_feasible(problem)]
    if previous is not None:
        kept = [
            [visit.job for visit in feasible_route(problem, d, route)]
            for d, route in enumerate(previous)
        ]
        plans.append(nearest_feasible(problem, kept))
    return max(plans, key=lambda routes: plan_value(problem, routes))


def _named(state: DispatchState, visits: Sequence[Sequence[Visit]]) -> RoutePlan:
    return RoutePlan(
        tuple(
            (driver, tuple(state.booking_ids[visit.job] for visit in route))
            for driver, route in zip(state.driver_ids, visits, strict=True)
            if route
        )
    )
