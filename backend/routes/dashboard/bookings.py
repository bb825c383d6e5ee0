"""One booking: its timeline, why it is late, who could take it, and the override form."""

import logging

from flask import render_template
from sqlalchemy import select

from extensions import services
from models import REASON_CODES, Assignment, BookingPin, Commitment, Decision
from routes.bookings import own_booking
from routes.problems import not_found
from routes.schema import MAX_ID
from routes.statuses import PENDING
from services.dispatching.fates import DispatchError
from services.dispatching.outcomes import outcome_of
from services.dispatching.overrides import latest_decision
from services.dispatching.part import PART, dispatcher
from services.dispatching.suggestions import Suggested, suggest
from services.rl.errors import AtmrError

from .blueprint import dashboard
from .decisions import cannot_override, drivers_of, teller
from .sessions import Visit, page
from .timeline import Story, moments, why

_LOG = logging.getLogger("atmr.dashboard")
_MOST_DECISIONS = 500


@dashboard.get("/bookings/<id:booking_id>")
@page()
def booking(visit: Visit, booking_id: int) -> str:
    """The page.

    Raises:
        Problem: 404 if it is not the company's.
    """
    if booking_id > MAX_ID:
        raise not_found("booking", "path.booking_id")
    rules = services().scenario.rules
    with services().database.reading() as session:
        row = own_booking(session, visit.caller, booking_id)
        decisions = list(
            session.scalars(
                select(Decision)
                .where(Decision.booking_id == booking_id, Decision.shadow.is_(False))
                .order_by(Decision.decided_at.desc(), Decision.overridden_by.is_not(None))
                .limit(_MOST_DECISIONS)
            )
        )[::-1]
        assignments = list(
            session.scalars(
                select(Assignment)
                .where(Assignment.booking_id == booking_id)
                .order_by(Assignment.id)
            )
        )
        story = Story(
            row, decisions, assignments, session.get(Commitment, booking_id),
            session.get(BookingPin, booking_id),
            outcome_of(row, assignments, decisions, visit.now, rules),
        )  # fmt: skip
        drivers = drivers_of(session, visit) if visit.may("dispatch") else []
        latest = latest_decision(session, booking_id)
    told = teller(visit)
    return render_template(
        "atmr_dashboard/booking.html",
        story=story, moments=moments(story, told, visit.now), why=why(story, told), row=latest,
        cannot=None if latest is None else cannot_override(visit, latest, row, latest),
        drivers=drivers, reasons=REASON_CODES, suggested=_suggested(visit, story),
    )  # fmt: skip


def _suggested(visit: Visit, story: Story) -> Suggested | None:
    """Drivers who could take an open booking; None where nobody can be asked."""
    if story.booking.status != PENDING or PART not in services().parts:
        return None
    try:
        return suggest(dispatcher(), visit.company_id, story.booking.id, 5, visit.language)
    except DispatchError:  # not of this operating day, or no active driver
        return None
    except AtmrError as error:
        _LOG.warning("no suggestions", extra={"reason": str(error)})
        return None
