"""Who makes a request: the API key in ``Authorization: Bearer`` (or ``X-API-Key``)."""

import logging

from flask import g, request
from sqlalchemy.exc import SQLAlchemyError

from access import Caller, find_caller, note_use
from extensions import services

from .problems import Problem

_LOG = logging.getLogger("atmr.auth")
_TOO_MANY = {"Retry-After": "60"}


def authenticate(scope: str) -> Caller:
    """The caller, who has the scope and is within the rate limit.

    Raises:
        Problem: 401 without a valid key, 403 without the scope, 429 beyond the limit.
    """
    at_work = services()
    address = request.remote_addr or "unknown"
    now = at_work.clock.now()
    key = _presented()
    found = None
    if key:
        with at_work.database.engine.connect() as connection:
            found = find_caller(connection, key, now)
    if found is None:
        # Only now: behind one proxy, others' wrong keys must not lock out who has a right one.
        if not at_work.limits.allow_address(address):
            at_work.metrics.rate_limited.inc()
            raise Problem(
                429, "too many requests with a wrong key; wait a minute", headers=_TOO_MANY
            )
        at_work.limits.count_failure(address)
        at_work.metrics.refused_keys.inc()
        raise Problem(
            401,
            "a valid API key is needed: Authorization: Bearer <key>",
            field="header.Authorization",
            headers={"WWW-Authenticate": 'Bearer realm="atmr"'},
        )
    caller, should_note = found
    g.atmr_caller = caller
    if not at_work.limits.allow_key(caller.prefix):
        at_work.metrics.rate_limited.inc()
        raise Problem(429, "this key's rate limit is reached", headers=_TOO_MANY)
    if not caller.may(scope):
        raise Problem(403, f"this key lacks the scope {scope!r}", field="header.Authorization")
    if should_note:
        _note(caller)
    return caller


def _presented() -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("X-API-Key", "").strip()


def _note(caller: Caller) -> None:
    """Note the use of a key; a database that is busy writing costs the note, not the request."""
    at_work = services()
    try:
        with at_work.database.writing() as session:
            note_use(session, caller, at_work.clock.now())
    except SQLAlchemyError as error:
        _LOG.warning("use of a key not noted", extra={"kind": type(error).__name__})
