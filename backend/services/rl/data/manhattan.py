"""Real requests of Manhattan 2015: the data folder of the ``manhattan_*`` scenarios.

Yellow-cab trips of the New York TLC, prepared and published (MIT licence) with Enders, Harrison,
Pavone, Schiffer, "Hybrid Multi-agent Deep Reinforcement Learning for Autonomous Mobility on
Demand Systems" (L4DC 2023). A day is one hour of one weekday. The folder is read where it lies
(``--data-dir`` or ``ATMR_DATA_DIR``); nothing of it is ever copied.

Splits: 200 training dates, of which the last 40 are for tuning; 25 validation dates for
reporting; test dates only where somebody put a ``test_dates.csv``.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from services.rl.errors import DataError
from services.rl.simulation.scenarios import ManhattanDemand, Scenario, Split
from services.rl.simulation.travel import TravelTables, matrix_tables
from services.rl.simulation.types import BOOKING_DTYPE, DRIVER_DTYPE, NEVER, Day, FloatArray

DATA_DIR_VARIABLE = "ATMR_DATA_DIR"
TUNING_DATES = 40
_GRAPH_FILE = "graph(dt_60s).csv"
_DATE_FILES = {
    Split.TRAIN: ("training_dates.csv", "training_dates"),
    Split.VALIDATION: ("validation_dates.csv", "validation_dates"),
    Split.TEST: ("test_dates.csv", "test_dates"),
}
_PRIORITY = 3  # every ride counts its fare; the priority has no say


class ManhattanDays:
    """Days of a ``manhattan_*`` scenario; a `simulation.days.DaySource`.

    Attributes:
        scenario: The scenario that names the folder, the fleet and the rules.
        tables: Travel between zones; the same zone is 0 km and 0 min away.
        fare: ``(Z, Z)`` USD from zone to zone; 0 within a zone.
        zone_lat: ``(Z,)`` degrees, zone centres.
        zone_lon: ``(Z,)`` degrees.
    """

    def __init__(
        self,
        folder: Path,
        scenario: Scenario,
        zone_lat: FloatArray,
        zone_lon: FloatArray,
        graph: tuple[FloatArray, FloatArray, FloatArray],
    ) -> None:
        assert isinstance(scenario.demand, ManhattanDemand)
        minutes, km, fare = graph
        self._folder = folder
        self._limit = scenario.demand.max_requests_per_minute
        self.scenario = scenario
        self.zone_lat = zone_lat
        self.zone_lon = zone_lon
        self.fare = fare
        self.tables: TravelTables = matrix_tables(minutes, km, scenario.rules.day_start_min)

    @classmethod
    def open(cls, data_dir: str | Path | None, scenario: Scenario) -> "ManhattanDays":
        """Open the scenario's folder under ``data_dir``, or under ``ATMR_DATA_DIR`` if None.

        ``data_dir`` is the folder that contains ``data/``, or ``data`` itself.

        Raises:
            DataError: If the scenario is of another kind, or the folder is missing or malformed.
        """
        if not isinstance(scenario.demand, ManhattanDemand):
            raise DataError(f"scenario {scenario.name!r} does not replay Manhattan requests")
        folder = _locate(data_dir, scenario.demand.folder)
        zone_lat, zone_lon = _read_zones(folder / "zones.csv")
        graph = _read_graph(folder / _GRAPH_FILE, len(zone_lat))
        return cls(folder, scenario, zone_lat, zone_lon, graph)

    def labels(self, split: Split) -> Sequence[str]:
        """Dates of a split, in order of the calendar.

        Raises:
            DataError: If the split's file is missing (the test dates are kept elsewhere) or empty.
        """
        name, column = _DATE_FILES[split]
        path = self._folder / name
        if not path.is_file():
            where = "; the test days are kept elsewhere" if split is Split.TEST else ""
            raise DataError(f"no {split.value} days: {path} does not exist{where}")
        dates = sorted(row[column].strip() for _, row in _rows(path, (column,)))
        if not dates:
            raise DataError(f"{path} lists no date")
        return dates

    def tuning_labels(self) -> Sequence[str]:
        """The last 40 training dates: choose parameters here, report on the validation dates."""
        return self.labels(Split.TRAIN)[-TUNING_DATES:]

    def day(self, label: str) -> Day:
        """The requests and cars of one date.

        Raises:
            DataError: If the date has no file, or naming the line and field that is wrong.
        """
        path = self._folder / "trip_data" / f"trips_{label}.csv"
        if not path.is_file():
            raise DataError(f"no requests of {label!r}: {path} does not exist")
        return Day(label=label, bookings=self._bookings(path), drivers=self._drivers())

    def _bookings(self, path: Path) -> np.ndarray:
        zones, rules = len(self.zone_lat), self.scenario.rules
        requests: list[tuple[int, int, int]] = []
        taken: dict[int, int] = {}
        for line, row in _rows(path, ("pickup_time", "pickup_ID", "dropoff_ID")):
            minute = int(_number(path, line, row, "pickup_time") // 60)
            if not 0 <= minute < rules.horizon_min:
                raise DataError(
                    f"{path}, line {line}: pickup_time {row['pickup_time']} lies outside the hour"
                )
            origin = _zone(path, line, row, "pickup_ID", zones)
            destination = _zone(path, line, row, "dropoff_ID", zones)
            taken[minute] = taken.get(minute, 0) + 1
            if taken[minute] <= self._limit:
                requests.append((minute, origin, destination))
        requests.sort(key=lambda request: request[0])  # stable: file order within a minute
        bookings = np.zeros(len(requests), dtype=BOOKING_DTYPE)
        if requests:
            minute_of, origin_of, destination_of = np.array(requests).T
            self._fill(bookings, minute_of, origin_of, destination_of)
        return bookings

    def _fill(
        self, bookings: np.ndarray, minute: np.ndarray, origin: np.ndarray, destination: np.ndarray
    ) -> None:
        bookings["created_min"] = bookings["promised_min"] = minute
        bookings["window_end_min"] = minute + self.scenario.rules.window_min
        bookings["priority"] = _PRIORITY
        bookings["immediate"] = True
        bookings["pickup_zone"], bookings["dropoff_zone"] = origin, destination
        bookings["pickup_lat"], bookings["pickup_lon"] = (
            self.zone_lat[origin],
            self.zone_lon[origin],
        )
        bookings["dropoff_lat"] = self.zone_lat[destination]
        bookings["dropoff_lon"] = self.zone_lon[destination]
        bookings["fare"] = self.fare[origin, destination]
        bookings["deadhead_noise"] = bookings["trip_noise"] = 1.0
        bookings["cancelled_min"] = NEVER

    def _drivers(self) -> np.ndarray:
        """Cars spread evenly: every zone in turn, so that the first zones get the remainder."""
        drivers = np.zeros(self.scenario.fleet.num_drivers, dtype=DRIVER_DTYPE)
        zone = np.arange(len(drivers)) % len(self.zone_lat)
        drivers["zone"] = zone
        drivers["lat"], drivers["lon"] = self.zone_lat[zone], self.zone_lon[zone]
        drivers["shift_end_min"] = self.scenario.rules.horizon_min
        drivers["breakdown_min"] = drivers["repaired_min"] = NEVER
        return drivers


def _locate(data_dir: str | Path | None, name: str) -> Path:
    given = os.environ.get(DATA_DIR_VARIABLE, "") if data_dir is None else str(data_dir)
    if not given:
        raise DataError(
            f"Manhattan days need their data folder: give --data-dir or set {DATA_DIR_VARIABLE}"
        )
    root = Path(given).expanduser()
    for folder in (root / "data" / name, root / name):
        if folder.is_dir():
            return folder
    raise DataError(f"data folder {root} contains neither data/{name} nor {name}")


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers, once the columns are known to be there."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} lacks the column {missing[0]!r}")
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise DataError(f"{path}, line {reader.line_num}: too few fields")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _number(path: Path, line: int, row: dict[str, str], field: str) -> float:
    try:
        value = float(row[field])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{path}, line {line}: {field} is {row[field]!r}, not a number")
    return value


def _zone(path: Path, line: int, row: dict[str, str], field: str, zones: int) -> int:
    value = _number(path, line, row, field)
    if value != int(value) or not 0 <= value < zones:
        raise DataError(f"{path}, line {line}: {field} {row[field]} is no zone of 0..{zones - 1}")
    return int(value)


def _read_zones(path: Path) -> tuple[FloatArray, FloatArray]:
    """Latitudes and longitudes of the zone centres; a zone's number is its row."""
    centres = [
        (_number(path, line, row, "latitude"), _number(path, line, row, "longitude"))
        for line, row in _rows(path, ("longitude", "latitude"))
    ]
    if not centres:
        raise DataError(f"{path} lists no zone")
    lat, lon = np.array(centres, dtype=np.float64).T
    if np.any(np.abs(lat) > 90) or np.any(np.abs(lon) > 180):
        raise DataError(f"{path} has a zone centre outside the degrees of the Earth")
    return np.ascontiguousarray(lat), np.ascontiguousarray(lon)


def _read_graph(path: Path, zones: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Minutes, kilometres and fares, each ``(Z, Z)``; the diagonal is 0 and not in the file."""
    table = np.full((3, zones, zones), np.nan)
    fields = ("travel_time", "distance", "fare")
    for line, row in _rows(path, ("origin_ID", "destination_ID", *fields)):
        origin = _zone(path, line, row, "origin_ID", zones)
        destination = _zone(path, line, row, "destination_ID", zones)
        for k, field in enumerate(fields):
            value = _number(path, line, row, field)
            if value < 0:
                raise DataError(f"{path}, line {line}: {field} is negative")
            table[k, origin, destination] = value
    for k in range(3):
        np.fill_diagonal(table[k], 0.0)
    if np.isnan(table).any():
        origin, destination = np.argwhere(np.isnan(table[0]))[0]
        raise DataError(f"{path} has no line from zone {origin} to zone {destination}")
    minutes, km, fare = table[0], table[1] / 1000.0, table[2]
    return minutes, km, fare
