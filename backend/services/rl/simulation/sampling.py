"""Days by seed: the compiled sampler of a `DemandModel`.

A seed means the same day whatever the number of environments, because every draw comes from a
counter-based stream (SplitMix64; Steele, Lea, Flood 2014) started from that seed alone.
Disturbances draw from a stream of their own, so switching them on leaves the bookings as they
were.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import allocating, inlined, kernel
from .demand import QUANTILES, DemandModel
from .scenarios import Disturbances, Fleet, Rules, Scenario
from .types import DRIVER_DTYPE, NEVER, BoolArray, FloatArray, IntArray
from .world import (
    AT_LAT,
    AT_LON,
    AT_ZONE,
    B_WHEELCHAIR,
    BREAKDOWN,
    CALLED_OFF_AT,
    CREATED,
    D_EMERGENCY,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_WHEELCHAIR,
    D_ZONE,
    DEADHEAD_NOISE,
    FARE,
    IMMEDIATE,
    INPUT_FLOATS,
    INPUT_INTS,
    IS_RETURN,
    NO_SHOW,
    NUM_BOOKINGS,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_ZONE,
    PRIORITY,
    PROMISED,
    REPAIRED,
    SHIFT_END,
    SHIFT_START,
    TRIP_NOISE,
    WINDOW_END,
    World,
    allocate,
)

_KM_PER_DEGREE = 111.195  # of latitude


class DemandTables(NamedTuple):
    """A demand model, the fleet and the disturbances as arrays for the sampler."""

    lat: FloatArray  # (P,) sites
    lon: FloatArray
    spread_km: FloatArray
    mean: float
    cv: float
    stream: FloatArray  # (S,) cumulative
    is_return: BoolArray  # (S,)
    edges: FloatArray  # (T + 1,)
    time: FloatArray  # (S, T) cumulative
    od: FloatArray  # (S, P * P) cumulative
    immediate: FloatArray  # (S,)
    lead: FloatArray  # (S, Q)
    priority: FloatArray  # (S, 5) cumulative
    wheelchair: FloatArray  # (S,)
    pickup_service: FloatArray  # (S, Q)
    dropoff_service: FloatArray  # (S, Q)
    window: float
    horizon: float
    noise_sigma: float  # of the log-normal travel-time factor
    no_show: float
    call_off: float
    breakdown: float
    repair: float
    drivers: FloatArray  # (N, 7) lat, lon, shift start, shift end, wheelchair, emergency, zone


def demand_tables(scenario: Scenario, model: DemandModel) -> DemandTables:
    """Cumulate a demand model's shares for sampling."""
    rules: Rules = scenario.rules
    return _tables(
        model, rules.window_min, rules.horizon_min, scenario.disturbances, fleet_rows(scenario)
    )


def _tables(
    model: DemandModel,
    window_min: float,
    horizon_min: float,
    disturbances: Disturbances,
    fleet: npt.NDArray[np.void],
) -> DemandTables:
    variance = np.log1p(disturbances.travel_noise_cv**2)
    return DemandTables(
        lat=model.site_lat,
        lon=model.site_lon,
        spread_km=model.site_spread_km,
        mean=float(model.bookings_mean),
        cv=float(model.bookings_cv),
        stream=np.cumsum(model.stream_share),
        is_return=np.ascontiguousarray(model.stream_is_return, dtype=np.bool_),
        edges=model.time_edges_min,
        time=np.cumsum(model.time_share, axis=1),
        od=np.cumsum(model.od_share.reshape(len(model.stream_name), -1), axis=1),
        immediate=model.immediate_share,
        lead=model.lead_quantiles_min,
        priority=np.cumsum(model.priority_share, axis=1),
        wheelchair=model.wheelchair_share,
        pickup_service=model.pickup_service_quantiles_min,
        dropoff_service=model.dropoff_service_quantiles_min,
        window=float(window_min),
        horizon=float(horizon_min),
        noise_sigma=float(np.sqrt(variance)),
        no_show=disturbances.no_show_share,
        call_off=disturbances.late_cancellation_share,
        breakdown=disturbances.breakdowns_per_driver_day,
        repair=disturbances.breakdown_min,
        drivers=np.column_stack(
            [
                fleet[name].astype(np.float64)
                for name in (
                    "lat",
                    "lon",
                    "shift_start_min",
                    "shift_end_min",
                    "wheelchair",
                    "emergency",
                    "zone",
                )
            ]
        ),
    )


def fleet_rows(scenario: Scenario) -> npt.NDArray[np.void]:
    """The scenario's drivers, ``(N,)`` of `DRIVER_DTYPE`, patterns repeated in order."""
    fleet: Fleet = scenario.fleet
    sites = {site.name: site for site in scenario.place.sites}
    rows = np.zeros(fleet.num_drivers, dtype=DRIVER_DTYPE)
    for i in range(fleet.num_drivers):
        pattern = fleet.patterns[i % len(fleet.patterns)]
        start = scenario.place.base if pattern.start is None else sites[pattern.start]
        end = pattern.shift_end_min
        rows[i] = (
            start.lat,
            start.lon,
            0,
            pattern.shift_start_min,
            scenario.rules.horizon_min if end is None else end,
            pattern.wheelchair,
            pattern.emergency,
            NEVER,
            NEVER,
        )
    return rows


def max_bookings(model: DemandModel) -> int:
    """Rows that hold any day: six standard deviations of the count above the busiest mean."""
    highest = model.bookings_mean * (1 + 3 * model.bookings_cv)
    return int(np.ceil(highest + 6 * np.sqrt(highest) + 8))


# --- random numbers ------------------------------------------------------------------------------

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_DISTURBANCE_SALT = np.uint64(0xD15704BA9CE5)
_EPISODE_SALT = np.uint64(0xE7150DE5)
DAY, EPISODE = 0, 1


@inlined
def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> _S30)) * _MIX_A
    x = (x ^ (x >> _S27)) * _MIX_B
    return x ^ (x >> _S31)


@inlined
def next_random(random: npt.NDArray[np.uint64], e: int, stream: int) -> np.uint64:
    """The next 64 bits of a stream."""
    random[e, stream] += _GOLDEN
    return _mix(random[e, stream])


@inlined
def random_bits(random: npt.NDArray[np.uint64], e: int) -> np.uint64:
    """The next 64 bits of a one-dimensional array of streams."""
    random[e] += _GOLDEN
    return _mix(random[e])


@inlined
def _uniform(random: npt.NDArray[np.uint64], e: int) -> float:
    return np.float64(next_random(random, e, DAY) >> _S11) * (1.0 / 9007199254740992.0)


@inlined
def _normal(random: npt.NDArray[np.uint64], e: int) -> float:
    radius = np.sqrt(-2.0 * np.log(1.0 - _uniform(random, e)))
    return radius * np.cos(2.0 * np.pi * _uniform(random, e))


@inlined
def _pick(cumulative: FloatArray, u: float) -> int:
    low, high = 0, cumulative.size - 1
    target = u * cumulative[high]
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > target:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def _quantile(table: FloatArray, u: float) -> float:
    position = u * (QUANTILES - 1)
    i = min(int(position), QUANTILES - 2)
    return table[i] + (position - i) * (table[i + 1] - table[i])


@inlined
def seed_episodes(w: World, e: int, seed: int) -> None:
    """Start the stream from which environment ``e`` draws its later days."""
    w.random[e, EPISODE] = _mix(np.uint64(seed) ^ _EPISODE_SALT)


@inlined
def next_training_seed(w: World, e: int, seeds: int) -> int:
    """The next day's seed, of ``seeds`` training seeds."""
    return np.int64(next_random(w.random, e, EPISODE) % np.uint64(seeds))  # type: ignore[return-value]


# --- a day --------------------------------------------------------------------------------


@allocating
def sample_day(w: World, tables: DemandTables, e: int, seed: int) -> None:
    """Write the day of ``seed`` into environment ``e``'s blocks (inputs only)."""
    r = w.random
    r[e, DAY] = _mix(np.uint64(seed) + _GOLDEN)
    rows = w.bookings.shape[1]
    level = tables.mean
    if tables.cv > 0.0:
        level *= 1.0 + tables.cv * max(-3.0, min(3.0, _normal(r, e)))
    n = min(_poisson(r, e, max(level, 0.0)), rows)
    w.counters[e, NUM_BOOKINGS] = n
    created = np.empty(n)
    promised = np.empty(n)
    stream = np.empty(n, dtype=np.int64)
    for i in range(n):
        s = _pick(tables.stream, _uniform(r, e))
        t = _pick(tables.time[s], _uniform(r, e))
        when = tables.edges[t] + _uniform(r, e) * (tables.edges[t + 1] - tables.edges[t])
        lead = 0.0
        if _uniform(r, e) >= tables.immediate[s]:
            # A lead of zero is an immediate request's; the pre-booked have at least a second.
            lead = max(_quantile(tables.lead[s], _uniform(r, e)), 1.0 / 60.0)
        stream[i], promised[i], created[i] = s, when, when - lead
    order = _order(created)
    for b in range(n):
        i = order[b]
        _write_booking(w, tables, e, b, stream[i], created[i], promised[i])
    _write_drivers(w, tables, e)
    _sample_disturbances(w, tables, e, seed)


@kernel
def _poisson(random: npt.NDArray[np.uint64], e: int, mean: float) -> int:
    """Poisson variate by summing exponential gaps."""
    total, n = 0.0, -1
    while total <= mean:
        total -= np.log(1.0 - _uniform(random, e))
        n += 1
    return n


@allocating
def _order(key: FloatArray) -> npt.NDArray[np.int64]:
    """Indices that sort ``key``; ties in order of index (Shell's method: no library to compile)."""
    n = key.size
    order = np.empty(n, dtype=np.int64)
    for i in range(n):
        order[i] = i
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            x = order[i]
            j = i
            while j >= gap:
                y = order[j - gap]
                if key[y] < key[x] or (key[y] == key[x] and y < x):
                    break
                order[j] = y
                j -= gap
            order[j] = x
        gap //= 3
    return order


@inlined
def _write_booking(
    w: World, tables: DemandTables, e: int, b: int, s: int, created: float, promised: float
) -> None:
    r = w.random
    sites = tables.lat.size
    pair = _pick(tables.od[s], _uniform(r, e))
    origin, destination = pair // sites, pair % sites
    w.bookings[e, b, CREATED] = created
    w.bookings[e, b, PROMISED] = promised
    w.bookings[e, b, WINDOW_END] = promised + tables.window
    lat, lon = _address(w, tables, e, origin)
    w.bookings[e, b, P_LAT], w.bookings[e, b, P_LON] = lat, lon
    lat, lon = _address(w, tables, e, destination)
    w.bookings[e, b, D_LAT], w.bookings[e, b, D_LON] = lat, lon
    w.bookings[e, b, P_SERVICE] = _quantile(tables.pickup_service[s], _uniform(r, e))
    w.bookings[e, b, D_SERVICE] = _quantile(tables.dropoff_service[s], _uniform(r, e))
    w.bookings[e, b, FARE] = np.nan
    w.booking_ints[e, b, PRIORITY] = 1 + _pick(tables.priority[s], _uniform(r, e))
    w.booking_ints[e, b, B_WHEELCHAIR] = 1 if _uniform(r, e) < tables.wheelchair[s] else 0
    w.booking_ints[e, b, IMMEDIATE] = 1 if created == promised else 0
    w.booking_ints[e, b, IS_RETURN] = 1 if tables.is_return[s] else 0
    w.booking_ints[e, b, P_ZONE] = 0
    w.booking_ints[e, b, D_ZONE] = 0


@inlined
def _address(w: World, tables: DemandTables, e: int, site: int) -> tuple[float, float]:
    lat, lon = tables.lat[site], tables.lon[site]
    spread = tables.spread_km[site]
    if spread > 0.0:
        # At most 2.5 standard deviations: an address, not a point in the lake.
        north = max(-2.5, min(2.5, _normal(w.random, e))) * spread
        east = max(-2.5, min(2.5, _normal(w.random, e))) * spread
        lon += east / (_KM_PER_DEGREE * np.cos(np.radians(lat)))
        lat += north / _KM_PER_DEGREE
    return lat, lon


@kernel
def _write_drivers(w: World, tables: DemandTables, e: int) -> None:
    for d in range(w.drivers.shape[2]):
        w.drivers[e, AT_LAT, d] = tables.drivers[d, 0]
        w.drivers[e, AT_LON, d] = tables.drivers[d, 1]
        w.drivers[e, SHIFT_START, d] = tables.drivers[d, 2]
        w.drivers[e, SHIFT_END, d] = tables.drivers[d, 3]
        w.driver_ints[e, D_WHEELCHAIR, d] = int(tables.drivers[d, 4])
        w.driver_ints[e, D_EMERGENCY, d] = int(tables.drivers[d, 5])
        w.driver_ints[e, AT_ZONE, d] = int(tables.drivers[d, 6])
        w.drivers[e, BREAKDOWN, d] = np.inf
        w.drivers[e, REPAIRED, d] = np.inf


@kernel
def _sample_disturbances(w: World, tables: DemandTables, e: int, seed: int) -> None:
    r = w.random
    r[e, DAY] = _mix(np.uint64(seed) ^ _DISTURBANCE_SALT)
    sigma = tables.noise_sigma
    for b in range(w.counters[e, NUM_BOOKINGS]):
        w.bookings[e, b, DEADHEAD_NOISE] = 1.0
        w.bookings[e, b, TRIP_NOISE] = 1.0
        if sigma > 0.0:
            w.bookings[e, b, DEADHEAD_NOISE] = np.exp(sigma * _normal(r, e) - 0.5 * sigma * sigma)
            w.bookings[e, b, TRIP_NOISE] = np.exp(sigma * _normal(r, e) - 0.5 * sigma * sigma)
        w.booking_ints[e, b, NO_SHOW] = 1 if _uniform(r, e) < tables.no_show else 0
        w.bookings[e, b, CALLED_OFF_AT] = np.inf
        share, hour = _uniform(r, e), _uniform(r, e)
        if share < tables.call_off:
            # Late: within the two hours before the promise, once the booking exists.
            promised = w.bookings[e, b, PROMISED]
            begin = max(w.bookings[e, b, CREATED], promised - 120.0)
            w.bookings[e, b, CALLED_OFF_AT] = begin + hour * (promised - begin)
    for d in range(w.drivers.shape[2]):
        share, moment = _uniform(r, e), _uniform(r, e)
        if share < tables.breakdown:
            start, end = w.drivers[e, SHIFT_START, d], w.drivers[e, SHIFT_END, d]
            w.drivers[e, BREAKDOWN, d] = start + moment * (end - start)
            w.drivers[e, REPAIRED, d] = w.drivers[e, BREAKDOWN, d] + tables.repair


# --- days without an engine ----------------------------------------------------------------------


def draw_days(
    model: DemandModel, seeds: IntArray, *, window_min: float, volume: float = 1.0
) -> tuple[IntArray, FloatArray, IntArray]:
    """The bookings of days by seed, as an engine of that model would draw them.

    Args:
        model: What to draw from.
        seeds: ``(D,)``, not negative.
        window_min: Width of the pickup window.
        volume: Factor on the expected number of bookings.

    Returns:
        Bookings per day ``(D,)``, and their fields in the blocks' order: ``(D, R, INPUT_FLOATS)``
        and ``(D, R, INPUT_INTS)``, each day's first rows filled.
    """
    scaled = DemandModel(**{**model.__dict__, "bookings_mean": model.bookings_mean * volume})
    rows = max_bookings(scaled)
    nobody = np.zeros(1, dtype=DRIVER_DTYPE)
    tables = _tables(scaled, window_min, 0.0, Disturbances(), nobody)
    counts = np.zeros(len(seeds), dtype=np.int64)
    floats = np.zeros((len(seeds), rows, INPUT_FLOATS))
    ints = np.zeros((len(seeds), rows, INPUT_INTS), dtype=np.int64)
    _draw(allocate(1, 1, 1, rows), tables, seeds, counts, floats, ints)
    return counts, floats, ints


@allocating
def _draw(
    w: World,
    tables: DemandTables,
    seeds: IntArray,
    counts: IntArray,
    floats: FloatArray,
    ints: IntArray,
) -> None:
    for i in range(seeds.size):
        sample_day(w, tables, 0, seeds[i])
        counts[i] = w.counters[0, NUM_BOOKINGS]
        for b in range(counts[i]):
            for k in range(INPUT_FLOATS):
                floats[i, b, k] = w.bookings[0, b, k]
            for k in range(INPUT_INTS):
                ints[i, b, k] = w.booking_ints[0, b, k]
