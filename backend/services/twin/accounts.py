"""The twin's books: what the city did, what the backend was told, what the loop made of it.

Every line has two sides that were counted by different parts, and must be equal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from models import Assignment, Booking, DeadLetter, Decision, ModelEvent, TaskRun
from routes.statuses import COMPLETED, NO_SHOW
from services.learning.collection_report import CollectionReport
from services.learning.collector import rebuild
from services.learning.loop import Loop
from services.learning.rollout import ROLLOUT
from services.learning.verification import verify

from .company import TwinCompany


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: What is counted.
        one: By one part.
        other: By another.
    """

    name: str
    one: int
    other: int

    @property
    def adds_up(self) -> bool:
        """Both sides agree."""
        return self.one == self.other


@dataclass
class Books:
    """All of it.

    Attributes:
        lines: Each with two sides.
        collections: Per company: what became of every decision.
        runs: Per task: runs by state.
        models: What happened to models, oldest first.
        told: Per company: what the twin did.
    """

    lines: list[Line]
    collections: dict[int, CollectionReport]
    runs: dict[str, dict[str, int]]
    models: list[dict[str, Any]]
    told: dict[int, dict[str, Any]]

    @property
    def add_up(self) -> bool:
        """All lines do."""
        return all(line.adds_up for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "add_up": self.add_up,
            "lines": [
                {"name": line.name, "one": line.one, "other": line.other} for line in self.lines
            ],
            "collections": {str(c): r.as_json() for c, r in self.collections.items()},
            "runs": self.runs,
            "models": self.models,
            "told": {str(c): t for c, t in self.told.items()},
        }

    def table(self) -> str:
        """For people."""
        width = max(len(line.name) for line in self.lines)
        rows = [
            f"{line.name:<{width}}  {line.one:>7} {line.other:>7}  "
            f"{'ok' if line.adds_up else 'DOES NOT ADD UP'}"
            for line in self.lines
        ]
        return "\n".join(rows)


def close_books(loop: Loop, companies: Sequence[TwinCompany]) -> Books:
    """Count everything; the store is compared with SQL, then filled anew from it."""
    lines: list[Line] = []
    collections: dict[int, CollectionReport] = {}
    for company in companies:
        of = company.company_id
        lines += _host_lines(loop, company)
        found = verify(loop, of)
        differing = len(found.missing) + len(found.unexpected) + len(found.different)
        lines.append(Line(f"company {of}: experiences in the store, and by SQL", found.kept,
                          found.expected))  # fmt: skip
        lines.append(Line(f"company {of}: experiences that differ", differing, 0))
        report = collections[of] = rebuild(loop, of)
        with loop.database.reading() as session:
            logged = session.scalar(
                select(func.count()).select_from(Decision).where(Decision.company_id == of)
            )
        lines.append(Line(f"company {of}: decisions logged, and with a fate", logged or 0,
                          report.assigned + report.folded + report.provisional + report.shadow
                          + sum(report.left_out.values())))  # fmt: skip
    lines += _loop_lines(loop)
    return Books(
        lines,
        collections,
        _runs(loop),
        _models(loop),
        {
            c.company_id: {"counts": dict(c.told.counts), "refused": dict(c.told.refused)}
            for c in companies
        },
    )


def _host_lines(loop: Loop, company: TwinCompany) -> list[Line]:
    of, told = company.company_id, company.told.counts
    with loop.database.reading() as session:
        found = session.execute(
            select(Booking.status, func.count().label("bookings"))
            .where(Booking.company_id == of)
            .group_by(Booking.status)
        )
        statuses: Counter[str] = Counter({row.status: row.bookings for row in found})
        assignments = session.scalar(
            select(func.count())
            .select_from(Assignment)
            .join(Booking, Booking.id == Assignment.booking_id)
            .where(Booking.company_id == of)
        )
    ends = told["happened_completed"] + told["happened_no_show"]
    return [
        Line(f"company {of}: bookings made, and in the database", told["booked"],
             statuses.total()),
        Line(f"company {of}: assignments read, and in the database", told["assignments"],
             assignments or 0),
        Line(f"company {of}: journeys that ended, and told, owed or never told", ends,
             told["told_completed"] + told["told_no_show"] + told["owed"] + told["never_told"]),
        Line(f"company {of}: outcomes told, and in the database",
             told["told_completed"] + told["told_no_show"],
             statuses[COMPLETED] + statuses[NO_SHOW]),
        Line(f"company {of}: answers that the twin did not expect",
             sum(company.told.refused.values()), 0),
    ]  # fmt: skip


def _loop_lines(loop: Loop) -> list[Line]:
    with loop.database.reading() as session:
        open_ = session.scalar(
            select(func.count())
            .select_from(TaskRun)
            .where(TaskRun.state.in_(("running", "failed")), TaskRun.task != "tick")
        )
        letters = session.scalar(select(func.count()).select_from(DeadLetter))
        promoted = session.scalars(
            select(ModelEvent).where(
                ModelEvent.who == ROLLOUT,
                ModelEvent.alias == "champion",
                ModelEvent.why == "passed the gate",
            )
        ).all()
    with_report = sum(
        event.gate_report is not None and (loop.home / event.gate_report).exists()
        for event in promoted
    )
    return [
        Line("tasks begun and not ended", open_ or 0, 0),
        Line("tasks given up", letters or 0, 0),
        Line("promotions, and those with a gate's report", len(promoted), with_report),
    ]


def _runs(loop: Loop) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with loop.database.reading() as session:
        for task, state, count in session.execute(
            select(TaskRun.task, TaskRun.state, func.count()).group_by(TaskRun.task, TaskRun.state)
        ):
            found.setdefault(task, {})[state] = count
    return found


def _models(loop: Loop) -> list[dict[str, Any]]:
    with loop.database.reading() as session:
        return [
            {
                "at": event.at.isoformat(timespec="minutes"),
                "company": event.company_id,
                "alias": event.alias,
                "from": event.from_version,
                "to": event.to_version,
                "who": event.who,
                "why": event.why,
            }
            for event in session.scalars(select(ModelEvent).order_by(ModelEvent.id))
        ]
