"""When drivers work: by roster, by what was said for one day, and who went off."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from models import Driver, DriverStatus
from services.rl.simulation.scenarios import Scenario

from .operating_day import OperatingDay, operating_day

_SICK_BEFORE_MIN = 8 * 60.0  # said so long before a shift begins, it is of that shift


def shift_of(
    driver: Driver,
    status: DriverStatus | None,
    now: datetime,
    day: OperatingDay,
    scenario: Scenario,
    zone: ZoneInfo,
) -> tuple[float, float]:
    """Minutes of the operating day from and until which a driver works.

    Hours that were said hold on their day, and until they are over; then the roster does again.
    Between two operating days the shift that is still running counts, not the next one alone.
    """
    local = day.start.astimezone(zone).date()
    begin, end = _roster(driver, local, zone)
    if begin > now:
        earlier_begin, earlier_end = _roster(driver, local - timedelta(days=1), zone)
        if earlier_end > now:
            begin, end = earlier_begin, end if earlier_end >= begin else earlier_end
    if status is not None:
        said_begin, said_end = status.shift_start_at, status.shift_end_at
        if said_end is not None:
            holds = said_end > now or said_end >= day.start
        else:
            holds = said_begin is not None and _of(said_begin, day, scenario, zone)
        if holds:
            begin, end = said_begin or begin, said_end or end
    return day.minute(begin), max(day.minute(begin), day.minute(end))


def _roster(driver: Driver, local: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The daily shift that begins on a local date."""
    begin = datetime.combine(local, driver.shift_start, zone)
    end = datetime.combine(local, driver.shift_end, zone)
    if end <= begin:
        end = datetime.combine(local + timedelta(days=1), driver.shift_end, zone)
    return begin, end


def went_off(
    driver: Driver,
    status: DriverStatus | None,
    now: datetime,
    day: OperatingDay,
    scenario: Scenario,
    zone: ZoneInfo,
) -> bool:
    """Whether a driver said that they work no more in this shift, or not in the next one.

    A status alone does not say so: a driver whose position is told has one, and is not on shift by
    word but by roster. Who goes off while a shift is running, or after it, comes to the next one.
    """
    if status is None or status.on_shift or status.shift_end_at is None:
        return False
    begin, _ = shift_of(driver, status, now, day, scenario, zone)
    return begin - day.minute(status.shift_end_at) <= _SICK_BEFORE_MIN


def _of(instant: datetime, day: OperatingDay, scenario: Scenario, zone: ZoneInfo) -> bool:
    """Whether an instant belongs to an operating day or to a later one."""
    return operating_day(instant, scenario.rules, zone).date >= day.date
