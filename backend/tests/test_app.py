"""The app around the routes: problem documents, headers, health, metrics, logs, a foreign host."""

import io
import json
import re

import pytest
from flask import Flask, abort
from sqlalchemy import create_engine, text

from app import create_app, init_app
from config import Config
from extensions import EXTENSION
from logs import log_as_json
from migrations import upgrade
from services.rl.errors import UsageError

from .routes.conftest import (  # noqa: F401 - fixtures
    GENEVA,
    a_booking,
    api,
    database_url,
    is_problem,
    make_api,
    migrated_sqlite,
    on_both,
)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("DELETE", "/api/v1/bookings", 405),
        ("POST", "/healthz", 405),
        ("TRACE", "/api/v1/bookings", 405),
        ("GET", "/api/v1/drivers?limit=0", 422),
        ("GET", "/api/v1/drivers?limit=1&limit=2", 422),
        ("GET", "/api/v1/drivers/11?verbose=1", 422),
    ],
)
def test_every_refusal_is_a_problem_document_with_safe_headers(api, method, path, status):  # noqa: F811
    answer = api(method, path)
    assert is_problem(answer, status)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_body_that_is_too_large_is_refused(make_api):  # noqa: F811
    api = make_api(max_request_bytes=2048)  # noqa: F811
    answer = api("POST", "bookings", a_booking(x="y" * 4096))
    assert is_problem(answer, 413)
    assert api("POST", "bookings", a_booking()).status_code == 201


def test_a_request_id_is_kept_if_it_is_one(api):  # noqa: F811
    assert api("GET", "bookings", X_Request_Id="abc-1").headers["X-Request-Id"] == "abc-1"
    own = api("GET", "nowhere", X_Request_Id="<script>")
    assert re.fullmatch("[0-9a-f]{32}", own.headers["X-Request-Id"])
    assert own.get_json()["request_id"] == own.headers["X-Request-Id"]


def test_our_own_mistake_tells_nothing_but_a_request_id(api, monkeypatch):  # noqa: F811
    def broken(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("routes.bookings.shown_booking", broken)
    answer = api("POST", "bookings", a_booking())
    assert is_problem(answer, 500)
    assert "secret" not in answer.get_data(as_text=True)
    monkeypatch.undo()
    assert api("GET", "bookings").get_json()["bookings"] == []


def test_logs_are_json_lines_without_content(api, monkeypatch):  # noqa: F811
    stream = io.StringIO()
    log_as_json("INFO", stream)

    def broken(*_):
        raise RuntimeError("secret detail")

    api("POST", "bookings", a_booking(patient_name="A. Person"), X_Request_Id="r1")
    api("GET", "bookings?status=SECRET_PERSON")
    monkeypatch.setattr("routes.bookings.shown_booking", broken)
    api("POST", "bookings", a_booking())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines if line["event"] == "request"] == [422, 200, 500]
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["route"] == "/api/v1/bookings"
    assert (lines[0]["company"], api.keys["one"] in stream.getvalue()) == (1, False)
    error = next(line for line in lines if line["event"] == "unexpected error")
    assert (error["error"], error["trace"][-1].split(":")[0]) == ("RuntimeError", "broken")
    assert not re.search("Person|PERSON|secret|46\\.2", stream.getvalue())


@on_both
def test_ready_means_database_migrated_and_engine_warm(api):  # noqa: F811
    assert api("GET", "/healthz").get_json() == {"status": "ok"}
    assert api("GET", "/readyz").get_json()["ready"] is True

    def cold():
        raise UsageError("the engine is not warm")

    api.services.readiness["engine"] = cold
    answer = api("GET", "/readyz")
    assert (answer.status_code, answer.get_json()["problems"]) == (
        503,
        {"engine": "the engine is not warm"},
    )


def test_a_database_that_was_never_migrated_is_not_ready(atmr_home):
    app = create_app(Config.from_environment(), scenario=GENEVA)
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "run migrate.py" in answer.get_json()["problems"]["migrations"]
    app.extensions[EXTENSION].database.dispose()


def test_a_database_that_breaks_off_is_a_503_to_try_again(api):  # noqa: F811
    with api.services.database.writing() as work:
        work.connection().exec_driver_sql("DROP TABLE idempotency_record")
    answer = api("POST", "bookings", a_booking(), Idempotency_Key="k")
    assert is_problem(answer, 503)
    assert answer.headers["Retry-After"] == "1"


def test_a_database_that_is_busy_writing_is_a_503_to_try_again(make_api):  # noqa: F811
    api = make_api(database_timeout_s=0.1)  # noqa: F811
    with api.services.database.writing():
        assert is_problem(api("POST", "bookings", a_booking()), 503)
        assert api("GET", "bookings").status_code == 200
    assert api("POST", "bookings", a_booking()).status_code == 201


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_requests_go_on_when_the_database_has_dropped_every_connection(api):  # noqa: F811
    assert api("POST", "bookings", a_booking()).status_code == 201
    admin = create_engine(api.services.database.url.set(database="postgres"))
    with admin.connect() as connection:
        name = api.services.database.url.database
        dropped = connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        ).all()
    admin.dispose()
    assert dropped
    assert api("POST", "bookings", a_booking()).status_code == 201
    assert len(api("GET", "bookings").get_json()["bookings"]) == 2


def test_metrics_count_requests_by_route_not_by_id(api):  # noqa: F811
    for booking_id in (1, 2, 3):
        api("GET", f"bookings/{booking_id}")
    text = api("GET", "/metrics").get_data(as_text=True)
    line = (
        'atmr_http_requests_total{method="GET",route="/api/v1/bookings/<id:booking_id>",'
        'status="404"} 3.0'
    )
    assert line in text
    assert "atmr_http_request_duration_seconds_bucket" in text
    assert "bookings/2" not in text


def test_the_documentation_needs_no_other_server(api):  # noqa: F811
    page = api("GET", "/docs", key="")
    text = page.get_data(as_text=True)
    assert "<script" not in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "/api/v1/bookings/{booking_id}/cancel" in text
    described = api("GET", "/openapi.json", key="").get_json()
    assert described["openapi"].startswith("3.1")
    assert "post" in described["paths"]["/api/v1/bookings"]


def test_a_foreign_flask_app_keeps_its_own_pages(migrated_sqlite, atmr_home):  # noqa: F811
    host = Flask("host")
    host.config["MAX_CONTENT_LENGTH"] = 10

    @host.errorhandler(404)
    def lost(_error):
        return "the host's own page", 404

    @host.get("/own")
    def own():
        abort(404)

    config = Config.from_environment(database_url=f"sqlite:///{atmr_home / 'host.sqlite'}")
    at_work = init_app(host, config, url_prefix="/atmr", scenario=GENEVA)
    upgrade(at_work.database.engine)
    client = host.test_client()
    for path in ("/own", "/nowhere"):
        answer = client.get(path)
        assert answer.get_data(as_text=True) == "the host's own page"
        assert "X-Request-Id" not in answer.headers
    assert client.get("/atmr/readyz").get_json()["ready"] is True
    assert is_problem(client.get("/atmr/api/v1/nowhere"), 404)
    wrong = client.delete("/atmr/api/v1/bookings")
    assert is_problem(wrong, 405)
    assert wrong.headers["Allow"] == "GET, POST"
    assert is_problem(client.get("/atmr/api/v1/bookings"), 401)
    described = client.get("/atmr/openapi.json").get_json()
    assert described["servers"] == [{"url": "/atmr"}]
    at_work.database.dispose()
