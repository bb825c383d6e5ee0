"""A company's experiment, read from the database and judged: for the API and the dashboard.

What is counted starts when units were last drawn under other odds, and never moves on with the
calendar: the promise of an always-valid interval is about one sequence from its beginning. Past
`MOST_BOOKINGS` the verdict stands on the first ones.

Only what is settled counts, whatever became of it: a pickup is known at once and a booking that
nobody served only after its grace, so that counting each as it comes would show every arm better
than it is. Whose doing a booking is: `services.rl.experiments.attribution`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Experiment, ExperimentEvent, ExperimentUnit
from services.rl.ab_dispatcher import HEURISTIC, RL, UnitKind, unit_of
from services.rl.evaluation.experiments import (
    ExperimentReport,
    ReportConfig,
    UnitOutcomes,
    report,
)
from services.rl.evaluation.sequential import look_day, looks_until
from services.rl.experiments.attribution import attributed_at, block_settles_at, burns_in
from services.rl.experiments.config import block_start
from services.rl.simulation.scenarios import Rules

from .experiments import config_of
from .outcomes import Outcome, read_outcomes

MOST_BOOKINGS: Final = 20_000
URGENT_FROM: Final = 4

_DRAWS_ANEW: Final = ("rl_share", "unit", "salt", "block_min", "model")
"""After a change of these, units are drawn under other odds, or another model decides in them."""

_KNOWN: Final = ("on_time", "late", "unserved")
_CHUNK: Final = 500


@dataclass(frozen=True)
class Judged:
    """A report and what it covers.

    Attributes:
        report: What the experiment says.
        since: From when on units count.
        until: Until when; of units that stay, the end of the last look.
        cut: There were more bookings than are read.
    """

    report: ExperimentReport
    since: datetime
    until: datetime
    cut: bool


def experiment_events(session: Session, row: Experiment, most: int = 200) -> list[ExperimentEvent]:
    """Its latest events, newest first."""
    return list(
        session.scalars(
            select(ExperimentEvent)
            .where(ExperimentEvent.experiment_id == row.id)
            .order_by(ExperimentEvent.id.desc())
            .limit(most)
        )
    )


def drawn_since(row: Experiment, events: Sequence[ExperimentEvent]) -> datetime:
    """Since when units are drawn under the present odds."""
    changed = [e.at for e in events if any(name in e.data for name in _DRAWS_ANEW)]
    return max([row.created_at, *changed])


def judge_experiment(
    session: Session,
    row: Experiment,
    company_id: int,
    now: datetime,
    rules: Rules,
    zone: ZoneInfo,
    *,
    most: int = MOST_BOOKINGS,
) -> Judged:
    """Read a company's part of an experiment and judge it.

    Args:
        session: Reading.
        row: The experiment, the company's own or the default one.
        company_id: Whose bookings.
        now: The present moment.
        rules: When a pickup is late, and when nobody came.
        zone: In which days are counted.
        most: Bookings read at most, the first ones.
    """
    since = drawn_since(row, experiment_events(session, row))
    until, look = now, 0
    if row.unit == UnitKind.COMPANY:
        look = looks_until((now - since) / timedelta(days=1))
        until = since + timedelta(days=look_day(look)) if look else now
    outcomes = read_outcomes(session, company_id, since, until, now, rules, most=most)
    rows = [
        o for o in outcomes.rows
        if o.fate in _KNOWN and o.unit and o.arm in (HEURISTIC, RL) and o.given_up_at(rules) <= now
    ]  # fmt: skip
    units, counted = _units(session, row, company_id, rows, now, rules)
    days = len({o.scheduled_at.astimezone(zone).date() for o in counted})
    config = ReportConfig(
        unit=UnitKind(row.unit),
        share=row.rl_share,
        drawn=_drawn(session, row, company_id, since),
        days=float(days) or None,
        look=look,
        block_min=row.block_min if row.unit == UnitKind.SWITCHBACK else None,
        breaches=(_breach(row.stop_reason),) if row.stopped_at is not None else (),
    )
    return Judged(report(units, config), since, until, outcomes.cut)


def _units(
    session: Session,
    row: Experiment,
    company_id: int,
    rows: Sequence[Outcome],
    now: datetime,
    rules: Rules,
) -> tuple[list[UnitOutcomes], list[Outcome]]:
    """Units in the order of their first booking, and the bookings that count."""
    if row.unit == UnitKind.SWITCHBACK:
        found = _by_block(session, row, company_id, rows, now, rules)
    else:
        found = [(o.unit, o.arm, o) for o in rows]
    bookings: dict[tuple[str, bool], list[Outcome]] = {}
    for unit, arm, outcome in found:
        bookings.setdefault((unit, arm == RL), []).append(outcome)
    units = [unit_outcomes(learned, some) for (_, learned), some in bookings.items()]
    return units, [outcome for _, _, outcome in found]


def _by_block(
    session: Session,
    row: Experiment,
    company_id: int,
    rows: Sequence[Outcome],
    now: datetime,
    rules: Rules,
) -> list[tuple[str, str, Outcome]]:
    """Bookings with the block to which they belong, and its arm.

    A block that drew no arm (the experiment did not run then) has no bookings.
    """
    config = config_of(row, company_id)
    patience = rules.window_min + rules.grace_min
    placed = []
    for o in rows:
        at = attributed_at(o.scheduled_at, o.created_at)
        begins = block_start(at, config.block_min)
        settled = block_settles_at(begins, config.block_min, patience) <= now
        if settled and not burns_in(at, config.block_min):
            where = o.unit.split(":")[2] if o.unit.count(":") >= 3 else ""
            unit = unit_of(
                config, booking_id=o.booking_id, company_id=company_id, zone=where, at=at
            )
            placed.append((unit, o))
    arms: dict[str, str] = {}
    names = sorted({unit for unit, _ in placed})
    for i in range(0, len(names), _CHUNK):
        drawn = session.execute(
            select(ExperimentUnit.unit, ExperimentUnit.arm).where(
                ExperimentUnit.experiment_id == row.id,
                ExperimentUnit.unit.in_(names[i : i + _CHUNK]),
            )
        )
        arms |= {row.unit: row.arm for row in drawn}
    return [(unit, arms[unit], o) for unit, o in placed if unit in arms]


def unit_outcomes(learned: bool, rows: Sequence[Outcome]) -> UnitOutcomes:
    """The counts of one unit."""
    fates = [o.fate for o in rows]
    served = [o for o in rows if o.fate in ("on_time", "late")]
    urgent = [o for o in rows if o.priority >= URGENT_FROM]
    return UnitOutcomes(
        learned=learned,
        bookings=len(rows),
        on_time=fates.count("on_time"),
        late=fates.count("late"),
        unserved=fates.count("unserved"),
        urgent=len(urgent),
        urgent_unserved=sum(o.fate == "unserved" for o in urgent),
        wait_min=sum(o.wait_min or 0.0 for o in served),
        late_min=sum(o.late_min or 0.0 for o in served),
    )


def _drawn(
    session: Session, row: Experiment, company_id: int, since: datetime
) -> list[bool] | None:
    """Which units went to the learned arm, in the order drawn; None: they are not the company's.

    Units of the default experiment are all companies'; only blocks name theirs.
    """
    statement = select(ExperimentUnit.arm).where(
        ExperimentUnit.experiment_id == row.id, ExperimentUnit.created_at >= since
    )
    if row.company_id is None:
        if row.unit != UnitKind.SWITCHBACK:
            return None
        statement = statement.where(ExperimentUnit.unit.startswith(f"block:{company_id}:"))
    arms = session.scalars(statement.order_by(ExperimentUnit.created_at, ExperimentUnit.unit))
    return [arm == RL for arm in arms]


def _breach(reason: str | None) -> str:
    return reason or "stopped"
