"""The page "add this to your Flask backend", followed to the letter on another team's app."""

import importlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import atmr_rl
from clock import FixedClock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "session" / "RL" / "AJOUTER_A_VOTRE_FLASK.md"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

THEIR_APP = '''
"""A clinic's own backend: written by people who never heard of us."""

import enum

from flask import Blueprint, Flask, abort, jsonify, request
from sqlalchemy import DateTime, Enum, Float, ForeignKey, Integer, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from werkzeug.routing import BaseConverter


class Base(DeclarativeBase):
    pass


class Status(enum.Enum):
    PENDING = 1
    ASSIGNED = 2
    COMPLETED = 3


class Driver(Base):
    __tablename__ = "driver"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(50), nullable=False)


class Booking(Base):
    __tablename__ = "booking"
    id = mapped_column(Integer, primary_key=True)
    customer_name = mapped_column(String(80), nullable=False)
    from_lat = mapped_column(Float)
    from_lng = mapped_column(Float)
    to_lat = mapped_column(Float)
    to_lng = mapped_column(Float)
    scheduled_time = mapped_column(DateTime)
    booked_at = mapped_column(DateTime)
    status = mapped_column(Enum(Status, name="their_status"), nullable=False)


class Assignment(Base):
    __tablename__ = "assignment"
    id = mapped_column(Integer, primary_key=True)
    booking_id = mapped_column(ForeignKey("booking.id"), nullable=False)
    driver_id = mapped_column(ForeignKey("driver.id"), nullable=False)
    comment = mapped_column(String(200))


class Even(BaseConverter):
    regex = "[0-9]*[02468]"


def create_app(url):
    app = Flask("clinic")
    app.secret_key = "theirs"
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.url_map.converters["id"] = Even
    engine = create_engine(url)
    pages = Blueprint("dashboard", __name__)

    @app.before_request
    def login_needed():
        if is_dispatch():
            return None
        if request.headers.get("X-Their-Login") != "yes":
            abort(401)

    @app.errorhandler(Exception)
    def broken(error):
        return "the clinic's own error page", getattr(error, "code", 500)

    @app.after_request
    def named(response):
        response.headers["Server-Of"] = "clinic"
        return response

    @pages.get("/dashboard")
    def board():
        with Session(engine) as session:
            rows = session.scalars(select(Booking).order_by(Booking.id))
            return jsonify([(b.customer_name, b.status.name) for b in rows])

    app.register_blueprint(pages)
    app.engine = engine
    return app
'''
THEIR_ROWS = (
    "INSERT INTO driver (id, name) VALUES (1, 'Zoe'), (2, 'Max')",
    "INSERT INTO booking (id, customer_name, from_lat, from_lng, to_lat, to_lng, scheduled_time, "
    "booked_at, status) VALUES "
    "(1, 'A. Person', 46.2044, 6.1432, 46.1925, 6.15, '2026-03-02 09:05:00', "
    "'2026-03-01 12:00:00', 'PENDING'), "
    # An address that nobody has found yet, and one that was driven long ago.
    "(2, 'B. Person', NULL, NULL, 46.1925, 6.15, '2026-03-02 09:20:00', "
    "'2026-03-01 12:00:00', 'PENDING'), "
    "(3, 'C. Person', 46.2044, 6.1432, 46.1925, 6.15, '2026-02-20 09:20:00', "
    "'2026-02-19 12:00:00', 'COMPLETED')",
)


def blocks(language):
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, language
    return found


def run_shell(block, env, folder):
    """The block's commands with this interpreter; what they said."""
    block = block.replace("python backend/", f"{sys.executable} {ROOT / 'backend'}/")
    env = {**env, "PYTHONPATH": str(ROOT / "backend")}
    done = subprocess.run(
        ["bash", "-euc", block], env=env, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'clinic.sqlite'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    (tmp_path / "clinic_backend").mkdir()
    (tmp_path / "clinic_backend" / "__init__.py").write_text(THEIR_APP)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("clinic_backend")
    del sys.modules["clinic_backend"]


def test_the_page_makes_a_foreign_app_dispatch(url, clinic, atmr_home, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("ATMR_SECRET_KEY", "0123456789abcdef" * 3)
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    app = clinic.create_app(url)
    clinic.Base.metadata.create_all(app.engine)
    with app.engine.begin() as work:
        for row in THEIR_ROWS:
            work.execute(text(row))

    # Section 3.
    first, second = blocks("bash")
    run_shell(first, os.environ, atmr_home)
    lacking = (atmr_home / "manque.sql").read_text()
    assert "ADD COLUMN pickup_lat" in lacking and "fill it" in lacking
    assert ("ALTER TYPE their_status ADD VALUE 'NO_SHOW'" in lacking) == url.startswith("postgres")
    for script in (lacking, *blocks("sql")):
        plain = re.sub(r"--.*", "", script)
        for statement in filter(str.strip, plain.split(";")):
            with app.engine.begin() as work:
                work.execute(text(statement))
    with app.engine.begin() as work:  # their new rows keep our columns
        work.execute(text("UPDATE booking SET pickup_lat = NULL WHERE id = 2"))
    key = re.search(r"key: (atmr_\S+)", run_shell(second, os.environ, atmr_home)).group(1)

    # Section 4.
    names = {"app": app}
    for block in blocks("python"):
        exec(block, names)  # noqa: S102 - the page's own code, to the letter
    clinic.is_dispatch = names["is_dispatch"]
    services = names["services"]
    services.clock = FixedClock(NOW)

    @app.get("/even/<id:number>")
    def even(number):
        return number

    # Section 5.
    client = app.test_client()
    ours = {"Authorization": f"Bearer {key}"}
    theirs = {"X-Their-Login": "yes"}
    ready = client.get("/atmr/readyz").get_json()
    assert ready["ready"], ready
    answer = client.post("/atmr/api/v1/dispatch", json={"booking_id": 1}, headers=ours)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    assert answer.get_json()["driver_id"] in (1, 2), answer.get_json()
    assert client.get("/dashboard", headers=theirs).get_json() == [
        ["A. Person", "ASSIGNED"], ["B. Person", "PENDING"], ["C. Person", "COMPLETED"]
    ]  # fmt: skip
    listed = client.get("/atmr/api/v1/bookings", headers=ours).get_json()["bookings"]
    assert [(b["id"], b["priority"], b["wheelchair_need"]) for b in listed] == [
        (1, 3, False), (3, 3, False)
    ]  # fmt: skip
    missing = client.get("/atmr/api/v1/bookings/2", headers=ours)
    assert (missing.status_code, missing.content_type) == (404, "application/problem+json")

    # Everybody keeps their own pages, errors, limits and addresses.
    assert client.get("/atmr/docs").status_code == 200
    assert client.get("/atmr/api/v1/bookings").content_type == "application/problem+json"
    assert client.get("/atmr/dashboard/login").status_code == 200
    sheet = re.search(r'href="(/[^"]+\.css)', client.get("/atmr/dashboard/login").text).group(1)
    with client.get(sheet) as found:
        assert sheet.startswith("/atmr/") and found.status_code == 200
    assert client.get("/dashboard").text == "the clinic's own error page"
    assert client.get("/even/4", headers=theirs).text == "4"
    assert client.get("/even/3", headers=theirs).text == "the clinic's own error page"
    assert app.secret_key == "theirs"  # noqa: S105 - a test's

    # And back again: our tables go, theirs stay as they were.
    run_shell("python backend/scripts/rl/migrate.py downgrade --revision base --yes", os.environ,
              atmr_home)  # fmt: skip
    assert len(client.get("/dashboard", headers=theirs).get_json()) == 3
    services.database.dispose()
    app.engine.dispose()


def test_what_the_hosts_tables_lack_is_said_before_the_first_request(clinic, atmr_home):
    url = f"sqlite:///{atmr_home / 'clinic.sqlite'}"
    engine = create_engine(url)
    clinic.Base.metadata.create_all(engine)
    engine.dispose()
    app = clinic.create_app(url)
    clinic.is_dispatch = lambda: True
    services = atmr_rl.init_app(app, database_url=url)
    problems = app.test_client().get("/atmr/readyz").get_json()["problems"]
    assert "ALTER TABLE driver ADD COLUMN company_id" in problems["host_tables"]
    assert "migrate.py host" in problems["host_tables"]
    services.database.dispose()
    app.engine.dispose()


def test_a_column_that_a_decision_cannot_fill_is_named(tmp_path, atmr_home):
    url = f"sqlite:///{tmp_path / 'clinic.sqlite'}"
    engine = create_engine(url)
    with engine.begin() as work:
        work.execute(text("CREATE TABLE assignment (id INTEGER PRIMARY KEY, token TEXT NOT NULL)"))
    engine.dispose()
    done = subprocess.run(
        [sys.executable, str(ROOT / "backend/scripts/rl/migrate.py"), "host"],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT / "backend")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "table assignment: token must get a default" in done.stderr


def test_modules_of_the_same_name_are_named(tmp_path):
    (tmp_path / "models.py").write_text("")
    (tmp_path / "config.py").write_text("")
    code = "import atmr_rl; atmr_rl.init_app(None)"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "backend")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "modules named config, models, as this backend has" in done.stderr


def test_every_module_of_the_page_is_installed():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules = {p.stem for p in (ROOT / "backend").glob("*.py") if p.stem.isidentifier()}
    assert set(project["tool"]["setuptools"]["py-modules"]) == modules
    assert {r for r in atmr_rl.ROOMS if (ROOT / "backend" / f"{r}.py").exists()} <= modules
