"""Who gets in, for how long, and what a form must carry."""

import re

from access import revoke_key
from clock import FixedClock
from routes.dashboard.sessions import COOKIE

from ..conftest import NOW
from .conftest import Somebody, other


def test_without_a_secret_a_page_says_how_to_switch_the_dashboard_on(make_api):
    api = make_api()
    nobody = Somebody(api, api.app.test_client())
    for path in ("", "/login", "/models", "/nowhere"):
        assert "ATMR_SECRET_KEY" in nobody.text(path, status=403)
    assert "désactivé" in nobody.text("", status=403)
    assert "switched off" in nobody.text("?lang=en", status=403)
    assert nobody.client.post("/dashboard/login", data={"key": "x"}).status_code == 403
    with nobody.get("/static/dashboard.css") as sheet:
        assert sheet.status_code == 200


def test_a_key_opens_a_session_and_logging_out_ends_it(visitor):
    first = visitor.get()
    assert first.status_code == 303 and first.location.endswith("/dashboard/login")
    answer = visitor.log_in()
    assert answer.status_code == 303 and answer.location == "/dashboard"
    cookie = next(h for h in answer.headers.getlist("Set-Cookie") if h.startswith(COOKIE))
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/dashboard" in cookie
    assert "Secure" not in cookie  # plain http here
    assert visitor.api.keys["one"] not in cookie
    assert visitor.get().status_code == 200
    assert visitor.post("/logout").status_code == 303
    assert visitor.get().status_code == 303


def test_the_cookie_is_for_https_only_where_there_is_https(visitor):
    answer = visitor.client.get("/dashboard/login", base_url="https://example.org")
    cookie = next(h for h in answer.headers.getlist("Set-Cookie") if h.startswith(COOKIE))
    assert "; Secure" in cookie


def test_one_gets_to_the_page_that_was_asked_for(visitor):
    visitor.get("/models")
    assert visitor.log_in().location == "/dashboard/models"


def test_a_wrong_key_stays_outside_and_is_not_repeated(visitor):
    answer = visitor.log_in("atmr_000000000000_wrong<script>")
    assert answer.status_code == 401
    page = answer.get_data(as_text=True)
    assert "inconnue" in page and "wrong" not in page
    assert visitor.get().status_code == 303


def test_a_key_without_the_scope_read_stays_outside(visitor):
    assert visitor.log_in("dispatcher").status_code == 403


def test_guessing_keys_is_slowed_down(visitor):
    token = visitor.token("/login")
    answers = [visitor.post("/login", csrf=token, key=f"guess-{n}").status_code for n in range(40)]
    assert answers[0] == 401 and answers[-1] == 429
    assert visitor.post("/login", csrf=token, key=visitor.api.keys["one"]).status_code == 429


def test_a_revoked_key_ends_its_sessions(manager):
    prefix = manager.api.keys["one"].split("_")[1]
    with manager.api.services.database.writing() as work:
        revoke_key(work, prefix, NOW)
    assert manager.get().status_code == 303
    assert manager.get("/live").status_code == 401


def test_a_session_lasts_half_a_day(manager):
    manager.api.clock.advance(minutes=11 * 60)
    assert manager.get().status_code == 200
    manager.api.clock.advance(minutes=61)
    assert manager.get().status_code == 303


def test_a_forged_or_foreign_cookie_is_nobody(manager):
    value = manager.client.get_cookie(COOKIE, path="/dashboard").value
    for forged in (value[:-2] + "xx", "", "e30.abc", "a" * 4000):
        manager.client.set_cookie(COOKIE, forged, path="/dashboard")
        assert manager.get().status_code == 303


def test_no_form_works_without_its_token(manager):
    booking = "/decisions/abc/override"
    for path in ("/logout", "/heuristic-only", "/experiment/resume", booking,
                 "/models/aaaaaaaaaaaa/promote", "/models/aaaaaaaaaaaa/rollback"):  # fmt: skip
        for csrf in ("", "0" * 64, "é"):
            assert manager.post(path, csrf=csrf, why="precaution").status_code == 403, path
    foreign = other(manager, "reader").token()
    assert manager.post("/logout", csrf=foreign).status_code == 403


def test_the_token_changes_at_login(visitor):
    before = visitor.token("/login")
    visitor.log_in()
    assert visitor.token() != before


def test_pages_carry_a_strict_content_policy_and_no_inline_code(manager):
    for path in ("", "/decisions", "/experiment", "/models", "/report", "/nowhere"):
        answer = manager.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        page = answer.get_data(as_text=True)
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page))
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert answer.headers["Cache-Control"] == "no-store"


def test_the_clock_of_the_session_is_the_apps(secret_api):
    assert isinstance(secret_api.services.clock, FixedClock)
