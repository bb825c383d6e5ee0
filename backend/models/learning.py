"""What the loop that learns keeps for itself: marks, changes, runs of tasks, locks."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .reasons import one_of

TASK_STATES = ("running", "done", "failed", "dead")


class BookingChange(Base):
    """What became of a booking was told, or corrected: its experiences must be worked out again.

    Written in the transaction of the change. Outcomes that a host writes into its own tables leave
    no row here; the collector finds them by looking back a while.
    """

    __tablename__ = "booking_change"
    __table_args__ = (Index("ix_booking_change_company_at", "company_id", "changed_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int]
    booking_id: Mapped[int]
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CollectionMark(Base):
    """How far a company's log has been collected."""

    __tablename__ = "collection_mark"

    company_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Everything decided before is collected for good, but for later changes.
    decided_before: Mapped[datetime] = mapped_column(UtcDateTime)
    changes_before: Mapped[datetime] = mapped_column(UtcDateTime)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # of the last run
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TaskRun(Base):
    """One task for one period: what makes a second beat, or a redelivery, harmless.

    ``attempts`` counts beginnings; ``token`` fences: a worker that lost its run to another cannot
    close it any more.
    """

    __tablename__ = "task_run"
    __table_args__ = (
        CheckConstraint(one_of("state", TASK_STATES), name="ck_task_run_state"),
        Index("ix_task_run_started", "started_at"),
    )

    task: Mapped[str] = mapped_column(String(60), primary_key=True)
    period_key: Mapped[str] = mapped_column(String(80), primary_key=True)
    state: Mapped[str] = mapped_column(String(10))
    attempts: Mapped[int] = mapped_column(default=1)
    token: Mapped[int] = mapped_column(default=1)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)


class DeadLetter(Base):
    """A task that failed too often: kept for a person, tried no more by itself."""

    __tablename__ = "dead_letter"
    __table_args__ = (Index("ix_dead_letter_at", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(60))
    period_key: Mapped[str] = mapped_column(String(80))
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    attempts: Mapped[int]
    error: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # a person has seen to it
    closed_by: Mapped[str | None] = mapped_column(String(80))


class FencedLock(Base):
    """One holder at a time; ``token`` rises with each, so that a late one is told from the next."""

    __tablename__ = "fenced_lock"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    token: Mapped[int]
    owner: Mapped[str] = mapped_column(String(120))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
