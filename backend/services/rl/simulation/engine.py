"""The engine: E copies of a scenario's world, stepped in compiled code.

This is the Python face of `kernels` (the rules) and `stepping` (batches). `DispatchEnv`,
`DispatchVectorEnv`, the policies' rollouts and the host-side encoder all stand on it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import ScenarioError, UsageError

from . import kpis, sampling, stepping, world
from .days import DaySource, check_day
from .ledger import IS_DOWN
from .memory import pack
from .observation import KIND_NUMBER, ObservationKind, ObservationLayout
from .reward import RewardTiming, weights_table
from .scenarios import (
    SEEDS_PER_SPLIT,
    HaversineTravel,
    ManhattanDemand,
    ReplayDemand,
    Scenario,
)
from .setup import DAY_DRIVER_FIELDS, DAY_DRIVER_INTS, DayTables, Outputs, Setup
from .travel import MATRIX, TravelModel, TravelTables, haversine_tables
from .types import (
    BOOKING_DTYPE,
    DRIVER_DTYPE,
    STATE_BOOKING_DTYPE,
    STATE_DRIVER_DTYPE,
    Day,
    DispatchState,
    IntArray,
)
from .world import RulesTable, World

BOOKING_FIELD = {
    "created_min": world.CREATED,
    "promised_min": world.PROMISED,
    "window_end_min": world.WINDOW_END,
    "pickup_lat": world.P_LAT,
    "pickup_lon": world.P_LON,
    "dropoff_lat": world.D_LAT,
    "dropoff_lon": world.D_LON,
    "pickup_service_min": world.P_SERVICE,
    "dropoff_service_min": world.D_SERVICE,
    "fare": world.FARE,
    "deadhead_noise": world.DEADHEAD_NOISE,
    "trip_noise": world.TRIP_NOISE,
    "cancelled_min": world.CALLED_OFF_AT,
}
BOOKING_INT = {
    "priority": world.PRIORITY,
    "wheelchair": world.B_WHEELCHAIR,
    "immediate": world.IMMEDIATE,
    "is_return": world.IS_RETURN,
    "pickup_zone": world.P_ZONE,
    "dropoff_zone": world.D_ZONE,
    "no_show": world.NO_SHOW,
}
_DRIVER_FIELD = {
    "lat": world.AT_LAT,
    "lon": world.AT_LON,
    "shift_start_min": world.SHIFT_START,
    "shift_end_min": world.SHIFT_END,
    "breakdown_min": world.BREAKDOWN,
    "repaired_min": world.REPAIRED,
}
_DRIVER_INT = {
    "zone": world.AT_ZONE,
    "wheelchair": world.D_WHEELCHAIR,
    "emergency": world.D_EMERGENCY,
}
_HISTORY_FIELD = {
    "assigned_min": world.ASSIGNED_AT,
    "planned_pickup_min": world.PLAN_PICKUP,
    "depart_min": world.DEPART,
    "arrive_min": world.ARRIVE,
    "pickup_min": world.PICKUP,
    "leave_min": world.LEAVE,
    "dropoff_min": world.DROPOFF,
    "done_min": world.DONE,
    "deadhead_km": world.LEG_KM,
    "trip_km": world.TRIP_KM,
}

HISTORY_DTYPE = np.dtype(
    [
        *BOOKING_DTYPE.descr,
        *((name, "f8") for name in _HISTORY_FIELD),
        ("status", "i8"),
        ("driver", "i8"),
    ]
)
"""A booking with what became of it; times are NaN where nothing happened."""


def travel_tables(scenario: Scenario, source: DaySource | None = None) -> TravelTables:
    """The scenario's travel model; zone matrices come from the day source.

    Raises:
        ScenarioError: If the scenario travels by zones and the source brings none.
    """
    if isinstance(scenario.travel, HaversineTravel):
        return haversine_tables(
            scenario.travel.circuity, scenario.travel.speed_kmh, scenario.rules.day_start_min
        )
    tables = getattr(source, "tables", None)
    if not isinstance(tables, TravelTables):
        raise ScenarioError(
            f"scenario {scenario.name!r} travels by zones: it needs its data folder"
        )
    return tables


def rules_table(scenario: Scenario, days: Sequence[Day] = ()) -> RulesTable:
    """The scenario's rules as numbers; given days may bring disturbances of their own."""
    rules, chance = scenario.rules, scenario.disturbances
    called_off = any(bool(np.isfinite(day.bookings["cancelled_min"]).any()) for day in days)
    broken = any(bool(np.isfinite(day.drivers["breakdown_min"]).any()) for day in days)
    slowest = 0.0
    if isinstance(scenario.travel, HaversineTravel):
        slowest = 60.0 / min(scenario.travel.speed_kmh)
    return RulesTable(
        horizon=float(rules.horizon_min),
        epoch=float(rules.epoch_min),
        grace=float(rules.grace_min),
        overtime=float(rules.overtime_min),
        capacity=1 + rules.queue,
        decide_once=rules.decide_once,
        emergency_min_priority=rules.emergency_min_priority,
        no_show_wait=float(rules.no_show_wait_min),
        on_time=float(rules.on_time_min),
        slowest_min_per_km=slowest,
        base_lat=scenario.place.base.lat,
        base_lon=scenario.place.base.lon,
        km_per_degree_lon=111.195 * float(np.cos(np.radians(scenario.place.base.lat))),
        disturbed=bool(
            chance.late_cancellation_share > 0
            or chance.breakdowns_per_driver_day > 0
            or called_off
            or broken
        ),
    )


class Engine:
    """E environments of one scenario.

    Args:
        scenario: The world.
        num_envs: E.
        max_bookings: M, the open bookings that an observation shows (policies see all).
        observation: ``"full"``, ``"rows"`` or ``"compact"``.
        days: Real days to draw from or to play; required for replayed scenarios, and accepted
            for any other (the same fleet size is required of all).
        source: Where the days came from, if it brings zone matrices.
        record_events: Keep the event log.
        timing: When a learner is paid.
        gamma: Discount per epoch under ``PLANNED_PICKUP``.
        max_steps: An episode is truncated after so many actions (default: ample for any policy
            that makes valid actions).
    """

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        *,
        max_bookings: int = 20,
        observation: ObservationKind = "compact",
        days: Sequence[Day] | None = None,
        source: DaySource | None = None,
        record_events: bool = False,
        timing: RewardTiming = RewardTiming.EVENT,
        gamma: float = 1.0,
        max_steps: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        if not 0.0 < gamma <= 1.0:
            raise UsageError(f"gamma must lie in (0, 1], got {gamma}")
        replayed = isinstance(scenario.demand, ReplayDemand | ManhattanDemand)
        if replayed and not days:
            raise ScenarioError(f"scenario {scenario.name!r} replays real days: none were given")
        self.scenario = scenario
        self.num_envs = num_envs
        self.days = list(days) if days else []
        drivers = (
            max(len(day.drivers) for day in self.days) if self.days else scenario.fleet.num_drivers
        )
        self.layout = ObservationLayout(observation, drivers, max_bookings)
        model = None if self.days else scenario.demand_model()
        rows = (
            max(len(day.bookings) for day in self.days)
            if model is None
            else sampling.max_bookings(model)
        )
        rules = rules_table(scenario, self.days)
        travel = travel_tables(scenario, source)
        zones = len(travel.km) if travel.kind == MATRIX else 0
        blank: World = world.allocate(num_envs, drivers, rules.capacity, rows, record_events)
        if max_steps is None:
            max_steps = 10 * (scenario.num_epochs + rows)
        setup = Setup(
            travel=travel,
            rules=rules,
            weights=weights_table(scenario.reward, timing, gamma),
            demand=_demand_tables(scenario, model),
            days=day_tables(self.days, drivers, rows, zones),
            sampled=not self.days,
            training_seeds=len(self.days) or SEEDS_PER_SPLIT,
            visible=max_bookings,
            kind=KIND_NUMBER[observation],
            max_steps=max_steps,
        )
        self.memory, self.world, self.setup, self.out = pack(
            blank, setup, _outputs(num_envs, self.layout)
        )
        self._scenario_sha256 = scenario.sha256  # takes longer to compute than a day to play
        for env in range(num_envs):
            self.seed_episodes(env, env)  # else all environments would draw the same days

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "memory"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copied or unpickled arrays stand alone: move them into one block of memory again."""
        self.__dict__.update(state)
        self.memory, self.world, self.setup, self.out = pack(self.world, self.setup, self.out)

    # --- running ---------------------------------------------------------------------------------

    def start(self, days: npt.ArrayLike, envs: npt.ArrayLike | None = None) -> None:
        """Begin the given days (seeds, or rows of ``self.days``) in the given environments.

        Raises:
            UsageError: If a day is negative or not among the real days, or an environment does
                not exist.
        """
        try:
            chosen = np.atleast_1d(np.asarray(days, dtype=np.int64))
        except OverflowError as error:
            raise UsageError("a day's seed must be below 2**63") from error
        where = np.arange(chosen.size) if envs is None else np.atleast_1d(np.asarray(envs))
        if chosen.size != where.size:
            raise UsageError(f"{chosen.size} days for {where.size} environments")
        if where.size and not 0 <= where.min() <= where.max() < self.num_envs:
            raise UsageError(f"there are only environments 0..{self.num_envs - 1}")
        if chosen.size and chosen.min() < 0:
            raise UsageError(f"a day's seed cannot be negative, got {int(chosen.min())}")
        if self.days and chosen.size and chosen.max() >= len(self.days):
            raise UsageError(f"there are only {len(self.days)} days, got {int(chosen.max())}")
        stepping.start_days(*self.memory, where.astype(np.int64), np.ascontiguousarray(chosen))

    def seed_episodes(self, env: int, seed: int) -> None:
        """Start the stream of later days that autoreset draws from, for one environment."""
        stepping.seed_one(*self.memory, env, seed)

    def next_training_day(self, env: int) -> int:
        """Draw the next training day (a seed, or a row of ``self.days``)."""
        return int(stepping.next_day_one(*self.memory, env))

    def step(self, actions: IntArray, *, autoreset: bool = False) -> Outputs:
        """One action per environment, ``(E,)`` int64; see `Outputs` for what it writes.

        Raises:
            UsageError: If there is not exactly one action per environment.
        """
        if actions.shape != (self.num_envs,) or actions.dtype != np.int64:
            raise UsageError(
                f"step takes {self.num_envs} actions as int64, got {actions.dtype} of shape "
                f"{actions.shape}"
            )
        stepping.step_batch(*self.memory, actions, autoreset)
        return self.out

    def observe(self, env: int) -> None:
        """Refresh the observation and mask of an environment changed by other means."""
        self._check(env)
        stepping.observe_one(*self.memory, env)

    def can_commit(self, env: int, driver: int, booking_row: int) -> bool:
        """Whether an open booking may be committed to a driver now."""
        self._check(env, driver)
        return bool(stepping.can_commit_one(*self.memory, env, driver, booking_row))

    def commit(self, env: int, driver: int, booking_row: int) -> bool:
        """Commit an open booking (by row of the day) to a driver; False if not allowed."""
        self._check(env, driver)
        return bool(stepping.commit_one(*self.memory, env, driver, booking_row))

    def wait(self, env: int) -> bool:
        """Move one environment to its next epoch; True when the day has ended."""
        self._check(env)
        stepping.wait_one(*self.memory, env)
        return self.ended(env)

    def _check(self, env: int, driver: int = 0) -> None:
        """Compiled code does not check indices; it would write into other memory."""
        if not (0 <= env < self.num_envs and 0 <= driver < self.num_drivers):
            raise UsageError(
                f"there is no driver {driver} in environment {env}: this engine has "
                f"{self.num_envs} x {self.num_drivers}"
            )

    # --- looking ---------------------------------------------------------------------------------

    @property
    def travel(self) -> TravelModel:
        """The scenario's travel model."""
        return TravelModel(self.setup.travel)

    @property
    def num_drivers(self) -> int:
        """N."""
        return int(self.world.drivers.shape[2])

    def now_min(self, env: int = 0) -> float:
        """Simulated time."""
        return float(self.world.clock[env, world.NOW])

    def ended(self, env: int = 0) -> bool:
        """Whether the day is over."""
        return bool(self.world.counters[env, world.ENDED] == 1)

    def open_rows(self, env: int = 0) -> IntArray:
        """Rows of the open bookings, most urgent first: row i of the state is ``open_rows[i]``."""
        count = int(self.world.counters[env, world.NUM_OPEN])
        return self.world.open_rows[env, :count].copy()

    def state(self, env: int = 0) -> DispatchState:
        """What a dispatcher knows now: the input of every policy."""
        w = self.world
        rows = self.open_rows(env)
        bookings = np.zeros(rows.size, dtype=STATE_BOOKING_DTYPE)
        for name in STATE_BOOKING_DTYPE.names or ():
            if name in BOOKING_FIELD:
                bookings[name] = w.bookings[env, rows, BOOKING_FIELD[name]]
            else:
                bookings[name] = w.booking_ints[env, rows, BOOKING_INT[name]]
        drivers = np.zeros(self.num_drivers, dtype=STATE_DRIVER_DTYPE)
        down = w.driver_ints[env, world.DOWN] == IS_DOWN
        free = w.drivers[env, world.FREE_AT]
        drivers["lat"] = w.drivers[env, world.END_LAT]
        drivers["lon"] = w.drivers[env, world.END_LON]
        drivers["zone"] = w.driver_ints[env, world.END_ZONE]
        drivers["free_at_min"] = np.where(down, w.clock[env, world.NOW], free)
        drivers["committed"] = w.driver_ints[env, world.COMMITTED]
        drivers["shift_start_min"] = w.drivers[env, world.SHIFT_START]
        drivers["shift_end_min"] = w.drivers[env, world.SHIFT_END]
        drivers["wheelchair"] = w.driver_ints[env, world.D_WHEELCHAIR]
        drivers["emergency"] = w.driver_ints[env, world.D_EMERGENCY]
        drivers["down"] = down
        drivers["served"] = w.driver_ints[env, world.SERVED]
        drivers["busy_min"] = w.drivers[env, world.BUSY_MIN]
        return DispatchState(
            now_min=self.now_min(env),
            driver_ids=tuple(f"driver-{d}" for d in range(self.num_drivers)),
            drivers=drivers,
            booking_ids=tuple(f"booking-{row}" for row in rows),
            bookings=bookings,
            scenario=self.scenario.name,
            scenario_hash=self._scenario_sha256,
        )

    def day(self, env: int = 0) -> Day:
        """Everything that the running day brings, for clairvoyants and reports."""
        w = self.world
        count = int(w.counters[env, world.NUM_BOOKINGS])
        bookings = np.zeros(count, dtype=BOOKING_DTYPE)
        for name, index in BOOKING_FIELD.items():
            bookings[name] = w.bookings[env, :count, index]
        for name, index in BOOKING_INT.items():
            bookings[name] = w.booking_ints[env, :count, index]
        row = int(self.out.day[env])
        if self.days:
            return Day(self.days[row].label, bookings, self.days[row].drivers.copy())
        drivers = np.zeros(self.num_drivers, dtype=DRIVER_DTYPE)
        fleet = sampling.fleet_rows(self.scenario)
        drivers[:] = fleet
        for name in ("breakdown_min", "repaired_min"):
            drivers[name] = w.drivers[env, _DRIVER_FIELD[name]]
        return Day(f"seed:{row}", bookings, drivers)

    def history(self, env: int = 0) -> npt.NDArray[np.void]:
        """The day's bookings with what became of them, ``(B,)`` of `HISTORY_DTYPE`."""
        w = self.world
        count = int(w.counters[env, world.NUM_BOOKINGS])
        table = np.zeros(count, dtype=HISTORY_DTYPE)
        for name, index in (*BOOKING_FIELD.items(), *_HISTORY_FIELD.items()):
            table[name] = w.bookings[env, :count, index]
        for name, index in BOOKING_INT.items():
            table[name] = w.booking_ints[env, :count, index]
        table["status"] = w.booking_ints[env, :count, world.STATUS]
        table["driver"] = w.booking_ints[env, :count, world.DRIVER]
        never = table["driver"] < 0
        for name in _HISTORY_FIELD:
            if name != "trip_km":
                table[name][never] = np.nan
        return table

    def events(self, env: int = 0) -> list[dict[str, Any]]:
        """The event log in order of time (needs ``record_events``)."""
        count = int(self.world.counters[env, world.NUM_EVENTS])
        rows = self.world.events[env, :count]
        order = np.argsort(rows[:, 0], kind="stable")
        return [
            {
                "time_min": float(rows[i, 0]),
                "kind": world.EVENT_KINDS[int(rows[i, 1])],
                "driver": int(rows[i, 2]),
                "booking": int(rows[i, 3]),
                "km": float(rows[i, 4]),
            }
            for i in order
        ]

    def kpis(self, env: int = 0) -> dict[str, float]:
        """KPIs of the day so far, by name."""
        values = np.zeros(len(kpis.KPIS))
        stepping.kpis_one(*self.memory, env, values)
        return dict(zip(kpis.KPIS, values.tolist(), strict=True))

    def reward_terms(self, env: int = 0) -> dict[str, float]:
        """The day's reward terms so far, by name; their sum is the KPI reward."""
        return dict(zip(world.REWARD_TERMS, self.world.totals[env].tolist(), strict=True))


# --- arrays for the compiled side ------------------------------------------------------------


_NO_SHIFT = {
    world.SHIFT_START: 1.0e6,  # never comes, yet finite: it survives JSON
    world.SHIFT_END: 1.0e6,
    world.BREAKDOWN: np.inf,
    world.REPAIRED: np.inf,
}


def day_tables(days: Sequence[Day], num_drivers: int, rows: int, zones: int = 0) -> DayTables:
    """Pack real days into the blocks' order of fields; ``zones`` of a travel matrix, if any.

    A day with fewer drivers than ``num_drivers`` is filled up with drivers who have no shift and
    can never be assigned.

    Raises:
        DataError: If bookings are not in order of creation, or a value
            lies outside what the rules can handle; naming day, row and field.
    """
    shown = max(1, rows)
    tables = DayTables(
        num_bookings=np.zeros(len(days), dtype=np.int64),
        bookings=np.zeros((len(days), shown, world.INPUT_FLOATS)),
        booking_ints=np.zeros((len(days), shown, world.INPUT_INTS), dtype=np.int64),
        drivers=np.zeros((len(days), len(DAY_DRIVER_FIELDS), num_drivers)),
        driver_ints=np.zeros((len(days), len(DAY_DRIVER_INTS), num_drivers), dtype=np.int64),
    )
    for i, day in enumerate(days):
        check_day(day, zones)
        count = len(day.bookings)
        for field, value in _NO_SHIFT.items():
            tables.drivers[i, DAY_DRIVER_FIELDS.index(field), len(day.drivers) :] = value
        tables.num_bookings[i] = count
        for name, index in BOOKING_FIELD.items():
            tables.bookings[i, :count, index] = day.bookings[name]
        for name, index in BOOKING_INT.items():
            values = day.bookings[name]
            tables.booking_ints[i, :count, index] = (
                np.maximum(values, 0) if name.endswith("_zone") else values
            )
        for k, index in enumerate(DAY_DRIVER_FIELDS):
            name = next(n for n, j in _DRIVER_FIELD.items() if j == index)
            tables.drivers[i, k, : len(day.drivers)] = day.drivers[name]
        for k, index in enumerate(DAY_DRIVER_INTS):
            name = next(n for n, j in _DRIVER_INT.items() if j == index)
            tables.driver_ints[i, k, : len(day.drivers)] = np.maximum(day.drivers[name], 0)
    return tables


def _demand_tables(scenario: Scenario, model: Any) -> sampling.DemandTables:
    if model is not None:
        return sampling.demand_tables(scenario, model)
    nothing = np.zeros((1, 1))
    empty = np.zeros(1)
    z, f = empty, nothing
    return sampling.DemandTables(
        z, z, z, 0.0, 0.0, z, np.zeros(1, dtype=np.bool_), z, f, f, z, f, f, z, f, f,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f,
    )  # fmt: skip


def _outputs(num_envs: int, layout: ObservationLayout) -> Outputs:
    return Outputs(
        observation=np.zeros((num_envs, layout.size), dtype=np.float32),
        mask=np.zeros((num_envs, layout.num_actions), dtype=np.int8),
        reward=np.zeros(num_envs),
        terminated=np.zeros(num_envs, dtype=np.bool_),
        truncated=np.zeros(num_envs, dtype=np.bool_),
        epochs=np.zeros(num_envs),
        terms=np.zeros((num_envs, world.TERMS)),
        final_observation=np.zeros((num_envs, layout.size), dtype=np.float32),
        final_kpis=np.zeros((num_envs, len(kpis.KPIS))),
        day=np.zeros(num_envs, dtype=np.int64),
    )
