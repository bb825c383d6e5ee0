"""Demand model: how bookings arrive, in place, time, lead and kind.

One description serves the synthetic scenarios (written by hand) and the fitted ones (estimated
from a company's history), and one compiled sampler turns it and a seed into a day.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError

from .types import FloatArray

QUANTILES = 17
"""Points of the empirical quantile functions (probabilities 0, 1/16, ..., 1)."""

DEMAND_SCHEMA = 1


@dataclass(frozen=True)
class DemandModel:
    """A mixture of S booking streams between P sites.

    A stream is a kind of trip (home to hospital in the morning, return in the afternoon, one
    two-hour slot of a fitted history, ...): it has its own times of day, origin-destination
    shares, lead times, priorities and service times. Quantile tables are sampled by linear
    interpolation at a uniform probability.

    Attributes:
        site_name: P names, for maps and reports.
        site_lat: ``(P,)`` degrees; the centre of a site or zone.
        site_lon: ``(P,)`` degrees.
        site_spread_km: ``(P,)`` standard deviation of an address around the centre, each axis.
        bookings_mean: Expected bookings of a day.
        bookings_cv: Coefficient of variation of the day's *expected* number (0: pure Poisson).
        stream_name: S names.
        stream_share: ``(S,)`` share of each stream; sums to 1.
        stream_is_return: ``(S,)`` whether its trips are returns from a care facility.
        time_edges_min: ``(T + 1,)`` edges of the promised-time bins, minutes after day start.
        time_share: ``(S, T)`` rows sum to 1; uniform within a bin.
        od_share: ``(S, P, P)`` probability of origin, destination; each stream sums to 1.
        immediate_share: ``(S,)`` share requested for "now" (created = promised).
        lead_quantiles_min: ``(S, Q)`` of promised - created, for the pre-booked.
        priority_share: ``(S, 5)`` of priorities 1..5.
        wheelchair_share: ``(S,)``.
        pickup_service_quantiles_min: ``(S, Q)``.
        dropoff_service_quantiles_min: ``(S, Q)``.
    """

    site_name: tuple[str, ...]
    site_lat: FloatArray
    site_lon: FloatArray
    site_spread_km: FloatArray
    bookings_mean: float
    bookings_cv: float
    stream_name: tuple[str, ...]
    stream_share: FloatArray
    stream_is_return: npt.NDArray[np.bool_]
    time_edges_min: FloatArray
    time_share: FloatArray
    od_share: FloatArray
    immediate_share: FloatArray
    lead_quantiles_min: FloatArray
    priority_share: FloatArray
    wheelchair_share: FloatArray
    pickup_service_quantiles_min: FloatArray
    dropoff_service_quantiles_min: FloatArray

    def __post_init__(self) -> None:
        """Check shapes and ranges, so that the compiled sampler need not.

        Raises:
            DataError: Naming the field that does not fit.
        """
        sites, streams = len(self.site_name), len(self.stream_name)
        bins = len(self.time_edges_min) - 1
        if sites < 1 or streams < 1 or bins < 1:
            raise DataError("demand model: needs at least one site, one stream and one time bin")
        shapes = {
            "site_lat": (sites,),
            "site_lon": (sites,),
            "site_spread_km": (sites,),
            "stream_share": (streams,),
            "stream_is_return": (streams,),
            "time_share": (streams, bins),
            "od_share": (streams, sites, sites),
            "immediate_share": (streams,),
            "lead_quantiles_min": (streams, QUANTILES),
            "priority_share": (streams, 5),
            "wheelchair_share": (streams,),
            "pickup_service_quantiles_min": (streams, QUANTILES),
            "dropoff_service_quantiles_min": (streams, QUANTILES),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape:
                raise DataError(f"demand model: {name} has shape {value.shape}, expected {shape}")
            if not np.all(np.isfinite(value)):
                raise DataError(f"demand model: {name} has a value that is not finite")
        if not (np.isfinite(self.bookings_mean) and self.bookings_mean >= 0):
            raise DataError(f"demand model: bookings_mean is {self.bookings_mean}")
        if not 0 <= self.bookings_cv <= 1:
            raise DataError(f"demand model: bookings_cv is {self.bookings_cv}, expected 0..1")
        for name in ("pickup_service_quantiles_min", "dropoff_service_quantiles_min"):
            table = getattr(self, name)
            if np.any(table < 0) or np.any(np.diff(table, axis=1) < 0):
                raise DataError(f"demand model: {name} must be >= 0 and increase")
        if np.any(np.diff(self.time_edges_min) <= 0):
            raise DataError("demand model: time_edges_min must increase")
        sums = {
            "stream_share": self.stream_share.sum(),
            "time_share": self.time_share.sum(axis=1),
            "od_share": self.od_share.sum(axis=(1, 2)),
            "priority_share": self.priority_share.sum(axis=1),
        }
        for name, total in sums.items():
            if np.any(getattr(self, name) < 0) or not np.allclose(total, 1.0, atol=1e-6):
                raise DataError(f"demand model: {name} must be >= 0 and sum to 1, got {total}")

    def save(self, path: Path) -> None:
        """Write one ``.npz`` (no pickle), atomically."""
        arrays: dict[str, Any] = {}
        meta: dict[str, Any] = {"schema": DEMAND_SCHEMA}
        for name, value in self.__dict__.items():
            if isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                meta[name] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "DemandModel":
        """Read what `save` wrote.

        Raises:
            DataError: If the file is missing, damaged or of another schema.
        """
        if not path.is_file():
            raise DataError(f"demand model {path} does not exist")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                meta = json.loads(str(stored["meta"]))
                arrays = {name: stored[name] for name in stored.files if name != "meta"}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"demand model {path} cannot be read: {error}") from error
        if meta.pop("schema", None) != DEMAND_SCHEMA:
            raise DataError(f"demand model {path} has another schema than {DEMAND_SCHEMA}")
        meta["site_name"] = tuple(meta["site_name"])
        meta["stream_name"] = tuple(meta["stream_name"])
        return cls(**meta, **arrays)
