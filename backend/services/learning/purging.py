"""Old snapshots, decisions and answers kept for repeated requests are deleted; bookings stay."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select

from extensions import Database
from models import Commitment, Decision, FleetSnapshot, IdempotencyRecord

_BATCH: Final = 500


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
