"""PyVRP's view of a routing problem: prize-collecting, lateness as copies of a job.

Each job is a client at its pickup whose service lasts until the dropoff is left; the way from
client to client is the deadhead. Costs are integers, a thousandth of a unit of reward; times are
seconds. A job's prize is what serving it adds: its worth plus the loss avoided. PyVRP's windows
are hard, so lateness is modelled as mutually exclusive copies of a job: one up to the window's
end at the full prize, and one per ``late_step_min`` of the grace after it, each at a prize
lowered by the lateness in its middle. Vehicles end where they are: a sink at no distance.
Eligibility is a routing profile in which a forbidden job is far too expensive to visit.

PyVRP: Wouda, Lan, Kool, "PyVRP: A High-Performance VRP Solver Package" (2024); version 0.14.1.

Travel minutes depend on the hour, PyVRP's do not: a way is driven at the speed of the hour of the
job it leads to (its promised time), a trip from its promised time. Plans are timed again exactly
(`routing.time_route`) before anything is decided or valued.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.travel import MATRIX, arrive_min
from services.rl.simulation.types import BoolArray, IntArray

from .routing import RoutingProblem, feasible_route, plan_value, time_route

COST_PER_REWARD = 1_000
SECONDS_PER_MIN = 60
_FORBIDDEN_COST = 10_000_000  # no prize comes near; small enough not to overflow in sums
_FAR_FUTURE_S = 10**8


Phase = Literal["fixed", "copies"]


@dataclass(frozen=True)
class SearchSettings:
    """How PyVRP searches. Defaults chosen on 130-booking days against PyVRP's own.

    Attributes:
        late_step_min: Width of a late copy; inf models hard windows.
        phases: Searches that share the time, each ``fixed`` or ``copies``; see `search_routes`.
        exhaustive_on_best: Whether every new best is searched exhaustively (PyVRP's default).
        num_neighbours: Size of the granular neighbourhood, in clients.
        weight_wait_time: Weight of waiting seconds against deadhead cost in what counts as near.
            Jobs spread over a day are near in time first; PyVRP's default is 0.2.
        max_penalty: Highest cost of a second of time warp; a search starts from half of it.
            PyVRP's default (100,000) makes infeasibility prohibitive at our scale.
        max_perturbations: Jobs disturbed per iteration, at most; PyVRP's default is 25.
        history_length: Of late acceptance; PyVRP's default is 300.
    """

    late_step_min: float = 15.0
    phases: tuple[Phase, ...] = ("fixed", "copies")
    exhaustive_on_best: bool = True
    num_neighbours: int = 100
    weight_wait_time: float = 5.0
    max_penalty: float = 300.0
    max_perturbations: int = 8
    history_length: int = 20


class MissingSolverError(PolicyError):
    """PyVRP is not installed: a defect of the installation, which no fallback should hide."""


class Deadline:
    """Stops a search at a moment of the monotonic clock, or after a number of iterations."""

    def __init__(self, at: float | None, max_iterations: int | None) -> None:
        if at is None and max_iterations is None:
            raise PolicyError("a search needs a time budget or a number of iterations")
        self._at = at
        self._left = max_iterations

    def __call__(self, _best_cost: float) -> bool:
        """Whether to stop now; PyVRP asks before every iteration."""
        if self._left is not None:
            if self._left <= 0:
                return True
            self._left -= 1
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._at is not None and time.perf_counter() >= self._at

    def share(self, parts: int) -> "Deadline":
        """The deadline of the next of ``parts`` equal parts of what is left."""
        now = time.perf_counter()
        at = None if self._at is None else now + max(0.0, self._at - now) / parts
        left = None
        if self._left is not None:
            left = math.ceil(self._left / parts)
            self._left -= left
        return Deadline(at, left)


@dataclass(frozen=True)
class SearchResult:
    """Feasible routes of jobs per driver, and their exact value."""

    routes: list[list[int]]
    value: float
    iterations: int


def search_routes(
    problem: RoutingProblem,
    start: Sequence[Sequence[int]],
    deadline: Deadline,
    seed: int,
    settings: SearchSettings,
) -> SearchResult:
    """Improve routes until the deadline; never worth less than ``start``, by the exact clock.

    PyVRP 0.14 does not exchange a served job against an unserved one where both have copies
    (its move for optional clients passes over groups), so copies alone leave urgent jobs behind.
    Searches therefore alternate: with *fixed windows* (on time for the jobs that are, until the
    end of the grace for those late or unserved; no copies), then with *copies*, each from the
    best routes so far.

    Args:
        problem: Jobs and drivers.
        start: N routes to start from; visits that cannot be made are dropped.
        deadline: When to stop.
        seed: Of PyVRP's random numbers.
        settings: How to search.

    Raises:
        MissingSolverError: If PyVRP is not installed.
        PolicyError: If it ends without a feasible solution.
    """
    best = [[v.job for v in feasible_route(problem, d, route)] for d, route in enumerate(start)]
    best_value = plan_value(problem, best)
    iterations = 0
    if problem.num_jobs == 0 or not problem.usable.any():
        return SearchResult(best, best_value, iterations)
    vrp = _pyvrp()
    lateness_matters = math.isfinite(settings.late_step_min) and bool(
        np.any(problem.pickup_by > problem.window_end)
    )
    phases = settings.phases if lateness_matters else ("fixed",)
    for i, phase in enumerate(phases):
        part = deadline.share(len(phases) - i)
        fixed = None if phase == "copies" else _fixed_windows(problem, best, lateness_matters)
        model = _Model(vrp, problem, settings, fixed)
        if not model.job_of_client:
            break
        found, used = _run(vrp, model, best, part, seed + i, settings)
        iterations += used
        found = [[v.job for v in feasible_route(problem, d, r)] for d, r in enumerate(found)]
        value = plan_value(problem, found)
        if value > best_value:
            best, best_value = found, value
        if deadline.passed:
            break
    return SearchResult(best, best_value, iterations)


def _fixed_windows(
    problem: RoutingProblem, routes: Sequence[Sequence[int]], lateness_matters: bool
) -> BoolArray:
    """``(J,)`` whether a job's only window is the late one: where it is late or unserved now."""
    late = np.full(problem.num_jobs, lateness_matters)
    for driver, route in enumerate(routes):
        for visit in time_route(problem, driver, route):
            late[visit.job] = visit.late_min > 0
    return late


def _run(
    vrp: ModuleType,
    model: "_Model",
    start: Sequence[Sequence[int]],
    deadline: Deadline,
    seed: int,
    settings: SearchSettings,
) -> tuple[list[list[int]], int]:
    """One search of PyVRP: routes and iterations."""
    params = vrp.SolveParams(
        ils=vrp.IteratedLocalSearchParams(
            history_length=settings.history_length, exhaustive_on_best=settings.exhaustive_on_best
        ),
        penalty=vrp.PenaltyParams(max_penalty=settings.max_penalty),
        neighbourhood=vrp.search.NeighbourhoodParams(
            weight_wait_time=settings.weight_wait_time, num_neighbours=settings.num_neighbours
        ),
        perturbation=vrp.search.PerturbationParams(max_perturbations=settings.max_perturbations),
    )
    with warnings.catch_warnings():
        # The penalty reaching its bound is part of the search here, not a defect of the data.
        warnings.simplefilter("ignore", vrp.exceptions.PenaltyBoundWarning)
        result = vrp.solve(
            model.data,
            deadline,
            seed=seed,
            collect_stats=False,
            display=False,
            params=params,
            initial_solution=model.solution(start),
        )
    if not result.best.is_feasible():
        raise PolicyError("PyVRP found no feasible solution")
    return model.routes(result.best), int(result.num_iterations)


def _pyvrp() -> ModuleType:
    try:
        import pyvrp
        import pyvrp.exceptions
        import pyvrp.search
    except ImportError as error:
        raise MissingSolverError(
            "this policy needs PyVRP: install the packages of requirements-rl.txt"
        ) from error
    module: ModuleType = pyvrp
    return module


class _Model:
    """PyVRP's data of a problem, and the way from routes to solutions and back."""

    def __init__(
        self,
        vrp: ModuleType,
        problem: RoutingProblem,
        settings: SearchSettings,
        fixed: BoolArray | None,
    ) -> None:
        """Build it; ``fixed`` (see `_fixed_windows`) replaces the copies by one window each."""
        self._vrp = vrp
        self._problem = problem
        # PyVRP knows no negative times: count from the first moment that matters.
        self._origin = float(problem.start_min[problem.usable].min())
        # Less than a whole second left is no time at all.
        self._drivers = np.array(
            [d for d in np.flatnonzero(problem.usable).tolist() if np.less_equal(*self._shift(d))],
            dtype=np.int64,
        )
        self._vehicle = {int(d): v for v, d in enumerate(self._drivers)}
        self._sink = len(self._drivers)  # locations: drivers, sink, jobs
        self.job_of_client: list[int] = []
        self._copies: list[list[int]] = [[] for _ in range(problem.num_jobs)]
        self._service = [self._service_s(j) for j in range(problem.num_jobs)]
        self._minutes = self._way_seconds()
        clients, groups = self._clients(settings, fixed)
        self._client_late = [c.tw_late for c in clients]
        distances, durations, profile = self._profiles()
        self._profile = profile
        locations = [vrp.Location(0, 0) for _ in range(self._sink + 1 + problem.num_jobs)]
        self.data = vrp.ProblemData(
            locations,
            clients,
            [vrp.Depot(i) for i in range(self._sink + 1)],
            [self._vehicle_type(v) for v in range(len(self._drivers))],
            distances,
            durations,
            groups,
        )

    def _seconds(self, minute: float) -> float:
        return (minute - self._origin) * SECONDS_PER_MIN

    def _shift(self, driver: int) -> tuple[int, int]:
        """From when and until when a driver works, in whole seconds."""
        p = self._problem
        end = min(self._seconds(float(p.work_end[driver])), _FAR_FUTURE_S)
        begin = math.ceil(self._seconds(float(p.start_min[driver])) - 1e-6)
        return begin, math.floor(end + 1e-6)

    def _service_s(self, job: int) -> int:
        p = self._problem
        leave = float(p.promised[job] + p.pickup_service[job])
        ride = (
            arrive_min(
                p.tables,
                leave,
                float(p.trip_km[job]),
                int(p.pickup_zone[job]),
                int(p.dropoff_zone[job]),
            )
            - leave
        )
        total = p.pickup_service[job] + ride * p.trip_noise[job] + p.dropoff_service[job]
        return math.ceil(float(total) * SECONDS_PER_MIN - 1e-6)

    def _way_seconds(self) -> IntArray:
        """``(L, L)`` driving seconds between locations, rounded up: a plan is never too tight."""
        p, first = self._problem, self._sink + 1
        seconds = np.zeros((first + p.num_jobs, first + p.num_jobs), dtype=np.int64)
        start_km, zones = p.start_km[self._drivers], p.start_zone[self._drivers]
        for rows, km, zone in (
            (slice(0, self._sink), start_km, zones),
            (slice(first, None), p.between_km, p.dropoff_zone),
        ):
            if p.tables.kind == MATRIX:
                minutes = p.tables.minutes[np.ix_(zone, p.pickup_zone)]
            else:
                hour = ((p.promised + p.tables.day_start_min) // 60).astype(np.int64) % 24
                minutes = km / p.tables.speed[hour][None, :]
            minutes = minutes * p.deadhead_noise[None, :]
            seconds[rows, first:] = np.ceil(minutes * SECONDS_PER_MIN - 1e-6)
        return seconds

    def _clients(
        self, settings: SearchSettings, fixed: BoolArray | None
    ) -> tuple[list[Any], list[Any]]:
        p = self._problem
        clients: list[Any] = []
        groups: list[Any] = []
        for job in range(p.num_jobs):
            copies = self._late_steps(job, settings)
            if fixed is not None:
                # The widest window at the lowest prize, or the only one that is not late.
                copies = copies[-1:] if fixed[job] else copies[:1]
            group = len(groups) if len(copies) > 1 else None
            for late, prize in copies:
                self._copies[job].append(len(clients))
                self.job_of_client.append(job)
                clients.append(
                    self._vrp.Client(
                        self._sink + 1 + job,
                        delivery=[] if p.max_jobs is None else [1],
                        service_duration=self._service[job],
                        tw_early=max(0, math.ceil(self._seconds(p.promised[job]) - 1e-6)),
                        tw_late=late,
                        prize=prize,
                        required=False,
                        group=group,
                    )
                )
            if group is not None:
                groups.append(self._vrp.ClientGroup(self._copies[job], required=False))
        return clients, groups

    def _late_steps(self, job: int, settings: SearchSettings) -> list[tuple[int, int]]:
        """(Latest start in seconds, prize) of each copy of a job that can still be made."""
        p = self._problem
        end, by = float(p.window_end[job]), float(p.pickup_by[job])
        gain = float(p.worth[job] + p.loss[job])
        steps = [(end, gain)]
        if by > end and math.isfinite(settings.late_step_min):
            count = max(1, math.ceil((by - end) / settings.late_step_min - 1e-9))
            width = (by - end) / count
            late = p.weights.late_per_min
            steps += [
                (end + (k + 1) * width, gain - late * (k + 0.5) * width) for k in range(count)
            ]
        return [
            (math.floor(self._seconds(until) + 1e-6), round(prize * COST_PER_REWARD))
            for until, prize in steps
            if self._seconds(until) >= 0 and prize > 0
        ]

    def _profiles(self) -> tuple[list[IntArray], list[IntArray], list[int]]:
        """Distances (cost) and durations per distinct row of eligibility, and each driver's."""
        p, first = self._problem, self._sink + 1
        cost = np.zeros((first + p.num_jobs, first + p.num_jobs), dtype=np.int64)
        per_km = p.weights.deadhead_per_km * COST_PER_REWARD
        cost[: self._sink, first:] = np.rint(per_km * p.start_km[self._drivers])
        cost[first:, first:] = np.rint(per_km * p.between_km)
        rows, profile = np.unique(p.eligible[self._drivers], axis=0, return_inverse=True)
        distances = []
        for allowed in rows:
            own = cost.copy()
            own[:, first:][:, ~allowed] = _FORBIDDEN_COST
            np.fill_diagonal(own, 0)
            distances.append(own)
        durations = self._minutes.copy()
        np.fill_diagonal(durations, 0)
        return distances, [durations] * len(distances), [int(k) for k in profile.ravel()]

    def _vehicle_type(self, vehicle: int) -> Any:
        p, driver = self._problem, self._drivers[vehicle]
        begin, end = self._shift(int(driver))
        return self._vrp.VehicleType(
            capacity=[] if p.max_jobs is None else [int(p.max_jobs[driver])],
            start_depot=vehicle,
            end_depot=self._sink,
            tw_early=begin,
            tw_late=end,
            profile=self._profile[vehicle],
        )

    def solution(self, start: Sequence[Sequence[int]]) -> Any:
        """PyVRP's solution of given routes, each job in its earliest copy that can be made."""
        routes = []
        for driver, route in enumerate(start):
            vehicle = self._vehicle.get(driver)
            if vehicle is None:
                continue
            visits = self._visits(vehicle, route)
            if visits:
                routes.append(self._vrp.Route(self.data, visits, vehicle))
        return self._vrp.Solution(self.data, routes)

    def _visits(self, vehicle: int, route: Sequence[int]) -> list[int]:
        kind = self.data.vehicle_type(vehicle)
        clock, here = int(kind.tw_early), vehicle
        visits: list[int] = []
        allowed = self._problem.eligible[self._drivers[vehicle]]
        room = kind.capacity[0] if kind.capacity else len(route)
        for job in route:
            there = self._sink + 1 + job
            arrival = clock + int(self._minutes[here, there])
            if not self._copies[job] or not allowed[job] or len(visits) >= room:
                continue
            begin = max(arrival, self.data.client(self._copies[job][0]).tw_early)
            copy = next((c for c in self._copies[job] if begin <= self._client_late[c]), None)
            end = begin + self._service[job]
            if copy is not None and end <= kind.tw_late:
                visits.append(copy)
                clock, here = end, there
        return visits

    def routes(self, solution: Any) -> list[list[int]]:
        """Jobs per driver of a PyVRP solution."""
        result: list[list[int]] = [[] for _ in range(self._problem.num_drivers)]
        for route in solution.routes():
            driver = int(self._drivers[route.vehicle_type()])
            result[driver] = [
                self.job_of_client[stop.idx] for stop in route.schedule() if stop.is_client()
            ]
        return result
