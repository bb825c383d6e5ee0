"""The log of decisions: what was chosen, by whom, with which probability, and how fast."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .reasons import REASON_CODES, one_of

DECISION_ACTIONS = ("assign", "defer")
DECISION_SOURCES = ("policy", "human", "reconstructed")


class Decision(Base):
    """One decision about one booking.

    Bookings and drivers are named without a foreign key: the log outlives the host's rows.
    """

    __tablename__ = "decision"
    __table_args__ = (
        Index("ix_decision_company_decided", "company_id", "decided_at"),
        Index("ix_decision_booking", "booking_id"),
        CheckConstraint(one_of("action", DECISION_ACTIONS), name="ck_decision_action"),
        CheckConstraint(one_of("source", DECISION_SOURCES), name="ck_decision_source"),
        CheckConstraint(
            f"reason_code IS NULL OR {one_of('reason_code', REASON_CODES)}",
            name="ck_decision_reason",
        ),
        CheckConstraint("propensity >= 0 AND propensity <= 1", name="ck_decision_propensity"),
        CheckConstraint("(action = 'assign') = (driver_id IS NOT NULL)", name="ck_decision_driver"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # uuid4, hexadecimal
    # Deleting a snapshot takes its decisions along (purge). None: a person decided without one.
    snapshot_id: Mapped[int | None] = mapped_column(
        ForeignKey("fleet_snapshot.id", ondelete="CASCADE"), index=True
    )
    seq: Mapped[int]  # canonical order within the snapshot
    company_id: Mapped[int]
    booking_id: Mapped[int]
    driver_id: Mapped[int | None]  # None: deferred
    action: Mapped[str] = mapped_column(String(10))
    k: Mapped[int] = mapped_column(default=1)  # candidates among which exploration could choose
    propensity: Mapped[float] = mapped_column(default=1.0)
    arm: Mapped[str] = mapped_column(String(20))
    unit: Mapped[str] = mapped_column(String(80))
    model: Mapped[str | None] = mapped_column(String(64))  # version of the bundle; None: none
    layout: Mapped[int]
    score: Mapped[float | None]
    features: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    latency_ms: Mapped[float]
    fallback_reason: Mapped[str | None] = mapped_column(String(60))
    plan_hash: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime)
    decide_again_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    must_decide_by: Mapped[datetime | None] = mapped_column(UtcDateTime)
    shadow: Mapped[bool] = mapped_column(default=False)  # logged, not acted on
    source: Mapped[str] = mapped_column(String(15), default="policy")
    reason_code: Mapped[str | None] = mapped_column(String(30))  # a person's
    overridden_by: Mapped[str | None] = mapped_column(
        ForeignKey("decision.id", ondelete="SET NULL"), index=True
    )
