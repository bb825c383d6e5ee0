"""Which columns a history is read from: our field names, or another schema through a mapping.

A mapping is a small YAML file; everything in it is optional::

    tables: {booking: reservations, driver: chauffeurs, assignment: courses}
    booking: {id: reservation_no, pickup_lat: depart_lat, priority: null}
    assignment: {actual_pickup_at: pris_en_charge}
    naive_times: Europe/Paris

``priority: null`` says that the source has no such column. Only the fields listed here can be
read: names of patients and free text have no field, so nothing can ask for them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from services.rl.errors import DataError

BOOKING_REQUIRED = (
    "id",
    "pickup_lat",
    "pickup_lon",
    "dropoff_lat",
    "dropoff_lon",
    "scheduled_time",
    "created_at",
)
BOOKING_OPTIONAL = (
    "company_id",
    "status",
    "priority",
    "is_urgent",
    "wheelchair_need",
    "is_return",
    "pickup_service_min",
    "dropoff_service_min",
    "cancelled_at",
)
ASSIGNMENT_REQUIRED = ("booking_id", "driver_id")
ASSIGNMENT_OPTIONAL = ("assigned_at", "actual_pickup_at", "actual_dropoff_at")
DRIVER_REQUIRED = ("id",)
DRIVER_OPTIONAL = (
    "company_id",
    "driver_type",
    "is_active",
    "wheelchair_vehicle",
    "shift_start",
    "shift_end",
    "home_lat",
    "home_lon",
)

FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "booking": (BOOKING_REQUIRED, BOOKING_OPTIONAL),
    "assignment": (ASSIGNMENT_REQUIRED, ASSIGNMENT_OPTIONAL),
    "driver": (DRIVER_REQUIRED, DRIVER_OPTIONAL),
}
"""Required and optional fields of each table."""

OUTCOME_FIELDS = ("driver_id", "actual_pickup_at", "actual_dropoff_at")
"""What a booking's row gets from its assignment; a CSV may carry them as columns of its own."""


@dataclass(frozen=True)
class ColumnMapping:
    """Names of tables and columns in a source, by our names.

    Attributes:
        source: The mapping file, for error sentences; empty for the default names.
        tables: Our table name → the source's.
        columns: Table → field → the source's column, or None where it has none.
        naive_times: Zone of times written without one; None: UTC in a database, the company's
            zone in a CSV.
    """

    source: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    naive_times: str | None = None

    def table(self, name: str) -> str:
        """The source's name of a table."""
        return self.tables.get(name, name)

    def present(
        self, table: str, available: Collection[str], where: str, extra: tuple[str, ...] = ()
    ) -> dict[str, str]:
        """Field → column of everything that the source has.

        Args:
            table: "booking", "assignment" or "driver".
            available: The source's columns.
            where: What the source is called in errors, such as ``table 'booking'``.
            extra: Further optional fields.

        Raises:
            DataError: If a required column, or one that the mapping names, is missing.
        """
        required, optional = FIELDS[table]
        chosen: dict[str, str] = {}
        renamed = self.columns.get(table, {})
        for name in (*required, *optional, *extra):
            column = renamed.get(name, name)
            if column is not None and column in available:
                chosen[name] = column
            elif column is not None and name in renamed:
                raise DataError(
                    f"{self.source}: {table}.{name} is mapped to {column!r}, but {where} has no "
                    f"such column (it has {', '.join(sorted(available))})"
                )
            elif name in required:
                hint = "" if column is None else "; name it in a mapping file (--mapping)"
                raise DataError(f"{where} has no column for the required field {name!r}{hint}")
        return chosen


def load_mapping(path: Path) -> ColumnMapping:
    """Read a mapping file.

    Raises:
        DataError: In one sentence that names the file and the entry.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"mapping {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"mapping {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise DataError(f"mapping {path} must be a mapping of tables to columns")
    known = {*FIELDS, "tables", "naive_times"}
    if unknown := [str(key) for key in raw if key not in known]:
        raise DataError(f"{path}: unknown entry {unknown[0]!r} (known: {', '.join(sorted(known))})")
    tables = _section(path, raw, "tables", set(FIELDS))
    columns = {}
    for table, (required, optional) in FIELDS.items():
        fields = {*required, *optional, *(OUTCOME_FIELDS if table == "booking" else ())}
        columns[table] = _section(path, raw, table, fields)
    if missing := [name for name, value in tables.items() if value is None]:
        raise DataError(f"{path}: tables.{missing[0]} must be a table's name")
    naive = raw.get("naive_times")
    if naive is not None:
        check_zone(str(naive), f"{path}: naive_times")
    return ColumnMapping(
        source=str(path),
        tables={name: str(value) for name, value in tables.items()},
        columns=columns,
        naive_times=None if naive is None else str(naive),
    )


def check_zone(name: str, where: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        DataError: If there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{where}: unknown time zone {name!r} (such as Europe/Zurich)") from error


def _section(path: Path, raw: dict[str, Any], name: str, known: set[str]) -> dict[str, str | None]:
    section = raw.get(name) or {}
    if not isinstance(section, dict):
        raise DataError(f"{path}: {name} must be a mapping of names")
    for key, value in section.items():
        if key not in known:
            raise DataError(
                f"{path}: {name} has no field {key!r} (known: {', '.join(sorted(known))})"
            )
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}: {name}.{key} must be a name, got {value!r}")
    return dict(section)
