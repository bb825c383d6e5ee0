"""Operating days: between instants and the minutes that policies count in."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from services.rl.simulation.scenarios import Rules


@dataclass(frozen=True)
class OperatingDay:
    """One company's day: minute 0 is its start on the local clock.

    Minutes are elapsed time, so that a plan stays right on the two days a year that clocks change;
    there the hour of the speed profile is off by one for part of the day.

    Attributes:
        date: Of its start, on the local clock.
        start: Minute 0.
    """

    date: date
    start: datetime

    def minute(self, instant: datetime) -> float:
        """Minutes after the start; negative before it."""
        return (instant - self.start).total_seconds() / 60.0

    def instant(self, minute: float) -> datetime:
        """The moment of a minute, in UTC."""
        return self.start + timedelta(minutes=minute)


def operating_day(now: datetime, rules: Rules, zone: ZoneInfo) -> OperatingDay:
    """The day that an instant belongs to.

    A day lasts from its start through horizon and overtime, past midnight if need be; what lies
    between two days belongs to the next, whose first bookings are already known.

    Args:
        now: Aware.
        rules: Give the start, the horizon and the overtime.
        zone: Of the local clock.
    """
    today = now.astimezone(zone).date()
    yesterday = day_of(today - timedelta(days=1), rules, zone)
    lasting = rules.horizon_min + rules.overtime_min
    if yesterday.minute(now) <= lasting:
        return yesterday
    day = day_of(today, rules, zone)
    return day if day.minute(now) <= lasting else day_of(today + timedelta(days=1), rules, zone)


def day_of(local: date, rules: Rules, zone: ZoneInfo) -> OperatingDay:
    """The operating day that starts on a local date."""
    hour, minute = divmod(rules.day_start_min, 60)
    start = datetime(local.year, local.month, local.day, hour, minute, tzinfo=zone)
    return OperatingDay(local, start.astimezone(UTC))
