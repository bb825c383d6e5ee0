"""Write the log of decisions to a Parquet file: one row per decision, with its outcome.

Columns: all of the table `decision`; what explains it (`feature_*`), the epoch's state
(`snapshot_*`), what became of the booking where that is final (`outcome_*`). Times are UTC. No
patient is named. Read it with pandas.read_parquet, DuckDB, Polars or Spark.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy.exc import SQLAlchemyError

from clock import SystemClock
from config import Config
from extensions import Database
from models.database_url import reason
from scripts.rl.command import command_parser, positive_int, provenance, run, write_json
from services.dispatching.decision_export import Period, export_decisions
from services.rl import paths
from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import load_scenario

EXAMPLES = """
export_decisions.py --since 2026-03-01 --until 2026-04-01
export_decisions.py --since 2026-03-01 --until 2026-03-02 --company-id 7 --out march_1.parquet
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and say what is in it."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--since", type=_date, required=True, metavar="DATE", help="first day")
    parser.add_argument(
        "--until", type=_date, required=True, metavar="DATE", help="the day after the last"
    )
    parser.add_argument("--company-id", type=positive_int, metavar="ID", help="default: all")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="default results/decisions/<company>_<dates>"
    )
    arguments = parser.parse_args(argv)
    if arguments.since >= arguments.until:
        raise UsageError(
            f"--until {arguments.until} is not after --since {arguments.since}: it names the day "
            "after the last"
        )
    config = Config.from_environment()
    scenario = load_scenario(config.scenario)
    period = Period(
        _midnight(arguments.since, config.zone),
        _midnight(arguments.until, config.zone),
        arguments.company_id,
    )
    whose = "all" if arguments.company_id is None else f"company_{arguments.company_id}"
    name = f"{whose}_{arguments.since}_{arguments.until}.parquet"
    out = arguments.out or paths.results_dir() / "decisions" / name
    commit = provenance()["commit"]
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        done = export_decisions(
            database, period, out, rules=scenario.rules, now=SystemClock().now(),
            origin={"commit": commit, "scenario": scenario.name, "scenario_hash": scenario.sha256},
        )  # fmt: skip
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    finally:
        database.dispose()
    size_mb = done.path.stat().st_size / 1e6
    if arguments.json is not None:
        found = {**asdict(done), "path": str(done.path), "megabytes": size_mb}
        write_json(arguments.json, {**found, **provenance()})
    if not arguments.quiet:
        print(
            f"{done.path}: {done.rows} decisions ({done.final} with a final outcome), "
            f"{len(done.features)} features, {size_mb:.2f} MB"
        )
        if done.left_out:
            print(f"left out where they are no numbers: {', '.join(done.left_out)}")
    return 0


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-03-01") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins on the company's clock."""
    return datetime.combine(day, time(), zone)


if __name__ == "__main__":
    run(main)
