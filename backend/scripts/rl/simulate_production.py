"""The whole loop in minutes: calibrated days played against the real API and database.

Bookings arrive, drivers move, outcomes are told: some late, some never. Everything else is as in
production: ticks, hourly collection, nightly retraining, gate, rollout, the experiment's verdict.
Exits with 1 if the books do not add up in the end.

``--mode embedded``: one process, SQLite, no broker. ``--mode distributed``: PostgreSQL, Redis, the
API under gunicorn and Celery's workers, started here unless they are named.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask

from access import create_key
from app import create_app
from clock import FileClock, FixedClock
from config import Config
from extensions import EXTENSION, Services
from migrations import upgrade
from models.database_url import parse_url
from scripts.rl.celery_worker import CeleryWorker
from scripts.rl.command import (
    Parser,
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from scripts.rl.served_app import ServedApp
from services.dispatching.part import PART as DISPATCHER
from services.dispatching.part import hang_in as hang_in_dispatcher
from services.learning.bodies import BODIES
from services.learning.loop import Loop, open_loop
from services.learning.running import Outcome
from services.learning.workplace import Workplace
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.errors import DataError, UsageError
from services.rl.simulation.engine import travel_tables
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.twin.accounts import Books, close_books
from services.twin.calls import Calls, InProcess, OverHttp
from services.twin.company import Habits, TwinCompany
from services.twin.conductors import ByWorkers, InThisProcess
from services.twin.play import Conductor, Script, SettableClock, Shift, play
from tasks.schedule import SCHEDULE

EXAMPLES = """
simulate_production.py --days 4
simulate_production.py --days 7 --companies 2 --told-late 0.2 --never-told 0.05
simulate_production.py --days 3 --mode distributed
simulate_production.py --days 6 --demand-from 2 --demand 1.3   # 30 % more from the third day on
simulate_production.py --days 5 --only tick,collection              # without retraining
"""
FIRST_SEED = 7_000_000
"""Beyond the seeds of training, validation, test and (until the year 5000) gate days."""


@dataclass
class Site:
    """Where the twin plays.

    Attributes:
        loop: This process's way to everything.
        clock: That all processes read.
        calls: To the API, by API key.
        conductor: Runs the loop's tasks.
    """

    loop: Loop
    clock: SettableClock
    calls: Callable[[str], Calls]
    conductor: Conductor


def main(argv: Sequence[str] | None = None) -> int:
    """Play, close the books, tell."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        first = date.fromisoformat(arguments.first)
    except ValueError:
        raise UsageError(f"--first {arguments.first!r} is no date such as 2026-03-02") from None
    entries = [entry for entry in SCHEDULE if entry.name in _names(arguments.only)]
    begun = time.monotonic()
    scenario = load_scenario(arguments.scenario)
    habits = Habits(told_late=arguments.told_late, never_told=arguments.never_told)
    script = Script(
        scenario, first, arguments.days, arguments.seed,
        _shift(scenario, arguments.demand_from, arguments.demand), arguments.speed,
    )  # fmt: skip
    told = _Teller(arguments.quiet)
    with ExitStack() as stack:
        folder = arguments.home
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atmr-twin-")))
        folder.mkdir(parents=True, exist_ok=True)
        open_site = _embedded if arguments.mode == "embedded" else _distributed
        site = stack.enter_context(open_site(arguments, folder, first, entries, told))
        companies = [
            _company(site, 1 + n, habits, arguments.seed) for n in range(arguments.companies)
        ]
        days = play(
            script, companies, site.clock, site.conductor, site.loop.config.zone,
            on_day=lambda number, local: told.day(number, local, time.monotonic() - begun),
        )  # fmt: skip
        _collect_last(site, [company.company_id for company in companies])
        books = close_books(site.loop, companies)
    seconds = time.monotonic() - begun
    if not arguments.quiet:
        _tell(books, days, seconds)
    if arguments.json is not None:
        result = {"provenance": provenance(), "days": days, "seconds": round(seconds, 1),
                  "mode": arguments.mode, **books.to_json()}  # fmt: skip
        write_json(arguments.json, result)
    return 0 if books.add_up else 1


def _parser() -> Parser:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--days", type=positive_int, default=4)
    parser.add_argument("--companies", type=positive_int, default=1)
    parser.add_argument("--mode", choices=("embedded", "distributed"), default="embedded")
    parser.add_argument("--scenario", default="geneva")
    parser.add_argument("--first", default="2026-03-02", metavar="YYYY-MM-DD")
    parser.add_argument("--seed", type=seed_number, default=FIRST_SEED)
    parser.add_argument("--told-late", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--never-told", type=float, default=0.01, metavar="SHARE")
    parser.add_argument(
        "--demand-from",
        type=int,
        default=0,
        metavar="DAY",
        help="first day of the new demand, from 0",
    )
    parser.add_argument(
        "--demand", type=float, default=1.0, metavar="FACTOR", help="bookings a day from then on"
    )
    for option, kind, default, metavar, told in (
        ("--train-minutes", float, 1.0, "MIN", "per kind of model and night (default 1)"),
        ("--only", str, None, "NAME,...", ", ".join(e.name for e in SCHEDULE) + "; default: all"),
        ("--speed", float, None, "N", "at most so many times as fast as the world"),
        ("--home", Path, None, "DIR", "database, models, reports; default: a temporary folder"),
        ("--database-url", str, None, "URL", "of the distributed mode; must be empty"),
        ("--redis-url", str, None, "URL", "of the distributed mode"),
    ):
        parser.add_argument(option, type=kind, default=default, metavar=metavar, help=told)
    return parser


def _names(only: str | None) -> set[str]:
    known = {entry.name for entry in SCHEDULE}
    if only is None:
        return known
    wanted = {name.strip() for name in only.split(",")}
    if wanted - known:
        raise UsageError(
            f"--only: {min(wanted - known)!r} is no task; there are {', '.join(sorted(known))}"
        )
    return wanted


def _shift(scenario: Scenario, day: int, factor: float) -> Shift | None:
    if factor == 1.0:
        return None
    mean = scenario.demand_model().bookings_mean * factor
    return Shift(day, scenario.resized(bookings_per_day=mean))


def _company(site: Site, company_id: int, habits: Habits, seed: int) -> TwinCompany:
    loop = site.loop
    with loop.database.writing() as session:
        _, key = create_key(
            session, site.clock, company_id=company_id, name="twin", scopes=("admin",)
        )
    return TwinCompany(
        company_id, site.calls(key), loop.database, site.clock, travel_tables(loop.scenario),
        habits, seed,
    )  # fmt: skip


def _collect_last(site: Site, company_ids: Sequence[int]) -> None:
    """What was told since the last hour."""
    from services.learning.collector import collect

    for company_id in company_ids:
        collect(site.loop, company_id)


# --- sites ---------------------------------------------------------------------------------------


def _changes(arguments: Any, url: str) -> dict[str, Any]:
    return {
        "database_url": url,
        "scenario": arguments.scenario,
        "rate_limit": "1000000 per minute",
        "rollout": "auto",
        "train_minutes": arguments.train_minutes,
        "secret_key": None,
    }


@contextmanager
def _embedded(
    arguments: Any, folder: Path, first: date, entries: Sequence[Any], told: "_Teller"
) -> Iterator[Site]:
    with _home(folder):
        config = Config.from_environment(
            **_changes(arguments, f"sqlite:///{folder / 'twin.sqlite'}"),
            redis_url=None, replay_url=None,
        )  # fmt: skip
        clock = FixedClock(_midnight(first, config))
        app = create_app(config, clock=clock, set_up=(hang_in_dispatcher,))
        _calm(app)
        at_work: Services = app.extensions[EXTENSION]
        _fresh(at_work.database.engine, folder)
        store = MemoryReplayStore(config.replay_capacity)
        with open_loop(config, clock=clock, store=store) as loop:
            place = Workplace(loop, dispatcher=at_work.parts[DISPATCHER].get)
            conductor = InThisProcess(place, entries, BODIES, told.outcome)
            yield Site(loop, clock, lambda key: InProcess(app, key), conductor)
        at_work.database.dispose()


@contextmanager
def _distributed(
    arguments: Any, folder: Path, first: date, entries: Sequence[Any], _told: "_Teller"
) -> Iterator[Site]:
    with ExitStack() as stack:
        stack.enter_context(_home(folder))
        url = arguments.database_url or _started_postgres(stack)
        redis_url = arguments.redis_url or _started_redis(stack)
        clock = FileClock(folder / "clock")
        settings = {
            "ATMR_HOME": str(folder),
            "ATMR_DATABASE_URL": url,
            "ATMR_REDIS_URL": redis_url,
            "ATMR_SCENARIO": arguments.scenario,
            "ATMR_RATE_LIMIT": "1000000 per minute",
            "ATMR_ROLLOUT": "auto",
            "ATMR_TRAIN_MINUTES": str(arguments.train_minutes),
            "ATMR_CLOCK_FILE": str(folder / "clock"),
            "ATMR_LOG_LEVEL": "ERROR",
        }
        config = Config.from_environment(
            **_changes(arguments, url), redis_url=redis_url, clock_file=folder / "clock"
        )
        clock.set(_midnight(first, config))
        loop = stack.enter_context(open_loop(config, clock=clock))
        _fresh(loop.database.engine, folder)
        served = stack.enter_context(ServedApp(folder, settings))
        queues = {entry.queue for entry in entries}
        for queue in sorted(queues):
            worker = CeleryWorker(folder, settings, queues=queue, name=f"worker-{queue}")
            stack.enter_context(worker)
            worker.await_ready()
        from celery import Celery

        from celery_app import settings as celery_settings

        sender = Celery("twin")
        sender.conf.update(celery_settings(config))
        conductor = ByWorkers(Workplace(loop), entries, sender)
        address = (served.host, served.port)
        yield Site(loop, clock, lambda key: OverHttp(address, key), conductor)


def _started_postgres(stack: ExitStack) -> str:
    from tests.postgres_server import find_binaries, running_server

    binaries = find_binaries()
    if binaries is None:
        raise UsageError("there is no PostgreSQL on this machine: give --database-url")
    url: str = stack.enter_context(running_server(binaries))
    return url


def _started_redis(stack: ExitStack) -> str:
    from tests.redis_server import RedisServer, find_redis

    program = find_redis()
    if program is None:
        raise UsageError("there is no redis-server on this machine: give --redis-url")
    return stack.enter_context(RedisServer(program)).url


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """``ATMR_HOME`` is the twin's folder: nothing of it gets among real models and reports."""
    before = os.environ.get("ATMR_HOME")
    os.environ["ATMR_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ATMR_HOME"]
        else:
            os.environ["ATMR_HOME"] = before


def _fresh(engine: Any, folder: Path) -> None:
    """Make the tables; refuse a database in which somebody has lived already."""
    from sqlalchemy import func, inspect, select

    from models import Booking

    if inspect(engine).has_table(Booking.__tablename__):
        with engine.connect() as connection:
            if connection.scalar(select(func.count()).select_from(Booking)):
                raise DataError(
                    f"{parse_url(engine.url).render_as_string(hide_password=True)} holds bookings "
                    f"already: the twin plays in an empty database ({folder})"
                )
    upgrade(engine)


def _midnight(first: date, config: Config) -> datetime:
    return datetime(first.year, first.month, first.day, tzinfo=config.zone) - timedelta(hours=2)


def _calm(app: Flask) -> None:
    """Thousands of requests and overdue patients are not worth a line each here."""
    logging.getLogger("atmr").setLevel(logging.ERROR)
    logging.getLogger("services").setLevel(logging.ERROR)
    app.logger.setLevel(logging.ERROR)


# --- telling -------------------------------------------------------------------------------------


class _Teller:
    """Prints what happens, as it happens."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def day(self, number: int, local: date, seconds: float) -> None:
        """A day begins."""
        if not self._quiet:
            print(f"day {number + 1}, {local} ({seconds:.0f} s)", flush=True)

    def outcome(self, outcome: Outcome) -> None:
        """A task has ended."""
        job = outcome.job
        if outcome.state in ("failed", "dead"):
            print(f"  {job.entry.name} of company {job.company_id}: {outcome.error}",
                  file=sys.stderr, flush=True)  # fmt: skip
        elif not self._quiet and job.entry.name in ("retraining", "rollout") and outcome.result:
            print(f"  {job.entry.name} of company {job.company_id}: {outcome.result}", flush=True)


def _tell(books: Books, days: int, seconds: float) -> None:
    print(f"\n{days} days in {seconds:.0f} s\n\n{books.table()}\n")
    for task, states in sorted(books.runs.items()):
        print(
            f"{task}: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        )
    for of, report in books.collections.items():
        left = ", ".join(f"{count} {why}" for why, count in report.left_out.items()) or "none"
        print(
            f"company {of}: {report.decisions} decisions: {report.assigned} assigned, "
            f"{report.folded} deferred, {report.provisional} open, {report.shadow} in shadow, "
            f"left out: {left}; {report.waits} epochs"
        )
    for event in books.models:
        print(f"{event['at']} company {event['company']}: {event['alias']} {event['to']} "
              f"({event['who']}: {event['why']})")  # fmt: skip


if __name__ == "__main__":
    run(main)
