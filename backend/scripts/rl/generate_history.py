"""Invent a company history (bookings, drivers, assignments) for demos and tests."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from models.database_url import parse_url
from models.history_writer import write_database, write_sqlite
from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl import paths
from services.rl.data.synthetic_history import synthesise_history
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario

MOST_DAYS, LAST_YEAR = 3_660, 2090

EXAMPLES = """
generate_history.py
generate_history.py --days 30 --seed 7 --out /tmp/history.sqlite
generate_history.py --database-url postgresql+psycopg://atmr@localhost/atmr --replace
"""


def demo_history() -> Path:
    """Where the invented history lies by default."""
    return paths.data_dir() / "demo_history.sqlite"


def main(argv: Sequence[str] | None = None) -> int:
    """Generate, write, say what was written."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--days", type=positive_int, default=90, help="calendar days (default 90)")
    parser.add_argument(
        "--start", type=date.fromisoformat, default=date(2025, 1, 6), help="first day, YYYY-MM-DD"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=0, help="same seed, same history (default 0)"
    )
    parser.add_argument("--scenario", default="geneva", help="demand and fleet (default geneva)")
    parser.add_argument("--company-id", type=int, default=1, help="written to every row")
    parser.add_argument(
        "--out", type=Path, help="SQLite file (default data/rl/demo_history.sqlite)"
    )
    parser.add_argument("--database-url", help="write to this database instead of a file")
    parser.add_argument("--replace", action="store_true", help="delete rows already there")
    arguments = parser.parse_args(argv)
    if arguments.out is not None and arguments.database_url is not None:
        raise UsageError("--out and --database-url exclude each other")
    if arguments.days > MOST_DAYS or arguments.start.year > LAST_YEAR:
        raise UsageError(f"at most {MOST_DAYS} days, starting no later than {LAST_YEAR}")
    history = synthesise_history(
        load_scenario(arguments.scenario),
        start=arguments.start,
        days=arguments.days,
        seed=arguments.seed,
        company_id=arguments.company_id,
    )
    if arguments.database_url is not None:
        target = parse_url(arguments.database_url)
        write_database(history, target, replace=arguments.replace)
        shown = target.render_as_string(hide_password=True)
    else:
        path = arguments.out or demo_history()
        write_sqlite(history, path)
        shown = str(path)
    served = sum(row["status"] == "COMPLETED" for row in history.bookings)
    cancelled = sum(row["status"] == "CANCELED" for row in history.bookings)
    last = arguments.start + timedelta(days=arguments.days - 1)
    if not arguments.quiet:
        print(
            f"{len(history.bookings)} bookings ({served} served, {cancelled} called off), "
            f"{len(history.drivers)} drivers, {arguments.start} to {last}: {shown}"
        )
    if arguments.json is not None:
        result = {
            "schema": 1,
            **provenance(),
            "target": shown,
            "bookings": len(history.bookings),
            "served": served,
            "called_off": cancelled,
            "drivers": len(history.drivers),
            "first_day": str(arguments.start),
            "last_day": str(last),
        }
        write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    run(main)
