"""One decorator for every endpoint: key, scope, schemas, unit of work, idempotency, description.

::

    bookings = ApiBlueprint("bookings", tag="Bookings")

    @bookings.operation("POST", "/bookings", scope="dispatch", body=BookingIn, answer=BookingOut,
                        status=201, work="write", idempotent=True, problems=(409,))
    def create_booking(work: Session, caller: Caller, body: BookingIn) -> BookingOut: ...

The view gets by name what it asks for: path parameters, ``caller``, ``body``, ``query``, ``work``
(a session, committed when the view returns) and ``once`` (see `idempotency`). It returns the
answer, or a `Reply` where status or headers differ. What the decorator knows is what
`routes.openapi` describes: the description cannot drift from the code.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, TypeVar

from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError

from access import Caller
from extensions import services

from .auth import authenticate
from .idempotency import AlreadyAnswered, Once
from .problems import Problem, from_exception, invalid, not_found
from .problems import answer as answer_problem
from .schema import MAX_ID

View = TypeVar("View", bound=Callable[..., Any])
Scope = Literal["dispatch", "read", "admin"]


@dataclass(frozen=True)
class Reply:
    """An answer with a status or headers of its own."""

    answer: BaseModel
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One endpoint, as the decorator was told; what `routes.openapi` reads."""

    method: str
    rule: str
    name: str
    tag: str
    summary: str
    description: str
    scope: Scope | None
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    answer: type[BaseModel] | None
    status: int
    idempotent: bool
    problems: tuple[int, ...]
    request_headers: tuple[str, ...]


class ApiBlueprint(Blueprint):
    """A blueprint whose endpoints are operations."""

    def __init__(self, name: str, *, tag: str) -> None:
        super().__init__(name, __name__)
        self.tag = tag
        self.operations: list[Operation] = []

    def operation(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
        rule: str,
        *,
        scope: Scope | None,
        answer: type[BaseModel] | None,
        body: type[BaseModel] | None = None,
        query: type[BaseModel] | None = None,
        status: int = 200,
        work: Literal["read", "write"] | None = None,
        idempotent: bool = False,
        problems: tuple[int, ...] = (),
        request_headers: tuple[str, ...] = (),
    ) -> Callable[[View], View]:
        """Declare an endpoint.

        Args:
            method: HTTP method.
            rule: Path; ids as ``<id:name>``: whole numbers that the database can hold.
            scope: The key's scope that is needed; None: open to everybody.
            answer: Schema of the answer.
            body: Schema of the JSON body; None: a body is not looked at.
            query: Schema of the query; None: parameters are refused.
            status: Of success.
            work: Gives the view a session ``work``, for reading or for writing; with ``write`` and
                ``idempotent`` the key is claimed and the answer kept in that same transaction.
            idempotent: Honour ``Idempotency-Key``. Without ``work="write"`` the view gets
                ``once`` and calls `Once.look`, `Once.claim` and `Once.keep` itself.
            problems: Statuses beyond the usual ones, for the description.
            request_headers: Headers the view reads, for the description.
        """

        def declare(view: View) -> View:
            doc = inspect.getdoc(view) or view.__name__
            summary, _, rest = doc.partition("\n")
            told = Operation(
                method=method,
                rule=rule,
                name=view.__name__,
                tag=self.tag,
                summary=summary.rstrip("."),
                description=rest.split("\nRaises:")[0].split("\nArgs:")[0].strip(),
                scope=scope,
                body=body,
                query=query,
                answer=answer,
                status=status,
                idempotent=idempotent,
                problems=problems,
                request_headers=request_headers,
            )
            self.operations.append(told)
            run = _Runner(view, told, work)

            @wraps(view)
            def endpoint(**path: Any) -> Response:
                # Here, not by error handlers: a host's own handler of a status would come first.
                try:
                    return run(path)
                except Exception as error:  # noqa: BLE001 - told as a problem, and logged
                    return answer_problem(from_exception(error))

            self.add_url_rule(rule, view.__name__, endpoint, methods=[method])
            return view

        return declare


class _Runner:
    """Carries out one operation for one request."""

    def __init__(
        self, view: Callable[..., Any], told: Operation, work: Literal["read", "write"] | None
    ) -> None:
        self._view = view
        self._told = told
        self._work = work
        self._wanted = frozenset(inspect.signature(view).parameters)

    def __call__(self, path: dict[str, Any]) -> Response:
        told = self._told
        given: dict[str, Any] = dict(path)
        caller = authenticate(told.scope) if told.scope is not None else None
        for name, value in path.items():
            if isinstance(value, int) and value > MAX_ID:
                raise not_found(name.removesuffix("_id"), f"path.{name}")
        given["caller"] = caller
        given["query"] = _query(told.query)
        if told.body is not None:
            given["body"] = _body(told.body)
        once = Once.of_request(caller) if told.idempotent and caller is not None else None
        given["once"] = once
        try:
            return self._run(given, once)
        except AlreadyAnswered as before:
            services().metrics.replays.inc()
            return _json(before.body, before.status, {"Idempotent-Replayed": "true"})

    def _run(self, given: dict[str, Any], once: Once | None) -> Response:
        with ExitStack() as stack:
            if self._work == "write":
                given["work"] = stack.enter_context(services().database.writing())
                if once is not None:
                    once.claim(given["work"])
            elif self._work == "read":
                given["work"] = stack.enter_context(services().database.reading())
            reply = self._view(**{k: v for k, v in given.items() if k in self._wanted})
            if isinstance(reply, Response):
                return reply
            if not isinstance(reply, Reply):
                reply = Reply(reply, self._told.status)
            body = reply.answer.model_dump(mode="json")
            if self._work == "write" and once is not None:
                once.keep(given["work"], reply.status, body)
        return _json(body, reply.status, reply.headers)


def _json(body: Any, status: int, headers: Mapping[str, str]) -> Response:
    response = Response(
        json.dumps(body, allow_nan=False), status=status, content_type="application/json"
    )
    response.headers.extend(dict(headers))
    return response


def _body(schema: type[BaseModel]) -> BaseModel:
    if request.mimetype != "application/json":
        raise Problem(
            415, "the body must be JSON: Content-Type application/json", field="header.Content-Type"
        )
    try:
        return schema.model_validate_json(request.get_data(cache=True))
    except ValidationError as error:
        raise invalid(error, "body") from None


def _query(schema: type[BaseModel] | None) -> BaseModel | None:
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise Problem(422, "is given more than once", field=f"query.{_plain(repeated[0])}")
    if schema is None:
        unknown = next(iter(request.args), None)
        if unknown is not None:
            raise Problem(422, "is no parameter here", field=f"query.{_plain(unknown)}")
        return None
    try:
        return schema.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise invalid(error, "query") from None


def _plain(name: str) -> str:
    """A parameter's name, cut short: it is input too."""
    return name[:60]


__all__ = ["ApiBlueprint", "Caller", "Operation", "Reply"]
