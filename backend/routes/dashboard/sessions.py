"""Who looks at the dashboard: a signed cookie that names an API key, and a token in every form.

The cookie is our own, not Flask's: the dashboard also hangs in hosts that have sessions of theirs.
It holds no secret: the key's public prefix, a random number, the language. Whether the key still
holds is looked up at every request, so a revoked key ends its sessions at once.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Final, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

from flask import Response, g, request, url_for
from itsdangerous import BadSignature, URLSafeSerializer

from access import Caller, caller_of_prefix
from extensions import services
from routes.operation import Scope
from routes.problems import Problem

Language = Literal["fr", "en"]
View = TypeVar("View", bound=Callable[..., Any])

COOKIE: Final = "atmr_dashboard"
CSRF_FIELD: Final = "csrf"
LASTS: Final = timedelta(hours=12)
_TOO_MANY: Final = {"Retry-After": "60"}


class LoginNeeded(Exception):  # noqa: N818 - it is no error
    """Nobody is logged in, or their key holds no more."""


@dataclass(frozen=True)
class Session:
    """What the cookie holds.

    Attributes:
        nonce: Random; the forms' tokens are made of it. Another one at every login.
        language: Of the pages.
        prefix: Of the key that logged in; empty: nobody.
        began: When it logged in, seconds since 1970.
        then: Page to go to after logging in: a path below the dashboard.
        note: Name of a sentence to be shown once.
    """

    nonce: str
    language: Language = "fr"
    prefix: str = ""
    began: float = 0.0
    then: str = ""
    note: str = ""


@dataclass(frozen=True)
class Visit:
    """One request of somebody who is logged in."""

    caller: Caller
    language: Language
    zone: ZoneInfo
    now: datetime

    @property
    def company_id(self) -> int:
        """Whose rows are seen."""
        return self.caller.company_id

    def may(self, scope: str) -> bool:
        """Whether the key has a scope."""
        return self.caller.may(scope)


def enabled() -> bool:
    """Whether anybody can log in: a secret signs the sessions."""
    return services().config.secret_key is not None


def open_session() -> Session:
    """The session of this request: the cookie's, or a new one."""
    if "atmr_session" not in g:
        g.atmr_session_was = g.atmr_session = _of_cookie()
    found: Session = g.atmr_session
    return found


def change_session(**changes: Any) -> None:
    """Set fields of the session; the answer carries the new cookie."""
    g.atmr_session = replace(open_session(), **changes)


def log_in(caller: Caller) -> None:
    """Begin a session of this key, with a new nonce."""
    change_session(
        prefix=caller.prefix,
        nonce=secrets.token_urlsafe(18),
        began=services().clock.now().timestamp(),
    )


def log_out() -> None:
    """End the session; the language stays."""
    change_session(prefix="", nonce=secrets.token_urlsafe(18), began=0.0, then="", note="")


def take_note() -> str:
    """The note to be shown on this page; it is gone then."""
    note = open_session().note
    if note:
        change_session(note="")
    return note


def keep_session(response: Response) -> Response:
    """Send the cookie if the session has changed; one of the blueprint's ``after_request``."""
    if "atmr_session" not in g or not enabled():
        return response
    if g.atmr_session == g.atmr_session_was and COOKIE in request.cookies:
        return response
    response.set_cookie(
        COOKIE,
        _serializer().dumps(asdict(g.atmr_session)),
        max_age=int(LASTS.total_seconds()),
        path=cookie_path(),
        httponly=True,
        secure=request.is_secure,
        samesite="Strict",
    )
    return response


def cookie_path() -> str:
    """Where the dashboard lies in this server."""
    return url_for(".today").rstrip("/") or "/"


def csrf_token() -> str:
    """The token that this session's forms carry."""
    return hmac.new(_secret(), open_session().nonce.encode(), hashlib.sha256).hexdigest()


def check_csrf() -> None:
    """Refuse a form that does not come from a page of this session.

    Raises:
        Problem: 403.
    """
    given = request.form.get(CSRF_FIELD, "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token().encode()):
        raise Problem(403, "this form is out of date; load the page again", field="form.csrf")


def page(scope: Scope = "read") -> Callable[[View], View]:
    """A view for those who are logged in and have the scope: it gets a `Visit` first.

    Forms (POST) are checked for their token.
    """

    def declare(view: View) -> View:
        @wraps(view)
        def endpoint(**path: Any) -> Any:
            visit = visitor()
            if request.method == "POST":
                check_csrf()
            if not visit.may(scope):
                raise Problem(403, f"this key lacks the scope {scope!r}")
            return view(visit, **path)

        return endpoint  # type: ignore[return-value]

    return declare


def visitor() -> Visit:
    """Who is logged in.

    Raises:
        LoginNeeded: Nobody.
        Problem: 429 beyond the key's rate limit.
    """
    at_work = services()
    session, now = open_session(), at_work.clock.now()
    if not session.prefix or not 0 <= now.timestamp() - session.began < LASTS.total_seconds():
        raise LoginNeeded
    with at_work.database.engine.connect() as connection:
        caller = caller_of_prefix(connection, session.prefix, now)
    if caller is None:
        raise LoginNeeded
    g.atmr_caller = caller
    if not at_work.limits.allow_key(caller.prefix):
        at_work.metrics.rate_limited.inc()
        raise Problem(429, "this key's rate limit is reached", headers=_TOO_MANY)
    g.atmr_visit = Visit(caller, session.language, at_work.config.zone, now)
    return g.atmr_visit  # type: ignore[no-any-return]


def _of_cookie() -> Session:
    try:
        held = _serializer().loads(request.cookies.get(COOKIE, ""))
        found = Session(**held)
    except (BadSignature, TypeError):
        return Session(secrets.token_urlsafe(18))
    if found.language not in get_args(Language):  # of an older version of this code
        return Session(secrets.token_urlsafe(18))
    return found


def _serializer() -> URLSafeSerializer:
    return URLSafeSerializer(
        _secret(), salt="atmr-dashboard", signer_kwargs={"digest_method": hashlib.sha256}
    )


def _secret() -> bytes:
    secret = services().config.secret_key
    assert secret is not None  # `enabled` was asked
    return hashlib.sha256(b"dashboard:" + secret.get_secret_value().encode()).digest()
