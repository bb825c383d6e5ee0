"""Model versions, who uses which, and every change of it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime
from .reasons import one_of

MODEL_ALIASES = ("champion", "candidate", "previous")
DEFAULT_COMPANY = 0
"""Company of the aliases that hold where a company has none of its own."""


class ModelVersion(Base):
    """One immutable bundle; its version is the hash of its content."""

    __tablename__ = "model_version"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(30))
    path: Mapped[str] = mapped_column(String(500))  # relative to ATMR_HOME
    scenario_hash: Mapped[str] = mapped_column(String(64))
    code_commit: Mapped[str | None] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    parent: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelAlias(Base):
    """Which version a company's champion, candidate or previous champion is."""

    __tablename__ = "model_alias"
    __table_args__ = (CheckConstraint(one_of("alias", MODEL_ALIASES), name="ck_model_alias"),)

    company_id: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, default=DEFAULT_COMPANY
    )
    alias: Mapped[str] = mapped_column(String(20), primary_key=True)
    version: Mapped[str] = mapped_column(ForeignKey("model_version.version"), index=True)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelEvent(Base):
    """One move of an alias: who, when, why, and the gate's report if there was one."""

    __tablename__ = "model_event"
    __table_args__ = (Index("ix_model_event_company_at", "company_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    who: Mapped[str] = mapped_column(String(80))
    why: Mapped[str] = mapped_column(String(200))
    company_id: Mapped[int | None]
    alias: Mapped[str] = mapped_column(String(20))
    from_version: Mapped[str | None] = mapped_column(String(64))
    to_version: Mapped[str | None] = mapped_column(String(64))
    gate_report: Mapped[str | None] = mapped_column(String(500))
