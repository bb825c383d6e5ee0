"""What the host's own tables must have for us: looked at, never changed.

`HOST_TABLES` may have been made by another team long ago. What they lack is said as SQL that the
host puts into its own migrations; we alter nothing of theirs.
"""

from typing import Any, Final

from sqlalchemy import Connection, inspect
from sqlalchemy.types import Integer

from services.rl.errors import DataError

from . import HOST_TABLES
from .base import Base

WORDS: Final = {
    "booking": (
        "PENDING", "ASSIGNED", "IN_PROGRESS", "COMPLETED", "NO_SHOW", "CANCELED", "UNASSIGNED",
    ),
    "assignment": ("ASSIGNED", "IN_PROGRESS", "COMPLETED", "NO_SHOW", "CANCELED"),
}  # fmt: skip
"""What we read and write in the column ``status``."""

_DEFAULTS: Final = {
    ("booking", "priority"): "3",
    ("booking", "is_urgent"): "FALSE",
    ("booking", "wheelchair_need"): "FALSE",
    ("booking", "is_return"): "FALSE",
    ("driver", "driver_type"): "'REGULAR'",
    ("driver", "is_active"): "TRUE",
    ("driver", "wheelchair_vehicle"): "FALSE",
    ("driver", "shift_start"): "'00:00:00'",
    ("driver", "shift_end"): "'00:00:00'",  # the same hour: around the clock
}
_MAY_STAY_EMPTY: Final = {
    ("booking", "pickup_service_min"),
    ("booking", "dropoff_service_min"),
    ("booking", "cancelled_at"),
    ("driver", "home_lat"),
    ("driver", "home_lon"),
    ("assignment", "actual_pickup_at"),
    ("assignment", "actual_dropoff_at"),
}
_INSERTED: Final = ("booking_id", "driver_id", "assigned_at", "status")


def statements(connection: Connection) -> list[str]:
    """SQL that gives the host's tables what they lack; empty: nothing is lacking.

    A column whose content only the host knows is followed by a comment that says so.

    Raises:
        DataError: If a table cannot be used as it is: an id that is no integer, or a column of
            ``assignment`` that we would have to fill and do not know.
    """
    inspector = inspect(connection)
    found: list[str] = []
    for name in HOST_TABLES:
        if not inspector.has_table(name):
            continue  # the migration creates it
        there = {column["name"]: column for column in inspector.get_columns(name)}
        _check_usable(name, there)
        for column in Base.metadata.tables[name].columns:
            if column.name in there:
                continue
            kind = column.type.compile(dialect=connection.dialect)
            said = f"ALTER TABLE {name} ADD COLUMN {column.name} {kind}"
            default = _DEFAULTS.get((name, column.name))
            if default is not None:
                said += f" NOT NULL DEFAULT {default}"
            said += ";"
            if default is None and (name, column.name) not in _MAY_STAY_EMPTY:
                said += "  -- fill it: rows without it are not dispatched"
            found.append(said)
        labels = getattr(there.get("status", {}).get("type"), "enums", None)
        if labels is not None and connection.dialect.name == "postgresql":
            enum = there["status"]["type"].name
            found += [
                f"ALTER TYPE {enum} ADD VALUE '{word}';"
                for word in WORDS.get(name, ())
                if word not in labels
            ]
    return found


def _check_usable(name: str, there: dict[str, Any]) -> None:
    if "id" not in there or not isinstance(there["id"]["type"], Integer):
        raise DataError(f"table {name}: its key must be an integer column named id")
    if name != "assignment":
        return
    unknown = sorted(
        column["name"]
        for column in there.values()
        if not column["nullable"]
        and column.get("default") is None
        and column["name"] not in ("id", *_INSERTED)
    )
    if unknown:
        raise DataError(
            f"table assignment: {', '.join(unknown)} must get a default or admit NULL, because a "
            f"decision inserts {', '.join(_INSERTED)} only"
        )


def check(connection: Connection) -> None:
    """For ``/readyz``.

    Raises:
        DataError: Naming what the host's tables lack.
    """
    lacking = statements(connection)
    if lacking:
        first = lacking[0].partition("  --")[0]
        raise DataError(
            f"the host's tables lack {len(lacking)} things, such as: {first} "
            "(all of them: migrate.py host)"
        )
