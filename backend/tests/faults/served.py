"""The app as served, its callers, and what must be true of its rows whatever happened."""

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from clock import SystemClock
from extensions import Database
from models import Assignment, Booking, Commitment, Decision
from models.api_key import IdempotencyRecord
from routes.statuses import ASSIGNED
from scripts.rl.busy_companies import Company, fill, zone_of_day
from scripts.rl.served_app import ServedApp
from services.model_registry import SqlRegistry
from services.rl.serving.bundle import PLANNER, Bundle, write_bundle
from services.rl.simulation.scenarios import load_scenario

GENEVA = load_scenario("geneva")


@dataclass
class Answer:
    """What a caller got; status 0: the connection broke."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Site:
    """A running server with its rows and models."""

    app: ServedApp
    database: Database
    companies: dict[int, Company]
    home: Path

    def dispatch(self, company_id: int, booking: int, once: str) -> Answer:
        """Ask who takes a booking."""
        company = self.companies[company_id]
        link = http.client.HTTPConnection(self.app.host, self.app.port, timeout=30)
        headers = {
            "Authorization": f"Bearer {company.key}",
            "Idempotency-Key": once,
            "Content-Type": "application/json",
        }
        try:
            link.request("POST", "/api/v1/dispatch", json.dumps({"booking_id": booking}), headers)
            got = link.getresponse()
            return Answer(got.status, json.loads(got.read()), dict(got.getheaders()))
        except (OSError, http.client.HTTPException):
            return Answer(0)
        finally:
            link.close()

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values whose labels contain a text."""
        text = self.app.get("/metrics")[1].decode()
        found = re.findall(rf"^{name}(?:\{{([^}}]*)\}})? (\S+)$", text, re.M)
        return sum(float(value) for given, value in found if labels in given)

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``/readyz``."""
        status, body = self.app.get("/readyz")
        return status, json.loads(body)


def prepared(
    folder: Path, url: str, *, companies: int, bookings: int = 20
) -> tuple[Database, list[Company], dict[str, str]]:
    """A filled database, a planner as champion of all, and the settings to serve them with."""
    now = SystemClock().now()
    database = Database(url)
    filled = fill(database, GENEVA, now, companies=companies, bookings=bookings, unit="company")
    registry = SqlRegistry(database, SystemClock(), folder)
    version = registry.register(planner(folder / "first", 200).path, "test", "test")
    registry.promote(version, "test", "test")
    settings = {
        "ATMR_HOME": str(folder),
        "ATMR_DATABASE_URL": url,
        "ATMR_TIMEZONE": zone_of_day(now, GENEVA),
    }
    return database, filled, settings


def planner(folder: Path, moves: int) -> Bundle:
    """A planner's bundle; another number of moves is another version."""
    return write_bundle(folder, PLANNER, GENEVA, policy={"moves": moves})


class Callers:
    """Threads that ask for all bookings of some companies; each asks until it is answered.

    Every booking is asked for twice at about the same time, under two keys. A retry takes the key
    of the request that it repeats, and comes soon.

    Args:
        site: The server.
        companies: Whose bookings.
        threads: How many at once.
        give_up_s: No retry begins later than this.
    """

    def __init__(
        self, site: Site, companies: Sequence[int], *, threads: int = 8, give_up_s: float = 30.0
    ) -> None:
        self.answers: list[Answer] = []
        self.seen: list[Answer] = []
        self._site = site
        self._work = [
            (company, booking, f"c{company}-b{booking}-{turn}")
            for company in companies
            for booking in site.companies[company].open
            for turn in range(2)
        ]
        self.asked = len(self._work)
        self._give_up_at = time.monotonic() + give_up_s
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def await_answers(self, count: int) -> None:
        """Wait until so many requests are answered for good."""
        deadline = time.monotonic() + 30
        while len(self.answers) < count and time.monotonic() < deadline:
            time.sleep(0.005)

    def await_status(self, status: int) -> bool:
        """Wait until some request was answered so; whether one was."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if any(answer.status == status for answer in list(self.seen)):
                return True
            time.sleep(0.01)
        return False

    def join(self) -> Counter[int]:
        """Wait for all; how often which status came."""
        for thread in self._threads:
            thread.join(60)
        return Counter(answer.status for answer in self.seen)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    return
                company, booking, once = self._work.pop(0)
            answer = self._until_answered(company, booking, once)
            with self._lock:
                self.answers.append(answer)

    def _until_answered(self, company: int, booking: int, once: str) -> Answer:
        while True:
            answer = self._site.dispatch(company, booking, once)
            with self._lock:
                self.seen.append(answer)
            if answer.status not in (0, 503) or time.monotonic() > self._give_up_at:
                return answer
            time.sleep(0.1)


def check_rows(site: Site, companies: Sequence[int], answers: Sequence[Answer]) -> None:
    """No booking has two drivers, nothing is half-written, no decision is missing in the log."""
    with site.database.reading() as session:
        mine = select(Booking.id).where(Booking.company_id.in_(companies))
        live = session.execute(
            select(Assignment.booking_id, func.count())
            .where(Assignment.booking_id.in_(mine), Assignment.status == ASSIGNED)
            .group_by(Assignment.booking_id)
        ).all()
        assert all(count == 1 for _, count in live)
        commitments = {
            row.booking_id: row
            for row in session.scalars(
                select(Commitment).where(Commitment.company_id.in_(companies))
            )
        }
        assert set(commitments) == {booking for booking, _ in live}
        decisions = {
            row.id: row
            for row in session.scalars(select(Decision).where(Decision.company_id.in_(companies)))
        }
        for row in commitments.values():
            assert row.decision_id is not None
            decision = decisions[row.decision_id]
            assert (decision.driver_id, decision.booking_id) == (row.driver_id, row.booking_id)
        statuses = {
            row.id: row.status
            for row in session.execute(
                select(Booking.id, Booking.status).where(Booking.company_id.in_(companies))
            )
        }
        assert {b for b, status in statuses.items() if status == ASSIGNED} == set(commitments)
        stuck = select(func.count()).where(
            IdempotencyRecord.company_id.in_(companies), IdempotencyRecord.status.is_(None)
        )
        assert session.scalar(stuck) == 0
    answered = {answer.body["decision_id"] for answer in answers if answer.status == 200}
    assert answered == set(decisions)
    for answer in answers:
        if answer.status == 200 and answer.body["action"] == "assign":
            commitment = commitments[answer.body["booking_id"]]
            assert commitment.driver_id == answer.body["driver_id"]
            assert commitment.assignment_id == answer.body["assignment_id"]
