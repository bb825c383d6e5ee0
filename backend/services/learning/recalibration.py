"""A company's recent history from SQL, and the simulator brought up to date by it.

Only operating days that are over count: half a day would look like a quiet one. Travel speeds and
what drivers need at the door are told, not changed: they belong to the served scenario, which a
person sets, and by which decisions are logged.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from models.history_reader import read_history
from services.dispatching.operating_day import day_of, operating_day
from services.rl.data.building import DayRules, build_days
from services.rl.data.dataset import HistoryDays
from services.rl.data.recalibrated import HALF_LIVES, Simulator, recalibrated
from services.rl.data.roster import known_drivers
from services.rl.data.travel_fit import speed_ratio
from services.rl.data.validation import NoHistoryError, validate
from services.rl.simulation.scenarios import HaversineTravel, Rules, Scenario
from services.rl.simulation.types import Day

from .loop import Loop

RECENT_DAYS: Final = 42
"""Calendar days that are looked back."""


def recalibrate(
    loop: Loop,
    company_id: int | None,
    folder: Path,
    *,
    days: int = RECENT_DAYS,
    half_lives: Sequence[float] = HALF_LIVES,
) -> Simulator:
    """The simulator of a company after its last finished operating day.

    Args:
        loop: Database, clock and scenario.
        company_id: Whose; None: of a database with one company.
        folder: Where the fitted demand goes.
        days: Calendar days that are looked back.
        half_lives: See `recalibrated`.

    Returns:
        The served scenario itself where there is no history yet (``changes`` says why).

    Raises:
        DataError: If the database, a table or a column is missing.
    """
    served = loop.scenario
    last = last_finished_day(loop.clock.now(), served.rules, loop.config.zone)
    history = recent_history(loop, company_id, last, days)
    if history is None:
        return Simulator(served, served, (), {"fitted": False, "why": "there is no history yet"})
    every = [history.day(label) for label in history.dates]
    found = recalibrated(served, every, folder, half_lives=half_lives)
    changes = {**found.changes, "last_day": last.isoformat(), **_counts(history)}
    if isinstance(served.travel, HaversineTravel):
        ratio = speed_ratio(history, list(history.dates), served.travel)
        changes["speed_ratio"] = (
            None if ratio is None else {"real_over_served": round(ratio[0], 3), "drives": ratio[1]}
        )
    replayed = [_in_the_world(day, served) for day in found.days]
    return replace(found, days=tuple(replayed), changes=changes)


def last_finished_day(now: datetime, rules: Rules, zone: ZoneInfo) -> date:
    """The last operating day whose every booking has been served or given up."""
    today = operating_day(now, rules, zone).date
    over = rules.horizon_min + rules.overtime_min + rules.window_min + rules.grace_min
    day = today
    while day_of(day, rules, zone).minute(now) <= over:
        day -= timedelta(days=1)
    return day


def recent_history(loop: Loop, company_id: int | None, last: date, days: int) -> HistoryDays | None:
    """Operating days up to a date; None where there is no valid booking."""
    rules, zone = loop.scenario.rules, loop.config.zone
    end = day_of(last, rules, zone).instant(rules.horizon_min)
    company = None if company_id is None else str(company_id)
    raw = read_history(
        loop.config.database_url.get_secret_value(), days=days, until=end, company_id=company
    )
    if len(raw) == 0:
        return None
    try:
        history = validate(raw, company)
        return build_days(
            history,
            known_drivers(raw, history, company),
            DayRules(
                timezone=loop.config.timezone,
                days=days,
                until=last,
                day_start=rules.day_start,
                horizon_min=rules.horizon_min,
                window_min=rules.window_min,
            ),
            name=f"company {company_id}",
            source=raw.source,
        )
    except NoHistoryError:
        return None


def _counts(history: HistoryDays) -> dict[str, Any]:
    counts = history.facts["counts"]
    return {"history": {name: counts[name] for name in ("read", "kept", "rejected_by_reason")}}


def _in_the_world(day: Day, served: Scenario) -> Day:
    """A real day on which the served world's fleet is on duty, where the history's is larger.

    The served fleet is what policies are made for; a history names those who drove, and not
    always with their shifts.
    """
    most = served.fleet.num_drivers
    if len(day.drivers) <= most:
        return day
    return replace(day, drivers=day.drivers[np.arange(len(day.drivers)) < most])
