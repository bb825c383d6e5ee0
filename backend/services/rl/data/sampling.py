"""Draw bookings from a `DemandModel` with NumPy: for histories and for goodness-of-fit.

Training draws its days with the engine's compiled sampler; here whole days are drawn at once,
without compilation, where a few thousand of them are enough.
"""

import numpy as np
import numpy.typing as npt

from services.rl.simulation.demand import QUANTILES, DemandModel
from services.rl.simulation.types import BOOKING_DTYPE, NEVER, FloatArray, IntArray

KM_PER_DEGREE = 111.195
"""Kilometres of one degree of latitude on the sphere that `travel` uses."""


_PROBABILITY = np.linspace(0, 1, QUANTILES)


def sample_bookings(
    model: DemandModel, rng: np.random.Generator, *, window_min: float = 30.0, volume: float = 1.0
) -> npt.NDArray[np.void]:
    """The bookings of one day; see `sample_days`."""
    return sample_days(model, rng, 1, window_min=window_min, volume=volume)[0]


def sample_days(
    model: DemandModel,
    rng: np.random.Generator,
    days: int,
    *,
    window_min: float = 30.0,
    volume: float = 1.0,
) -> tuple[npt.NDArray[np.void], IntArray]:
    """The bookings of several independent days, drawn together.

    A day's number is Poisson around a Gamma-distributed expectation (a negative binomial), so
    that days differ by more than chance when ``bookings_cv`` is positive.

    Args:
        model: What to draw from.
        rng: Source of randomness.
        days: How many days.
        window_min: Width of the pickup window.
        volume: Factor on the expected number of bookings.

    Returns:
        All bookings, `BOOKING_DTYPE`, day after day and by ``created_min`` within each; and the
        number of bookings of each day, ``(days,)``.
    """
    expected = np.full(days, model.bookings_mean * volume)
    if model.bookings_cv > 0:
        shape = 1.0 / model.bookings_cv**2
        expected *= rng.gamma(shape, 1.0 / shape, days)
    counts: IntArray = rng.poisson(expected).astype(np.int64)
    bookings = np.zeros(int(counts.sum()), dtype=BOOKING_DTYPE)
    stream = _choose(rng, model.stream_share, len(bookings))
    for s in np.unique(stream):
        _fill_stream(model, int(s), rng, bookings, np.flatnonzero(stream == s))
    bookings["window_end_min"] = bookings["promised_min"] + window_min
    bookings["pickup_zone"] = bookings["dropoff_zone"] = -1
    bookings["fare"] = np.nan
    bookings["deadhead_noise"] = bookings["trip_noise"] = 1.0
    bookings["cancelled_min"] = NEVER
    order = np.lexsort((bookings["created_min"], np.repeat(np.arange(days), counts)))
    return bookings[order], counts


def _fill_stream(
    model: DemandModel,
    s: int,
    rng: np.random.Generator,
    bookings: npt.NDArray[np.void],
    rows: IntArray,
) -> None:
    """Draw the bookings of one stream into their rows."""
    n = len(rows)
    bin_ = _choose(rng, model.time_share[s], n)
    width = np.diff(model.time_edges_min)
    promised = model.time_edges_min[bin_] + rng.random(n) * width[bin_]
    immediate = rng.random(n) < model.immediate_share[s]
    lead = _from_quantiles(rng, model.lead_quantiles_min[s], n)
    pair = _choose(rng, model.od_share[s].ravel(), n)
    origin, destination = np.divmod(pair, len(model.site_name))
    pickup, dropoff = _address(model, rng, origin), _address(model, rng, destination)
    columns = {
        "promised_min": promised,
        "created_min": promised - np.where(immediate, 0.0, lead),
        "immediate": immediate,
        "is_return": np.full(n, model.stream_is_return[s]),
        "priority": 1 + _choose(rng, model.priority_share[s], n),
        "wheelchair": rng.random(n) < model.wheelchair_share[s],
        "pickup_lat": pickup[0],
        "pickup_lon": pickup[1],
        "dropoff_lat": dropoff[0],
        "dropoff_lon": dropoff[1],
        "pickup_service_min": _from_quantiles(rng, model.pickup_service_quantiles_min[s], n),
        "dropoff_service_min": _from_quantiles(rng, model.dropoff_service_quantiles_min[s], n),
    }
    for name, values in columns.items():
        bookings[name][rows] = values


def _choose(rng: np.random.Generator, share: FloatArray, n: int) -> IntArray:
    """``n`` indices drawn with probabilities ``share``."""
    cumulative = np.cumsum(share)
    index = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    chosen: IntArray = np.minimum(index, len(share) - 1)
    return chosen


def _from_quantiles(rng: np.random.Generator, quantiles: FloatArray, n: int) -> FloatArray:
    return np.interp(rng.random(n), _PROBABILITY, quantiles)


def _address(
    model: DemandModel, rng: np.random.Generator, site: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Points scattered around sites: degrees of latitude and longitude."""
    spread = model.site_spread_km[site] / KM_PER_DEGREE
    lat = model.site_lat[site] + spread * rng.standard_normal(len(site))
    shrink = np.cos(np.radians(model.site_lat[site]))
    lon = model.site_lon[site] + spread / shrink * rng.standard_normal(len(site))
    return lat, lon
