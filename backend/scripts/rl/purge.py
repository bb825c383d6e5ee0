"""Delete old snapshots, decisions and answers kept for repeated requests; bookings stay."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from clock import SystemClock
from config import Config
from extensions import Database
from models import Commitment, Decision, FleetSnapshot, IdempotencyRecord
from models.database_url import reason
from scripts.rl.command import command_parser, positive_int, run, write_json
from services.rl.errors import DataError

EXAMPLES = """
purge.py --older-than-days 90 --dry-run
purge.py --older-than-days 90
"""
_BATCH = 500


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


def purge(
    database: Database, before: datetime, answered_before: datetime, *, dry_run: bool = False
) -> dict[str, int]:
    """Delete decisions and snapshots from before an instant; returns rows by table.

    A decision that a driver is still carrying out stays, and so does its snapshot.
    """
    at_work = select(Commitment.decision_id).where(Commitment.decision_id.is_not(None))
    old_decision = (Decision.decided_at < before) & Decision.id.not_in(at_work)
    staying = select(Decision.snapshot_id).where(Decision.snapshot_id.is_not(None), ~old_decision)
    old_snapshot = (FleetSnapshot.epoch_at < before) & FleetSnapshot.id.not_in(staying)
    # Decisions first: then nothing is left to cascade to, and each batch is as large as it says.
    plan: list[tuple[Any, Any, ColumnElement[bool]]] = [
        (Decision, Decision.id, old_decision),
        (FleetSnapshot, FleetSnapshot.id, old_snapshot),
        (IdempotencyRecord, None, IdempotencyRecord.created_at < answered_before),
    ]
    counts = {}
    for table, key, old in plan:
        with database.reading() as session:
            count = session.scalar(select(func.count()).select_from(table).where(old)) or 0
        counts[table.__tablename__] = count
        if dry_run or not count:
            continue
        if key is None:
            with database.writing() as session:
                session.execute(delete(table).where(old))
            continue
        for _ in range(-(-count // _BATCH)):
            with database.writing() as session:
                batch = session.scalars(select(key).where(old).limit(_BATCH)).all()
                session.execute(delete(table).where(key.in_(batch)))
    return counts


if __name__ == "__main__":
    run(main)
