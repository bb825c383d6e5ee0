"""Bookings: who must be taken from where to where, and when (never who they are)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ColumnElement, Index, and_
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .column_types import Flag, Priority, Word


class Booking(Base):
    """One patient transport as the company booked it.

    The host's table also has the patient's name and free-text notes. They are left unmapped on
    purpose: what is not mapped cannot be read, logged or learned from by accident.
    """

    __tablename__ = "booking"
    __table_args__ = (
        CheckConstraint("priority BETWEEN 1 AND 5", name="ck_booking_priority"),
        Index("ix_booking_company_scheduled", "company_id", "scheduled_time"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int]
    pickup_lat: Mapped[float]  # WGS-84 degrees
    pickup_lon: Mapped[float]
    dropoff_lat: Mapped[float]
    dropoff_lon: Mapped[float]
    scheduled_time: Mapped[datetime] = mapped_column(UtcDateTime)  # promised pickup
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[str] = mapped_column(Word(20), default="PENDING")
    priority: Mapped[int] = mapped_column(Priority, default=3)  # 1 (can wait) .. 5 (urgent)
    is_urgent: Mapped[bool] = mapped_column(Flag, default=False)  # "as soon as possible"
    wheelchair_need: Mapped[bool] = mapped_column(Flag, default=False)
    is_return: Mapped[bool] = mapped_column(Flag, default=False)  # from the care facility back home
    pickup_service_min: Mapped[float | None]  # minutes to board; None: not recorded
    dropoff_service_min: Mapped[float | None]
    cancelled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the patient called off


def complete() -> ColumnElement[bool]:
    """Condition: the booking has times, and places that exist.

    A host may hold some that have not (an address not found yet, columns interchanged): they are
    nobody's to dispatch, and must not keep the others from it. What is NULL or NaN is in no range.
    """
    return and_(
        Booking.pickup_lat.between(-90, 90),
        Booking.pickup_lon.between(-180, 180),
        Booking.dropoff_lat.between(-90, 90),
        Booking.dropoff_lon.between(-180, 180),
        Booking.scheduled_time.is_not(None),
        Booking.created_at.is_not(None),
    )
