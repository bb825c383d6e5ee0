"""A versioned data set of real days: clean bookings grouped by operating day, split by calendar.

On disk it is a folder: ``dataset.json`` (what it is), ``days.npz`` (bookings, drivers, outcomes,
dates and splits; no pickle), ``rejected.csv``, and a report. It is written under a temporary name
and renamed when complete, so a folder that exists is whole.
"""

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError
from services.rl.simulation.scenarios import Split, file_sha256
from services.rl.simulation.types import BOOKING_DTYPE, DRIVER_DTYPE, Day, IntArray

DATASET_SCHEMA = 1

SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1

OUTCOME_DTYPE = np.dtype(
    [
        ("pickup_min", "f8"),  # actual, minutes after the day's start; NaN: not served or unknown
        ("dropoff_min", "f8"),
        ("driver", "i8"),  # number of the driver within the data set; -1: nobody
    ]
)
"""What really became of a booking; aligned with the bookings, never shown to a policy."""


@dataclass(frozen=True)
class HistoryDays:
    """Real days of one company; implements `services.rl.simulation.days.DaySource`.

    Attributes:
        name: Of the data set.
        timezone: Whose wall clock the minutes follow.
        day_start: Start of the operating day, "HH:MM".
        horizon_min: Its length.
        dates: D operating dates, ascending, "YYYY-MM-DD".
        split: ``(D,)`` index into `SPLITS`.
        bookings: All bookings, concatenated by date, `BOOKING_DTYPE`.
        outcomes: Aligned with ``bookings``, `OUTCOME_DTYPE`.
        booking_offset: ``(D + 1,)`` first booking of each date.
        drivers: Drivers on duty, concatenated by date, `DRIVER_DTYPE`.
        driver_number: Aligned with ``drivers``: the driver's number within the data set.
        driver_offset: ``(D + 1,)`` first driver row of each date.
        facts: Further entries of ``dataset.json`` (source, counts, ...).
    """

    name: str
    timezone: str
    day_start: str
    horizon_min: float
    dates: tuple[str, ...]
    split: IntArray
    bookings: npt.NDArray[np.void]
    outcomes: npt.NDArray[np.void]
    booking_offset: IntArray
    drivers: npt.NDArray[np.void]
    driver_number: IntArray
    driver_offset: IntArray
    facts: dict[str, Any] = field(default_factory=dict)

    def labels(self, split: Split) -> Sequence[str]:
        """Dates of a split, in order.

        Raises:
            DataError: If the history is too short for that split to have a day.
        """
        index = SPLITS.index(split)
        chosen = [date for date, s in zip(self.dates, self.split, strict=True) if s == index]
        if not chosen:
            raise DataError(
                f"data set {self.name!r} has no {split.value} day: {len(self.dates)} days of "
                "history are too few (at least 3 are needed)"
            )
        return chosen

    def day(self, label: str) -> Day:
        """The bookings and drivers of one date.

        Raises:
            DataError: If the data set has no such date.
        """
        d = self._position(label)
        return Day(
            label=label,
            bookings=self.bookings[self.booking_offset[d] : self.booking_offset[d + 1]].copy(),
            drivers=self.drivers[self.driver_offset[d] : self.driver_offset[d + 1]].copy(),
        )

    def days(self, split: Split) -> list[Day]:
        """All days of a split."""
        return [self.day(label) for label in self.labels(split)]

    def outcome(self, label: str) -> npt.NDArray[np.void]:
        """What became of the bookings of one date, `OUTCOME_DTYPE`, aligned with the day's."""
        d = self._position(label)
        return self.outcomes[self.booking_offset[d] : self.booking_offset[d + 1]].copy()

    def _position(self, label: str) -> int:
        try:
            return self.dates.index(label)
        except ValueError:
            raise DataError(
                f"data set {self.name!r} has no day {label!r} "
                f"(it runs from {self.dates[0]} to {self.dates[-1]})"
            ) from None

    def write(self, folder: Path) -> str:
        """Write ``days.npz`` and ``dataset.json`` into a folder that nobody reads yet.

        Returns:
            The SHA-256 of ``days.npz``, by which scenarios name the data set.
        """
        with (folder / "days.npz").open("wb") as stream:
            np.savez_compressed(
                stream,
                dates=np.array(self.dates, dtype="U10"),
                split=self.split,
                **{name: getattr(self, name) for name in _ARRAYS},
            )
        sha256 = file_sha256(folder / "days.npz")
        description = {
            "schema": DATASET_SCHEMA,
            "name": self.name,
            "timezone": self.timezone,
            "day_start": self.day_start,
            "horizon_min": self.horizon_min,
            "days_sha256": sha256,
            "days": len(self.dates),
            "bookings": len(self.bookings),
            **self.facts,
            "split": {
                date: SPLITS[s].value for date, s in zip(self.dates, self.split, strict=True)
            },
        }
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")
        return sha256

    @classmethod
    def open(cls, folder: Path, sha256: str | None = None) -> "HistoryDays":
        """Read a data set.

        Args:
            folder: The data set's folder.
            sha256: The hash that ``days.npz`` must have, when a scenario names one.

        Raises:
            DataError: If it is missing, damaged, of another schema, or another one.
        """
        description = _description(folder)
        actual = _existing_sha256(folder)
        if actual != description.get("days_sha256"):
            raise DataError(f"{folder}/days.npz is not the file that dataset.json describes")
        if sha256 is not None and actual != sha256:
            raise DataError(
                f"{folder} is not the data set this scenario was made with (its hash differs); "
                "collect the history again"
            )
        try:
            path = folder / "days.npz"
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in _ARRAYS}
                dates, split = stored["dates"], stored["split"]
            for name, dtype in _DTYPES.items():
                if arrays[name].dtype != dtype:
                    raise DataError(
                        f"{path}: {name} has other fields than this code; collect again"
                    )
            fixed = {"schema", "name", "timezone", "day_start", "horizon_min", "split"}
            return cls(
                name=str(description["name"]),
                timezone=str(description["timezone"]),
                day_start=str(description["day_start"]),
                horizon_min=float(description["horizon_min"]),
                dates=tuple(str(date) for date in dates),
                split=split,
                facts={k: v for k, v in description.items() if k not in fixed},
                **arrays,
            )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"data set {folder} cannot be read: {error}") from error


_ARRAYS = ("bookings", "outcomes", "booking_offset", "drivers", "driver_number", "driver_offset")
_DTYPES = {"bookings": BOOKING_DTYPE, "outcomes": OUTCOME_DTYPE, "drivers": DRIVER_DTYPE}


def split_by_calendar(days: int) -> IntArray:
    """Split index of each of ``days`` consecutive dates: the last 20 % test, 10 % before it.

    With fewer than three days all are training days.
    """
    split = np.zeros(days, dtype=np.int64)
    if days >= 3:
        test = max(1, math.ceil(TEST_SHARE * days - 1e-9))
        validation = max(1, math.ceil(VALIDATION_SHARE * days - 1e-9))
        split[days - test :] = SPLITS.index(Split.TEST)
        split[days - test - validation : days - test] = SPLITS.index(Split.VALIDATION)
    return split


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        raise DataError(
            f"{folder} is no data set (no dataset.json in it); collect_historical_data.py makes one"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(description, dict) or description.get("schema") != DATASET_SCHEMA:
        raise DataError(f"{path} has another schema than {DATASET_SCHEMA}; collect it again")
    return description


def _existing_sha256(folder: Path) -> str:
    try:
        return file_sha256(folder / "days.npz")
    except OSError as error:
        raise DataError(f"{folder}/days.npz cannot be read: {error.strerror}") from error
