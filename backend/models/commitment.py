"""What is promised to drivers and not finished, and what people have fixed."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .reasons import REASON_CODES, one_of

COMMITMENT_STATES = ("queued", "driving", "onboard")


class Commitment(Base):
    """One booking that a driver has, from the decision until its outcome; then the row goes.

    The two keys give the guarantee that no two requests win: one row per booking, and one row per
    place of a driver (0 .. the scenario's ``rules.queue``). A place says only that there is room;
    the order of work is ``order_no``, first in, first out.
    """

    __tablename__ = "commitment"
    __table_args__ = (
        UniqueConstraint("driver_id", "slot", name="uq_commitment_driver_slot"),
        CheckConstraint("slot >= 0", name="ck_commitment_slot"),
        CheckConstraint(one_of("state", COMMITMENT_STATES), name="ck_commitment_state"),
    )

    booking_id: Mapped[int] = mapped_column(
        ForeignKey("booking.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    company_id: Mapped[int] = mapped_column(index=True)
    driver_id: Mapped[int] = mapped_column(ForeignKey("driver.id", ondelete="CASCADE"))
    assignment_id: Mapped[int] = mapped_column(
        ForeignKey("assignment.id", ondelete="CASCADE"), unique=True
    )
    slot: Mapped[int]
    order_no: Mapped[int]
    decision_id: Mapped[str | None] = mapped_column(String(32))  # None: assigned elsewhere
    planned_depart_at: Mapped[datetime] = mapped_column(UtcDateTime)
    planned_pickup_at: Mapped[datetime] = mapped_column(UtcDateTime)
    planned_dropoff_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(10), default="queued")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class BookingPin(Base):
    """A person's word that this driver, and no other, takes this booking."""

    __tablename__ = "booking_pin"
    __table_args__ = (
        CheckConstraint(one_of("reason_code", REASON_CODES), name="ck_booking_pin_reason"),
    )

    booking_id: Mapped[int] = mapped_column(
        ForeignKey("booking.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    driver_id: Mapped[int] = mapped_column(ForeignKey("driver.id", ondelete="CASCADE"), index=True)
    company_id: Mapped[int] = mapped_column(index=True)
    pinned_by: Mapped[str] = mapped_column(String(80))  # name of the API key, never a patient's
    reason_code: Mapped[str] = mapped_column(String(30))
    pinned_at: Mapped[datetime] = mapped_column(UtcDateTime)
