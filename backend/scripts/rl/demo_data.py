"""Fill a company with simulated days, today's in progress, so that the dashboard has something.

Days are lived tick by tick by the real dispatcher, with the registry's champion in the learned arm
(where there is none, a planner with the filed values, or else the tuned matcher, is registered).
With --serve the app then runs on this machine's loopback, its clock going on from the hour of the
demonstration: the dashboard shows a day in progress also at night.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from access import create_key
from clock import ScaledClock, SystemClock
from config import Config
from extensions import Database
from migrations import upgrade
from models import Booking, Driver
from models.database_url import reason
from scripts.rl.command import command_parser, positive_int, progress, run, seed_number, write_json
from services.dispatching.demo_company import DemoCompany
from services.dispatching.operating_day import day_of
from services.model_registry import SqlRegistry
from services.rl.errors import AtmrError, DataError, UsageError
from services.rl.serving.bundle import MATCHING, PLANNER, write_bundle
from services.rl.serving.registry import Registry
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
demo_data.py
demo_data.py --company-id 7 --days 10 --hour 14
demo_data.py --serve 8000
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Fill, print the key, and serve if asked to."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--company-id", type=positive_int, default=1, help="must be new")
    parser.add_argument("--days", type=positive_int, default=3, help="days before today")
    parser.add_argument(
        "--hour", type=int, default=None, help="of the clock where today stops; default: now"
    )
    parser.add_argument("--seed", type=seed_number, default=1_000_000)
    parser.add_argument("--serve", type=positive_int, metavar="PORT", help="then serve the app")
    arguments = parser.parse_args(argv)
    config = Config.from_environment()
    if arguments.serve is not None and config.secret_key is None:
        raise UsageError("--serve needs ATMR_SECRET_KEY (openssl rand -hex 32)")
    scenario = load_scenario(config.scenario)
    moment = _moment(arguments.hour, scenario, config)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        result = _fill(arguments, config, scenario, database, moment)
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    finally:
        database.dispose()
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not arguments.quiet:
        for name, value in result.items():
            print(f"{name}: {value}")
    if arguments.serve is not None:
        _serve(config, scenario, moment, arguments.serve)
    return 0


def _fill(
    arguments: argparse.Namespace,
    config: Config,
    scenario: Scenario,
    database: Database,
    moment: datetime,
) -> dict[str, Any]:
    upgrade(database.engine)
    with database.reading() as session:
        if session.scalar(select(Driver.id).where(Driver.company_id == arguments.company_id)):
            raise UsageError(f"company {arguments.company_id} has drivers already: take another")
        last = max(
            session.scalar(select(column).order_by(column.desc()).limit(1)) or 0
            for column in (Driver.id, Booking.id)
        )
    registry = SqlRegistry(database, SystemClock())
    champion = _champion(registry, scenario)
    company = DemoCompany(
        database, scenario, config.zone, registry,
        company_id=arguments.company_id, first_id=last + 1, seed=arguments.seed,
    )  # fmt: skip
    today = moment.astimezone(config.zone).date()
    dates = [today - timedelta(days=n) for n in range(arguments.days, -1, -1)]
    company.open_experiment(day_of(dates[0], scenario.rules, config.zone).start)
    booked = 0
    for local in progress(dates, label="days", quiet=arguments.quiet, total=len(dates)):
        booked += company.live(local, moment)
    keys: dict[str, str] = {}
    with database.writing() as session:
        for name, scopes in (("manager", ("admin",)), ("reader", ("read",))):
            _, keys[name] = create_key(
                session, SystemClock(), company_id=arguments.company_id, name=f"demo-{name}",
                scopes=scopes,
            )  # fmt: skip
    return {
        "company": arguments.company_id,
        "days": len(dates),
        "bookings": booked,
        "champion": champion,
        "now": moment.astimezone(config.zone).isoformat(timespec="minutes"),
        "manager_key": keys["manager"],
        "reader_key": keys["reader"],
    }


def _champion(registry: Registry, scenario: Scenario) -> str:
    """The champion; where there is none, the planner (the tuned matcher where it has no values)."""
    known = registry.alias(None, "champion")
    if known is not None:
        return known
    folder = Path(tempfile.mkdtemp(prefix="atmr-demo-"))
    try:
        try:
            write_bundle(folder / "bundle", PLANNER, scenario)
        except AtmrError:  # no values are filed for this scenario
            write_bundle(folder / "bundle", MATCHING, scenario)
        version = registry.register(folder / "bundle", "demo", "demo")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    registry.promote(version, "demo", "demo")
    return version


def _moment(hour: int | None, scenario: Scenario, config: Config) -> datetime:
    """Where today stops: now, or an hour of the operating day that now belongs to."""
    now = SystemClock().now()
    if hour is None:
        return now
    today: date = now.astimezone(config.zone).date()
    day = day_of(today, scenario.rules, config.zone)
    moment = datetime(today.year, today.month, today.day, tzinfo=config.zone)
    moment = (moment + timedelta(hours=hour)).astimezone(now.tzinfo)
    if not 0 <= hour < 24 or not 0 <= day.minute(moment) <= scenario.rules.horizon_min:
        raise UsageError(f"--hour {hour} does not lie in the operating day of {scenario.name}")
    return moment


def _serve(config: Config, scenario: Scenario, moment: datetime, port: int) -> None:
    """The app on loopback, its clock going on from the demonstration's moment."""
    from werkzeug.serving import make_server

    from app import create_app
    from services.dispatching.part import hang_in

    clock = ScaledClock(moment, 1.0)
    app = create_app(config, scenario=scenario, clock=clock, set_up=(hang_in,))
    server = make_server("127.0.0.1", port, app, threaded=True)
    print(f"dashboard: http://127.0.0.1:{port}/dashboard  API: http://127.0.0.1:{port}/docs")
    try:
        server.serve_forever()
    finally:
        server.server_close()


if __name__ == "__main__":
    run(main)
