"""The log of decisions as a Parquet file: one row per decision, with state, reasons and outcome.

For people who learn from the log with their own tools. All columns of the table ``decision`` keep
their names; what explains it comes as ``feature_*``, the epoch's state as ``snapshot_*``, what
became of the booking as ``outcome_*`` (`services.dispatching.outcomes` defines it). There is no
name and no free text to leave out: the tables hold none.

Rows are read and written in batches, from one consistent state of the database. PyArrow is
imported when a file is written, so that a server never loads it.
"""

import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Date,
    Double,
    Float,
    Integer,
    LargeBinary,
    Select,
    String,
    select,
)
from sqlalchemy.orm import Session

from extensions import Database
from models import Assignment, Booking, Decision, Driver, FleetSnapshot, UtcDateTime
from routes.statuses import OVER
from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import Rules

from .outcomes import Outcome, outcome_of

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

SCHEMA: Final = 1
"""Version of the file's columns; in its metadata under `METADATA_KEY`."""

METADATA_KEY: Final = b"atmr"
_BATCH: Final = 5_000
_PARAMETERS: Final = 500

_DECISION = tuple(c for c in Decision.__table__.columns if c.name != "features")
_SNAPSHOT = tuple(
    c
    for c in FleetSnapshot.__table__.columns
    if c.name not in ("id", "company_id") and not isinstance(c.type, LargeBinary)
)
_OUTCOME: Final = (
    ("outcome_final", Boolean()),  # the booking is over: what follows will not change
    ("outcome_fate", String()),  # on_time, late, unserved, not_due
    ("outcome_pickup_at", UtcDateTime()),
    ("outcome_dropoff_at", UtcDateTime()),
    ("outcome_wait_min", Float()),  # from the promise, or the request where it is immediate
    ("outcome_driver_id", Integer()),  # who came
)


@dataclass(frozen=True)
class Period:
    """Which decisions.

    Attributes:
        since: Decided at or after.
        until: Decided before.
        company_id: Whose; None: all companies'.
    """

    since: datetime
    until: datetime
    company_id: int | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        rows: Decisions.
        final: Of these, how many have a final outcome.
        features: Names of the features, without prefix.
        left_out: Names of features that were no numbers somewhere and are null there.
    """

    path: Path
    rows: int
    final: int
    features: tuple[str, ...]
    left_out: tuple[str, ...]


def export_decisions(
    database: Database,
    period: Period,
    path: Path,
    *,
    rules: Rules,
    now: datetime,
    origin: Mapping[str, Any],
) -> Exported:
    """Write the decisions of a period; the file appears when it is complete.

    Args:
        database: With the log.
        period: Which.
        path: Of the file; one that is there is replaced.
        rules: When a pickup is late.
        now: The present moment.
        origin: Code version, scenario and the like, for the file's metadata.

    Raises:
        UsageError: If the period is empty, the company unknown, or the file cannot be written.
        DataError: If there is no decision in it.
    """
    if period.since >= period.until:
        raise UsageError(f"the period from {period.since} until {period.until} is empty")
    with database.reading() as session:
        _check_company(session, period.company_id)
        features = _feature_names(session, period)
        if features is None:
            raise DataError(
                f"there is no decision from {period.since.isoformat()} until "
                f"{period.until.isoformat()}"
            )
        schema = _schema(
            features, {**origin, "schema": SCHEMA, "period": asdict(period), "written_at": now}
        )
        return _write(session, period, path, schema, features, rules, now)


def _write(
    session: Session,
    period: Period,
    path: Path,
    schema: "pa.Schema",
    features: Sequence[str],
    rules: Rules,
    now: datetime,
) -> Exported:
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    count = final = 0
    left_out: set[str] = set()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        with pq.ParquetWriter(hidden, schema, compression="zstd") as writer:
            for rows in session.execute(_rows(period)).partitions(_BATCH):
                outcomes = _outcomes(session, {row.booking_id for row in rows}, rules, now)
                table = [_row(row, features, outcomes, left_out) for row in rows]
                count += len(table)
                final += sum(row["outcome_final"] for row in table)
                writer.write_table(pa.Table.from_pylist(table, schema))
        hidden.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        hidden.unlink(missing_ok=True)
    return Exported(path, count, final, tuple(features), tuple(sorted(left_out)))


# --- rows ----------------------------------------------------------------------------------------


def _within(period: Period) -> ColumnElement[bool]:
    within = (Decision.decided_at >= period.since) & (Decision.decided_at < period.until)
    if period.company_id is not None:
        within &= Decision.company_id == period.company_id
    return within


def _rows(period: Period) -> Select[Any]:
    """Decisions in their canonical order, with the snapshot they were made on."""
    return (
        select(*_DECISION, Decision.features, *(c.label(f"snapshot_{c.name}") for c in _SNAPSHOT))
        .outerjoin(FleetSnapshot, FleetSnapshot.id == Decision.snapshot_id)
        .where(_within(period))
        .order_by(Decision.company_id, Decision.decided_at, Decision.seq, Decision.id)
        .execution_options(yield_per=_BATCH)
    )


def _row(
    row: Any,
    features: Sequence[str],
    outcomes: Mapping[int, dict[str, Any]],
    left_out: set[str],
) -> dict[str, Any]:
    found = dict(row._mapping)
    shown = found.pop("features") or {}
    for name in features:
        value = shown.get(name)
        if isinstance(value, int | float):
            found[f"feature_{name}"] = float(value)
            continue
        found[f"feature_{name}"] = None
        if value is not None:
            left_out.add(name)
    return found | outcomes.get(row.booking_id, {"outcome_final": False})


def _feature_names(session: Session, period: Period) -> list[str] | None:
    """Names of all features of the period, sorted; None: it has no decision."""
    names: set[str] = set()
    some = False
    found = session.scalars(
        select(Decision.features).where(_within(period)).execution_options(yield_per=_BATCH)
    )
    for features in found:
        some = True
        names.update(features or ())
    return sorted(names) if some else None


def _outcomes(
    session: Session, bookings: Iterable[int], rules: Rules, now: datetime
) -> dict[int, dict[str, Any]]:
    """Columns of each booking that is over."""
    found: dict[int, dict[str, Any]] = {}
    ids = sorted(bookings)
    for start in range(0, len(ids), _PARAMETERS):
        some = ids[start : start + _PARAMETERS]
        made: dict[int, list[Assignment]] = {}
        for assignment in session.scalars(
            select(Assignment).where(Assignment.booking_id.in_(some)).order_by(Assignment.id)
        ):
            made.setdefault(assignment.booking_id, []).append(assignment)
        over = select(Booking).where(Booking.id.in_(some), Booking.status.in_(OVER))
        for booking in session.scalars(over):
            own = made.get(booking.id, [])
            found[booking.id] = _columns(outcome_of(booking, own, (), now, rules), own)
        session.expunge_all()  # memory stays flat
    return found


def _columns(outcome: Outcome, assignments: Sequence[Assignment]) -> dict[str, Any]:
    came = next((a for a in reversed(assignments) if a.actual_pickup_at is not None), None)
    return {
        "outcome_final": True,
        "outcome_fate": outcome.fate,
        "outcome_pickup_at": outcome.pickup_at,
        "outcome_dropoff_at": None if came is None else came.actual_dropoff_at,
        "outcome_wait_min": outcome.wait_min,
        "outcome_driver_id": outcome.driver_id,
    }


def _check_company(session: Session, company_id: int | None) -> None:
    if company_id is None:
        return
    for table in (Driver, Booking, Decision):
        if session.scalar(select(table.id).where(table.company_id == company_id).limit(1)):
            return
    raise UsageError(f"there is no company {company_id}: it has no driver, booking or decision")


# --- columns -------------------------------------------------------------------------------------


def _schema(features: Sequence[str], metadata: Mapping[str, Any]) -> "pa.Schema":
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError(
            "Parquet files need pyarrow: pip install -r requirements-rl.txt"
        ) from error
    fields = [pa.field(c.name, _arrow(c.type), bool(c.nullable)) for c in _DECISION]
    fields += [pa.field(f"snapshot_{c.name}", _arrow(c.type)) for c in _SNAPSHOT]
    fields += [pa.field(name, _arrow(kind), name != "outcome_final") for name, kind in _OUTCOME]
    fields += [pa.field(f"feature_{name}", pa.float64()) for name in features]
    return pa.schema(fields, {METADATA_KEY: json.dumps(dict(metadata), default=str)})


def _arrow(kind: Any) -> "pa.DataType":
    """The Arrow type of a column's values."""
    import pyarrow as pa

    if isinstance(kind, UtcDateTime):
        return pa.timestamp("us", tz="UTC")
    for known, made in (
        (Boolean, pa.bool_()),
        (Integer, pa.int64()),
        (Date, pa.date32()),
        (String, pa.string()),
    ):
        if isinstance(kind, known):
            return made
    if isinstance(kind, Float | Double):
        return pa.float64()
    raise TypeError(f"no Arrow type for {kind!r}")
