"""What became of the bookings of a day, by kind of patient: who gains and who loses."""

from typing import Any, Final

import numpy as np

from services.rl.simulation.engine import Engine
from services.rl.simulation.types import BookingStatus, BoolArray, FloatArray

KM_PER_DEGREE: Final = 111.195
LATE_PICKUP_MIN: Final = 15.0
NEAR_KM, FAR_KM = 2.0, 5.0

GROUPS: Final = (
    "all",
    "priority 1",
    "priority 2",
    "priority 3",
    "priority 4",
    "priority 5",
    "wheelchair",
    "no wheelchair",
    "pre-booked",
    "immediate",
    "outbound",
    "return",
    "near",  # pickups less than NEAR_KM from the base
    "middle",
    "far",  # beyond FAR_KM
    "north-east",  # quadrants of the pickup, seen from the base
    "north-west",
    "south-east",
    "south-west",
)
PARTITIONS: Final = (
    slice(1, 6),
    slice(6, 8),
    slice(8, 10),
    slice(10, 12),
    slice(12, 15),
    slice(15, 19),
)
"""Slices of `GROUPS` that each divide all bookings among them."""

FIELDS: Final = (
    "due",  # neither called off nor missed by the patient
    "served",
    "on_time",  # picked up within the rules' on_time_min of the promise
    "late_min",  # sum over the served of minutes after the window's end
    "wait_min",  # sum over the served of minutes after the promise (the request if immediate)
    "late_pickups",  # served more than LATE_PICKUP_MIN after the promised time
)


def group_outcomes(engine: Engine, env: int) -> FloatArray:
    """Sums over a finished day's bookings, ``(len(GROUPS), len(FIELDS))``.

    By the definitions of `simulation.kpis`; the groups of each of `PARTITIONS` add up to "all".
    """
    history = engine.history(env)
    status = history["status"]
    due = (status != BookingStatus.NO_SHOW) & (status != BookingStatus.CALLED_OFF)
    served = status == BookingStatus.COMPLETED
    pickup = np.where(served, history["pickup_min"], 0.0)
    since = np.where(history["immediate"], history["created_min"], history["promised_min"])
    wait = np.where(served, np.maximum(0.0, pickup - since), 0.0)
    late = np.where(served, np.maximum(0.0, pickup - history["window_end_min"]), 0.0)
    values = np.stack(
        [
            due,
            served,
            served & (wait <= engine.scenario.rules.on_time_min + 1e-9),
            late,
            wait,
            served & (pickup > history["promised_min"] + LATE_PICKUP_MIN + 1e-9),
        ],
        axis=1,
    ).astype(np.float64)
    members = _members(history, engine).astype(np.float64)  # (G, B)
    sums: FloatArray = members @ values
    return sums


def _members(history: Any, engine: Engine) -> BoolArray:
    """Which bookings belong to which group, ``(G, B)``."""
    base = engine.scenario.place.base
    north = (history["pickup_lat"] - base.lat) * KM_PER_DEGREE
    east = (history["pickup_lon"] - base.lon) * KM_PER_DEGREE * np.cos(np.radians(base.lat))
    km = np.hypot(north, east)
    wheelchair, immediate, back = (
        history[name].astype(np.bool_) for name in ("wheelchair", "immediate", "is_return")
    )
    near, far = km < NEAR_KM, km > FAR_KM
    above, right = north >= 0, east >= 0
    return np.stack(
        [
            np.ones(len(history), dtype=np.bool_),
            *(history["priority"] == p for p in range(1, 6)),
            wheelchair,
            ~wheelchair,
            ~immediate,
            immediate,
            ~back,
            back,
            near,
            ~near & ~far,
            far,
            above & right,
            above & ~right,
            ~above & right,
            ~above & ~right,
        ]
    )
