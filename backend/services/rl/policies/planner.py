"""Policies ``rolling_search`` and ``planner``: re-plan all known bookings, commit what must leave.

Both run the compiled search of `route_search` at every epoch, from the previous epoch's plan.
``rolling_search`` plans for the reward of the bookings it knows; ``planner`` adds value terms
learned for those it does not (`planner_values`).
"""

import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation import world
from services.rl.simulation.days import DaySource
from services.rl.simulation.demand import DemandModel
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState, FloatArray, IntArray

from .base import Decision, DecisionSet
from .baselines import CompiledPolicy, make_baseline
from .planner_values import NO_DEMAND, Grid, PlannerValues, demand_grid
from .route_search import (
    COLD,
    HOT,
    LOOK_AHEAD_MIN,
    MOVES,
    NUM_SETTINGS,
    advise_search,
    decide_search,
    play_search,
)

DEFAULT_MOVES: Final = 6_000
LOOK_AHEAD: Final = 150.0
_HOT, _COLD = 4.0, 0.3
_FIRST_CHUNK = 500  # moves whose time tells how many fit into the rest of a budget
_MOST_MOVES = 2**53  # beyond it a float counts no single moves
_MOST_MS = 86_400_000.0
_NO_TERMS = np.zeros(0)


@dataclass(frozen=True)
class SearchPlan:
    """The plan of an epoch, by names that survive to the next.

    Names repeat from day to day: what each planned booking looked like tells the days apart.

    Attributes:
        scenario_hash: Of the scenario planned for.
        now_min: The epoch.
        routes: Booking ids per driver id, each booking once.
        bookings: Of each planned booking: id, promised minute, latitude and longitude of the
            pickup, exactly as the state had them.
    """

    scenario_hash: str
    now_min: float
    routes: tuple[tuple[str, tuple[str, ...]], ...]
    bookings: tuple[tuple[str, float, float, float], ...]


class SearchPolicy:
    """Rolling-horizon route search; see `Policy`.

    Attributes:
        name: As on the command line.
        note: Where its values come from, for reports.
        model_sha: SHA-256 of the values' file, where there is one.
        fallbacks: Epochs decided by ``matching`` because there was no time to search.
        ignored_plans: Plans handed in that were of another scenario, another day, a later moment
            or another kind, or planned a booking twice, and were not used.
    """

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        *,
        source: DaySource | None = None,
        values: PlannerValues | None = None,
        expected: DemandModel | None = None,
        moves: int = DEFAULT_MOVES,
        budget_ms: float | None = None,
        look_ahead_min: float | None = None,
        seed: int = 0,
        note: str = "",
        model_sha: str | None = None,
    ) -> None:
        """Plan for a scenario.

        Args:
            name: ``rolling_search`` or ``planner``.
            scenario: Gives travel, rules, reward weights and unknown demand.
            source: Where zone matrices come from.
            values: Value terms, or None: the plan's own reward alone.
            expected: Demand that the value terms look ahead to, learned from recent days; None:
                the scenario's.
            moves: Of the search, per epoch.
            budget_ms: Time per epoch instead of moves; decisions then depend on the machine. One
                set-up and `_FIRST_CHUNK` moves are made in any case.
            look_ahead_min: Bookings promised later than this from now are not planned yet.
            seed: Of the search.
            note: For reports.
            model_sha: SHA-256 of the values' file.

        Raises:
            PolicyError: If the number of moves, the budget or the seed is none that can be used.
        """
        if not 0 <= moves <= _MOST_MOVES:
            raise PolicyError(f"{name}: moves is {moves}, expected 0 to {_MOST_MOVES}")
        if not 0 <= seed < 2**64:
            raise PolicyError(f"{name}: seed is {seed}, expected 0 to 2**64 - 1")
        if budget_ms is not None and not budget_ms >= 0:
            raise PolicyError(f"{name}: budget_ms is {budget_ms}, expected at least 0")
        _require_time(name, budget_ms)
        self.name = name
        self.note = note
        self.model_sha = model_sha
        self.fallbacks = 0
        self.ignored_plans = 0
        self._scenario = scenario
        self._source = source
        self._budget_ms = budget_ms
        self._seed = np.uint64(seed)
        self._terms = _NO_TERMS if values is None else values.array()
        self._grid: Grid = NO_DEMAND if values is None else demand_grid(scenario, expected)
        hot = _HOT if values is None else values.hot
        if look_ahead_min is None:
            look_ahead_min = LOOK_AHEAD if values is None else values.look_ahead_min
        self._settings = search_settings(moves, look_ahead_min, hot)
        self._host: HostWorld | None = None
        self._fallback: CompiledPolicy | None = None

    @property
    def scenario(self) -> Scenario:
        """The scenario planned for."""
        return self._scenario

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
            plan: The previous epoch's `SearchPlan`; anything else is ignored and counted.
            budget_ms: Replaces the constructor's. With no time at all ``matching`` decides.
            rng: Not needed: the constructor's seed and the time of day seed the search, so that
                single decisions and whole days agree.

        Raises:
            PolicyError: If the budget is no number, or endless.
        """
        begun = time.perf_counter()
        budget = self._budget_ms if budget_ms is None else budget_ms
        _require_time(self.name, budget)
        if budget is not None and budget <= 0.0:
            return self._by_fallback(state)
        if self._host is None:
            self._host = HostWorld(self._scenario, source=self._source)
        self._host.load(state)
        rows, length = self._previous(state, plan)
        chosen = np.empty((1, max(1, len(state.booking_ids)), 3))
        if budget is None:
            count = self._search(self._settings, rows, length, True, chosen)
        else:
            # To write down the answer takes about as long as to read the state.
            reserve_s = time.perf_counter() - begun
            deadline = begun + budget / 1e3 - reserve_s
            count = self._search_until(deadline, rows, length, chosen)
        w = self._host.engine.world
        decisions = tuple(
            Decision(
                booking=int(row),
                driver=int(driver),
                score=float(score),
                features={
                    "depart_min": float(w.bookings[0, int(row), world.DEPART]),
                    "pickup_min": float(w.bookings[0, int(row), world.PICKUP]),
                    "late_min": float(w.bookings[0, int(row), world.PLAN_LATE]),
                    "deadhead_km": float(w.bookings[0, int(row), world.LEG_KM]),
                },
            )
            for driver, row, score in chosen[0, :count]
        )
        routes = tuple(
            (name, tuple(state.booking_ids[row] for row in rows[0, d, : length[0, d]].tolist()))
            for d, name in enumerate(state.driver_ids)
            if length[0, d]
        )
        seen = _seen(state)
        planned = tuple(
            (state.booking_ids[row], *seen[row])
            for d in range(len(state.driver_ids))
            for row in rows[0, d, : length[0, d]].tolist()
        )
        return DecisionSet(
            decisions, SearchPlan(self._scenario.sha256, state.now_min, routes, planned)
        )

    def play(self, engine: Engine) -> None:
        """Play every environment of an engine to the end of its day, by moves."""
        grid = self._grid
        play_search(
            *engine.memory,
            self._settings,
            grid.near,
            grid.hour,
            grid.from_base,
            grid.shape,
            self._terms,
            np.full(engine.num_envs, self._seed, dtype=np.uint64),
        )

    def advise(self, engine: Engine) -> "Advice":
        """An adviser of an engine that somebody else plays: for teaching."""
        return Advice(engine, self._settings, self._grid, self._terms, self._seed)

    def _previous(self, state: DispatchState, plan: Any) -> tuple[Any, Any]:
        """The plan handed in, as rows of the state's bookings per driver row."""
        assert self._host is not None
        drivers = len(state.driver_ids)
        rows = np.zeros((1, drivers, self._host.engine.world.bookings.shape[1]), dtype=np.int64)
        length = np.zeros((1, drivers), dtype=np.int64)
        if plan is None:
            return rows, length
        routes = None
        if isinstance(plan, SearchPlan) and plan.scenario_hash == self._scenario.sha256:
            routes = _routes_of(plan, state)
        if routes is None:
            self.ignored_plans += 1
            return rows, length
        for d, route in routes.items():
            rows[0, d, : len(route)] = route
            length[0, d] = len(route)
        return rows, length

    def _search(
        self, settings: FloatArray, rows: Any, length: Any, commits: bool, chosen: FloatArray
    ) -> int:
        assert self._host is not None
        grid = self._grid
        return int(
            decide_search(
                *self._host.memory,
                0,
                settings,
                grid.near,
                grid.hour,
                grid.from_base,
                grid.shape,
                self._terms,
                rows,
                length,
                self._seed,
                commits,
                chosen,
            )
        )

    def _search_until(self, deadline: float, rows: Any, length: Any, chosen: FloatArray) -> int:
        """Search in chunks that fit into half of the time left, then commit what they lead to.

        The first chunk is searched however little time there is: without it nothing might be
        planned, and a patient would wait for no reason. It costs one set-up of the epoch, which
        grows with the square of the bookings in view (a third of a millisecond for 60, 10 ms for
        800), and `_FIRST_CHUNK` moves; a budget below that is not kept. It also says anew how fast
        the machine is, so that one slow decision is not held against all later ones.
        """
        settings = self._settings.copy()
        moves, first_s = _FIRST_CHUNK, 0.0
        while moves >= _FIRST_CHUNK:
            settings[MOVES] = moves
            begun = time.perf_counter()
            count = self._search(settings, rows, length, False, chosen)
            now = time.perf_counter()
            took_s = now - begun
            if not first_s:
                # As if moves were all it took: more of them than now then last less than that.
                first_s, per_move_s = took_s, took_s / moves
            elif moves > _FIRST_CHUNK:
                # Two chunks tell set-up and moves apart; a noisy clock must not make moves free.
                slope = (took_s - first_s) / (moves - _FIRST_CHUNK)
                per_move_s = max(slope, 0.1 * took_s / moves)
            setup_s = max(0.0, took_s - moves * per_move_s)
            moves = int((0.5 * (deadline - now) - setup_s) / per_move_s)
        return self._commit_planned(rows, length, chosen, count)

    def _commit_planned(self, rows: Any, length: Any, chosen: FloatArray, count: int) -> int:
        """Commit what a search that commits nothing would have; saves another set-up."""
        assert self._host is not None
        kept = 0
        refused = set()
        for i in range(count):
            d, row = int(chosen[0, i, 0]), int(chosen[0, i, 1])
            if d in refused or not self._host.engine.commit(0, d, row):
                refused.add(d)
                continue
            chosen[0, kept] = chosen[0, i]
            kept += 1
            length[0, d] -= 1  # it was the first of its driver's plan
            rows[0, d, : length[0, d]] = rows[0, d, 1 : length[0, d] + 1].copy()
        return kept

    def _by_fallback(self, state: DispatchState) -> DecisionSet:
        self.fallbacks += 1
        if self._fallback is None:
            self._fallback = make_baseline("matching", self._scenario, source=self._source)
        assert self._fallback is not None
        return self._fallback.decide(state)


def _require_time(name: str, budget_ms: float | None) -> None:
    if budget_ms is not None and not budget_ms <= _MOST_MS:
        raise PolicyError(
            f"{name}: budget_ms is {budget_ms}, expected at most {_MOST_MS:g} (a day)"
        )


class Advice:
    """What the search would commit in the environments of an engine, without committing it.

    Its plans go on from epoch to epoch, whatever is really committed.
    """

    def __init__(
        self, engine: Engine, settings: FloatArray, grid: Grid, terms: FloatArray, seed: np.uint64
    ) -> None:
        envs, drivers, rows = engine.num_envs, engine.num_drivers, engine.world.bookings.shape[1]
        self._engine = engine
        self._with = (settings, grid.near, grid.hour, grid.from_base, grid.shape, terms)
        self._seed = seed
        self._rows = np.zeros((envs, drivers, rows), dtype=np.int64)
        self._length = np.zeros((envs, drivers), dtype=np.int64)
        self._chosen = np.zeros((envs, rows, 3))
        self._counts = np.zeros(envs, dtype=np.int64)

    def commitments(self, envs: IntArray) -> list[set[tuple[int, int]]]:
        """(driver, booking row of the day) of each commitment, per environment asked for."""
        advise_search(
            *self._engine.memory,
            envs.astype(np.int64),
            *self._with,
            self._rows,
            self._length,
            self._seed,
            self._chosen,
            self._counts,
        )
        return [
            {(int(d), int(row)) for d, row, _ in self._chosen[e, : self._counts[e]]}
            for e in envs.tolist()
        ]

    def forget(self, envs: IntArray) -> None:
        """A new day begins there."""
        self._length[envs] = 0


def _seen(state: DispatchState) -> list[tuple[float, float, float]]:
    """What tells each booking from one of the same name on another day."""
    fields = ("promised_min", "pickup_lat", "pickup_lon")
    return list(zip(*(state.bookings[name].tolist() for name in fields), strict=True))


def _routes_of(plan: SearchPlan, state: DispatchState) -> dict[int, list[int]] | None:
    """The plan as rows of the state's bookings per driver row; None: it cannot be of this day.

    Bookings and drivers that are gone are left out.
    """
    row_of = {name: row for row, name in enumerate(state.booking_ids)}
    driver_of = {name: d for d, name in enumerate(state.driver_ids)}
    routes: dict[int, list[int]] = {}
    now = _seen(state)
    try:
        then = {name: tuple(seen) for name, *seen in plan.bookings}
        drivers = [name for name, _ in plan.routes]
        named = [booking for _, route in plan.routes for booking in route]
        if (
            not plan.now_min < state.now_min
            or len(set(drivers)) < len(drivers)
            or len(set(named)) < len(named)
            or any(then.get(b) != now[row_of[b]] for b in named if b in row_of)
        ):
            return None
        for name, route in plan.routes:
            known = [row_of[booking] for booking in route if booking in row_of]
            if known and name in driver_of:
                routes[driver_of[name]] = known
    except (TypeError, ValueError):  # a plan from elsewhere: not of the shape it should have
        return None
    return routes


def search_settings(moves: int, look_ahead_min: float, hot: float) -> FloatArray:
    """The settings of `route_search` as its array."""
    settings = np.empty(NUM_SETTINGS)
    settings[MOVES], settings[LOOK_AHEAD_MIN] = moves, look_ahead_min
    settings[HOT], settings[COLD] = hot, _COLD
    return settings
