"""From the arguments that people type to an `Engine`: one set of checks for both environments."""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from services.rl.errors import UsageError

from .days import DaySource
from .engine import Engine
from .observation import ObservationKind
from .reward import RewardTiming
from .scenarios import Scenario, load_scenario
from .types import Day

RewardTimingName = Literal["planned_pickup", "planned_gain", "commitment", "event"]
RenderMode = Literal["ansi", "rgb_array"]
RENDER_MODES: tuple[str, ...] = get_args(RenderMode)

_MOST_BOOKINGS_SHOWN = 20_000  # as many as a scenario may have in a day


class WorldOptions(TypedDict, total=False):
    """Keywords that `DispatchEnv` and `DispatchVectorEnv` share; `build_engine` explains them."""

    scenario: str | Path | Scenario
    observation: ObservationKind
    reward_timing: RewardTimingName | RewardTiming
    gamma: float
    bookings_per_day: float | None
    days: Sequence[Day] | None
    source: DaySource | None
    record_events: bool
    max_steps: int | None


def build_engine(
    num_envs: int,
    num_drivers: int | None,
    max_bookings: int,
    simulation_hours: float | None,
    *,
    scenario: str | Path | Scenario = "geneva",
    observation: ObservationKind = "compact",
    reward_timing: RewardTimingName | RewardTiming = "planned_pickup",
    gamma: float = 0.99,
    bookings_per_day: float | None = None,
    days: Sequence[Day] | None = None,
    source: DaySource | None = None,
    record_events: bool = False,
    max_steps: int | None = None,
) -> Engine:
    """An engine for arguments as a person gives them.

    Args:
        num_envs: E.
        num_drivers: N; None keeps the scenario's fleet (or the given days').
        max_bookings: M, the open bookings that an observation shows.
        simulation_hours: Length of the day; None keeps the scenario's.
        scenario: A built-in name, a YAML file, or a `Scenario`.
        observation: ``"compact"`` (4 N + 4 M + 2 numbers), ``"full"`` or ``"rows"``.
        reward_timing: When an assignment is paid: ``"planned_pickup"``, ``"planned_gain"``,
            ``"commitment"`` or ``"event"``; see `RewardTiming`.
        gamma: Discount per epoch, used by ``"planned_pickup"``.
        bookings_per_day: Mean demand; None keeps the scenario's, in proportion to driver hours
            where fleet or day length change.
        days: Real days to play instead of sampled ones.
        source: Where the days came from; needed where it brings travel times between zones.
        record_events: Keep the event log.
        max_steps: Actions after which an episode is truncated; None: ample.

    Raises:
        UsageError: If an argument is of the wrong kind or size; the sentence names it.
        ScenarioError: If the scenario is unknown or does not fit the arguments.
    """
    count("num_envs", num_envs)
    count("max_bookings", max_bookings, most=_MOST_BOOKINGS_SHOWN)
    if num_drivers is not None:
        count("num_drivers", num_drivers)
    if max_steps is not None:
        count("max_steps", max_steps)
    if simulation_hours is not None:
        _number("simulation_hours", simulation_hours)
        if not 0 < simulation_hours <= 24:
            raise UsageError(
                f"simulation_hours must lie above 0 and be at most 24, got {simulation_hours}"
            )
    if bookings_per_day is not None:
        _number("bookings_per_day", bookings_per_day)
        if bookings_per_day < 0:
            raise UsageError(f"bookings_per_day cannot be negative, got {bookings_per_day}")
    _number("gamma", gamma)
    choice("observation", observation, get_args(ObservationKind))
    world = _scenario(scenario)
    horizon = None if simulation_hours is None else 60.0 * float(simulation_hours)
    if days:
        _check_fits_days(world, days, num_drivers, horizon, bookings_per_day)
    else:
        world = world.resized(num_drivers, bookings_per_day, horizon)
    return Engine(
        world,
        operator.index(num_envs),
        max_bookings=operator.index(max_bookings),
        observation=observation,
        days=days,
        source=source,
        record_events=bool(record_events),
        timing=_timing(reward_timing),
        gamma=float(gamma),
        max_steps=None if max_steps is None else operator.index(max_steps),
    )


def count(name: str, value: Any, most: int | None = None) -> int:
    """The argument as a whole number of at least 1.

    Raises:
        UsageError: Naming the argument.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 1 or (most is not None and number > most):
        limit = "of at least 1" if most is None else f"from 1 to {most}"
        raise UsageError(f"{name} must be a whole number {limit}, got {value!r}")
    return number


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Check that an argument is one of the known words.

    Raises:
        UsageError: Naming the argument and the words.
    """
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")


def checked_render_mode(value: str | None) -> str | None:
    """Check a render mode.

    Raises:
        UsageError: If it is neither None nor one of `RENDER_MODES`.
    """
    if value is not None:
        choice("render_mode", value, RENDER_MODES)
    return value


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, got {value!r}")


def _scenario(scenario: Any) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, str | Path):
        return load_scenario(scenario)
    raise UsageError(
        f"scenario must be a name, a .yaml file or a Scenario, got {type(scenario).__name__}"
    )


def _timing(value: Any) -> RewardTiming:
    if isinstance(value, RewardTiming):
        return value
    choice("reward_timing", value, [timing.name.lower() for timing in RewardTiming])
    return RewardTiming[value.upper()]


def _check_fits_days(
    world: Scenario,
    days: Sequence[Day],
    num_drivers: int | None,
    horizon: float | None,
    bookings_per_day: float | None,
) -> None:
    """Real days bring their own fleet, demand and length: what differs from them is an error."""
    fleet = max(len(day.drivers) for day in days)
    if num_drivers is not None and num_drivers != fleet:
        raise UsageError(f"num_drivers is {num_drivers}, but the given days have {fleet} drivers")
    if horizon is not None and horizon != world.rules.horizon_min:
        raise UsageError(
            f"simulation_hours is {horizon / 60:g}, but scenario {world.name!r} plays its days "
            f"for {world.rules.horizon_min / 60:g} hours"
        )
    if bookings_per_day is not None:
        raise UsageError("bookings_per_day cannot change the demand of given days")
