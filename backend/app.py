"""The app: alone (`create_app`), or as a blueprint inside a host's Flask app (`init_app`).

Everything lies in one parent blueprint, so that a host keeps its own error pages, limits and
headers: ours hold for our addresses only.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from flask import Blueprint, Flask, Response, g, request
from flask.globals import request_ctx
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

from clock import Clock, FileClock, SystemClock
from config import Config
from extensions import EXTENSION, Database, Services, services
from logs import log_as_json
from metrics import Metrics
from migrations import require_head
from models import host_tables
from models.database_url import reason
from rate_limits import RateLimits
from routes.assignments import assignments
from routes.bookings import bookings
from routes.dashboard import dashboard
from routes.dispatch import dispatch
from routes.drivers import drivers
from routes.experiments import experiments
from routes.fleet_state import fleet_state
from routes.health import health
from routes.models import models
from routes.openapi import openapi_blueprint
from routes.operation import ApiBlueprint
from routes.problems import answer, from_exception
from services.model_registry import SqlRegistry
from services.rl.errors import DataError
from services.rl.serving.registry import Registry
from services.rl.simulation.scenarios import Scenario, load_scenario

API = "/api/v1"
API_BLUEPRINTS: tuple[ApiBlueprint, ...] = (
    bookings,
    drivers,
    dispatch,
    fleet_state,
    assignments,
    experiments,
    models,
)
"""Under ``/api/v1``, in the order of the description. New topics are added here."""

PAGE_BLUEPRINTS: tuple[Blueprint, ...] = (dashboard,)
"""Beside the API, outside its description."""

_LOG = logging.getLogger("atmr.requests")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class _Id(BaseConverter):
    """``<id:name>``: a whole number from 1; `routes.operation` refuses what no table can hold.

    Not here: Werkzeug answers 405, not 404, where a converter refuses and the address has several
    methods.
    """

    regex = "[1-9][0-9]{0,18}"

    def to_python(self, value: str) -> int:
        """The number."""
        return int(value)


class _Code(BaseConverter):
    """``<code:name>``: a name or version without anything that needs escaping."""

    regex = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}"


def create_app(
    config: Config | None = None,
    *,
    scenario: Scenario | None = None,
    clock: Clock | None = None,
    registry: Registry | None = None,
    set_up: Sequence[Callable[[Services], None]] = (),
) -> Flask:
    """The backend alone.

    Args:
        config: Settings; default: of the environment.
        scenario: The world that is dispatched in; default: the one that ``config`` names.
        clock: The present moment; default: the machine's.
        registry: Model versions; default: those of the database.
        set_up: Called with the services before the first request: other rooms (the dispatcher)
            hang in their parts and checks there.

    Raises:
        AtmrError: If a setting or the scenario is wrong.
    """
    config = config or Config.from_environment()
    app = Flask("atmr", static_folder=None, root_path=str(Path(__file__).parent))
    if config.secret_key is not None:
        app.secret_key = config.secret_key.get_secret_value()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Strict", TRUSTED_HOSTS=None
    )
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=0)  # type: ignore[method-assign]
    log_as_json(config.log_level)
    at_work = _services(config, scenario, clock, registry, set_up)
    app.extensions[EXTENSION] = at_work
    _watch(app)
    _register(app, _blueprint())
    return app


def init_app(
    app: Flask,
    config: Config | None = None,
    *,
    url_prefix: str = "",
    scenario: Scenario | None = None,
    clock: Clock | None = None,
    registry: Registry | None = None,
    set_up: Sequence[Callable[[Services], None]] = (),
) -> Services:
    """Add the backend to an existing Flask app, under ``url_prefix`` (such as ``/atmr``).

    Raises:
        AtmrError: If a setting or the scenario is wrong.
    """
    config = config or Config.from_environment()
    at_work = _services(config, scenario, clock, registry, set_up)
    app.extensions[EXTENSION] = at_work
    blueprint = _blueprint()
    _watch(blueprint)
    # Wrong addresses under ours: the host's own error page would answer them otherwise.
    blueprint.add_url_rule(
        "/<path:unknown>" if url_prefix else f"{API}/<path:unknown>",
        "unknown",
        _unknown,
        methods=[*_ALL_METHODS, "OPTIONS"],
        provide_automatic_options=False,
    )
    _register(app, blueprint, url_prefix)
    return at_work


def _services(
    config: Config,
    scenario: Scenario | None,
    clock: Clock | None,
    registry: Registry | None,
    set_up: Sequence[Callable[[Services], None]],
) -> Services:
    metrics = Metrics()
    url = config.database_url.get_secret_value()
    database = Database(url, timeout_s=config.database_timeout_s)
    if clock is None:
        clock = SystemClock() if config.clock_file is None else FileClock(config.clock_file)
    at_work = Services(
        config=config,
        database=database,
        clock=clock,
        metrics=metrics,
        limits=RateLimits(config, metrics),
        scenario=scenario or load_scenario(config.scenario),
        registry=registry or SqlRegistry(database, clock),
    )
    at_work.readiness["database"] = at_work.database.check
    at_work.readiness["migrations"] = lambda: require_head(at_work.database.engine)
    at_work.readiness["host_tables"] = lambda: _check_host_tables(at_work.database)
    if config.clock_file is not None:
        at_work.degraded["clock"] = lambda: "time comes from a file: this is a twin, not production"
    for part in set_up:
        part(at_work)
    return at_work


def _register(app: Flask, blueprint: Blueprint, url_prefix: str = "") -> None:
    """Add our addresses; a host's own converters named as ours are the host's again afterwards.

    A rule takes its converters when it is added.
    """
    theirs = dict(app.url_map.converters)
    app.url_map.converters.update(id=_Id, code=_Code)
    try:
        app.register_blueprint(blueprint, url_prefix=url_prefix or None)
    finally:
        app.url_map.converters.clear()
        app.url_map.converters.update(theirs)


def _blueprint() -> Blueprint:
    parent = Blueprint("atmr", __name__)
    parent.register_blueprint(health)
    for blueprint in API_BLUEPRINTS:
        parent.register_blueprint(blueprint, url_prefix=API)
    for page in PAGE_BLUEPRINTS:
        parent.register_blueprint(page)
    described = (*API_BLUEPRINTS, health)
    prefixes = {bp.name: "" if bp is health else API for bp in described}
    parent.register_blueprint(openapi_blueprint(described, prefixes))
    return parent


def _watch(target: Flask | Blueprint) -> None:
    """Limits, headers and error documents for all requests of the app, or of the blueprint."""
    target.before_request(_begin)
    target.after_request(_finish)
    target.register_error_handler(HTTPException, _problem)
    target.register_error_handler(Exception, _problem)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.atmr_request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.atmr_began_s = time.perf_counter()
    request.max_content_length = services().config.max_request_bytes


def _finish(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = g.atmr_request_id
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    took_s = time.perf_counter() - g.atmr_began_s
    rule = request.url_rule.rule if request.url_rule is not None else "none"
    method = request.method if request.method in _ALL_METHODS else "other"
    counted = services().metrics
    counted.requests.labels(method, rule, response.status_code).inc()
    counted.request_seconds.labels(rule).observe(took_s)
    caller = g.get("atmr_caller")
    _LOG.info(
        "request",
        extra={
            "request_id": g.atmr_request_id,
            "method": method,
            "route": rule,
            "status": response.status_code,
            "ms": round(1000 * took_s, 2),
            "key": None if caller is None else caller.prefix,
            "company": None if caller is None else caller.company_id,
        },
    )
    return response


def _problem(error: Exception) -> Response:
    return answer(from_exception(error))


def _unknown(unknown: str) -> Response:  # noqa: ARG001 - the rule's parameter
    """404; or 405 where another method would do."""
    adapter = request_ctx.url_adapter
    assert adapter is not None
    allowed = []
    for method in _ALL_METHODS:
        rule, _ = adapter.match(method=method, return_rule=True)
        if rule.endpoint != request.endpoint:
            allowed.append(method)
    return _problem(MethodNotAllowed(valid_methods=allowed) if allowed else NotFound())


def _check_host_tables(database: Database) -> None:
    try:
        with database.engine.connect() as connection:
            host_tables.check(connection)
    except SQLAlchemyError as error:
        raise DataError(f"the database does not answer: {reason(error)}") from error
