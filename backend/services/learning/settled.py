"""What became of decisions: one reading of the host's rows, and when it is final.

A booking's outcome belongs to one decision: the assignment by which it was served, missed or
called off, else the last decision about it. What came before was withdrawn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from routes.statuses import ASSIGNED, CANCELED, COMPLETED, IN_PROGRESS, NO_SHOW, UNASSIGNED
from services.rl.data.experience import Ending
from services.rl.simulation.scenarios import Rules

SETTLE: Final = timedelta(hours=6)
"""After the grace of a booking: who has not come by then does not come."""

UNREPORTED: Final = timedelta(hours=24)
"""After that: an outcome that nobody has told by then is not waited for."""

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""By so much the clocks of two processes, or of a driver's telephone, may differ."""

DELETED: Final = "booking_deleted"
IMPOSSIBLE: Final = "impossible_times"
TWICE: Final = "outcome_twice"
UNTOLD: Final = "unreported"


class BookingRow(NamedTuple):
    """A booking as the host has it."""

    id: int
    status: str
    scheduled_time: datetime
    created_at: datetime
    cancelled_at: datetime | None
    priority: int


class AssignmentRow(NamedTuple):
    """An assignment as the host has it."""

    id: int
    booking_id: int
    driver_id: int
    assigned_at: datetime
    status: str
    actual_pickup_at: datetime | None
    actual_dropoff_at: datetime | None


@dataclass(frozen=True)
class Came:
    """What a decision to assign came to.

    Attributes:
        ending: None: not known yet, or left out.
        pickup_at: That happened.
        called_off_at: When the patient called, if known.
        left_out: Why it makes no experience.
    """

    ending: Ending | None = None
    pickup_at: datetime | None = None
    called_off_at: datetime | None = None
    left_out: str = ""


PENDING_YET: Final = Came()


@dataclass(frozen=True)
class Settling:
    """Reads outcomes at one moment.

    Attributes:
        now: The moment.
        given_up: From the promise until nobody comes any more: window and grace.
    """

    now: datetime
    given_up: timedelta

    @classmethod
    def at(cls, now: datetime, rules: Rules) -> "Settling":
        """By a scenario's rules."""
        return cls(now, timedelta(minutes=rules.window_min + rules.grace_min))

    def given_up_at(self, booking: BookingRow) -> datetime:
        """When a booking's window and grace are over."""
        return max(booking.scheduled_time, booking.created_at) + self.given_up

    def lost(self, booking: BookingRow) -> bool | None:
        """Whether an open booking without a driver was left unserved; None: not known yet.

        As in the simulator, who calls off after the grace was lost before.
        """
        if booking.status == UNASSIGNED:
            return True
        given_up_at = self.given_up_at(booking)
        if booking.status == CANCELED or booking.cancelled_at is not None:
            called = booking.cancelled_at
            return called is not None and called > given_up_at
        if booking.status in (ASSIGNED, IN_PROGRESS, COMPLETED, NO_SHOW):
            return False  # somebody else saw to it
        return True if self.now > given_up_at + SETTLE else None

    def came(
        self,
        booking: BookingRow | None,
        assignments: Sequence[AssignmentRow],
        driver_id: int,
        decided_at: datetime,
        last: bool,
    ) -> Came:
        """What came of giving a booking to a driver.

        Args:
            booking: None: it is not there any more.
            assignments: Of the booking.
            driver_id: To whom it was given.
            decided_at: When.
            last: No later decision about the booking was acted on.
        """
        if booking is None:
            return Came(left_out=DELETED)
        own = own_assignment(assignments, driver_id, decided_at)
        if own is not None and own.actual_pickup_at is not None:
            return self._picked_up(booking, assignments, own, decided_at)
        if own is not None and own.status == NO_SHOW:
            return Came(Ending.NO_SHOW)
        if booking.status == NO_SHOW and last and own is not None and own.status != CANCELED:
            return Came(Ending.NO_SHOW)
        if not last:
            return Came(Ending.WITHDRAWN)
        if booking.status == CANCELED or booking.cancelled_at is not None:
            return Came(Ending.CALLED_OFF, called_off_at=booking.cancelled_at)
        if own is None or own.status == CANCELED:  # the driver was taken back
            lost = self.lost(booking)
            if lost is None:
                return PENDING_YET
            return Came(Ending.UNSERVED if lost else Ending.WITHDRAWN)
        if booking.status == UNASSIGNED:
            return Came(Ending.UNSERVED)
        if any(a.actual_pickup_at and a.actual_dropoff_at for a in assignments):
            return Came(Ending.WITHDRAWN)  # another driver brought the patient
        return self._untold(booking)

    def _picked_up(
        self,
        booking: BookingRow,
        assignments: Sequence[AssignmentRow],
        own: AssignmentRow,
        decided_at: datetime,
    ) -> Came:
        pickup, dropoff = own.actual_pickup_at, own.actual_dropoff_at
        assert pickup is not None
        too_early = pickup < booking.created_at or pickup < decided_at - CLOCKS_DIFFER
        if too_early or (dropoff is not None and dropoff < pickup):
            return Came(left_out=IMPOSSIBLE)
        if dropoff is None:
            return self._untold(booking)
        first = min(
            (a for a in assignments if a.actual_pickup_at and a.actual_dropoff_at),
            key=lambda a: (a.actual_dropoff_at, a.id),
        )
        if first.id != own.id:  # a patient is brought once
            return Came(left_out=TWICE)
        return Came(Ending.COMPLETED, pickup)

    def _untold(self, booking: BookingRow) -> Came:
        if self.now > self.given_up_at(booking) + SETTLE + UNREPORTED:
            return Came(left_out=UNTOLD)
        return PENDING_YET


def own_assignment(
    assignments: Iterable[AssignmentRow], driver_id: int, decided_at: datetime
) -> AssignmentRow | None:
    """The assignment that a decision made: of its driver, and of its moment."""
    own = [
        a
        for a in assignments
        if a.driver_id == driver_id and abs(a.assigned_at - decided_at) <= CLOCKS_DIFFER
    ]
    return min(own, key=lambda a: (abs(a.assigned_at - decided_at), a.id), default=None)
