"""The latest decisions, each explained; one decision, and a person's word against it."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from flask import redirect, render_template, request, url_for
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from extensions import services
from models import REASON_CODES, Booking, Decision, Driver
from routes.dispatch import OverrideIn, override_decision
from routes.problems import Problem, invalid, not_found
from services.dispatching.overrides import latest_decision, refusal

from .blueprint import dashboard
from .formats import Formats
from .sessions import Visit, change_session, page
from .told import Teller
from .words import words_of

_PAGE: Final = 40
_BACK: Final = timedelta(hours=48)
_MOST_DRIVERS: Final = 500


@dashboard.get("/decisions")
@page()
def decisions(visit: Visit) -> str:
    """The latest decisions of two days; without deferrals unless they are asked for."""
    everything = request.args.get("all") == "1"
    until = _moment(request.args.get("until", "")) or visit.now
    statement = (
        select(Decision)
        .where(
            Decision.company_id == visit.company_id,
            Decision.decided_at <= until,
            Decision.decided_at > until - _BACK,
        )
        .order_by(Decision.decided_at.desc(), Decision.seq.desc())
        .limit(_PAGE + 1)
    )
    if not everything:
        statement = statement.where(
            (Decision.action == "assign") | (Decision.source == "human"),
            Decision.shadow.is_(False),
        )
    with services().database.reading() as session:
        rows = list(session.scalars(statement))
    older = rows[_PAGE].decided_at.timestamp() if len(rows) > _PAGE else None
    return render_template(
        "atmr_dashboard/decisions.html",
        rows=rows[:_PAGE], older=older, everything=everything, teller=teller(visit),
        latest="until" not in request.args,
    )  # fmt: skip


@dashboard.get("/decisions/<code:decision_id>")
@page()
def decision(visit: Visit, decision_id: str) -> str:
    """One decision: explanation, what was logged, and the form to override it.

    Raises:
        Problem: 404 if it is not the company's.
    """
    with services().database.reading() as session:
        row = _own(session, visit, decision_id)
        booking = session.get(Booking, row.booking_id)
        latest = latest_decision(session, row.booking_id)
        drivers = drivers_of(session, visit) if visit.may("dispatch") else []
    return render_template(
        "atmr_dashboard/decision.html",
        row=row, latest=latest, drivers=drivers, reasons=REASON_CODES, teller=teller(visit),
        cannot=cannot_override(visit, row, booking, latest),
    )  # fmt: skip


@dashboard.post("/decisions/<code:decision_id>/override")
@page("dispatch")
def override(visit: Visit, decision_id: str) -> Response:
    """Replace a decision by a person's: the API's own operation.

    Raises:
        Problem: 404, 409 or 422 as the API.
    """
    driver = request.form.get("driver", "")
    try:
        body = OverrideIn.model_validate(
            {
                "driver_id": None if driver == "nobody" else int(driver),
                "reason_code": request.form.get("why", ""),
            }
        )
    except ValidationError as error:
        raise invalid(error, "form") from None
    except ValueError:
        raise Problem(422, "a driver is needed, of those listed", field="form.driver") from None
    with services().database.writing() as session:
        row = _own(session, visit, decision_id)
        override_decision(session, visit.caller, decision_id, body)
        booking_id = row.booking_id
    change_session(note="note.overridden")
    return redirect(url_for(".booking", booking_id=booking_id), 303)


def teller(visit: Visit) -> Teller:
    """Tells decisions in the visit's language."""
    fmt = Formats(visit.language, visit.zone)
    return Teller(words_of(visit.language), fmt, services().scenario.rules)


def _own(session: Session, visit: Visit, decision_id: str) -> Decision:
    row = session.get(Decision, decision_id)
    if row is None or row.company_id != visit.company_id:
        raise not_found("decision", "path.decision_id")
    return row


def cannot_override(
    visit: Visit, row: Decision, booking: Booking | None, latest: Decision | None
) -> str | None:
    """Why a decision cannot be overridden; None: it can."""
    why = refusal(row, booking, latest)
    return why if why is not None or visit.may("dispatch") else "scope"


def drivers_of(session: Session, visit: Visit) -> list[Any]:
    """The company's active drivers, to choose from."""
    return list(
        session.execute(
            select(Driver.id, Driver.wheelchair_vehicle)
            .where(Driver.company_id == visit.company_id, Driver.is_active)
            .order_by(Driver.id)
            .limit(_MOST_DRIVERS)
        )
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
