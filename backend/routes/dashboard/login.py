"""Logging in with an API key, logging out, and the page of a dashboard that is switched off."""

import logging

from flask import Response, redirect, render_template, request, url_for
from sqlalchemy.exc import SQLAlchemyError

from access import find_caller, note_use
from extensions import services
from routes.problems import Problem

from .blueprint import dashboard
from .sessions import change_session, check_csrf, log_in, log_out, open_session

_LOG = logging.getLogger("atmr.dashboard")


@dashboard.get("/login")
def login() -> str:
    """The form."""
    return render_template("atmr_dashboard/login.html", wrong="")


@dashboard.post("/login")
def log_in_with_key() -> tuple[str, int] | Response:
    """Check the key; too many wrong ones from an address are refused for a minute.

    Raises:
        Problem: 403 without the form's token, 429 after too many wrong keys.
    """
    check_csrf()
    at_work = services()
    address = request.remote_addr or "unknown"
    if not at_work.limits.allow_address(address):
        at_work.metrics.rate_limited.inc()
        raise Problem(
            429, "too many requests with a wrong key; wait a minute", headers={"Retry-After": "60"}
        )
    now = at_work.clock.now()
    key = request.form.get("key", "").strip()[:200]
    found = None
    if key:
        with at_work.database.engine.connect() as connection:
            found = find_caller(connection, key, now)
    if found is None:
        at_work.limits.count_failure(address)
        at_work.metrics.refused_keys.inc()
        return render_template("atmr_dashboard/login.html", wrong="login.wrong"), 401
    caller, _ = found
    if not caller.may("read"):
        return render_template("atmr_dashboard/login.html", wrong="login.no_read"), 403
    try:
        with at_work.database.writing() as session:
            note_use(session, caller, now)
    except SQLAlchemyError as error:  # a database that is busy costs the note, not the login
        _LOG.warning("use of a key not noted", extra={"kind": type(error).__name__})
    then = open_session().then
    change_session(then="")
    log_in(caller)
    return _away(then or url_for(".today"))


@dashboard.post("/logout")
def log_out_again() -> Response:
    """End the session."""
    check_csrf()
    log_out()
    return _away(url_for(".login"))


def _away(path: str) -> Response:
    return redirect(path, 303)  # type: ignore[return-value]
