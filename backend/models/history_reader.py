"""Read a company's history from SQL: explicit columns only, in chunks, in UTC.

The tables may be the host's own, under other names (see `ColumnMapping`); what is selected is
exactly what the mapping resolves to, never ``*``. Patients' names and notes are not selected.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    String,
    TableClause,
    column,
    create_engine,
    func,
    inspect,
    or_,
    select,
    table,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError
from sqlalchemy.sql.elements import ColumnClause, ColumnElement

from services.rl.data.coercion import is_missing, times
from services.rl.data.columns import OUTCOME_FIELDS, ColumnMapping, check_zone
from services.rl.data.history import RawHistory
from services.rl.errors import DataError, UsageError

from .database_url import described, parse_url, reason

_CHUNK = 10_000
_TIME_FIELDS = (
    "scheduled_time",
    "created_at",
    "cancelled_at",
    "assigned_at",
    "actual_pickup_at",
    "actual_dropoff_at",
)


def read_history(
    url: str | URL,
    *,
    days: int,
    until: datetime,
    company_id: str | None = None,
    mapping: ColumnMapping | None = None,
) -> RawHistory:
    """Read the bookings of the last ``days`` days that have any, with outcomes and drivers.

    Args:
        url: Database; SQLite and PostgreSQL are tested.
        days: Calendar days before the last booking that is not after ``until``.
        until: Bookings scheduled later are the future, not history (aware).
        company_id: Only this company's bookings and drivers.
        mapping: Names of tables and columns.

    Raises:
        UsageError: If the URL is none, or the SQLite file does not exist.
        DataError: If the database, a table or a required column is missing.
    """
    mapping = mapping or ColumnMapping()
    target = parse_url(url)
    shown = described(target)
    if target.get_backend_name() == "sqlite":
        _check_file(target)
    engine = create_engine(target)
    try:
        with engine.connect() as connection:
            return _Reader(connection, mapping, shown).read(days, until, company_id)
    except SQLAlchemyError as error:
        raise DataError(f"{shown} cannot be read: {reason(error)}") from error
    finally:
        engine.dispose()


def _check_file(target: URL) -> None:
    """SQLite would create a missing file; an empty history is not what was asked for."""
    name = target.database
    if name in (None, "", ":memory:") or str(name).startswith("file:"):
        return
    if not Path(str(name)).is_file():
        raise UsageError(f"the SQLite file {name} does not exist")


class _Source:
    """One table of the source: its columns by our field names."""

    def __init__(self, connection: Connection, mapping: ColumnMapping, name: str) -> None:
        real = mapping.table(name)
        schema, _, bare = real.rpartition(".")
        try:
            reflected = inspect(connection).get_columns(bare, schema=schema or None)
        except NoSuchTableError as error:
            raise DataError(f"the database has no table {real!r} ({name}s)") from error
        types = {entry["name"]: entry["type"] for entry in reflected}
        self.names = mapping.present(name, list(types), f"table {real!r}")
        # On SQLite, times are read as the text they are: text of any form then costs a row, not
        # the run.
        on_sqlite = connection.dialect.name == "sqlite"
        self.columns: dict[str, ColumnClause[Any]] = {}
        self.is_text: dict[str, bool] = {}
        for field, source in self.names.items():
            type_ = types[source]
            if field in _TIME_FIELDS and on_sqlite:
                type_ = String()
            self.is_text[field] = not isinstance(type_, DateTime)
            self.columns[field] = column(source, type_)
        self.with_zone = {
            field: getattr(types[source], "timezone", False) is True
            for field, source in self.names.items()
        }
        self.table: TableClause = table(bare, *self.columns.values(), schema=schema or None)

    def __getitem__(self, field: str) -> ColumnElement[Any]:
        return self.table.c[self.names[field]]

    def select(self, fields: Sequence[str]) -> list[ColumnElement[Any]]:
        return [self[field].label(field) for field in fields]

    def bound(self, field: str, instant: datetime) -> Any:
        """An instant to compare a time column with; text compares by date, a day wider."""
        if self.is_text[field]:
            return (instant - timedelta(days=1)).strftime("%Y-%m-%d")
        return instant if self.with_zone[field] else instant.replace(tzinfo=None)


class _Reader:
    """Selects from the three tables and joins outcomes to bookings in memory."""

    def __init__(self, connection: Connection, mapping: ColumnMapping, shown: str) -> None:
        self.connection = connection
        self.shown = shown
        self.mapping = mapping
        self.booking = _Source(connection, mapping, "booking")
        self.assignment = _Source(connection, mapping, "assignment")
        self.driver = _Source(connection, mapping, "driver")

    def read(self, days: int, until: datetime, company_id: str | None) -> RawHistory:
        wanted = self._wanted(days, until.astimezone(UTC), company_id)
        outcomes = self._outcomes(wanted)
        fields = list(self.booking.names)
        values: dict[str, list[Any]] = {name: [] for name in (*fields, *OUTCOME_FIELDS)}
        statement = select(*self.booking.select(fields)).where(*wanted)
        nothing = (None,) * len(OUTCOME_FIELDS)
        key = fields.index("id")
        for row in self._stream(statement.order_by(self.booking["id"])):
            for name, value in zip(fields, row, strict=True):
                values[name].append(value)
            for name, value in zip(OUTCOME_FIELDS, outcomes.get(row[key], nothing), strict=True):
                values[name].append(value)
        return RawHistory(
            source=self.shown,
            columns=values,
            where=[f"booking row {i + 1}" for i in range(len(values["id"]))],
            naive_times=self.mapping.naive_times or "UTC",
            drivers=self._drivers(company_id),
        )

    def _wanted(
        self, days: int, until: datetime, company_id: str | None
    ) -> list[ColumnElement[bool]]:
        """Conditions on bookings; a missing time passes, to be rejected with its reason."""
        scheduled = self.booking["scheduled_time"]
        conditions: list[ColumnElement[bool]] = []
        if company_id is not None:
            if "company_id" not in self.booking.names:
                raise DataError(f"{self.shown}: --company-id given, but it has no company_id")
            conditions.append(self._company(self.booking, company_id))
        if self.booking.is_text["scheduled_time"]:
            cut = (until + timedelta(days=2)).strftime("%Y-%m-%d")
            latest = self.connection.scalar(
                select(func.max(scheduled)).where(scheduled < cut, *conditions)
            )
            last = self._instant(latest) or until
            low = scheduled >= self.booking.bound("scheduled_time", last - timedelta(days=days))
            # No upper bound: text that is no time sorts anywhere and must be seen to be rejected.
            return [*conditions, or_(low, scheduled.is_(None))]
        now = self.booking.bound("scheduled_time", until)
        latest = self.connection.scalar(
            select(func.max(scheduled)).where(scheduled <= now, *conditions)
        )
        last = self._instant(latest) or until
        first = self.booking.bound("scheduled_time", last - timedelta(days=days))
        return [
            *conditions,
            or_(scheduled.between(first, now), scheduled.is_(None)),
        ]

    def _company(self, source: _Source, company_id: str) -> ColumnElement[bool]:
        of = source["company_id"]
        is_number = company_id.lstrip("-").isdigit() and not isinstance(of.type, String)
        return of == (int(company_id) if is_number else company_id)

    def _instant(self, value: Any) -> datetime | None:
        if is_missing(value):
            return None
        zone = check_zone(self.mapping.naive_times or "UTC", "naive_times")
        seconds = times([value], zone).utc_s[0]
        return None if seconds != seconds else datetime.fromtimestamp(float(seconds), UTC)

    def _outcomes(self, wanted: list[ColumnElement[bool]]) -> dict[Any, tuple[Any, ...]]:
        """Booking id → driver, actual pickup, actual dropoff, of the assignment that counts.

        Of several assignments the one that led to a pickup counts, else the last one made.
        """
        fields = [
            name for name in ("assigned_at", *OUTCOME_FIELDS) if name in self.assignment.names
        ]
        statement = (
            select(self.assignment["booking_id"], *self.assignment.select(fields))
            .join_from(
                self.assignment.table,
                self.booking.table,
                self.assignment["booking_id"] == self.booking["id"],
            )
            .where(*wanted)
        )
        best: dict[Any, tuple[tuple[bool, str], tuple[Any, ...]]] = {}
        for booking_id, *values in self._stream(statement):
            row = dict(zip(fields, values, strict=True))
            rank = (row.get("actual_pickup_at") is not None, str(row.get("assigned_at") or ""))
            if booking_id not in best or rank >= best[booking_id][0]:
                best[booking_id] = rank, tuple(row.get(name) for name in OUTCOME_FIELDS)
        return {booking_id: values for booking_id, (_, values) in best.items()}

    def _drivers(self, company_id: str | None) -> list[dict[str, Any]]:
        fields = list(self.driver.names)
        statement = select(*self.driver.select(fields)).order_by(self.driver["id"])
        if company_id is not None and "company_id" in self.driver.names:
            statement = statement.where(self._company(self.driver, company_id))
        return [dict(zip(fields, row, strict=True)) for row in self._stream(statement)]

    def _stream(self, statement: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of a select, fetched in chunks so that a long history need not fit twice."""
        result = self.connection.execution_options(yield_per=_CHUNK).execute(statement)
        for part in result.partitions():
            yield from (tuple(row) for row in part)
