"""Zones: where trips begin and end, by k-means on the points of a history."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from services.rl.simulation.types import FloatArray, IntArray

from .sampling import KM_PER_DEGREE

MAX_ZONES = 64
_SAMPLE = 40_000
_ITERATIONS = 60


@dataclass(frozen=True)
class Zones:
    """K centres and how far points scatter around them.

    Attributes:
        lat: ``(K,)`` degrees.
        lon: ``(K,)`` degrees.
        spread_km: ``(K,)`` standard deviation per axis.
        origin: ``(2,)`` latitude and longitude about which degrees become kilometres.
    """

    lat: FloatArray
    lon: FloatArray
    spread_km: FloatArray
    origin: FloatArray

    def nearest(self, lat: FloatArray, lon: FloatArray) -> IntArray:
        """Zone of each point."""
        tree = cKDTree(_plane(self.lat, self.lon, self.origin))
        _, zone = tree.query(_plane(lat, lon, self.origin))
        return np.asarray(zone, dtype=np.int64)


def number_of_zones(bookings: int) -> int:
    """Zones that so many bookings can fill: about four bookings per pair of zones."""
    return int(np.clip(round(np.sqrt(bookings / 4)), 2, MAX_ZONES))


def find_zones(lat: FloatArray, lon: FloatArray, zones: int, seed: int) -> Zones:
    """Cluster points by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's iteration.

    Deterministic by seed. Distances are on the plane around the median point, good to a part in
    a thousand over a hundred kilometres.

    Args:
        lat: ``(n,)`` degrees, n >= 1.
        lon: ``(n,)`` degrees.
        zones: Wanted number; fewer where there are fewer distinct points.
        seed: Of the initial centres.
    """
    rng = np.random.default_rng(seed)
    origin = np.array([np.median(lat), np.median(lon)])
    points = _plane(lat, lon, origin)
    distinct = np.unique(points, axis=0)
    count = min(zones, len(distinct))
    learned = points
    if len(points) > _SAMPLE:
        learned = points[np.sort(rng.choice(len(points), _SAMPLE, replace=False))]
    centre = _lloyd(learned, _initial(learned, count, rng))
    distance, member = cKDTree(centre).query(points)
    size = np.bincount(member, minlength=len(centre))
    square = np.bincount(member, weights=distance**2, minlength=len(centre))
    used = size > 0
    # Two axes share the squared distance.
    spread = np.sqrt(square[used] / size[used] / 2)
    lat_c, lon_c = _globe(centre[used], origin)
    return Zones(lat_c, lon_c, spread, origin)


def _initial(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """k-means++: each next centre with probability proportional to its squared distance."""
    centre = [points[rng.integers(len(points))]]
    nearest = np.sum((points - centre[0]) ** 2, axis=1)
    while len(centre) < count and nearest.sum() > 0:
        index = np.searchsorted(np.cumsum(nearest), rng.random() * nearest.sum(), side="right")
        chosen = points[min(int(index), len(points) - 1)]
        centre.append(chosen)
        nearest = np.minimum(nearest, np.sum((points - chosen) ** 2, axis=1))
    return np.array(centre)


def _lloyd(points: FloatArray, centre: FloatArray) -> FloatArray:
    for _ in range(_ITERATIONS):
        _, member = cKDTree(centre).query(points)
        size = np.bincount(member, minlength=len(centre))
        total = np.stack(
            [np.bincount(member, weights=points[:, a], minlength=len(centre)) for a in (0, 1)], 1
        )
        moved = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centre)
        if np.abs(moved - centre).max() < 1e-4:  # ten centimetres
            return moved
        centre = moved
    return centre


def _plane(lat: FloatArray, lon: FloatArray, origin: FloatArray) -> FloatArray:
    """Kilometres north and east of the origin, ``(n, 2)``."""
    shrink = np.cos(np.radians(origin[0]))
    plane: FloatArray = KM_PER_DEGREE * np.stack(
        [np.asarray(lat) - origin[0], (np.asarray(lon) - origin[1]) * shrink], axis=-1
    )
    return plane


def _globe(plane: FloatArray, origin: FloatArray) -> tuple[FloatArray, FloatArray]:
    shrink = np.cos(np.radians(origin[0]))
    return (
        origin[0] + plane[:, 0] / KM_PER_DEGREE,
        origin[1] + plane[:, 1] / (KM_PER_DEGREE * shrink),
    )
