"""Raw history: the columns of a source as they came, and the reader of CSV files.

The SQL reader sits in ``backend/models/history_reader.py``; both give a `RawHistory`, which
``validation.py`` turns into clean bookings or refuses, row by row.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.rl.errors import DataError

from .columns import BOOKING_OPTIONAL, BOOKING_REQUIRED, OUTCOME_FIELDS, ColumnMapping

BOOKING_FIELDS = (*BOOKING_REQUIRED, *BOOKING_OPTIONAL, *OUTCOME_FIELDS)


@dataclass
class RawHistory:
    """Bookings with their outcome, and drivers, as a source gave them.

    Attributes:
        source: What was read, in words, without credentials.
        columns: Field → one raw value per booking; fields that the source lacks are absent.
        where: Per booking, where it stands in the source ("line 12", "booking row 7").
        drivers: Rows of the driver table; empty when the source has none.
        naive_times: Zone of times written without one.
        mixed_times_are_fatal: A file that writes some times with a zone and some without is
            refused; in a database such rows are rejected one by one.
        malformed: Row → what is wrong with its form; none of its values were taken.
    """

    source: str
    columns: dict[str, list[Any]]
    where: list[str]
    naive_times: str
    drivers: list[dict[str, Any]] = field(default_factory=list)
    mixed_times_are_fatal: bool = False
    malformed: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of bookings read."""
        return len(self.where)


def from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    source: str = "rows",
    drivers: Sequence[Mapping[str, Any]] = (),
    naive_times: str = "UTC",
) -> RawHistory:
    """A raw history from row dictionaries with our field names (other keys are ignored).

    Raises:
        DataError: If a required field is in none of the rows.
    """
    table = list(rows)
    names = set().union(*(row.keys() for row in table)) if table else set(BOOKING_FIELDS)
    if missing := [name for name in BOOKING_REQUIRED if name not in names]:
        raise DataError(f"{source}: no row has the required field {missing[0]!r}")
    return RawHistory(
        source=source,
        columns={
            name: [row.get(name) for row in table] for name in BOOKING_FIELDS if name in names
        },
        where=[f"booking row {i + 1}" for i in range(len(table))],
        naive_times=naive_times,
        drivers=[dict(row) for row in drivers],
    )


def read_csv(path: Path, mapping: ColumnMapping, timezone: str) -> RawHistory:
    """Read a CSV with one booking per line: comma, semicolon or tab, UTF-8, with a header.

    Only the columns of known fields are kept in memory; all others are dropped as each line is
    read.

    Args:
        path: The file.
        mapping: Names of its columns (section ``booking``).
        timezone: Zone of times written without one, unless the mapping says otherwise.

    Raises:
        DataError: If it cannot be read, is empty, or lacks a required column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return _parse(path, stream, mapping, timezone)
    except OSError as error:
        raise DataError(f"CSV {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"CSV {path} is not UTF-8 text (byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"CSV {path} cannot be read: {error}") from error


def _parse(path: Path, stream: Iterable[str], mapping: ColumnMapping, timezone: str) -> RawHistory:
    lines = iter(stream)
    first = next(lines, "")
    if not first.strip():
        raise DataError(f"CSV {path} is empty: it needs a header line and bookings")
    delimiter = max(",;\t", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"CSV {path}: line 1 names the column {twice[0]!r} twice")
    chosen = mapping.present("booking", header, f"CSV {path}", extra=OUTCOME_FIELDS)
    position = {name: header.index(column) for name, column in chosen.items()}
    columns: dict[str, list[Any]] = {name: [] for name in position}
    where: list[str] = []
    malformed: dict[int, str] = {}
    appenders = [(columns[name].append, index) for name, index in position.items()]
    reader = csv.reader(lines, delimiter=delimiter)
    for values in reader:
        if not values:
            continue  # an empty line is no row
        line = reader.line_num + 1
        if len(values) != len(header):
            # A shifted row has values under the wrong names: keep none of them.
            malformed[len(where)] = f"{len(values)} values for {len(header)} columns"
            where.append(f"line {line}")
            for append, _ in appenders:
                append(None)
            continue
        where.append(f"line {line}")
        for append, index in appenders:
            append(values[index])
    if not where:
        raise DataError(f"CSV {path} has a header but no booking")
    return RawHistory(
        source=f"CSV {path.name}",
        columns=columns,
        where=where,
        naive_times=mapping.naive_times or timezone,
        mixed_times_are_fatal=True,
        malformed=malformed,
    )
