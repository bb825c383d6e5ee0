"""The log and the host's rows as plain tuples, a few hundred snapshots at a time.

Everything is read from one consistent state of the database, by keys, so that memory does not grow
with the log. No object that a session would keep track of is made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import BindParameter, bindparam, case, func, select, tuple_
from sqlalchemy.orm import Session

from models import Assignment, Booking, Decision, FleetSnapshot, complete
from routes.statuses import COMPLETED, NO_SHOW, PENDING, UNASSIGNED

from .chain import AssignRow, Facts, SnapshotRow
from .settled import AssignmentRow, BookingRow

CHUNK: Final = 200
"""Snapshots read at a time: some two thousand decisions of ten drivers and ten bookings."""

_PARAMETERS: Final = 500
_DAY: Final = timedelta(days=1)

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Span:
    """Epochs from one moment to another, both included."""

    begin: datetime
    end: datetime


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same epochs, each once, in order."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.begin <= found[-1].end:
            found[-1] = Span(found[-1].begin, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


_SNAPSHOT = (
    FleetSnapshot.id,
    FleetSnapshot.epoch_at,
    FleetSnapshot.day,
    FleetSnapshot.scenario_hash,
    FleetSnapshot.schema,
    FleetSnapshot.payload,
)
_OF: BindParameter[Any] = bindparam("company")
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_NEXT_SNAPSHOTS = (
    select(*_SNAPSHOT)
    .where(
        FleetSnapshot.company_id == _OF,
        FleetSnapshot.epoch_at >= bindparam("at"),  # says it again for the index
        tuple_(FleetSnapshot.epoch_at, FleetSnapshot.id)
        > tuple_(bindparam("at"), bindparam("after")),
        FleetSnapshot.epoch_at <= bindparam("end"),
    )
    .order_by(FleetSnapshot.epoch_at, FleetSnapshot.id)
    .limit(bindparam("most"))
)
_FOLLOWING = (
    select(*_SNAPSHOT)
    .where(FleetSnapshot.company_id == _OF, FleetSnapshot.epoch_at > bindparam("at"))
    .order_by(FleetSnapshot.epoch_at, FleetSnapshot.id)
    .limit(1)
)
_ASSIGNS = (
    select(
        Decision.id,
        Decision.snapshot_id,
        Decision.booking_id,
        Decision.driver_id,
        Decision.k,
        Decision.propensity,
        Decision.arm,
        Decision.unit,
        Decision.model,
        Decision.features,
        Decision.decided_at,
        Decision.source,
        Decision.overridden_by,
    )
    .where(Decision.snapshot_id.in_(_IDS), Decision.action == "assign", Decision.shadow.is_(False))
    .order_by(Decision.snapshot_id, Decision.seq, Decision.id)
)
_COUNTS = (
    select(
        Decision.snapshot_id,
        func.sum(case((Decision.shadow, 1), else_=0)),
        func.sum(case((Decision.shadow, 0), (Decision.action == "defer", 1), else_=0)),
        func.sum(case((Decision.shadow, 0), (Decision.source == "human", 1), else_=0)),
        func.count(),
    )
    .where(Decision.snapshot_id.in_(_IDS))
    .group_by(Decision.snapshot_id)
)
_BOOKING = (
    Booking.id,
    Booking.status,
    Booking.scheduled_time,
    Booking.created_at,
    Booking.cancelled_at,
    Booking.priority,
)
_BOOKINGS = select(*_BOOKING).where(Booking.id.in_(_IDS), Booking.company_id == _OF)
_ASSIGNMENTS = (
    select(
        Assignment.id,
        Assignment.booking_id,
        Assignment.driver_id,
        Assignment.assigned_at,
        Assignment.status,
        Assignment.actual_pickup_at,
        Assignment.actual_dropoff_at,
    )
    .where(Assignment.booking_id.in_(_IDS))
    .order_by(Assignment.id)
)
# Bookings that were deferred, and that nobody has brought (or nobody has said so).
_DEFERRED = (
    select(*_BOOKING)
    .where(
        Booking.company_id == _OF,
        Booking.status.not_in((COMPLETED, NO_SHOW)),
        Booking.id.in_(
            select(Decision.booking_id).where(
                Decision.snapshot_id.in_(_IDS),
                Decision.action == "defer",
                Decision.shadow.is_(False),
            )
        ),
    )
    .order_by(Booking.id)
)
_RANKED = (
    select(
        Decision.booking_id,
        Decision.id,
        Decision.action,
        Decision.snapshot_id,
        func.row_number()
        .over(
            partition_by=Decision.booking_id,
            # As `services.dispatching.overrides.latest_decision` has it.
            order_by=(
                Decision.decided_at.desc(),
                Decision.overridden_by.is_not(None),
                Decision.seq.desc(),
                Decision.id,
            ),
        )
        .label("rank"),
    )
    .where(Decision.booking_id.in_(_IDS), Decision.shadow.is_(False), Decision.company_id == _OF)
    .subquery()
)
_LAST = select(_RANKED.c.booking_id, _RANKED.c.id, _RANKED.c.action, _RANKED.c.snapshot_id).where(
    _RANKED.c.rank == 1
)
_NEVER = (
    select(*_BOOKING)
    .where(
        Booking.company_id == _OF,
        Booking.scheduled_time.between(bindparam("since"), bindparam("until")),
        Booking.status.in_((PENDING, UNASSIGNED)),
        complete(),  # without a place it is nobody's to dispatch, and nobody's loss
        ~select(Decision.id)
        .where(Decision.booking_id == Booking.id, Decision.shadow.is_(False))
        .exists(),
    )
    .order_by(Booking.id)
)


def read_span(
    session: Session, company_id: int, span: Span, chunk: int = CHUNK
) -> Iterator[tuple[SnapshotRow, Facts]]:
    """A company's snapshots of a span in their order, with the facts that belong to them."""
    at, after = span.begin, 0
    while True:
        asked = {"company": company_id, "at": at, "after": after, "end": span.end, "most": chunk}
        rows = [SnapshotRow(*row) for row in session.execute(_NEXT_SNAPSHOTS, asked)]
        if not rows:
            return
        facts = _facts(session, company_id, rows)
        for row in rows:
            yield row, facts
        if len(rows) < chunk:
            return
        at, after = rows[-1].epoch_at, rows[-1].id


def read_following(session: Session, company_id: int, at: datetime) -> SnapshotRow | None:
    """The company's first snapshot after a moment."""
    row = session.execute(_FOLLOWING, {"company": company_id, "at": at}).first()
    return None if row is None else SnapshotRow(*row)


def _facts(session: Session, company_id: int, rows: Sequence[SnapshotRow]) -> Facts:
    ids = [row.id for row in rows]
    company = {"company": company_id}
    facts = Facts()
    bookings: set[int] = set()
    for found in session.execute(_ASSIGNS, {"ids": ids}):
        decision = AssignRow(*found)
        facts.assigns.setdefault(decision.snapshot_id, []).append(decision)
        bookings.add(decision.booking_id)
    for snapshot, shadows, deferrals, human, count in session.execute(_COUNTS, {"ids": ids}):
        facts.shadows[snapshot] = shadows
        facts.deferrals[snapshot] = deferrals
        if human and human == count - shadows:
            facts.human.add(snapshot)
    deferred = [
        booking
        for row in session.execute(_DEFERRED, {**company, "ids": ids})
        if (booking := _booking(row)) is not None
    ]
    facts.bookings = {booking.id: booking for booking in deferred}
    facts.bookings |= bookings_of(session, company_id, bookings - facts.bookings.keys())
    facts.assignments = assignments_of(session, bookings)
    open_ = [b.id for b in facts.bookings.values() if b.status not in (COMPLETED, NO_SHOW)]
    for some in parts(open_):
        for booking_id, id_, action, snapshot in session.execute(_LAST, {**company, "ids": some}):
            facts.last[booking_id] = id_
            if action == "defer" and snapshot is not None:
                facts.put_off.setdefault(snapshot, []).append(booking_id)
    around = {"since": rows[0].epoch_at - _DAY, "until": rows[-1].epoch_at + _DAY}
    never = (_booking(row) for row in session.execute(_NEVER, {**company, **around}))
    facts.never = [booking for booking in never if booking is not None]
    return facts


def bookings_of(session: Session, company_id: int, ids: Iterable[int]) -> dict[int, BookingRow]:
    """A company's bookings by id; those that are not there, or have no times, are left out."""
    found: dict[int, BookingRow] = {}
    for some in parts(sorted(ids)):
        for row in session.execute(_BOOKINGS, {"company": company_id, "ids": some}):
            booking = _booking(row)
            if booking is not None:
                found[booking.id] = booking
    return found


def assignments_of(session: Session, bookings: Iterable[int]) -> dict[int, list[AssignmentRow]]:
    """Assignments by booking, in the order of their ids."""
    found: dict[int, list[AssignmentRow]] = {}
    for some in parts(sorted(bookings)):
        for row in session.execute(_ASSIGNMENTS, {"ids": some}):
            assignment = AssignmentRow(*row)
            found.setdefault(assignment.booking_id, []).append(assignment)
    return found


def parts(ids: Sequence[T], size: int = _PARAMETERS) -> Iterator[Sequence[T]]:
    """Parts that every database takes as parameters."""
    for i in range(0, len(ids), size):
        yield ids[i : i + size]


def _booking(row: Any) -> BookingRow | None:
    """The booking; None where a host has taken its times away: it is nobody's to dispatch."""
    if row.scheduled_time is None or row.created_at is None:
        return None
    return BookingRow(*row)


# --- what there is, and what has changed ---------------------------------------------------------


def count_decisions(session: Session, company_id: int, spans: Iterable[Span]) -> int:
    """Decisions of some spans, by a count of their own."""
    total = 0
    for span in spans:
        total += (
            session.scalar(
                select(func.count())
                .select_from(Decision)
                .join(FleetSnapshot, FleetSnapshot.id == Decision.snapshot_id)
                .where(
                    FleetSnapshot.company_id == company_id,
                    FleetSnapshot.epoch_at.between(span.begin, span.end),
                )
            )
            or 0
        )
        total += count_without_state(session, company_id, span)[0]
    return total


def count_without_state(session: Session, company_id: int, span: Span) -> tuple[int, int]:
    """Decisions of a span that name no snapshot, and how many of them were not acted on."""
    row = session.execute(
        select(func.count(), func.sum(case((Decision.shadow, 1), else_=0))).where(
            Decision.company_id == company_id,
            Decision.snapshot_id.is_(None),
            Decision.decided_at.between(span.begin, span.end),
        )
    ).one()
    return int(row[0]), int(row[1] or 0)


def ids_without_state(session: Session, company_id: int, span: Span) -> list[str]:
    """Ids of the decisions of a span that name no snapshot."""
    return list(
        session.scalars(
            select(Decision.id).where(
                Decision.company_id == company_id,
                Decision.snapshot_id.is_(None),
                Decision.decided_at.between(span.begin, span.end),
            )
        )
    )


def first_logged(session: Session, company_id: int) -> datetime | None:
    """The moment of the company's first snapshot or decision."""
    first = [
        session.scalar(
            select(func.min(FleetSnapshot.epoch_at)).where(FleetSnapshot.company_id == company_id)
        ),
        session.scalar(
            select(func.min(Decision.decided_at)).where(Decision.company_id == company_id)
        ),
    ]
    return min((moment for moment in first if moment is not None), default=None)


def touched_spans(session: Session, company_id: int, bookings: Sequence[int],
                  given_up: timedelta) -> list[Span]:  # fmt: skip
    """Epochs whose experiences depend on some bookings: those of all decisions about them.

    A booking that nothing was decided about was lost to the epoch that was running.
    """
    spans: list[Span] = []
    for some in parts(sorted(set(bookings))):
        rows = session.execute(
            select(
                Decision.booking_id, func.min(FleetSnapshot.epoch_at),
                func.max(FleetSnapshot.epoch_at),
            )
            .join(FleetSnapshot, FleetSnapshot.id == Decision.snapshot_id)
            .where(Decision.booking_id.in_(some), Decision.company_id == company_id)
            .group_by(Decision.booking_id)
        )  # fmt: skip
        seen = {row[0]: Span(row[1], row[2]) for row in rows}
        spans += seen.values()
        unseen = bookings_of(session, company_id, set(some) - seen.keys())
        for booking in unseen.values():
            moment = max(booking.scheduled_time, booking.created_at) + given_up
            running = session.scalar(
                select(func.max(FleetSnapshot.epoch_at)).where(
                    FleetSnapshot.company_id == company_id, FleetSnapshot.epoch_at <= moment
                )
            )
            if running is not None:
                spans.append(Span(running, running))
    return spans
