"""What all tables share: one declarative base, and instants that are always UTC."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import DateTime
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

DISPLAY_ZONE = ZoneInfo("Europe/Zurich")
"""Instants are stored in UTC and shown to people in this zone."""


class Base(DeclarativeBase):
    """Declarative base of the backend's tables."""


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware in Python, UTC in the database, the same on SQLite and PostgreSQL.

    SQLite has no time zones: the UTC wall time is stored there and comes back aware. A naive
    value is refused when it is written, because nobody can tell later which zone was meant.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """``timestamptz`` where the database has it, a plain UTC timestamp on SQLite."""
        with_zone = dialect.name != "sqlite"
        return dialect.type_descriptor(DateTime(timezone=with_zone))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a naive value raises ValueError (wrapped by SQLAlchemy)."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone: instants must be aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy's signature
    ) -> datetime | None:
        """Give the instant back as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def shown(instant: datetime) -> datetime:
    """The instant as people see it, on the clock of `DISPLAY_ZONE`."""
    return instant.astimezone(DISPLAY_ZONE)
