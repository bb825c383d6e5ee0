"""Travel: how far and how long from here to there. The only travel-time model of the project.

Two kinds: great-circle distance times circuity at a speed that depends on the hour, integrated
piecewise (Ichoua, Gendreau, Potvin 2003: leaving later never arrives earlier), and zone matrices.
The scalar functions are compiled and shared by the engine, the encoder and the solvers.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from .types import FloatArray, IntArray

EARTH_RADIUS_KM = 6371.0088
HAVERSINE, MATRIX = 0, 1


class TravelTables(NamedTuple):
    """What the compiled functions need of a scenario's travel model."""

    kind: int  # HAVERSINE or MATRIX
    circuity: float
    day_start_min: float  # minutes after midnight of time 0
    speed_km_min: FloatArray  # (24,) by hour of the clock
    minutes: FloatArray  # (Z, Z); (1, 1) when kind is HAVERSINE
    km: FloatArray  # (Z, Z)


def haversine_tables(
    circuity: float, speed_kmh: npt.ArrayLike, day_start_min: float
) -> TravelTables:
    """Tables for travel by coordinates; ``speed_kmh`` has 24 hourly values."""
    nothing = np.zeros((1, 1))
    speed = np.ascontiguousarray(np.asarray(speed_kmh, dtype=np.float64) / 60.0)
    return TravelTables(
        HAVERSINE, float(circuity), float(day_start_min), speed, nothing, nothing.copy()
    )


def matrix_tables(minutes: FloatArray, km: FloatArray, day_start_min: float) -> TravelTables:
    """Tables for travel between zones; ``minutes`` and ``km`` are ``(Z, Z)``."""
    return TravelTables(
        MATRIX,
        1.0,
        float(day_start_min),
        np.ones(24),
        np.ascontiguousarray(minutes, dtype=np.float64),
        np.ascontiguousarray(km, dtype=np.float64),
    )


@njit(cache=True, forceinline=True)
def great_circle_km(
    lat_a: float, lon_a: float, cos_a: float, lat_b: float, lon_b: float, cos_b: float
) -> float:
    """Haversine distance; angles in radians, ``cos_*`` the cosine of each latitude."""
    sin_lat = np.sin(0.5 * (lat_b - lat_a))
    sin_lon = np.sin(0.5 * (lon_b - lon_a))
    chord = sin_lat * sin_lat + cos_a * cos_b * sin_lon * sin_lon
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(1.0, chord)))


@njit(cache=True, forceinline=True)
def arrive_min(
    tables: TravelTables, depart_min: float, km: float, zone_from: int, zone_to: int
) -> float:
    """Arrival time when leaving at ``depart_min``."""
    if tables.kind == MATRIX:
        return depart_min + tables.minutes[zone_from, zone_to]
    clock = depart_min + tables.day_start_min
    hour = int(np.floor(clock / 60.0))
    left = km
    while True:
        speed = tables.speed_km_min[hour % 24]
        reach = (60.0 * (hour + 1) - clock) * speed
        if left <= reach:
            return clock + left / speed - tables.day_start_min
        left -= reach
        hour += 1
        clock = 60.0 * hour


@njit(cache=True, forceinline=True)
def depart_min(
    tables: TravelTables, arrive: float, km: float, zone_from: int, zone_to: int
) -> float:
    """Latest departure that arrives by ``arrive``: the inverse of `arrive_min`."""
    if tables.kind == MATRIX:
        return arrive - tables.minutes[zone_from, zone_to]
    clock = arrive + tables.day_start_min
    hour = int(np.ceil(clock / 60.0)) - 1
    left = km
    while True:
        speed = tables.speed_km_min[hour % 24]
        reach = (clock - 60.0 * hour) * speed
        if left <= reach:
            return clock - left / speed - tables.day_start_min
        left -= reach
        clock = 60.0 * hour
        hour -= 1


@njit(cache=True)
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
    for i in range(lat_a.size):
        phi, lam = np.radians(lat_a[i]), np.radians(lon_a[i])
        cos_phi = np.cos(phi)
        for j in range(lat_b.size):
            phi_b, lam_b = np.radians(lat_b[j]), np.radians(lon_b[j])
            result[i, j] = tables.circuity * great_circle_km(
                phi, lam, cos_phi, phi_b, lam_b, np.cos(phi_b)
            )
    return result


@njit(cache=True)
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
            *(np.ascontiguousarray(v, dtype=np.float64) for v in (from_lat, from_lon)),
            np.ascontiguousarray(from_zone, dtype=np.int64),
            *(np.ascontiguousarray(v, dtype=np.float64) for v in (to_lat, to_lon)),
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
