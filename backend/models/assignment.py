"""Assignments: which driver took which booking, and what became of it."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .column_types import Word


class Assignment(Base):
    """One booking given to one driver; a reassigned booking has several.

    ``actual_pickup_at`` is when the driver reached the patient and boarding began,
    ``actual_dropoff_at`` when the vehicle reached the destination: between them lie the pickup's
    service time and the drive.
    """

    __tablename__ = "assignment"

    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(ForeignKey("booking.id"), index=True)
    driver_id: Mapped[int] = mapped_column(ForeignKey("driver.id"), index=True)
    assigned_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[str] = mapped_column(Word(20), default="ASSIGNED")
    actual_pickup_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    actual_dropoff_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
