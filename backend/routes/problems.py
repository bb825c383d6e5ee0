"""Errors as the API tells them: problem documents (RFC 9457) that name the field.

Never a stack trace, never the input's content: what was sent may name a patient.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Response, g, request
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import HTTPException

from services.dispatching.fates import BusyError
from services.rl.errors import AtmrError

CONTENT_TYPE = "application/problem+json"
_LOG = logging.getLogger("atmr.errors")


class FieldError(BaseModel):
    """One field of the request and what is wrong with it."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """What every 4xx and 5xx answer holds (RFC 9457), with the fields at fault."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError]


@dataclass
class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """Raise this anywhere in a request to answer with a problem document.

    Args:
        status: HTTP status, 400 to 599.
        detail: One sentence; no input content.
        field: The field at fault, where there is one.
        errors: Several fields at fault, as (field, message).
        headers: Extra response headers.
    """

    status: int
    detail: str
    field: str | None = None
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__init__(self.detail)
        if self.field is not None:
            self.errors = ((self.field, self.detail), *self.errors)


def not_found(what: str, field: str) -> Problem:
    """404 for a row that is not there, or is another company's: the answer is the same."""
    return Problem(404, f"there is no such {what}", field=field)


def invalid(error: ValidationError, where: str) -> Problem:
    """422 (400 for what is no JSON) from pydantic's findings, without the input."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if any(item["type"] == "json_invalid" for item in found):
        return Problem(400, "the body is not JSON", field=where)
    fields = [
        (".".join([where, *(str(part)[:60] for part in item["loc"])]), _sentence(item["msg"]))
        for item in found[:20]
    ]
    more = len(found) - len(fields)
    fields += [(where, f"and {more} more errors")] if more else []
    return Problem(422, f"{fields[0][0]}: {fields[0][1]}", errors=fields)


def answer(problem: Problem) -> Response:
    """The response of a problem."""
    status = HTTPStatus(problem.status)
    document = ProblemDocument(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=problem.detail,
        instance=request.path,
        request_id=getattr(g, "atmr_request_id", ""),
        errors=[FieldError(field=field, message=text) for field, text in problem.errors],
    )
    # Lone surrogates can stand in a path: ASCII escapes carry them, UTF-8 would not.
    text = json.dumps(document.model_dump(), ensure_ascii=True)
    response = Response(text, status=status.value, content_type=CONTENT_TYPE)
    response.headers.extend(dict(problem.headers or {}))
    return response


def from_exception(error: Exception) -> Problem:
    """The problem that an exception is to the caller; 500 without details if it is our fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _from_http(error)
    if isinstance(error, BusyError):
        return Problem(503, str(error), headers={"Retry-After": "1"})
    if isinstance(error, AtmrError):
        return Problem(422, str(error))
    if isinstance(error, SQLAlchemyError):
        return _from_database(error)
    _LOG.error("unexpected error", exc_info=error, extra={"kind": type(error).__name__})
    return Problem(500, "something went wrong on our side; the log has the request id")


def _from_http(error: HTTPException) -> Problem:
    status = error.code or 500
    if status < 400:  # a redirect for a missing slash: there are none in this API
        status = 404
    said = {
        404: "there is nothing at this address",
        405: f"{request.method} is not possible here",
        413: "the body is larger than this server takes",
        415: "the body must be JSON: Content-Type application/json",
    }
    headers = {k: v for k, v in error.get_headers() if k in {"Allow", "Retry-After"}}
    phrase = HTTPStatus(status).phrase.lower()
    return Problem(status, said.get(status, phrase), headers=headers)


def _from_database(error: SQLAlchemyError) -> Problem:
    _LOG.warning("database error", extra={"kind": type(error).__name__})
    if isinstance(error, StaleDataError):
        return Problem(409, "it was changed at the same time by another request; read it again")
    if isinstance(error, IntegrityError):
        return Problem(409, "it conflicts with what another request stored")
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return Problem(
            503,
            "the database does not answer or is busy; nothing was stored, try again",
            headers={"Retry-After": "1"},
        )
    _LOG.error("unexpected database error", exc_info=error)
    return Problem(500, "something went wrong on our side; the log has the request id")


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def problem_schema() -> dict[str, Any]:
    """Reference to `ProblemDocument` in an OpenAPI description."""
    return {"$ref": "#/components/schemas/ProblemDocument"}
