"""Draw bookings from a `DemandModel` for histories and goodness-of-fit.

Days are drawn by the sampler that training uses: what the report judges is what is trained on.
Here are only the random seeds, the factor on the volume, and the table.
"""

import numpy as np
import numpy.typing as npt

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.engine import BOOKING_FIELD, BOOKING_INT
from services.rl.simulation.sampling import draw_days
from services.rl.simulation.types import BOOKING_DTYPE, IntArray

KM_PER_DEGREE = 111.195
"""Kilometres of one degree of latitude on the sphere that `travel` uses."""

_DAYS_AT_ONCE = 200  # bounds the memory: rows are allocated for the busiest day


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
    """The bookings of several independent days.

    Args:
        model: What to draw from.
        rng: Source of the days' seeds.
        days: How many days.
        window_min: Width of the pickup window.
        volume: Factor on the expected number of bookings.

    Returns:
        All bookings, `BOOKING_DTYPE`, day after day and by ``created_min`` within each; and the
        number of bookings of each day, ``(days,)``.
    """
    seeds = rng.integers(0, 2**62, days)
    tables, counts = [np.zeros(0, dtype=BOOKING_DTYPE)], [np.zeros(0, dtype=np.int64)]
    for first in range(0, days, _DAYS_AT_ONCE):
        count, floats, ints = draw_days(
            model, seeds[first : first + _DAYS_AT_ONCE], window_min=window_min, volume=volume
        )
        drawn = np.arange(floats.shape[1]) < count[:, None]  # (days, rows)
        table = np.zeros(int(count.sum()), dtype=BOOKING_DTYPE)
        for name, index in BOOKING_FIELD.items():
            table[name] = floats[..., index][drawn]
        for name, index in BOOKING_INT.items():
            table[name] = ints[..., index][drawn]
        table["pickup_zone"] = table["dropoff_zone"] = -1
        tables.append(table)
        counts.append(count)
    return np.concatenate(tables), np.concatenate(counts)
