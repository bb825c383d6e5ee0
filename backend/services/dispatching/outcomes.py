"""What became of a company's bookings, by the arm that decided them: one definition for all pages.

The arm is that of the booking's last decision that was acted on, whoever answered and whatever a
person changed afterwards (intention to treat). Only bookings that are due count: not those that the
patient called off or missed. A booking is on time, late (served, not on time) or unserved; one
whose time has not come yet is open.
"""

from collections import defaultdict
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Assignment, Booking, Decision, complete
from routes.statuses import CANCELED, NO_SHOW, OVER, PENDING, UNASSIGNED
from services.rl.simulation.scenarios import Rules

from .fleet import IMMEDIATE_LEAD_MIN

Fate = Literal["on_time", "late", "unserved", "open", "not_due"]

MOST_BOOKINGS: Final = 5000
"""Of one period; beyond that the latest are left out and `Outcomes.cut` says so."""


@dataclass(frozen=True)
class Outcome:
    """One booking.

    Attributes:
        booking_id: Which.
        fate: What became of it, so far.
        arm: Of the decision; empty: none was made.
        unit: By which the arm was drawn; empty: nothing was drawn.
        wait_min: From the promise (from the request, where it is immediate) to the pickup.
        scheduled_at: The promise.
        pickup_at: When the driver was there.
        driver_id: Who came.
        created_at: When it was asked for.
        priority: 1 (can wait) to 5 (urgent).
        late_min: From the end of the promised window to the pickup.
    """

    booking_id: int
    fate: Fate
    arm: str
    unit: str
    wait_min: float | None
    scheduled_at: datetime
    pickup_at: datetime | None
    driver_id: int | None
    created_at: datetime
    priority: int
    late_min: float | None

    def given_up_at(self, rules: Rules) -> datetime:
        """When nobody comes any more: from then on the outcome is known, whatever it is."""
        return given_up_at(self.scheduled_at, self.created_at, rules)


def given_up_at(scheduled_at: datetime, created_at: datetime, rules: Rules) -> datetime:
    """End of the window (of the promise, or of the request where that came later) and grace."""
    patience = timedelta(minutes=rules.window_min + rules.grace_min)
    return max(scheduled_at, created_at) + patience


@dataclass(frozen=True)
class Outcomes:
    """The bookings of a period; ``cut``: there were more than could be read."""

    rows: tuple[Outcome, ...]
    cut: bool

    def of(self, arm: str | None = None) -> "Counts":
        """Counts of one arm, or of all."""
        counts: dict[str, int] = defaultdict(int)
        waits = []
        for row in self.rows:
            if arm is None or row.arm == arm:
                counts[row.fate] += 1
                if row.wait_min is not None and row.fate in ("on_time", "late"):
                    waits.append(row.wait_min)
        mean = sum(waits) / len(waits) if waits else None
        return Counts(
            counts["on_time"], counts["late"], counts["unserved"], counts["open"],
            counts["not_due"], mean,
        )  # fmt: skip

    def arms(self) -> list[str]:
        """Arms that decided something, those of the experiment first."""
        found = {row.arm for row in self.rows if row.arm}
        return sorted(found, key=lambda arm: (arm not in ("heuristic", "rl"), arm))


@dataclass(frozen=True)
class Counts:
    """How many bookings came to what."""

    on_time: int
    late: int
    unserved: int
    open: int
    not_due: int
    wait_mean_min: float | None

    @property
    def known(self) -> int:
        """Due, and with an outcome."""
        return self.on_time + self.late + self.unserved


Known = MutableMapping[int, Outcome]
"""Outcomes that are final, by booking: a page that is looked at all day keeps them for a while."""


def read_outcomes(
    session: Session,
    company_id: int,
    begin: datetime,
    end: datetime,
    now: datetime,
    rules: Rules,
    *,
    most: int = MOST_BOOKINGS,
    known: Known | None = None,
) -> Outcomes:
    """Outcomes of bookings promised for ``begin`` ≤ time < ``end``, oldest first.

    Args:
        session: Reading.
        company_id: Whose.
        begin: Of the period.
        end: Of the period.
        now: The present moment.
        rules: When a pickup is late, and when nobody came.
        most: Bookings read at most.
        known: Final outcomes of earlier calls for this company; those found now are added.
    """
    bookings = session.execute(
        select(
            Booking.id,
            Booking.status,
            Booking.scheduled_time,
            Booking.created_at,
            Booking.is_urgent,
            Booking.priority,
            Booking.cancelled_at,
        )
        .where(
            Booking.company_id == company_id,
            Booking.scheduled_time >= begin,
            Booking.scheduled_time < end,
            complete(),
        )
        .order_by(Booking.scheduled_time, Booking.id)
        .limit(most + 1)
    ).all()
    found = {} if known is None else known
    new = [b for b in bookings[:most] if b.id not in found]
    pickups = _pickups(session, [b.id for b in new if b.status not in (PENDING, UNASSIGNED)])
    nothing = ("", "")
    told: dict[int, Outcome] = {}
    for b in new:
        at, driver = pickups.get(b.id, (None, None))
        told[b.id] = _outcome(b, at, driver, nothing, now, rules)
    arms = _arms(session, [i for i, o in told.items() if o.fate not in ("open", "not_due")])
    told = {i: replace(o, arm=arms[i][0], unit=arms[i][1]) if i in arms else o
            for i, o in told.items()}  # fmt: skip
    rows = tuple(told[b.id] if b.id in told else found[b.id] for b in bookings[:most])
    found.update((b.id, told[b.id]) for b in new if b.status in OVER)
    return Outcomes(rows, len(bookings) > most)


def outcome_of(
    booking: Booking,
    assignments: Sequence[Assignment],
    decisions: Sequence[Decision],
    now: datetime,
    rules: Rules,
) -> Outcome:
    """The outcome of one booking, from its rows (decisions that were acted on, oldest first)."""
    came = next((a for a in reversed(assignments) if a.actual_pickup_at is not None), None)
    at, driver = (None, None) if came is None else (came.actual_pickup_at, came.driver_id)
    deciding = [d for d in decisions if d.action == "assign"] or decisions
    arm = (deciding[-1].arm, deciding[-1].unit) if deciding else ("", "")
    return _outcome(booking, at, driver, arm, now, rules)


def _outcome(
    b: Any,
    pickup_at: datetime | None,
    driver_id: int | None,
    arm: tuple[str, str],
    now: datetime,
    rules: Rules,
) -> Outcome:
    """The definition: late after ``on_time_min`` of waiting, unserved after window and grace."""
    lead = b.scheduled_time - b.created_at
    immediate = b.is_urgent or lead <= timedelta(minutes=IMMEDIATE_LEAD_MIN)
    promised = max(b.scheduled_time, b.created_at)
    wait = late = None
    if pickup_at is not None:
        start = b.created_at if immediate else promised
        wait = max(0.0, (pickup_at - start).total_seconds() / 60.0)
        late = max(0.0, (pickup_at - promised).total_seconds() / 60.0 - rules.window_min)
    fate: Fate
    if b.status in (CANCELED, NO_SHOW) or b.cancelled_at is not None:
        fate = "not_due"
    elif wait is not None:
        fate = "on_time" if wait <= rules.on_time_min else "late"
    elif b.status == UNASSIGNED or given_up_at(b.scheduled_time, b.created_at, rules) < now:
        fate = "unserved"
    else:
        fate = "open"
    return Outcome(
        b.id, fate, *arm, wait, b.scheduled_time, pickup_at, driver_id, b.created_at, b.priority,
        late,
    )  # fmt: skip


def _pickups(session: Session, bookings: Sequence[int]) -> dict[int, tuple[datetime, int]]:
    """When each booking was picked up, and by whom."""
    found: dict[int, tuple[datetime, int]] = {}
    for some in _chunks(bookings):
        rows = session.execute(
            select(Assignment.booking_id, Assignment.actual_pickup_at, Assignment.driver_id)
            .where(Assignment.booking_id.in_(some), Assignment.actual_pickup_at.is_not(None))
            .order_by(Assignment.id)
        )
        for row in rows:
            if row.actual_pickup_at is not None:
                found[row.booking_id] = (row.actual_pickup_at, row.driver_id)
    return found


def _arms(session: Session, bookings: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Arm and unit of each booking's last assignment, or, where it has none, last deferral."""
    found: dict[int, tuple[str, str]] = {}
    for action in ("assign", "defer"):
        missing = [i for i in bookings if i not in found]
        for some in _chunks(missing):
            rows = session.execute(
                select(Decision.booking_id, Decision.arm, Decision.unit)
                .where(
                    Decision.booking_id.in_(some),
                    Decision.action == action,
                    Decision.shadow.is_(False),
                )
                .order_by(Decision.decided_at)
            )
            found |= {row.booking_id: (row.arm, row.unit) for row in rows}
    return found


def _chunks(ids: Sequence[int], size: int = 500) -> Iterator[Sequence[int]]:
    """Parts that every database takes as parameters."""
    for i in range(0, len(ids), size):
        yield ids[i : i + size]
