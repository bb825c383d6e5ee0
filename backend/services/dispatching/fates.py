"""What dispatching comes to: the fate of each booking, and one company's epoch."""

from dataclasses import dataclass
from datetime import datetime

from services.rl.errors import AtmrError
from services.rl.experiments.routed import Routed

from .fleet import Fleet
from .schedule import Planned

Limit = tuple[datetime | None, bool]
"""Until when a booking must be decided (None: too late, or nobody fits), and whether some vehicle
of the company fits."""


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

    @classmethod
    def of(
        cls,
        fleet: Fleet,
        booking_id: int,
        routed: Routed,
        job: Planned | None,
        limit: Limit,
        again: datetime,
        *,
        decision_id: str = "",
        assignment_id: int | None = None,
    ) -> "Fate":
        """What an epoch comes to for one booking.

        Args:
            fleet: As it was decided on.
            booking_id: Which.
            routed: What was decided.
            job: As the driver will do it; None: deferred.
            limit: Of this booking.
            again: The next epoch.
            decision_id: Of the log, if it is logged.
            assignment_id: Of the host's table, if it is committed.
        """
        return cls(
            decision_id=decision_id,
            booking_id=booking_id,
            driver_id=None if job is None or routed.driver_id is None else int(routed.driver_id),
            assignment_id=assignment_id,
            routed=routed,
            planned=job,
            planned_pickup_at=None if job is None else fleet.day.instant(job.pickup_min),
            decide_again_at=again if job is None else None,
            must_decide_by=limit[0],
            overdue=booking_id in fleet.stretched,
            serviceable=limit[1],
        )


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
