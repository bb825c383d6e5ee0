"""Observations: one encoder for training, evaluation and production.

``full`` holds context, driver, booking and pair rows; ``rows`` the same without pairs, but with
what is needed to compute them again (`edges`): what the pair network's replay stores; ``compact``
is the roadmap's vector of ``4 N + 4 M + 2`` numbers. All show the M open bookings of earliest
latest-departure (from the base); the hidden ones are counted in the context. Every number is
scaled to order one and clipped to ±10. `ObservationLayout` names each slice and carries a version:
a model trained on one layout refuses another.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from services.rl.errors import StateError

from .compiled import inlined, inlined_entry
from .pairs import can_commit
from .travel import TravelTables, arrive_min, depart_min, traffic
from .world import (
    B_WHEELCHAIR,
    BUSY_MIN,
    COMMITTED,
    CREATED,
    D_EMERGENCY,
    D_LAT,
    D_LON,
    D_SERVICE,
    D_WHEELCHAIR,
    D_ZONE,
    END_LAT,
    END_LON,
    END_ZONE,
    FREE_AT,
    IMMEDIATE,
    IS_RETURN,
    NOW,
    NUM_OPEN,
    P_LAT,
    P_LON,
    P_SERVICE,
    P_ZONE,
    PRIORITY,
    PROMISED,
    SERVED,
    SHIFT_END,
    SHIFT_START,
    TRIP_KM,
    WINDOW_END,
    WORTH,
    RulesTable,
    World,
)

LAYOUT_VERSION: Final = 1
CLIP: Final = 10.0

CONTEXT = (
    "day_elapsed",  # share of the horizon
    "hour_sin",
    "hour_cos",
    "traffic",  # present speed over the day's mean speed
    "open_bookings",  # log(1 + n) / 5
    "hidden_bookings",  # log(1 + n) / 5: open, but not among the M shown
    "idle_drivers",  # share
    "free_slots",  # share of queue places still free
)
DRIVER = (
    "minutes_to_free",  # / 60
    "queue_fill",  # committed / capacity
    "available",  # may take one more
    "shift_left",  # hours / 4
    "shift_to_start",  # hours
    "end_east",  # where committed work ends, km from the base / 10
    "end_north",
    "wheelchair",
    "emergency",
    "served",  # / 10
    "busy",  # busy minutes / horizon
)
BOOKING = (
    "present",
    "minutes_to_promise",  # / 60
    "minutes_to_window_end",  # / 60
    "minutes_known",  # / 60
    "priority",  # / 5
    "wheelchair",
    "immediate",
    "is_return",
    "pickup_east",  # km from the base / 10
    "pickup_north",
    "dropoff_east",
    "dropoff_north",
    "trip_km",  # / 10
    "worth",  # reward of completing it / 10
)
PAIR = (
    "valid",  # the mask
    "deadhead_km",  # / 10
    "travel_min",  # / 30, from where the driver ends, leaving when free
    "pickup_in_min",  # / 60, if assigned now
    "late_min",  # / 15, if assigned now
    "wait_min",  # / 30, beyond the promise, if assigned now
    "slack_min",  # / 60, until the latest on-time departure
    "idle_min",  # / 60, the driver would stand before a just-in-time departure
)
ROW_DRIVER = (
    *DRIVER,
    "present",  # has a shift today
    "end_zone",  # / 100; 0 where travel is by coordinates
)
ROW_BOOKING = (
    *BOOKING,
    "pickup_service_min",  # / 10
    "dropoff_service_min",  # / 10
    "pickup_zone",  # / 100
    "dropoff_zone",  # / 100
)
COMPACT_DRIVER = ("end_east", "end_north", "minutes_to_free", "queue_fill")
COMPACT_BOOKING = ("pickup_east", "pickup_north", "minutes_to_window_end", "priority")
COMPACT_CONTEXT = ("day_elapsed", "traffic")

_C, _D, _B, _P = len(CONTEXT), len(DRIVER), len(BOOKING), len(PAIR)
_RD, _RB = len(ROW_DRIVER), len(ROW_BOOKING)

ObservationKind = Literal["full", "rows", "compact"]
KIND_NUMBER: Final[dict[str, int]] = {"compact": 0, "full": 1, "rows": 2}
"""How compiled code is told the kind."""


@dataclass(frozen=True)
class ObservationLayout:
    """Where each feature lies in the flat float32 vector.

    Attributes:
        kind: ``"full"``, ``"rows"`` or ``"compact"``.
        num_drivers: N.
        max_bookings: M, the bookings shown.
        version: Meaning of the features; bumped whenever one changes.
    """

    kind: ObservationKind
    num_drivers: int
    max_bookings: int
    version: int = LAYOUT_VERSION

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            StateError: If the kind is unknown or a size is not positive.
        """
        if self.kind not in KIND_NUMBER:
            raise StateError(f"unknown observation {self.kind!r}: choose full, rows or compact")
        if self.num_drivers < 1 or self.max_bookings < 1:
            raise StateError(
                f"an observation needs at least one driver and one booking, got "
                f"{self.num_drivers} x {self.max_bookings}"
            )

    @property
    def num_actions(self) -> int:
        """Size of the action space: WAIT and every pair."""
        return self.num_drivers * self.max_bookings + 1

    @property
    def size(self) -> int:
        """Length of the vector."""
        n, m = self.num_drivers, self.max_bookings
        if self.kind == "compact":
            return 4 * n + 4 * m + 2
        if self.kind == "rows":
            return _C + n * _RD + m * _RB
        return _C + n * _D + m * _B + n * m * _P

    def unpack(self, observation: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Views of the rows: ``context (..., C)``, ``drivers (..., N, F)``, bookings, pairs.

        Only the full observation has ``pairs``.
        """
        lead = observation.shape[:-1]
        n, m = self.num_drivers, self.max_bookings
        if self.kind == "compact":
            return {
                "drivers": observation[..., : 4 * n].reshape(*lead, n, 4),
                "bookings": observation[..., 4 * n : 4 * n + 4 * m].reshape(*lead, m, 4),
                "context": observation[..., 4 * n + 4 * m :],
            }
        if self.kind == "rows":
            a = _C + n * _RD
            return {
                "context": observation[..., :_C],
                "drivers": observation[..., _C:a].reshape(*lead, n, _RD),
                "bookings": observation[..., a:].reshape(*lead, m, _RB),
            }
        a, b = _C + n * _D, _C + n * _D + m * _B
        return {
            "context": observation[..., :_C],
            "drivers": observation[..., _C:a].reshape(*lead, n, _D),
            "bookings": observation[..., a:b].reshape(*lead, m, _B),
            "pairs": observation[..., b:].reshape(*lead, n, m, _P),
        }

    def feature_names(self) -> list[str]:
        """One name per number, such as ``driver3.queue_fill`` or ``pair3x7.late_min``."""
        drivers, bookings = range(self.num_drivers), range(self.max_bookings)
        if self.kind == "compact":
            return (
                [f"driver{d}.{f}" for d in drivers for f in COMPACT_DRIVER]
                + [f"booking{b}.{f}" for b in bookings for f in COMPACT_BOOKING]
                + list(COMPACT_CONTEXT)
            )
        if self.kind == "rows":
            return (
                list(CONTEXT)
                + [f"driver{d}.{f}" for d in drivers for f in ROW_DRIVER]
                + [f"booking{b}.{f}" for b in bookings for f in ROW_BOOKING]
            )
        return (
            list(CONTEXT)
            + [f"driver{d}.{f}" for d in drivers for f in DRIVER]
            + [f"booking{b}.{f}" for b in bookings for f in BOOKING]
            + [f"pair{d}x{b}.{f}" for d in drivers for b in bookings for f in PAIR]
        )


# --- compiled ------------------------------------------------------------------------------------


@inlined
def _clip(x: float) -> np.float32:
    return np.float32(min(CLIP, max(-CLIP, x)))


@inlined
def _east_km(rules: RulesTable, lon: float) -> float:
    return (lon - rules.base_lon) * rules.km_per_degree_lon


@inlined
def _north_km(rules: RulesTable, lat: float) -> float:
    return (lat - rules.base_lat) * 111.195


@inlined
def encode_compact(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    e: int,
    visible: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the compact observation of environment ``e`` into ``out``."""
    now = w.clock[e, NOW]
    drivers = w.drivers.shape[2]
    k = 0
    for d in range(drivers):
        out[k] = _clip(_east_km(rules, w.drivers[e, END_LON, d]) / 10.0)
        out[k + 1] = _clip(_north_km(rules, w.drivers[e, END_LAT, d]) / 10.0)
        out[k + 2] = _clip(max(0.0, w.drivers[e, FREE_AT, d] - now) / 60.0)
        out[k + 3] = np.float32(w.driver_ints[e, COMMITTED, d] / rules.capacity)
        k += 4
    shown = min(visible, w.counters[e, NUM_OPEN])
    for i in range(shown):
        b = w.open_rows[e, i]
        out[k] = _clip(_east_km(rules, w.bookings[e, b, P_LON]) / 10.0)
        out[k + 1] = _clip(_north_km(rules, w.bookings[e, b, P_LAT]) / 10.0)
        out[k + 2] = _clip((w.bookings[e, b, WINDOW_END] - now) / 60.0)
        out[k + 3] = np.float32(w.booking_ints[e, b, PRIORITY] / 5.0)
        k += 4
    for i in range(k, 4 * drivers + 4 * visible):
        out[i] = 0.0
    k = 4 * drivers + 4 * visible
    out[k] = np.float32(now / rules.horizon)
    out[k + 1] = _clip(traffic(tt, now))


@inlined
def encode_mask(
    w: World, rules: RulesTable, e: int, visible: int, mask: npt.NDArray[np.int8]
) -> None:
    """Write the action mask, ``(N * visible + 1,)``: 1 where an action is valid (WAIT always)."""
    mask[0] = 1
    now = w.clock[e, NOW]
    shown = min(visible, w.counters[e, NUM_OPEN])
    for d in range(w.drivers.shape[2]):
        k = 1 + d * visible
        full = w.driver_ints[e, COMMITTED, d] >= rules.capacity
        ready = np.inf if full else max(now, w.drivers[e, FREE_AT, d])
        for i in range(shown):
            # `can_commit`, with what concerns the driver alone taken out of the loop.
            mask[k + i] = ready <= w.pair_latest[e, d, w.open_columns[e, i]]
        for i in range(shown, visible):
            mask[k + i] = 0


@inlined
def encode_context(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    e: int,
    visible: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the context row."""
    now = w.clock[e, NOW]
    drivers = w.drivers.shape[2]
    idle, free = 0, 0
    for d in range(drivers):
        committed = w.driver_ints[e, COMMITTED, d]
        free += max(0, rules.capacity - committed)
        if committed == 0 and w.drivers[e, FREE_AT, d] <= now:
            idle += 1
    angle = 2.0 * np.pi * (now + tt.day_start_min) / 1440.0
    n = w.counters[e, NUM_OPEN]
    out[0] = np.float32(now / rules.horizon)
    out[1] = np.float32(np.sin(angle))
    out[2] = np.float32(np.cos(angle))
    out[3] = _clip(traffic(tt, now))
    out[4] = np.float32(np.log1p(n) / 5.0)
    out[5] = np.float32(np.log1p(max(0, n - visible)) / 5.0)
    out[6] = np.float32(idle / drivers)
    out[7] = np.float32(free / (drivers * rules.capacity))


@inlined
def encode_driver(
    w: World, rules: RulesTable, e: int, d: int, out: npt.NDArray[np.float32], k: int
) -> None:
    """Write one driver's row at ``out[k:]``."""
    now = w.clock[e, NOW]
    committed = w.driver_ints[e, COMMITTED, d]
    out[k] = _clip(max(0.0, w.drivers[e, FREE_AT, d] - now) / 60.0)
    out[k + 1] = np.float32(committed / rules.capacity)
    available = committed < rules.capacity and w.drivers[e, FREE_AT, d] < np.inf
    out[k + 2] = np.float32(1.0 if available else 0.0)
    out[k + 3] = _clip((w.drivers[e, SHIFT_END, d] - now) / 240.0)
    out[k + 4] = _clip(max(0.0, w.drivers[e, SHIFT_START, d] - now) / 60.0)
    out[k + 5] = _clip(_east_km(rules, w.drivers[e, END_LON, d]) / 10.0)
    out[k + 6] = _clip(_north_km(rules, w.drivers[e, END_LAT, d]) / 10.0)
    out[k + 7] = np.float32(w.driver_ints[e, D_WHEELCHAIR, d])
    out[k + 8] = np.float32(w.driver_ints[e, D_EMERGENCY, d])
    out[k + 9] = _clip(w.driver_ints[e, SERVED, d] / 10.0)
    out[k + 10] = _clip(w.drivers[e, BUSY_MIN, d] / rules.horizon)


@inlined
def encode_booking(
    w: World, rules: RulesTable, e: int, b: int, out: npt.NDArray[np.float32], k: int
) -> None:
    """Write one open booking's row at ``out[k:]``."""
    now = w.clock[e, NOW]
    out[k] = np.float32(1.0)
    out[k + 1] = _clip((w.bookings[e, b, PROMISED] - now) / 60.0)
    out[k + 2] = _clip((w.bookings[e, b, WINDOW_END] - now) / 60.0)
    out[k + 3] = _clip((now - w.bookings[e, b, CREATED]) / 60.0)
    out[k + 4] = np.float32(w.booking_ints[e, b, PRIORITY] / 5.0)
    out[k + 5] = np.float32(w.booking_ints[e, b, B_WHEELCHAIR])
    out[k + 6] = np.float32(w.booking_ints[e, b, IMMEDIATE])
    out[k + 7] = np.float32(w.booking_ints[e, b, IS_RETURN])
    out[k + 8] = _clip(_east_km(rules, w.bookings[e, b, P_LON]) / 10.0)
    out[k + 9] = _clip(_north_km(rules, w.bookings[e, b, P_LAT]) / 10.0)
    out[k + 10] = _clip(_east_km(rules, w.bookings[e, b, D_LON]) / 10.0)
    out[k + 11] = _clip(_north_km(rules, w.bookings[e, b, D_LAT]) / 10.0)
    out[k + 12] = _clip(w.bookings[e, b, TRIP_KM] / 10.0)
    out[k + 13] = _clip(w.bookings[e, b, WORTH] / 10.0)


@inlined
def encode_pair(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    e: int,
    d: int,
    i: int,
    out: npt.NDArray[np.float32],
    k: int,
) -> None:
    """Write the row of driver d and the i-th open booking; zeros where the pair is not valid."""
    column = w.open_columns[e, i]
    if not can_commit(w, rules, e, d, column):
        for j in range(_P):
            out[k + j] = 0.0
        return
    b = w.open_rows[e, i]
    now = w.clock[e, NOW]
    km = w.pair_km[e, d, column]
    zone_from, zone_to = w.driver_ints[e, END_ZONE, d], w.booking_ints[e, b, P_ZONE]
    ready = max(now, w.drivers[e, FREE_AT, d])
    promised, window_end = w.bookings[e, b, PROMISED], w.bookings[e, b, WINDOW_END]
    arrive = arrive_min(tt, ready, km, zone_from, zone_to)
    travel = arrive - ready
    pickup = max(arrive, promised)
    since = w.bookings[e, b, CREATED] if w.booking_ints[e, b, IMMEDIATE] == 1 else promised
    out[k] = np.float32(1.0)
    out[k + 1] = _clip(km / 10.0)
    out[k + 2] = _clip(travel / 30.0)
    out[k + 3] = _clip((pickup - now) / 60.0)
    out[k + 4] = _clip(max(0.0, pickup - window_end) / 15.0)
    out[k + 5] = _clip(max(0.0, pickup - since) / 30.0)
    out[k + 6] = _clip((depart_min(tt, window_end, km, zone_from, zone_to) - ready) / 60.0)
    out[k + 7] = _clip(max(0.0, promised - arrive) / 60.0)


@inlined
def encode_full(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    e: int,
    visible: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the full observation of environment ``e`` into ``out``."""
    drivers = w.drivers.shape[2]
    shown = min(visible, w.counters[e, NUM_OPEN])
    encode_context(w, tt, rules, e, visible, out)
    for d in range(drivers):
        encode_driver(w, rules, e, d, out, _C + d * _D)
    first = _C + drivers * _D
    for i in range(shown):
        encode_booking(w, rules, e, w.open_rows[e, i], out, first + i * _B)
    for k in range(first + shown * _B, first + visible * _B):
        out[k] = 0.0
    first += visible * _B
    for d in range(drivers):
        k = first + d * visible * _P
        for i in range(shown):
            encode_pair(w, tt, rules, e, d, i, out, k + i * _P)
        for j in range(k + shown * _P, k + visible * _P):
            out[j] = 0.0


@inlined_entry
def rows_size(drivers: int, bookings: int) -> int:
    """Length of the ``rows`` observation."""
    return _C + drivers * _RD + bookings * _RB


@inlined
def encode_rows(
    w: World,
    tt: TravelTables,
    rules: RulesTable,
    e: int,
    visible: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the rows of environment ``e`` into ``out``: `edges` computes the pairs from them."""
    drivers = w.drivers.shape[2]
    shown = min(visible, w.counters[e, NUM_OPEN])
    encode_context(w, tt, rules, e, visible, out)
    for d in range(drivers):
        k = _C + d * _RD
        encode_driver(w, rules, e, d, out, k)
        on_duty = w.drivers[e, SHIFT_END, d] > w.drivers[e, SHIFT_START, d]
        out[k + _D] = np.float32(1.0 if on_duty else 0.0)
        out[k + _D + 1] = np.float32(w.driver_ints[e, END_ZONE, d] / 100.0)
    first = _C + drivers * _RD
    for i in range(shown):
        k = first + i * _RB
        b = w.open_rows[e, i]
        encode_booking(w, rules, e, b, out, k)
        out[k + _B] = _clip(w.bookings[e, b, P_SERVICE] / 10.0)
        out[k + _B + 1] = _clip(w.bookings[e, b, D_SERVICE] / 10.0)
        out[k + _B + 2] = np.float32(w.booking_ints[e, b, P_ZONE] / 100.0)
        out[k + _B + 3] = np.float32(w.booking_ints[e, b, D_ZONE] / 100.0)
    for k in range(first + shown * _RB, first + visible * _RB):
        out[k] = 0.0
