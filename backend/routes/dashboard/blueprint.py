"""The blueprint: headers, errors as pages, and what all templates know."""

from typing import Any, Final

from flask import Blueprint, Response, g, redirect, render_template, request, url_for

from extensions import services
from routes.problems import Problem, from_exception

from .formats import Formats
from .sessions import (
    LoginNeeded,
    change_session,
    csrf_token,
    enabled,
    keep_session,
    open_session,
    take_note,
)
from .words import words_of

dashboard = Blueprint(
    "dashboard",
    __name__,
    url_prefix="/dashboard",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)

_POLICY: Final = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_LANGUAGES: Final = ("fr", "en")


@dashboard.before_request
def begin() -> str | tuple[str, int] | None:
    """Note the language that was asked for; without a secret, say how to switch the pages on."""
    if request.endpoint is not None and request.endpoint.endswith(".static"):
        return None
    if not enabled():
        g.atmr_language = request.args.get("lang", "fr")
        return render_template("atmr_dashboard/off.html"), 403
    asked = request.args.get("lang", "")
    if asked in _LANGUAGES and asked != open_session().language:
        change_session(language=asked)
    g.atmr_language = open_session().language
    return None


@dashboard.after_request
def finish(response: Response) -> Response:
    """Pages load from this server only, no inline script or style; the session is kept."""
    response.headers["Content-Security-Policy"] = _POLICY
    return keep_session(response)


@dashboard.context_processor
def known_to_templates() -> dict[str, Any]:
    """Words and formats of the language, and who is logged in."""
    language = g.get("atmr_language", "fr")
    language = language if language in _LANGUAGES else "fr"
    t = words_of(language)
    return {
        "t": t,
        "fmt": Formats(language, services().config.zone),
        "lang": language,
        "other_lang": "en" if language == "fr" else "fr",
        "visit": g.get("atmr_visit"),
        "csrf": csrf_token() if enabled() else "",
        "note": take_note() if enabled() and g.get("atmr_visit") is not None else "",
    }


@dashboard.errorhandler(LoginNeeded)
def ask_for_login(_: LoginNeeded) -> Response | tuple[dict[str, str], int]:
    """To the login page, and back afterwards; the live view is told so in JSON."""
    if request.endpoint is not None and request.endpoint.endswith(".live"):
        return {"error": "login"}, 401
    wanted = request.path if request.method == "GET" else ""
    change_session(then=request.script_root + wanted if wanted else "", prefix="")
    return redirect(url_for(".login"), 303)  # type: ignore[return-value]


@dashboard.errorhandler(Exception)
def tell(error: Exception) -> Response | tuple[str, int]:
    """An error as a page, in words; never a stack trace."""
    problem = from_exception(error)
    page = render_template("atmr_dashboard/problem.html", problem=problem)
    response = Response(page, status=problem.status, content_type="text/html; charset=utf-8")
    response.headers.extend(dict(problem.headers or {}))
    return response


@dashboard.route("/<path:unknown>", methods=["GET", "POST"])
def unknown_page(unknown: str) -> str:  # noqa: ARG001 - the rule's parameter
    """Nothing is here.

    Raises:
        Problem: 404.
    """
    raise Problem(404, "there is nothing at this address")
