"""Delete old snapshots, decisions and answers kept for repeated requests; bookings stay."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from clock import SystemClock
from config import Config
from extensions import Database
from models.database_url import reason
from scripts.rl.command import command_parser, positive_int, run, write_json
from services.learning.purging import purge
from services.rl.errors import DataError

EXAMPLES = """
purge.py --older-than-days 90 --dry-run
purge.py --older-than-days 90
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Delete what is older, a few hundred rows at a time, so that dispatch goes on meanwhile."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--older-than-days", type=positive_int, required=True, metavar="N")
    parser.add_argument("--dry-run", action="store_true", help="count only")
    arguments = parser.parse_args(argv)
    config = Config.from_environment()
    now = SystemClock().now()
    before = now - timedelta(days=arguments.older_than_days)
    answered = now - timedelta(hours=config.idempotency_hours)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        counts = purge(database, before, answered, dry_run=arguments.dry_run)
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    finally:
        database.dispose()
    result = {"before": before.isoformat(), "dry_run": arguments.dry_run, "rows": counts}
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not arguments.quiet:
        verb = "would go" if arguments.dry_run else "deleted"
        print(f"{verb}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    run(main)
