"""What became of a company's bookings, by the arm that decided them: one definition for all pages.

The arm is that of the booking's last decision that was acted on, whoever answered and whatever a
person changed afterwards (intention to treat). Only bookings that are due count: not those that the
patient called off or missed. A booking is on time, late (served, not on time) or unserved; one
whose time has not come yet is open.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Assignment, Booking, Decision
from routes.statuses import CANCELED, NO_SHOW, UNASSIGNED
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
    """

    booking_id: int
    fate: Fate
    arm: str
    unit: str
    wait_min: float | None
    scheduled_at: datetime
    pickup_at: datetime | None
    driver_id: int | None


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


def read_outcomes(
    session: Session,
    company_id: int,
    begin: datetime,
    end: datetime,
    now: datetime,
    rules: Rules,
    *,
    most: int = MOST_BOOKINGS,
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
    """
    of_period = (
        Booking.company_id == company_id,
        Booking.scheduled_time >= begin,
        Booking.scheduled_time < end,
    )
    bookings = session.execute(
        select(
            Booking.id, Booking.status, Booking.scheduled_time, Booking.created_at,
            Booking.is_urgent, Booking.cancelled_at,
        )
        .where(*of_period)
        .order_by(Booking.scheduled_time, Booking.id)
        .limit(most + 1)
    ).all()  # fmt: skip
    pickups = {
        row.booking_id: row
        for row in session.execute(
            select(Assignment.booking_id, Assignment.actual_pickup_at, Assignment.driver_id)
            .join(Booking, Booking.id == Assignment.booking_id)
            .where(*of_period, Assignment.actual_pickup_at.is_not(None))
            .limit(2 * most)
        )
    }
    arms = _arms(session, of_period, "assign", most)
    given_up = timedelta(minutes=rules.window_min + rules.grace_min)
    waiting = [b.id for b in bookings if b.id not in arms and b.scheduled_time + given_up < now]
    if waiting:
        arms = _arms(session, (*of_period, Booking.id.in_(waiting[:400])), "defer", most) | arms
    rows = []
    for b in bookings[:most]:
        pickup = pickups.get(b.id)
        at, driver = (None, None) if pickup is None else (pickup.actual_pickup_at, pickup.driver_id)
        rows.append(_outcome(b, at, driver, arms.get(b.id, ("", "")), now, rules))
    return Outcomes(tuple(rows), len(bookings) > most)


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
    given_up = timedelta(minutes=rules.window_min + rules.grace_min)
    lead = b.scheduled_time - b.created_at
    immediate = b.is_urgent or lead <= timedelta(minutes=IMMEDIATE_LEAD_MIN)
    promised = max(b.scheduled_time, b.created_at)
    wait = None
    if pickup_at is not None:
        start = b.created_at if immediate else promised
        wait = max(0.0, (pickup_at - start).total_seconds() / 60.0)
    fate: Fate
    if b.status in (CANCELED, NO_SHOW) or b.cancelled_at is not None:
        fate = "not_due"
    elif wait is not None:
        fate = "on_time" if wait <= rules.on_time_min else "late"
    elif b.status == UNASSIGNED or promised + given_up < now:
        fate = "unserved"
    else:
        fate = "open"
    return Outcome(b.id, fate, *arm, wait, b.scheduled_time, pickup_at, driver_id)


def _arms(
    session: Session, of_period: tuple[object, ...], action: str, most: int
) -> dict[int, tuple[str, str]]:
    """Arm and unit of each booking's last decision of a kind that was acted on."""
    found = session.execute(
        select(Decision.booking_id, Decision.arm, Decision.unit)
        .join(Booking, Booking.id == Decision.booking_id)
        .where(*of_period, Decision.action == action, Decision.shadow.is_(False))  # type: ignore[arg-type]
        .order_by(Decision.decided_at)
        .limit(20 * most)
    )
    return {row.booking_id: (row.arm, row.unit) for row in found}
