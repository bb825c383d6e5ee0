"""Show the company of `make demo`: dashboard and API on this machine's loopback, the day going on.

The demonstration has a folder of its own (``<home>/data/demo``: database, models, session key), so
that it never touches what a company works with. Its clock goes on from where it stopped; patients
call, drivers drive, and the dispatcher decides at every epoch as it would in production.
"""

import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from access import create_key
from clock import ScaledClock, SystemClock
from config import Config
from extensions import Database
from migrations import upgrade
from scripts.rl import deploy_agent
from scripts.rl.command import command_parser, positive_float, positive_int, run, write_json
from services.dispatching.demo_company import DemoCompany
from services.dispatching.operating_day import day_of
from services.model_registry import SqlRegistry, open_registry
from services.rl import paths
from services.rl.errors import AtmrError, DataError, UsageError
from services.rl.serving.registry import CHAMPION, Registry
from services.rl.simulation.scenarios import Scenario

EXAMPLES = """
demo_serve.py
demo_serve.py --port 8080
demo_serve.py --speed 20                (an hour of the demonstration in three minutes)
demo_serve.py --new-key                 (a new manager key, if the old one was lost)
"""

COMPANY: Final = 1
DAYS_BEFORE = 3
CHECKED_DAYS = 3
"""Days on which the export checks the planner; deploy_agent.py plays 20."""
SHOWN_MIN: Final = 240.0
"""Minute of the operating day at which it begins: much has happened, much is open."""
_SEED: Final = 2_500_000
_LIVE_EVERY_S: Final = 2.0

_LOG = logging.getLogger("atmr.demo")


@dataclass(frozen=True)
class Standing:
    """Where the demonstration stands; `DemoCompany.resume` goes on from it.

    Attributes:
        date: Of the operating day in progress, on the local clock.
        first_booking: Id of its first booking.
        moment: Where the clock stopped.
    """

    date: str
    first_booking: int
    moment: str

    def save(self, path: Path) -> None:
        """Write it under a temporary name, then rename."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Standing":
        """Read it.

        Raises:
            DataError: If the file is damaged.
        """
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            date.fromisoformat(found.date)
            if datetime.fromisoformat(found.moment).tzinfo is None:
                raise ValueError("no time zone")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is damaged: run `make demo` again") from error
        return found


def demo_folder() -> Path:
    """Folder of the demonstration."""
    return paths.home() / "data" / "demo"


def settings(folder: Path) -> Config:
    """The environment's settings, but the demonstration's own database and session key.

    Raises:
        UsageError: If a setting of the environment is wrong.
        DataError: If the session key cannot be read.
    """
    try:
        secret = (folder / "secret_key").read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise DataError(
            f"the session key in {folder} cannot be read: run `make demo` again"
        ) from error
    # By the name that comes first: a DATABASE_URL of the environment is production's.
    return Config.from_environment(
        ATMR_DATABASE_URL=f"sqlite:///{folder / 'atmr.sqlite'}",
        secret_key=secret,
        log_level="WARNING",  # the terminal shows where to look, not every request
    )


def prepare(scenario: Path, model: Path, *, quiet: bool = False) -> dict[str, Any] | None:
    """Export, register and promote a planner, and let its company live up to a day in progress.

    Args:
        scenario: YAML file of the world that the planner was fitted to.
        model: Its folder (``checkpoints/best``).
        quiet: Print nothing.

    Returns:
        Version of the champion, keys of a manager and a reader, and what there is to see; None
        if the model was refused (why is on stderr).
    """
    folder = demo_folder()
    new = folder.with_name("demo.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    common = ["--registry", str(new), "--who", "demo", "--quiet"]
    why = ["--why", "freshly fitted by the demonstration"]
    exported = ["--model", str(model), "--scenario", str(scenario), "--days", str(CHECKED_DAYS)]
    code = deploy_agent.main([*exported, *why, *common])
    if code:
        return None
    deploy_agent.main(["promote", *why, *common])
    _keep_secret(folder, new)
    with open_registry(settings(new), home=new) as registry:
        version = registry.alias(None, CHAMPION)
        assert version is not None
        bundle = registry.get(version)
        if not quiet:
            what = f"{bundle.kind} for {bundle.manifest.scenario}"
            print(f"{version}: {what}, exported, checked, promoted", flush=True)
        found = _fill(new, bundle.scenario, registry)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return {"champion": version, **found}


def _keep_secret(folder: Path, new: Path) -> None:
    """The session key of the last demonstration, or a new one; nobody else may read it."""
    try:
        secret = (folder / "secret_key").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        secret = ""
    if len(secret) < 64:
        secret = secrets.token_hex(32)
    handle = os.open(new / "secret_key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret + "\n")


def _fill(folder: Path, scenario: Scenario, registry: Registry) -> dict[str, Any]:
    config = settings(folder)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        upgrade(database.engine)
        company = _company(database, scenario, config, registry)
        today = SystemClock().now().astimezone(config.zone).date()
        dates = [today - timedelta(days=n) for n in range(DAYS_BEFORE, -1, -1)]
        company.open_experiment(day_of(dates[0], scenario.rules, config.zone).start)
        share = min(SHOWN_MIN, 0.6 * scenario.rules.horizon_min)
        moment = day_of(today, scenario.rules, config.zone).instant(share)
        booked = sum(company.live(local, moment) for local in dates)
        _stand(company, today).save(folder / "standing.json")
        return {
            "days": len(dates),
            "bookings": booked,
            "now": moment.astimezone(config.zone).isoformat(timespec="minutes"),
            "manager_key": _new_key(database, "manager", "admin"),
            "reader_key": _new_key(database, "reader", "read"),
        }
    finally:
        database.dispose()


def _company(
    database: Database, scenario: Scenario, config: Config, registry: Registry
) -> DemoCompany:
    return DemoCompany(database, scenario, config.zone, registry, company_id=COMPANY, seed=_SEED)


def _stand(company: DemoCompany, today: date) -> Standing:
    return Standing(today.isoformat(), company.today_from, company.clock.now().isoformat())


def _new_key(database: Database, name: str, scope: str) -> str:
    with database.writing() as session:
        _, key = create_key(
            session, SystemClock(), company_id=COMPANY, name=f"demo-{name}", scopes=(scope,)
        )
    return key


class Life:
    """The company lives on beside the server, as fast as the demonstration's clock runs.

    Args:
        company: Resumed.
        clock: The demonstration's.
        today: Date of the day in progress.
        path: Where its standing is kept.
    """

    def __init__(self, company: DemoCompany, clock: ScaledClock, today: date, path: Path) -> None:
        self._company = company
        self._clock = clock
        self._today = today
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="demo", daemon=True)

    def __enter__(self) -> "Life":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and keep the standing."""
        self._stop.set()
        self._thread.join(timeout=30.0)

    def step(self) -> None:
        """Live up to the clock's moment; after a day's end, the next day begins at its hour."""
        now = self._clock.now()
        if self._company.over:
            self._today += timedelta(days=1)
            self._company.live(self._today, now)
        else:
            self._company.go_on(now)
        _stand(self._company, self._today).save(self._path)

    def _live(self) -> None:
        while not self._stop.wait(_LIVE_EVERY_S):
            try:
                self.step()
            except (AtmrError, SQLAlchemyError, OSError):  # the pages stay up meanwhile
                _LOG.exception("the demonstration's day stands still")


def serve(folder: Path, port: int, speed: float) -> None:
    """Serve until Ctrl-C.

    Raises:
        UsageError: If the port is taken, or there is no demonstration.
    """
    from werkzeug.serving import make_server

    from app import create_app
    from services.dispatching.part import hang_in

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    config = settings(folder)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    registry = SqlRegistry(database, SystemClock(), folder)
    version = registry.alias(None, CHAMPION)
    if version is None:
        raise DataError(f"{folder} holds no champion: run `make demo` again")
    scenario = registry.get(version).scenario
    standing = Standing.load(folder / "standing.json")
    clock = ScaledClock(datetime.fromisoformat(standing.moment), speed)
    app = create_app(config, scenario=scenario, clock=clock, registry=registry, set_up=(hang_in,))
    try:
        server = make_server("127.0.0.1", port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise UsageError(f"port {port} of 127.0.0.1 is taken: give another, PORT=8001") from error
    company = _company(database, scenario, config, registry)
    today = date.fromisoformat(standing.date)
    company.resume(today, standing.first_booking, clock.now())
    print(f"the demonstration's clock: {clock.now().astimezone(config.zone):%A %d %B %Y, %H:%M}")
    print(f"dashboard:          http://127.0.0.1:{port}/dashboard  (log in with the manager key)")
    print(f"API documentation:  http://127.0.0.1:{port}/docs")
    print("Ctrl-C stops it.", flush=True)
    try:
        with Life(company, clock, today, folder / "standing.json"):
            server.serve_forever()  # which takes Ctrl-C itself
        print("\nstopped; the same command goes on from here")
    finally:
        server.server_close()
        database.dispose()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the demonstration, or make a key for it."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--port", type=positive_int, default=8000)
    parser.add_argument("--speed", type=positive_float, default=1.0, help="of its clock")
    parser.add_argument("--new-key", action="store_true", help="print a new manager key and leave")
    arguments = parser.parse_args(argv)
    folder = demo_folder()
    if not (folder / "standing.json").is_file():
        raise UsageError(f"there is no demonstration in {folder}: run `make demo` first")
    if arguments.new_key:
        config = settings(folder)
        database = Database(config.database_url.get_secret_value())
        try:
            print(f"manager key: {_new_key(database, 'manager', 'admin')}")
        finally:
            database.dispose()
        return 0
    serve(folder, arguments.port, arguments.speed)
    return 0


if __name__ == "__main__":
    run(main)
