"""Fit a `DemandModel` to the days of a history, so that thousands of similar days can be drawn.

Fitted on training days only, and on *regular* days: a company's Saturdays with a third of the
bookings are another kind of day, and mixing them in would describe neither.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError
from services.rl.simulation.demand import QUANTILES, DemandModel
from services.rl.simulation.types import BoolArray, Day, FloatArray, IntArray

from .zones import Zones, find_zones, number_of_zones

BIN_MIN = 30.0
"""Width of the promised-time bins."""

SLOT_MIN = 120.0
"""Streams are outbound or return, by slots of this length: mornings flow unlike evenings."""

LIGHT_DAY_SHARE = 0.5
"""A day with fewer than this share of the median day's bookings is not a regular day."""

_PSEUDO_BOOKINGS = 20.0
"""Weight, in bookings, of the class's mean in each stream's shares."""

_ENOUGH_FOR_QUANTILES = 60
_OD_WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Candidate weights (in bookings) of the smoother table; chosen by likelihood of left-out days."""

_FOLDS = 5


def regular_days(days: Sequence[Day]) -> list[Day]:
    """Days with at least half the median day's bookings."""
    counts = np.array([len(day.bookings) for day in days])
    if len(counts) == 0:
        return []
    floor = LIGHT_DAY_SHARE * float(np.median(counts))
    return [day for day, count in zip(days, counts, strict=True) if count >= floor and count > 0]


def demanded(day: Day) -> npt.NDArray[np.void]:
    """The day's bookings less those called off before the day began: they need no driver."""
    wanted: npt.NDArray[np.void] = day.bookings[day.bookings["cancelled_min"] > 0]
    return wanted


def fit_demand(
    days: Sequence[Day],
    *,
    horizon_min: float,
    seed: int = 0,
    zones: int | None = None,
    groups: Sequence[int] | None = None,
) -> DemandModel:
    """Estimate how bookings arrive.

    Sites are zones by k-means. Streams are outbound or return × time slot. Each stream's table of
    zone pairs is shrunk towards its class's table, and that towards the product of the class's
    margins, so a pair never seen keeps a probability; both weights are those under which
    left-out training days are most likely. Daily counts are over-dispersed (``bookings_cv``).

    Args:
        days: Training days; light ones are left out (see `regular_days`).
        horizon_min: Length of the operating day.
        seed: Of the zones' initial centres.
        zones: Number of zones; None: by the number of bookings.
        groups: A number for each day; days of one number are left out together (copies of one
            day: it would be likely by itself). The days are then taken as they are, light ones
            too. None: each day stands alone.

    Raises:
        DataError: If the regular days have no booking.
    """
    kept = regular_days(days) if groups is None else list(days)
    per_day = [demanded(day) for day in kept]
    counts = np.array([len(bookings) for bookings in per_day], dtype=np.float64)
    if counts.sum() < 1:
        raise DataError("no demand model can be fitted: the training days have no booking")
    bookings = np.concatenate(per_day)
    own = np.arange(len(kept)) if groups is None else np.asarray(groups, dtype=np.int64)
    day = np.repeat(np.arange(len(per_day)), counts.astype(np.int64))
    area = find_zones(
        np.concatenate([bookings["pickup_lat"], bookings["dropoff_lat"]]),
        np.concatenate([bookings["pickup_lon"], bookings["dropoff_lon"]]),
        number_of_zones(len(bookings)) if zones is None else zones,
        seed,
    )
    promised = np.clip(bookings["promised_min"], 0, np.nextafter(horizon_min, 0))
    edges = np.append(np.arange(0, horizon_min, BIN_MIN), horizon_min)
    slot = (promised // SLOT_MIN).astype(np.int64)
    label = 2 * slot + bookings["is_return"]
    streams, stream = np.unique(label, return_inverse=True)
    fit = _StreamFit(bookings, stream, streams, promised, edges)
    return DemandModel(
        site_name=tuple(f"zone {k + 1}" for k in range(len(area.lat))),
        site_lat=area.lat,
        site_lon=area.lon,
        site_spread_km=area.spread_km,
        bookings_mean=float(counts.mean()),
        bookings_cv=overdispersion(counts),
        stream_name=tuple(
            f"{'return' if s % 2 else 'outbound'} {s // 2 * SLOT_MIN / 60:g}-"
            f"{min((s // 2 + 1) * SLOT_MIN, horizon_min) / 60:g} h"
            for s in streams.tolist()
        ),
        stream_share=np.bincount(stream) / len(stream),
        stream_is_return=(streams % 2).astype(np.bool_),
        time_edges_min=edges,
        time_share=fit.time_share(),
        od_share=_od_shares(bookings, area, stream, streams % 2, own[day]),
        immediate_share=fit.share(bookings["immediate"]),
        lead_quantiles_min=fit.quantiles(
            bookings["promised_min"] - bookings["created_min"], ~bookings["immediate"]
        ),
        priority_share=np.stack(
            [fit.share(bookings["priority"] == p) for p in range(1, 6)], axis=1
        ),
        wheelchair_share=fit.share(bookings["wheelchair"]),
        pickup_service_quantiles_min=fit.quantiles(bookings["pickup_service_min"]),
        dropoff_service_quantiles_min=fit.quantiles(bookings["dropoff_service_min"]),
    )


def overdispersion(counts: FloatArray) -> float:
    """Coefficient of variation of the expected daily number: what Poisson does not explain."""
    if len(counts) < 2 or counts.mean() <= 0:
        return 0.0
    extra = float(counts.var(ddof=1) - counts.mean())
    return float(np.clip(np.sqrt(max(extra, 0.0)) / counts.mean(), 0, 1))


class _StreamFit:
    """Per-stream shares and quantiles, shrunk to those of the class (outbound or return)."""

    def __init__(
        self,
        bookings: npt.NDArray[np.void],
        stream: IntArray,
        streams: IntArray,
        promised: FloatArray,
        edges: FloatArray,
    ) -> None:
        self.is_return = bookings["is_return"]
        self.stream = stream
        self.streams = streams
        self.promised = promised
        self.edges = edges
        self.size = np.bincount(stream).astype(np.float64)

    def time_share(self) -> FloatArray:
        """``(S, T)``; a stream's times lie within its slot."""
        bin_ = np.searchsorted(self.edges, self.promised, side="right") - 1
        bins = len(self.edges) - 1
        table = np.zeros((len(self.streams), bins))
        np.add.at(table, (self.stream, np.minimum(bin_, bins - 1)), 1.0)
        share: FloatArray = table / table.sum(axis=1, keepdims=True)
        return share

    def share(self, flag: BoolArray) -> FloatArray:
        """``(S,)`` share of the flag, shrunk by `_PSEUDO_BOOKINGS` of the class's mean."""
        hits = np.bincount(self.stream, weights=flag, minlength=len(self.streams))
        mean = np.array([flag[self.is_return == bool(s % 2)].mean() for s in self.streams])
        shrunk: FloatArray = (hits + _PSEUDO_BOOKINGS * mean) / (self.size + _PSEUDO_BOOKINGS)
        return shrunk

    def quantiles(self, value: FloatArray, among: BoolArray | None = None) -> FloatArray:
        """``(S, Q)``; a stream with few values takes those of its class, then all."""
        chosen = np.ones(len(value), dtype=np.bool_) if among is None else among
        probability = np.linspace(0, 1, QUANTILES)
        result = np.zeros((len(self.streams), QUANTILES))
        for i, s in enumerate(self.streams.tolist()):
            of_class = self.is_return == bool(s % 2)
            for mask in (self.stream == i, of_class, np.ones_like(chosen)):
                sample = value[mask & chosen]
                if len(sample) >= _ENOUGH_FOR_QUANTILES:
                    break
            if len(sample):
                result[i] = np.quantile(sample, probability)
        return result


def _od_shares(
    bookings: npt.NDArray[np.void], area: Zones, stream: IntArray, kind: IntArray, day: IntArray
) -> FloatArray:
    """``(S, P, P)`` shares of zone pairs, shrunk twice."""
    zones = len(area.lat)
    pair = zones * area.nearest(bookings["pickup_lat"], bookings["pickup_lon"]) + area.nearest(
        bookings["dropoff_lat"], bookings["dropoff_lon"]
    )
    result = np.zeros((len(kind), zones, zones))
    for is_return in np.unique(kind).tolist():
        of_class = np.flatnonzero(kind[stream] == is_return)
        members = np.flatnonzero(kind == is_return)
        local = np.searchsorted(members, stream[of_class])
        fold = day[of_class] % _FOLDS
        weights = _best_weights(pair[of_class], local, fold, zones, len(members))
        table = _shrunk(pair[of_class], local, zones, len(members), *weights)
        result[members] = table.reshape(-1, zones, zones)
    return result


def _best_weights(
    pair: IntArray, stream: IntArray, fold: IntArray, zones: int, streams: int
) -> tuple[float, float]:
    """The two shrinkage weights under which left-out days are most likely."""
    if len(np.unique(fold)) < 2:
        return 100.0, 100.0

    def left_out(to_margins: float, to_class: float) -> float:
        total = 0.0
        for f in np.unique(fold):
            seen = fold != f
            table = _shrunk(pair[seen], stream[seen], zones, streams, to_margins, to_class)
            total += float(np.log(table[stream[~seen], pair[~seen]]).sum())
        return total

    # One after the other: the table of the class first, then how far streams may leave it.
    to_margins = max(_OD_WEIGHTS, key=lambda weight: left_out(weight, 1e9))
    return to_margins, max(_OD_WEIGHTS, key=lambda weight: left_out(to_margins, weight))


def _shrunk(
    pair: IntArray, stream: IntArray, zones: int, streams: int, to_margins: float, to_class: float
) -> FloatArray:
    """``(streams, P * P)``: counts + weight x smoother table, normalised."""
    count = np.zeros((streams, zones * zones))
    np.add.at(count, (stream, pair), 1.0)
    total = count.sum(axis=0).reshape(zones, zones)
    # Half a booking per zone: a zone where no trip of this class began may still see one.
    origin, destination = total.sum(axis=1) + 0.5, total.sum(axis=0) + 0.5
    margins = np.outer(origin / origin.sum(), destination / destination.sum())
    of_class = (total + to_margins * margins) / (total.sum() + to_margins)
    size = count.sum(axis=1, keepdims=True)
    shrunk: FloatArray = (count + to_class * of_class.ravel()) / (size + to_class)
    return shrunk
