"""What dispatching comes to: the fate of each booking, and one company's epoch."""

from dataclasses import dataclass
from datetime import datetime

from services.rl.errors import AtmrError
from services.rl.experiments.routed import Routed

from .schedule import Planned


class DispatchError(AtmrError):
    """A booking that cannot be dispatched as asked."""


class NotOpenError(DispatchError):
    """A booking that is not open, or not any more: another request may have been faster."""


class BusyError(DispatchError):
    """The fleet changed again and again while it was decided; nothing was stored, ask again."""


class ConflictError(Exception):
    """What a decision rests on has changed; decide again."""


@dataclass(frozen=True)
class Fate:
    """What became of one booking.

    Attributes:
        decision_id: Of the log.
        booking_id: The booking.
        driver_id: Who takes it; None: deferred.
        assignment_id: Of the host's table; None: deferred.
        routed: What the arm decided, and by which rules.
        planned: The job, where it is assigned.
        planned_pickup_at: When, by plan.
        decide_again_at: The next epoch; None: assigned.
        must_decide_by: From then on nobody can be there within the window any more; None where
            that has passed, or nobody may serve it at all.
        overdue: Nobody can reach the patient within the grace: tell them.
        serviceable: Some vehicle on duty fits.
    """

    decision_id: str
    booking_id: int
    driver_id: int | None
    assignment_id: int | None
    routed: Routed
    planned: Planned | None
    planned_pickup_at: datetime | None
    decide_again_at: datetime | None
    must_decide_by: datetime | None
    overdue: bool
    serviceable: bool


@dataclass(frozen=True)
class Epoch:
    """One company's epoch.

    Attributes:
        company_id: Whose.
        at: The present moment.
        fates: One per booking decided.
        snapshot_id: Of the logged state; None: there was nothing to decide.
    """

    company_id: int
    at: datetime
    fates: tuple[Fate, ...]
    snapshot_id: int | None
