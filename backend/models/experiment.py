"""Experiments: which arm decides for whom, who is in which arm, and what happened."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .reasons import one_of

EXPERIMENT_MODES = ("off", "shadow", "ab")
EXPERIMENT_UNITS = ("booking", "company", "switchback")

_DEFAULT = text("company_id IS NULL")


class Experiment(Base):
    """One experiment of one company, or of all that have none of their own (company None).

    ``version`` counts changes; a writer who read an older one is refused (optimistic locking).
    """

    __tablename__ = "experiment"
    __table_args__ = (
        UniqueConstraint("company_id", "name", name="uq_experiment_company_name"),
        # NULL is never equal to NULL: the line above does not hold for the default company.
        Index(
            "uq_experiment_default_name",
            "name",
            unique=True,
            sqlite_where=_DEFAULT,
            postgresql_where=_DEFAULT,
        ),
        CheckConstraint(one_of("mode", EXPERIMENT_MODES), name="ck_experiment_mode"),
        CheckConstraint(one_of("unit", EXPERIMENT_UNITS), name="ck_experiment_unit"),
        CheckConstraint("rl_share >= 0 AND rl_share <= 1", name="ck_experiment_rl_share"),
        CheckConstraint("epsilon >= 0 AND epsilon <= 1", name="ck_experiment_epsilon"),
        CheckConstraint("block_min > 0", name="ck_experiment_block_min"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int | None]
    name: Mapped[str] = mapped_column(String(60))
    mode: Mapped[str] = mapped_column(String(10), default="off")
    unit: Mapped[str] = mapped_column(String(15), default="booking")
    salt: Mapped[str] = mapped_column(String(64))
    rl_share: Mapped[float] = mapped_column(default=0.5)
    block_min: Mapped[int] = mapped_column(default=60)
    epsilon: Mapped[float] = mapped_column(default=0.0)
    stopped_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    stop_reason: Mapped[str | None] = mapped_column(String(200))
    guardrails: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    webhook_url: Mapped[str | None] = mapped_column(String(500))
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's declaration


class ExperimentUnit(Base):
    """The arm of one unit, kept for good: a change of the split never moves a unit."""

    __tablename__ = "experiment_unit"

    experiment_id: Mapped[int] = mapped_column(
        ForeignKey("experiment.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    unit: Mapped[str] = mapped_column(String(80), primary_key=True)
    bucket: Mapped[int]  # 0 .. 9999
    arm: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ExperimentEvent(Base):
    """What was changed or happened in an experiment: who, when, why."""

    __tablename__ = "experiment_event"
    __table_args__ = (Index("ix_experiment_event_experiment_at", "experiment_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiment.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(30))  # created, changed, guardrail, ...
    who: Mapped[str] = mapped_column(String(80))
    why: Mapped[str] = mapped_column(String(200))
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
