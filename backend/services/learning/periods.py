"""Periods: which piece of time a task is done for, and how often it is looked for.

A key names a period, and is the same whoever works it out, whenever within it: what two beats, a
redelivery and a person's command agree on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from services.rl.errors import UsageError

DEFAULT, TRAIN = "default", "train"
"""Queues: Torch is imported by workers of ``train`` only."""

_ORIGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Every:
    """Again and again, on the clock's grid.

    Attributes:
        minutes: None: the scenario's decision epoch.
    """

    minutes: float | None


@dataclass(frozen=True)
class Daily:
    """Once a day.

    Attributes:
        at: On the company's clock. Where clocks are set forward over it, as much later.
    """

    at: time


@dataclass(frozen=True)
class Period:
    """A piece of time.

    Attributes:
        key: Names it: begin on the local clock with its offset, or the local date.
        begin: In it.
        end: Not in it any more.
    """

    key: str
    begin: datetime
    end: datetime


@dataclass(frozen=True)
class Calendar:
    """What turns instants into periods.

    Attributes:
        zone: The company's clock.
        epoch_min: The scenario's decision epoch.
    """

    zone: ZoneInfo
    epoch_min: float

    def period(self, cadence: Every | Daily, now: datetime) -> Period:
        """The period that an instant lies in."""
        if isinstance(cadence, Daily):
            local = now.astimezone(self.zone).date()
            begin = self._at(local, cadence)
            if now < begin:
                local -= timedelta(days=1)
                begin = self._at(local, cadence)
            return Period(local.isoformat(), begin, self._at(local + timedelta(days=1), cadence))
        step = self._step(cadence)
        begin = _ORIGIN + ((now - _ORIGIN) // step) * step
        key = begin.astimezone(self.zone).isoformat(
            timespec="minutes" if not begin.second else "seconds"
        )
        return Period(key, begin, begin + step)

    def of_key(self, cadence: Every | Daily, key: str) -> Period:
        """The period that a key names.

        Raises:
            UsageError: If it names none of this cadence.
        """
        try:
            if isinstance(cadence, Daily):
                return self.period(cadence, self._at(date.fromisoformat(key), cadence))
            begin = datetime.fromisoformat(key).astimezone(UTC)
        except ValueError:
            raise UsageError(f"period {key!r} is no date or time of this task") from None
        return Period(key, begin, begin + self._step(cadence))

    def _step(self, cadence: Every) -> timedelta:
        return timedelta(minutes=cadence.minutes or self.epoch_min)

    def _at(self, local: date, cadence: Daily) -> datetime:
        return datetime.combine(local, cadence.at, tzinfo=self.zone).astimezone(UTC)


@dataclass(frozen=True)
class Entry:
    """A line of the schedule.

    Attributes:
        name: Of the task, in the table of runs.
        task: Celery's name for it.
        cadence: How often.
        queue: Who does it.
        per_company: One run for each company.
        look_s: How often the broker's beat looks for what is due; a message that nobody has begun
            a few looks later is void.
        catch_up_min: So long after a period's begin it is still begun; None: until it is over.
        skip_late: When its period is over it is not done any more (a tick: the next one dispatches
            what is open). Else a run that failed is tried again whenever.
        alone: Of a company's runs, one at a time.
        most_attempts: Beginnings, before it becomes a dead letter.
        lease_s: Without a sign of life for so long, a run is taken over.
        limit_min: A run is ended after it.
        trainings: Whole trainings (``train_minutes`` each) that come on top of the limit.
    """

    name: str
    task: str
    cadence: Every | Daily
    queue: str = DEFAULT
    per_company: bool = True
    look_s: float = 60.0
    catch_up_min: float | None = None
    skip_late: bool = False
    alone: bool = False
    most_attempts: int = 3
    lease_s: float = 90.0
    limit_min: float = 15.0
    trainings: int = 0

    def period_key(self, now: datetime, calendar: Calendar) -> str:
        """The key of the period that an instant lies in."""
        return calendar.period(self.cadence, now).key

    def limit_s(self, train_minutes: float) -> float:
        """A run is ended after so many seconds."""
        return 60.0 * (self.limit_min + self.trainings * train_minutes)


@dataclass(frozen=True)
class Job:
    """An entry for one period, and one company where it is for each.

    Attributes:
        entry: What.
        period: When.
        company_id: Whose; None: everybody's.
    """

    entry: Entry
    period: Period
    company_id: int | None

    @property
    def key(self) -> str:
        """In the table of runs."""
        return f"{self.scope}{self.period.key}"

    @property
    def scope(self) -> str:
        """How keys of the same company begin; empty: everybody's."""
        return "" if self.company_id is None else f"{self.company_id}/"

    @property
    def arguments(self) -> dict[str, int | str | None]:
        """What it takes to do it again."""
        return {"company_id": self.company_id, "period": self.period.key}


def job_of(entry: Entry, key: str, calendar: Calendar) -> Job:
    """The job that a run's key names.

    Raises:
        UsageError: If it names none.
    """
    company, slash, period = key.rpartition("/")
    if bool(slash) != entry.per_company or (slash and not company.isdecimal()):
        raise UsageError(f"{key!r} is no run of {entry.name}")
    return Job(entry, calendar.of_key(entry.cadence, period), int(company) if slash else None)


def jobs_now(
    entry: Entry, now: datetime, calendar: Calendar, company_ids: list[int]
) -> Iterator[Job]:
    """What an entry asks for at an instant, done already or not."""
    period = calendar.period(entry.cadence, now)
    catch_up = entry.catch_up_min
    if catch_up is not None and now >= period.begin + timedelta(minutes=catch_up):
        return
    for company_id in company_ids if entry.per_company else [None]:
        yield Job(entry, period, company_id)
