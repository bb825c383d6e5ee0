"""Jobs that nobody ever reported: they must not keep a driver's place for ever.

A commitment goes with its outcome. Where a host never tells one, the driver would have a place less
from then on, and a full queue after a few days: nobody would be sent any more. So a job that by
plan ended long ago is taken off the driver; booking and assignment stay as they are, and an
outcome told later is still taken.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select

from extensions import Database
from models import Commitment

logger = logging.getLogger(__name__)

UNREPORTED_AFTER: Final = timedelta(hours=12)
"""Longer than any working day goes on after a planned dropoff."""


def release_unreported(database: Database, company_id: int, now: datetime) -> list[int]:
    """Take jobs off drivers that ended by plan `UNREPORTED_AFTER` ago; their bookings' ids."""
    old = (
        (Commitment.company_id == company_id)
        & (Commitment.planned_dropoff_at < now - UNREPORTED_AFTER)
    )  # fmt: skip
    with database.reading() as session:  # nearly always nothing: no write lock for that
        if session.scalar(select(Commitment.booking_id).where(old).limit(1)) is None:
            return []
    with database.writing() as session:
        released = sorted(
            session.scalars(delete(Commitment).where(old).returning(Commitment.booking_id))
        )
    for booking_id in released:
        logger.warning(
            "booking %d of company %d was never reported: its driver is free of it",
            booking_id,
            company_id,
        )
    return released
