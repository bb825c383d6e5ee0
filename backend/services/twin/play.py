"""Simulated days through the real backend: bookings, ticks, reports, and the loop's own tasks.

Time stands still while something happens and then moves to the next event, in all processes alike;
the loop's tasks (ticks, hourly collection, nightly retraining, ...) fall due by the same clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np

from clock import Clock
from services.dispatching.operating_day import OperatingDay, day_of
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day

from .company import TwinCompany

_NIGHT_STEP = timedelta(minutes=30)


class SettableClock(Clock, Protocol):
    """A clock that the twin moves."""

    def set(self, moment: datetime) -> None:
        """Stand at another moment."""
        ...


class Conductor(Protocol):
    """Who runs the loop's tasks as the clock moves: this process, or Celery's workers."""

    def run_due(self, now: datetime) -> None:
        """Do what has fallen due by now; returns when it is done."""
        ...


@dataclass(frozen=True)
class Shift:
    """Demand that changes on some day.

    Attributes:
        from_day: The first day of the new demand, counted from 0.
        scenario: Where bookings come from then.
    """

    from_day: int
    scenario: Scenario


@dataclass(frozen=True)
class Script:
    """What is played.

    Attributes:
        scenario: Rules and travel, and where bookings come from.
        first: Local date of the first day.
        days: How many.
        seed: Of days; the twin's own seeds lie beyond all that are trained or tested on.
        shift: Demand that changes; None: it does not.
        speed: At most so many times as fast as the world; None: as fast as it goes.
    """

    scenario: Scenario
    first: date
    days: int
    seed: int
    shift: Shift | None = None
    speed: float | None = None

    def played(self, number: int, company_id: int) -> Day:
        """Bookings and drivers of a company's day."""
        world = self.scenario
        if self.shift is not None and number >= self.shift.from_day:
            world = self.shift.scenario
        engine = Engine(world, 1)
        engine.start(np.array([self.seed + 1_000 * company_id + number]))
        return engine.day(0)


def play(
    script: Script,
    companies: Sequence[TwinCompany],
    clock: SettableClock,
    conductor: Conductor,
    zone: ZoneInfo,
    *,
    on_day: Callable[[int, date], None] = lambda _number, _date: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> int:
    """Play the days; how many were played to their end.

    Args:
        script: What.
        companies: Who.
        clock: That all processes read.
        conductor: Runs the loop's tasks.
        zone: Of the companies.
        on_day: Called when a day has begun.
        out_of_time: Asked before each day.
    """
    rules = script.scenario.rules
    epoch = timedelta(minutes=rules.epoch_min)
    for number in range(script.days):
        if out_of_time():
            return number
        day = day_of(script.first + timedelta(days=number), rules, zone)
        for company in companies:
            played = script.played(number, company.company_id)
            company.hire(played, lambda minute, day=day: _clock_time(day, minute, zone))  # type: ignore[misc]
            company.begin(day, played)
        on_day(number, day.date)
        pace = _Pace(script.speed)
        now = day.start - 6 * epoch
        end = day.instant(rules.horizon_min + rules.overtime_min)
        next_day = day_of(day.date + timedelta(days=1), rules, zone).start - 6 * epoch
        while now < next_day:
            now = min(now + (epoch if now < end else _NIGHT_STEP), next_day)
            for company in companies:
                company.look(now)
            _happen(companies, clock, now)
            clock.set(now)
            conductor.run_due(now)
            pace.keep(now)
    return script.days


def _happen(companies: Sequence[TwinCompany], clock: SettableClock, until: datetime) -> None:
    """All events until a moment, in order of time; those that they cause too."""
    while True:
        events = sorted(
            ((at, c, order, what) for c, company in enumerate(companies)
             for at, order, what in company.due(until)),
            key=lambda event: event[:3],
        )  # fmt: skip
        if not events:
            return
        for at, _, _, what in events:
            if at > clock.now():
                clock.set(at)
            what()


class _Pace:
    """Keeps the twin from running faster than asked."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._begun: tuple[float, datetime] | None = None

    def keep(self, now: datetime) -> None:
        """Wait until the world may be here."""
        if self._speed is None:
            return
        if self._begun is None:
            self._begun = (time.monotonic(), now)
        ahead_s = (now - self._begun[1]).total_seconds() / self._speed
        wait_s = ahead_s - (time.monotonic() - self._begun[0])
        if wait_s > 0:
            time.sleep(wait_s)


def _clock_time(day: OperatingDay, minute: float, zone: ZoneInfo) -> str:
    return day.instant(minute).astimezone(zone).strftime("%H:%M")
