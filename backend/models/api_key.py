"""Who may call the API (by hash only), and the answers already given under a key of theirs."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime

SCOPES = ("dispatch", "read", "admin")


class ApiKey(Base):
    """One key of one company. The key itself is shown once, when made, and stored nowhere."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(String(80))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)  # public: finds the row
    key_hash: Mapped[str] = mapped_column(String(64))  # SHA-256, hexadecimal
    scopes: Mapped[str] = mapped_column(String(60))  # of SCOPES, separated by commas
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class IdempotencyRecord(Base):
    """What was answered to a request with an ``Idempotency-Key``; to be answered again.

    ``status`` and ``body`` are None while the first request is still at work.
    """

    __tablename__ = "idempotency_record"
    __table_args__ = (Index("ix_idempotency_record_created", "created_at"),)

    company_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and body
    status: Mapped[int | None]  # of HTTP
    body: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
