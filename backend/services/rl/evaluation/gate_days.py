"""The days a gate judges by: fresh ones every night, and worse worlds made of them.

A day is data: who calls when, who drives, what goes wrong. All of them are played in the served
scenario, whose travel times and rules the policies believe in. What is different about a day, such
as slower streets, is therefore a surprise to them, as it would be in the street.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import numpy as np

from services.rl.errors import UsageError
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import (
    HaversineTravel,
    ManhattanDemand,
    ReplayDemand,
    Scenario,
    gate_seed,
)
from services.rl.simulation.types import NEVER, Day, IntArray

MOST_DAYS: Final = 1_000
"""Seeds that a date has to itself; the next date's begin there."""

_HOUR_MIN: Final = 60.0


def gate_seeds(on: date, count: int) -> IntArray:
    """Seeds of the first ``count`` gate days of a date.

    Raises:
        UsageError: If a date has not so many.
    """
    if not 1 <= count <= MOST_DAYS:
        raise UsageError(f"a gate plays 1 to {MOST_DAYS:,} fresh days, got {count}")
    return np.array([gate_seed(on.toordinal(), i) for i in range(count)], dtype=np.int64)


def samples_days(scenario: Scenario) -> bool:
    """Whether days of a scenario are drawn by seed; otherwise there are only real ones."""
    return not isinstance(scenario.demand, ReplayDemand | ManhattanDemand)


def fresh_days(
    scenario: Scenario, on: date, count: int, demand: Scenario | None = None
) -> list[Day]:
    """Days that no training, tuning or earlier gate has seen.

    Args:
        scenario: The served world.
        on: Date of the gate.
        count: How many days.
        demand: The world as it was lately found to be; its days are drawn, and where its streets
            are faster or slower than the served scenario believes, so are the drives.

    Raises:
        UsageError: If a date has not so many days, or days cannot be drawn.
    """
    world = scenario if demand is None else demand
    if not samples_days(world):
        raise UsageError(f"scenario {world.name!r} replays real days: there are none to draw")
    engine = Engine(world, count)
    engine.start(gate_seeds(on, count))
    days = [engine.day(e) for e in range(count)]
    if demand is None or demand.travel == scenario.travel:
        return days
    return [at_speeds_of(demand, scenario, day) for day in days]


def at_speeds_of(real: Scenario, believed: Scenario, day: Day) -> Day:
    """The day with drives as long as ``real`` has them, played in a scenario that believes others.

    By the speeds of the hour in which a booking is promised; a drive that crosses the hour is
    not cut in two.
    """
    a, b = real.travel, believed.travel
    if not (isinstance(a, HaversineTravel) and isinstance(b, HaversineTravel)):
        return day
    clock = believed.rules.day_start_min + day.bookings["promised_min"]
    hour = (clock // _HOUR_MIN).astype(np.int64) % 24
    pace = a.circuity / np.array(a.speed_kmh)[hour]
    thought = b.circuity / np.array(b.speed_kmh)[hour]
    return _slower(day, pace / thought)


def _slower(day: Day, factor: object) -> Day:
    bookings = day.bookings.copy()
    for name in ("deadhead_noise", "trip_noise"):
        bookings[name] = bookings[name] * factor
    return replace(day, bookings=bookings)


# --- worse worlds --------------------------------------------------------------------------------

Worsen = Callable[[Day, Day, np.random.Generator], Day]
"""A worse version of a day; the second day lends it bookings."""


@dataclass(frozen=True)
class StressWorld:
    """A way in which a day can be worse than planned for.

    Attributes:
        name: Short.
        what: For people.
        worsen: Makes the day.
    """

    name: str
    what: str
    worsen: Worsen


def _more_demand(day: Day, other: Day, rng: np.random.Generator) -> Day:
    lent = rng.random(len(other.bookings)) < MORE_DEMAND
    return _with_bookings(day, np.concatenate([day.bookings, other.bookings[lent]]))


def _breakdown(day: Day, _other: Day, rng: np.random.Generator) -> Day:
    if len(day.drivers) < 2:
        return day
    drivers = day.drivers.copy()
    broken = int(rng.integers(len(drivers)))
    start, end = drivers["shift_start_min"][broken], drivers["shift_end_min"][broken]
    drivers["breakdown_min"][broken] = start + rng.uniform(*BREAKDOWN_AT) * (end - start)
    drivers["repaired_min"][broken] = NEVER
    return replace(day, drivers=drivers)


def _slow_streets(day: Day, _other: Day, _rng: np.random.Generator) -> Day:
    return _slower(day, SLOWER)


def _more_immediate(day: Day, _other: Day, rng: np.random.Generator) -> Day:
    bookings = day.bookings.copy()
    ahead = np.flatnonzero(~bookings["immediate"])
    count = min(len(ahead), int(bookings["immediate"].sum()))
    sudden = rng.choice(ahead, size=count, replace=False)
    bookings["immediate"][sudden] = True
    bookings["created_min"][sudden] = bookings["promised_min"][sudden]
    return _with_bookings(day, bookings)


def _with_bookings(day: Day, bookings: object) -> Day:
    table = np.asarray(bookings)
    return replace(day, bookings=table[np.argsort(table["created_min"], kind="stable")])


MORE_DEMAND: Final = 0.3
SLOWER: Final = 1.15
BREAKDOWN_AT: Final = (0.2, 0.6)
"""Share of the shift at which the vehicle fails, for the rest of the day."""

STRESS_WORLDS: Final = (
    StressWorld("demand", "30 % more bookings", _more_demand),
    StressWorld("breakdown", "one vehicle breaks down", _breakdown),
    StressWorld("slow", "streets 15 % slower", _slow_streets),
    StressWorld("immediate", "immediate requests doubled", _more_immediate),
)


def stressed(world: StressWorld, days: Sequence[Day], seed: int = 0) -> list[Day]:
    """The days, worse; the same ones for the same seed."""
    number = [w.name for w in STRESS_WORLDS].index(world.name)
    return [
        replace(
            world.worsen(day, days[(i + 1) % len(days)], np.random.default_rng([seed, number, i])),
            label=f"{day.label}:{world.name}",
        )
        for i, day in enumerate(days)
    ]
