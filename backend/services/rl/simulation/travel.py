"""Travel: how far and how long from here to there. The only travel-time model of the project.

Two kinds: great-circle distance times circuity at a speed that depends on the hour, integrated
piecewise (Ichoua, Gendreau, Potvin 2003: leaving later never arrives earlier), and zone matrices.
The scalar functions are compiled and shared by the engine, the encoder and the solvers.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import allocating, inlined, inlined_entry
from .types import FloatArray, IntArray

EARTH_RADIUS_KM = 6371.0088
HAVERSINE, MATRIX = 0, 1
HOURS, _FIRST_HOUR = 168, -48  # the profile repeats daily; two days before to five after


class TravelTables(NamedTuple):
    """What the compiled functions need of a scenario's travel model."""

    kind: int  # HAVERSINE or MATRIX
    circuity: float
    day_start_min: float  # minutes after midnight of time 0
    speed: FloatArray  # (HOURS,) km per minute, by hour from a day before the first midnight
    pace: FloatArray  # (HOURS,) minutes per km
    mean_speed: float
    minutes: FloatArray  # (Z, Z); (1, 1) when kind is HAVERSINE
    km: FloatArray  # (Z, Z)


def haversine_tables(
    circuity: float, speed_kmh: npt.ArrayLike, day_start_min: float
) -> TravelTables:
    """Tables for travel by coordinates; ``speed_kmh`` has 24 hourly values."""
    nothing = np.zeros((1, 1))
    daily = np.asarray(speed_kmh, dtype=np.float64) / 60.0
    speed = np.ascontiguousarray(np.resize(daily, HOURS))
    return TravelTables(
        HAVERSINE,
        float(circuity),
        float(day_start_min),
        speed,
        1.0 / speed,
        float(daily.mean()),
        nothing,
        nothing.copy(),
    )


def matrix_tables(minutes: FloatArray, km: FloatArray, day_start_min: float) -> TravelTables:
    """Tables for travel between zones; ``minutes`` and ``km`` are ``(Z, Z)``."""
    return TravelTables(
        MATRIX,
        1.0,
        float(day_start_min),
        np.ones(HOURS),
        np.ones(HOURS),
        1.0,
        np.ascontiguousarray(minutes, dtype=np.float64),
        np.ascontiguousarray(km, dtype=np.float64),
    )


@inlined_entry
def unit_vector(lat: float, lon: float) -> tuple[float, float, float]:
    """Point on the unit sphere of a place given in degrees."""
    phi, lam = np.radians(lat), np.radians(lon)
    cos_phi = np.cos(phi)
    return cos_phi * np.cos(lam), cos_phi * np.sin(lam), np.sin(phi)


@inlined_entry
def great_circle_km(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> float:
    """Great-circle distance of two unit vectors: the haversine formula in its chord form.

    ``2 R asin(chord / 2)``; below 127 km the series of asin is exact to double precision and
    needs no library call, in the innermost loop of the simulator.
    """
    dx, dy, dz = ax - bx, ay - by, az - bz
    square = 0.25 * (dx * dx + dy * dy + dz * dz)
    half = np.sqrt(square)
    if half < 0.01:
        series = 1.0 + square * (1 / 6 + square * (3 / 40 + square * (15 / 336)))
        return 2.0 * EARTH_RADIUS_KM * half * series
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(min(1.0, half))


@inlined_entry
def arrive_min(
    tables: TravelTables, depart_min: float, km: float, zone_from: int, zone_to: int
) -> float:
    """Arrival time when leaving at ``depart_min``."""
    if tables.kind == MATRIX:
        return depart_min + tables.minutes[zone_from, zone_to]
    clock = depart_min + tables.day_start_min
    hour = int(np.floor(clock * (1.0 / 60.0)))
    left = km
    while True:
        i = min(HOURS - 1, max(0, hour - _FIRST_HOUR))
        reach = (60.0 * (hour + 1) - clock) * tables.speed[i]
        if not left > reach:  # so that NaN ends the search too
            return clock + left * tables.pace[i] - tables.day_start_min
        left -= reach
        hour += 1
        clock = 60.0 * hour


@inlined_entry
def depart_min(
    tables: TravelTables, arrive: float, km: float, zone_from: int, zone_to: int
) -> float:
    """Latest departure that arrives by ``arrive``: the inverse of `arrive_min`."""
    if tables.kind == MATRIX:
        return arrive - tables.minutes[zone_from, zone_to]
    clock = arrive + tables.day_start_min
    hour = int(np.ceil(clock * (1.0 / 60.0))) - 1
    left = km
    while True:
        i = min(HOURS - 1, max(0, hour - _FIRST_HOUR))
        reach = (clock - 60.0 * hour) * tables.speed[i]
        if not left > reach:  # so that NaN ends the search too
            return clock - left * tables.pace[i] - tables.day_start_min
        left -= reach
        clock = 60.0 * hour
        hour -= 1


@inlined
def traffic(tables: TravelTables, now: float) -> float:
    """Present speed over the day's mean speed (1 for zone matrices)."""
    hour = int(np.floor((now + tables.day_start_min) * (1.0 / 60.0)))
    return tables.speed[min(HOURS - 1, max(0, hour - _FIRST_HOUR))] / tables.mean_speed


@allocating
def _km_matrix(
    tables: TravelTables,
    lat_a: FloatArray, lon_a: FloatArray, zone_a: IntArray,
    lat_b: FloatArray, lon_b: FloatArray, zone_b: IntArray,
) -> FloatArray:  # fmt: skip
    result = np.empty((lat_a.size, lat_b.size))
    if tables.kind == MATRIX:
        for i in range(lat_a.size):
            for j in range(lat_b.size):
                result[i, j] = tables.km[zone_a[i], zone_b[j]]
        return result
    to = np.empty((lat_b.size, 3))
    for j in range(lat_b.size):
        to[j, 0], to[j, 1], to[j, 2] = unit_vector(lat_b[j], lon_b[j])
    for i in range(lat_a.size):
        x, y, z = unit_vector(lat_a[i], lon_a[i])
        for j in range(lat_b.size):
            result[i, j] = tables.circuity * great_circle_km(x, y, z, to[j, 0], to[j, 1], to[j, 2])
    return result


@allocating
def _minutes_matrix(
    tables: TravelTables, depart: FloatArray, km: FloatArray, zone_a: IntArray, zone_b: IntArray
) -> FloatArray:
    result = np.empty_like(km)
    for i in range(km.shape[0]):
        for j in range(km.shape[1]):
            result[i, j] = arrive_min(tables, depart[i], km[i, j], zone_a[i], zone_b[j]) - depart[i]
    return result


class TravelModel:
    """NumPy face of the compiled functions, for solvers, reports and adapters."""

    def __init__(self, tables: TravelTables) -> None:
        self.tables = tables

    def km_matrix(
        self,
        from_lat: npt.ArrayLike,
        from_lon: npt.ArrayLike,
        from_zone: npt.ArrayLike,
        to_lat: npt.ArrayLike,
        to_lon: npt.ArrayLike,
        to_zone: npt.ArrayLike,
    ) -> FloatArray:
        """Road kilometres from each of n origins to each of m destinations, ``(n, m)``."""
        result: FloatArray = _km_matrix(
            self.tables,
            np.ascontiguousarray(from_lat, dtype=np.float64),
            np.ascontiguousarray(from_lon, dtype=np.float64),
            np.ascontiguousarray(from_zone, dtype=np.int64),
            np.ascontiguousarray(to_lat, dtype=np.float64),
            np.ascontiguousarray(to_lon, dtype=np.float64),
            np.ascontiguousarray(to_zone, dtype=np.int64),
        )
        return result

    def minutes_matrix(
        self, depart: Any, km: FloatArray, from_zone: npt.ArrayLike, to_zone: npt.ArrayLike
    ) -> FloatArray:
        """Travel minutes ``(n, m)`` when origin i is left at ``depart[i]`` (or at one time)."""
        departures = np.ascontiguousarray(
            np.broadcast_to(np.asarray(depart, dtype=np.float64), (km.shape[0],))
        )
        result: FloatArray = _minutes_matrix(
            self.tables,
            departures,
            np.ascontiguousarray(km),
            np.ascontiguousarray(from_zone, dtype=np.int64),
            np.ascontiguousarray(to_zone, dtype=np.int64),
        )
        return result
