"""The whole loop in minutes: calibrated days played against the real API and database.

Bookings arrive, drivers move, outcomes are told: some late, some never. Everything else is as in
production: ticks, hourly collection, nightly retraining, gate, rollout, the experiment's verdict.
Exits with 1 if the books do not add up in the end.

``--mode embedded``: one process, SQLite, no broker. ``--mode distributed``: PostgreSQL, Redis, the
API under gunicorn and Celery's workers, started here unless they are named.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path

from scripts.rl.command import (
    Parser,
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from scripts.rl.twin_site import SitePlan, distributed, embedded
from services.learning.collector import collect
from services.learning.running import Outcome
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.twin.accounts import Books, close_books
from services.twin.company import Habits
from services.twin.play import Script, Shift, play
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


def main(argv: Sequence[str] | None = None) -> int:
    """Play, close the books, tell."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        first = date.fromisoformat(arguments.first)
    except ValueError:
        raise UsageError(f"--first {arguments.first!r} is no date such as 2026-03-02") from None
    for name in ("told_late", "never_told"):
        if not 0.0 <= getattr(arguments, name) <= 1.0:
            raise UsageError(f"--{name.replace('_', '-')} is a share from 0 to 1")
    if arguments.mode == "embedded" and (arguments.database_url or arguments.redis_url):
        raise UsageError("--database-url and --redis-url belong to --mode distributed")
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
        plan = SitePlan(
            folder, arguments.scenario, first, entries, arguments.train_minutes,
            arguments.gate_days, arguments.database_url, arguments.redis_url,
        )  # fmt: skip
        open_site = embedded if arguments.mode == "embedded" else distributed
        site = stack.enter_context(open_site(plan, told.outcome))
        companies = [
            site.company(1 + n, habits, arguments.seed) for n in range(arguments.companies)
        ]
        days = play(
            script, companies, site.clock, site.conductor, site.loop.config.zone,
            on_day=lambda number, local: told.day(number, local, time.monotonic() - begun),
        )  # fmt: skip
        for company in companies:  # what was told since the last hour
            collect(site.loop, company.company_id)
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
        ("--gate-days", int, 200, "D", "fresh days of the gate (default 200; production has 400)"),
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
