"""Routes of jobs over drivers: the problem as arrays, and the exact clock of a route.

A *job* is a booking that somebody may still serve, from arriving at its pickup to leaving its
dropoff; a *route* is the order in which a driver serves jobs. Everything here is plain data and
plain Python; the solvers that choose routes build on it. A route is timed by the rules of the
simulator, with its travel model: depart just in time for the promised time (never before being
free), wait for the window, be late after it, never begin after the grace nor end after the
overtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.rl.errors import PolicyError
from services.rl.simulation.scenarios import HaversineTravel, RewardWeights, Rules, Scenario
from services.rl.simulation.travel import (
    MATRIX,
    TravelModel,
    TravelTables,
    arrive_min,
    depart_min,
    haversine_tables,
)
from services.rl.simulation.types import BoolArray, Day, DispatchState, FloatArray, IntArray

_TOLERANCE_MIN = 1e-9  # times are sums of floats; a window met to the nanosecond is met


@dataclass(frozen=True)
class RoutingProblem:
    """J jobs and N drivers; times in minutes of the day, distances in road kilometres.

    Attributes:
        tables: Travel model.
        weights: Reward weights.
        promised: ``(J,)`` start of the window.
        window_end: ``(J,)`` a later pickup is late.
        pickup_by: ``(J,)`` a later pickup is no pickup (window end + grace).
        pickup_service: ``(J,)``.
        dropoff_service: ``(J,)``.
        worth: ``(J,)`` reward of completing it, the cost of the loaded kilometres deducted.
        loss: ``(J,)`` penalty (positive) of never serving it.
        pickup_zone: ``(J,)`` -1 where travel is by coordinates.
        dropoff_zone: ``(J,)``.
        trip_km: ``(J,)`` with the patient aboard.
        between_km: ``(J, J)`` from the dropoff of the row to the pickup of the column.
        start_km: ``(N, J)`` from where the driver becomes free.
        start_zone: ``(N,)``.
        start_min: ``(N,)`` when the driver becomes free, not before now.
        work_end: ``(N,)`` shift end + overtime.
        usable: ``(N,)`` whether the driver can be given anything.
        eligible: ``(N, J)`` wheelchair and driver type.
        deadhead_noise: ``(J,)`` factor on the minutes to the pickup (1 where unknown).
        trip_noise: ``(J,)`` factor on the minutes of the trip.
        max_jobs: ``(N,)`` jobs a route may have, or None for any number.
    """

    tables: TravelTables
    weights: RewardWeights
    promised: FloatArray
    window_end: FloatArray
    pickup_by: FloatArray
    pickup_service: FloatArray
    dropoff_service: FloatArray
    worth: FloatArray
    loss: FloatArray
    pickup_zone: IntArray
    dropoff_zone: IntArray
    trip_km: FloatArray
    between_km: FloatArray
    start_km: FloatArray
    start_zone: IntArray
    start_min: FloatArray
    work_end: FloatArray
    usable: BoolArray
    eligible: BoolArray
    deadhead_noise: FloatArray
    trip_noise: FloatArray
    max_jobs: IntArray | None = None

    @property
    def num_jobs(self) -> int:
        """J."""
        return len(self.promised)

    @property
    def num_drivers(self) -> int:
        """N."""
        return len(self.start_min)


@dataclass(frozen=True)
class Visit:
    """A job at its place in a driver's route (minutes, kilometres)."""

    job: int
    depart: float
    pickup: float
    done: float
    late_min: float
    deadhead_km: float
    value: float  # worth - lateness - deadhead
    feasible: bool  # within the grace, and done before the driver's work ends


def scenario_travel(scenario: Scenario, tables: TravelTables | None = None) -> TravelTables:
    """The scenario's travel tables; zone matrices must be handed in, from the data folder.

    Raises:
        PolicyError: If travel is by zone matrices and none are given.
    """
    if tables is not None:
        return tables
    if isinstance(scenario.travel, HaversineTravel):
        travel = scenario.travel
        return haversine_tables(
            travel.circuity, travel.speed_kmh, float(scenario.rules.day_start_min)
        )
    raise PolicyError(f"scenario {scenario.name!r} needs the travel tables of its data folder")


def problem_of_state(
    state: DispatchState, scenario: Scenario, tables: TravelTables
) -> RoutingProblem:
    """What is left to plan at a decision epoch: all known open bookings, from now on."""
    drivers, rules = state.drivers, scenario.rules
    free = np.maximum(np.maximum(drivers["free_at_min"], state.now_min), drivers["shift_start_min"])
    usable = ~drivers["down"] & np.isfinite(free)
    max_jobs = None
    if rules.decide_once:
        # What is planned is committed at once, so a route must fit into the queue.
        max_jobs = np.maximum(0, 1 + rules.queue - drivers["committed"]).astype(np.int64)
        usable &= max_jobs > 0
    return _problem(
        state.bookings, drivers, np.where(usable, free, 0.0), usable, scenario, tables, max_jobs
    )


def problem_of_day(day: Day, scenario: Scenario, tables: TravelTables) -> RoutingProblem:
    """A whole day, everything known from the start; breakdowns are not foreseen."""
    drivers = day.drivers
    return _problem(
        day.bookings,
        drivers,
        np.maximum(drivers["shift_start_min"], 0.0),
        np.ones(len(drivers), dtype=np.bool_),
        scenario,
        tables,
        None,
    )


def _problem(
    jobs: npt.NDArray[np.void],
    drivers: npt.NDArray[np.void],
    free: FloatArray,
    usable: BoolArray,
    scenario: Scenario,
    tables: TravelTables,
    max_jobs: IntArray | None,
) -> RoutingProblem:
    rules, weights = scenario.rules, scenario.reward
    travel = TravelModel(tables)
    pickups = (jobs["pickup_lat"], jobs["pickup_lon"], jobs["pickup_zone"])
    dropoffs = (jobs["dropoff_lat"], jobs["dropoff_lon"], jobs["dropoff_zone"])
    trip_km = _trip_km(travel, pickups, dropoffs)
    priority = np.asarray(weights.priority)[jobs["priority"] - 1]
    fare = np.where(np.isnan(jobs["fare"]), priority, jobs["fare"])
    names = jobs.dtype.names or ()
    ones = np.ones(len(jobs))
    return RoutingProblem(
        tables=tables,
        weights=weights,
        promised=jobs["promised_min"].copy(),
        window_end=jobs["window_end_min"].copy(),
        pickup_by=jobs["window_end_min"] + rules.grace_min,
        pickup_service=jobs["pickup_service_min"].copy(),
        dropoff_service=jobs["dropoff_service_min"].copy(),
        worth=weights.completion * fare - weights.loaded_per_km * trip_km,
        loss=weights.cancellation * priority,
        pickup_zone=jobs["pickup_zone"].copy(),
        dropoff_zone=jobs["dropoff_zone"].copy(),
        trip_km=trip_km,
        between_km=travel.km_matrix(*dropoffs, *pickups),
        start_km=travel.km_matrix(drivers["lat"], drivers["lon"], drivers["zone"], *pickups),
        start_zone=drivers["zone"].copy(),
        start_min=free,
        work_end=drivers["shift_end_min"] + rules.overtime_min,
        usable=usable,
        eligible=_eligible(jobs, drivers, rules),
        deadhead_noise=jobs["deadhead_noise"].copy() if "deadhead_noise" in names else ones,
        trip_noise=jobs["trip_noise"].copy() if "trip_noise" in names else ones,
        max_jobs=max_jobs,
    )


def _trip_km(
    travel: TravelModel, pickups: tuple[FloatArray, ...], dropoffs: tuple[FloatArray, ...]
) -> FloatArray:
    """Kilometres of each job's trip, ``(J,)``: diagonals of small blocks, not of one large."""
    num_jobs, block = len(pickups[0]), 32
    result = np.empty(num_jobs)
    for first in range(0, num_jobs, block):
        rows = slice(first, first + block)
        km = travel.km_matrix(*(c[rows] for c in pickups), *(c[rows] for c in dropoffs))
        result[rows] = np.diagonal(km)
    return result


def _eligible(jobs: npt.NDArray[np.void], drivers: npt.NDArray[np.void], rules: Rules) -> BoolArray:
    """``(N, J)``: a wheelchair needs its vehicle, an EMERGENCY driver takes urgent jobs only."""
    seated = drivers["wheelchair"][:, None] | ~jobs["wheelchair"][None, :]
    kind = ~drivers["emergency"][:, None] | (
        jobs["priority"][None, :] >= rules.emergency_min_priority
    )
    result: BoolArray = seated & kind
    return result


def visit_next(problem: RoutingProblem, driver: int, last: int, free: float, job: int) -> Visit:
    """Time one job after job ``last`` (-1: from where the driver starts), free at ``free``."""
    tables, weights = problem.tables, problem.weights
    if last < 0:
        km, zone = float(problem.start_km[driver, job]), int(problem.start_zone[driver])
    else:
        km, zone = float(problem.between_km[last, job]), int(problem.dropoff_zone[last])
    pickup_zone, dropoff_zone = int(problem.pickup_zone[job]), int(problem.dropoff_zone[job])
    promised = float(problem.promised[job])
    depart = free
    if promised > free:
        depart = max(free, depart_min(tables, promised, km, zone, pickup_zone))
    drive = arrive_min(tables, depart, km, zone, pickup_zone) - depart
    pickup = max(promised, depart + drive * float(problem.deadhead_noise[job]))
    leave = pickup + float(problem.pickup_service[job])
    trip_km = float(problem.trip_km[job])
    ride = arrive_min(tables, leave, trip_km, pickup_zone, dropoff_zone) - leave
    done = leave + ride * float(problem.trip_noise[job]) + float(problem.dropoff_service[job])
    late = max(0.0, pickup - float(problem.window_end[job]))
    return Visit(
        job=job,
        depart=depart,
        pickup=pickup,
        done=done,
        late_min=late,
        deadhead_km=km,
        value=float(problem.worth[job])
        - weights.late_per_min * late
        - weights.deadhead_per_km * km,
        feasible=bool(
            problem.eligible[driver, job]
            and pickup <= problem.pickup_by[job] + _TOLERANCE_MIN
            and done <= problem.work_end[driver] + _TOLERANCE_MIN
        ),
    )


def time_route(problem: RoutingProblem, driver: int, route: Sequence[int]) -> list[Visit]:
    """Time a route exactly as the simulator drives it, noise (where known) included."""
    visits: list[Visit] = []
    last, free = -1, float(problem.start_min[driver])
    for job in route:
        visit = visit_next(problem, driver, last, free, job)
        visits.append(visit)
        last, free = job, visit.done
    return visits


def feasible_route(problem: RoutingProblem, driver: int, route: Sequence[int]) -> list[Visit]:
    """The route's visits after dropping, one by one, the first that cannot be made."""
    kept = list(route)
    while True:
        visits = time_route(problem, driver, kept)
        bad = next((i for i, visit in enumerate(visits) if not visit.feasible), None)
        if bad is None:
            return visits
        del kept[bad]


def plan_value(problem: RoutingProblem, routes: Sequence[Sequence[int]]) -> float:
    """Reward of serving exactly these routes and losing every other job.

    Raises:
        PolicyError: If a job is served twice or a visit breaks a rule; such a plan has no value.
    """
    total = 0.0
    served: set[int] = set()
    for driver, route in enumerate(routes):
        for visit in time_route(problem, driver, route):
            if visit.job in served:
                raise PolicyError(f"job {visit.job} is served twice")
            if not visit.feasible:
                raise PolicyError(f"job {visit.job} cannot be served by driver {driver} in time")
            served.add(visit.job)
            total += visit.value
    return total - float(sum(problem.loss[j] for j in range(problem.num_jobs) if j not in served))


def nearest_feasible(
    problem: RoutingProblem, routes: Sequence[Sequence[int]] | None = None
) -> list[list[int]]:
    """Append each unplanned job, in order of its window's end, where it is worth most.

    The start of a search, and what is committed when a solver fails.
    """
    plan = [list(route) for route in routes] if routes else [[] for _ in range(problem.num_drivers)]
    ends = [time_route(problem, d, route) for d, route in enumerate(plan)]
    free = np.array([v[-1].done if v else problem.start_min[d] for d, v in enumerate(ends)])
    last = np.array([v[-1].job if v else -1 for v in ends])
    planned = {job for route in plan for job in route}
    for job in np.argsort(problem.window_end, kind="stable").tolist():
        if job in planned:
            continue
        km = np.where(last < 0, problem.start_km[:, job], problem.between_km[last, job])
        zone = np.where(last < 0, problem.start_zone, problem.dropoff_zone[last])
        arrival = np.maximum(free + _rough_minutes(problem, km, zone, job), problem.promised[job])
        late = np.maximum(0.0, arrival - problem.window_end[job])
        cost = problem.weights.late_per_min * late + problem.weights.deadhead_per_km * km
        room = problem.usable & problem.eligible[:, job] & (arrival <= problem.pickup_by[job])
        if problem.max_jobs is not None:
            room &= np.array([len(route) for route in plan]) < problem.max_jobs
        gain = problem.worth[job] + problem.loss[job] - cost
        for d in np.lexsort((arrival, cost)).tolist():
            if not room[d] or gain[d] <= 0:
                continue
            visit = visit_next(problem, d, int(last[d]), float(free[d]), job)
            if visit.feasible:
                plan[d].append(job)
                free[d], last[d] = visit.done, job
                break
    return plan


def _rough_minutes(problem: RoutingProblem, km: FloatArray, zone: IntArray, job: int) -> FloatArray:
    """Travel minutes to a pickup at the speed of its promised hour; orders candidates only."""
    tables = problem.tables
    if tables.kind == MATRIX:
        return np.asarray(tables.minutes[zone, problem.pickup_zone[job]], dtype=np.float64)
    hour = int((problem.promised[job] + tables.day_start_min) // 60) % 24
    result: FloatArray = km / tables.speed[hour]
    return result
