"""Model versions, what they are for this company, who moved them; promote and roll back."""

from typing import Final, Literal, get_args

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from extensions import services
from routes.models import PromoteIn, RollbackIn, list_models, promote_model, roll_model_back
from routes.problems import Problem
from services.learning.status import loop_of

from .blueprint import dashboard
from .sessions import Visit, change_session, page

_Why = Literal["gate_passed", "better_results", "worse_results", "incident", "other"]
WHY: Final[tuple[str, ...]] = get_args(_Why)


@dashboard.get("/models")
@page()
def models(visit: Visit) -> str:
    """The page."""
    at_work = services()
    known = None if at_work.registry is None else list_models(visit.caller)
    previous = next(
        (m.version for m in known.models if "previous" in m.aliases) if known else iter(()), None
    )
    return render_template(
        "atmr_dashboard/models.html",
        known=known, reasons=WHY, scenario_hash=at_work.scenario.sha256, previous=previous,
        loop_now=loop_of(at_work.database, at_work.clock.now(), visit.caller.company_id),
    )  # fmt: skip


@dashboard.post("/models/<code:version>/promote")
@page("admin")
def promote(visit: Visit, version: str) -> Response:
    """Make a version the champion: the API's own operation.

    Raises:
        Problem: As the API's.
    """
    promote_model(visit.caller, version, PromoteIn(why=_why()))
    change_session(note="note.promoted")
    return redirect(url_for(".models"), 303)


@dashboard.post("/models/<code:version>/rollback")
@page("admin")
def roll_back(visit: Visit, version: str) -> Response:
    """Take the champion back: the API's own operation.

    Raises:
        Problem: As the API's.
    """
    roll_model_back(visit.caller, version, RollbackIn(why=_why()))
    change_session(note="note.rolled_back")
    return redirect(url_for(".models"), 303)


def _why() -> str:
    why = request.form.get("why", "")
    if why not in WHY:
        raise Problem(422, "a reason is needed, of those listed", field="form.why")
    return why
