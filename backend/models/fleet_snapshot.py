"""The state that decisions were made on, once per epoch."""

from datetime import date, datetime

from sqlalchemy import Date, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime


class FleetSnapshot(Base):
    """What dispatch knew at one epoch: enough to make every decision of it again.

    ``payload`` is zlib of ``DispatchState.to_json()``: ids and numbers, no name, no free text.
    """

    __tablename__ = "fleet_snapshot"
    __table_args__ = (Index("ix_fleet_snapshot_company_epoch", "company_id", "epoch_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int]
    epoch_at: Mapped[datetime] = mapped_column(UtcDateTime)
    now_min: Mapped[float]  # minutes after the start of the operating day
    day: Mapped[date] = mapped_column(Date)  # operating day, on the local clock
    scenario_hash: Mapped[str] = mapped_column(String(64))
    layout: Mapped[int]  # version of the observation layout
    schema: Mapped[int]  # version of the payload
    num_drivers: Mapped[int]
    num_bookings: Mapped[int]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
