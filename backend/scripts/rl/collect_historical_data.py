"""Turn a company's booking history into a data set of days, with a report and two scenarios.

Reads bookings, assignments and drivers from a database, or bookings from a CSV; keeps or rejects
every row for a named reason; splits the days by calendar; fits a demand model and a travel model
to the training days. Names of patients and free text are never read.
"""

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from clock import SystemClock
from models.database_url import parse_url
from models.history_reader import read_history
from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from scripts.rl.generate_history import demo_history
from services.rl import paths
from services.rl.data.building import DayRules
from services.rl.data.collection import Collected, check_target, collect
from services.rl.data.columns import ColumnMapping, check_zone, load_mapping
from services.rl.data.history import RawHistory, read_csv
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Split

EXAMPLES = """
collect_historical_data.py --days 90
collect_historical_data.py --csv trips.csv --name lausanne --day-start 07:00 --hours 11
collect_historical_data.py --database-url postgresql+psycopg://atmr@localhost/atmr --company-id 3
collect_historical_data.py --csv export.csv --mapping columns.yaml --strict
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, validate, write, report."""
    arguments = _arguments(argv)
    name = arguments.name or _default_name(arguments)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", name) or set(name) == {"."}:
        raise UsageError(f"--name {name!r} may have only letters, digits, '_', '.' and '-'")
    folder = arguments.out or paths.data_dir() / "history" / name
    check_target(folder)
    today = SystemClock().now().astimezone(check_zone(arguments.timezone, "--timezone")).date()
    mapping = ColumnMapping() if arguments.mapping is None else load_mapping(arguments.mapping)
    rules = DayRules(
        timezone=arguments.timezone,
        days=arguments.days,
        until=min(arguments.until or today, today),
        day_start=arguments.day_start,
        horizon_min=None if arguments.hours is None else 60 * arguments.hours,
    )
    collected = collect(
        _read(arguments, mapping),
        folder,
        rules,
        name=name,
        company_id=arguments.company_id,
        strict=arguments.strict,
        fit=not arguments.no_fit,
        seed=arguments.seed,
    )
    if not arguments.quiet:
        _say(collected)
    if arguments.json is not None:
        write_json(arguments.json, {"schema": 1, **provenance(), **collected.summary()})
    return 0


def _arguments(argv: Sequence[str] | None) -> Namespace:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--days", type=positive_int, default=90, help="calendar days (default 90)")
    parser.add_argument(
        "--until", type=date.fromisoformat, help="last day, YYYY-MM-DD (default: last in the data)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--database-url", help="default: the variable DATABASE_URL, else the demo history"
    )
    source.add_argument("--csv", type=Path, help="one booking per line, with a header")
    parser.add_argument("--mapping", type=Path, help="YAML that names another schema's columns")
    parser.add_argument("--company-id", help="only this company's bookings")
    parser.add_argument("--out", type=Path, help="folder (default data/rl/history/NAME)")
    parser.add_argument("--name", help="of the data set and its scenarios")
    parser.add_argument("--timezone", default="Europe/Zurich", help="default Europe/Zurich")
    parser.add_argument("--day-start", metavar="HH:MM", help="operating day (default: inferred)")
    parser.add_argument("--hours", type=float, help="its length (default: inferred)")
    parser.add_argument("--no-fit", action="store_true", help="no demand model, no scenarios")
    parser.add_argument("--strict", action="store_true", help="refuse the history on a bad row")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the fit (default 0)")
    return parser.parse_args(argv)


def _url(arguments: Namespace) -> str:
    """The database to read: as given, as the environment says, or the demo history."""
    url = arguments.database_url or os.environ.get("DATABASE_URL")
    if url:
        return str(url)
    if not demo_history().is_file():
        raise UsageError(
            f"no --database-url, no --csv, and no demo history at {demo_history()}; "
            "generate_history.py makes one"
        )
    return f"sqlite:///{demo_history()}"


def _default_name(arguments: Namespace) -> str:
    if arguments.csv is not None:
        source = arguments.csv.stem
    else:
        source = Path(parse_url(_url(arguments)).database or "history").stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", source).strip("._-")[:60]
    return name.removesuffix("_history") or "history"


def _read(arguments: Namespace, mapping: ColumnMapping) -> RawHistory:
    if arguments.csv is not None:
        return read_csv(arguments.csv, mapping, arguments.timezone)
    zone = check_zone(arguments.timezone, "--timezone")
    until = SystemClock().now()
    if arguments.until is not None:
        end_of_day = datetime.combine(arguments.until + timedelta(days=1), time(), zone)
        until = min(until, end_of_day.astimezone(UTC))
    return read_history(
        _url(arguments),
        days=arguments.days,
        until=until,
        company_id=arguments.company_id,
        mapping=mapping,
    )


def _say(collected: Collected) -> None:
    history = collected.history
    counts = history.facts["counts"]
    print(f"read {counts['read']}, kept {counts['kept']}, rejected {counts['rejected']}")
    for reason, count in counts["rejected_by_reason"].items():
        print(f"  {reason}: {count}")
    print(
        f"{len(history.dates)} days, {history.dates[0]} to {history.dates[-1]}, "
        f"{history.day_start} for {history.horizon_min / 60:g} h"
    )
    if collected.fit is not None:
        days = len(history.labels(Split.TRAIN))
        print(f"fitted to {days} training days; validation days compared with drawn ones:")
        for comparison in collected.fit.goodness:
            print(f"  {comparison.sentence()}")
    print(f"data set: {collected.folder}")
    print(f"report:   {collected.folder / 'report.md'}")
    if collected.fit is not None:
        print(f"scenario: {collected.folder / 'scenario.yaml'}")


if __name__ == "__main__":
    run(main)
