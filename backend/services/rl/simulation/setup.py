"""What a run needs besides the world's state: constants (`Setup`) and results (`Outputs`)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .sampling import DemandTables
from .travel import TravelTables
from .types import FloatArray, IntArray
from .world import (
    AT_LAT,
    AT_LON,
    AT_ZONE,
    BREAKDOWN,
    D_EMERGENCY,
    D_WHEELCHAIR,
    REPAIRED,
    SHIFT_END,
    SHIFT_START,
    RulesTable,
    Weights,
)

DAY_DRIVER_FIELDS = (AT_LAT, AT_LON, SHIFT_START, SHIFT_END, BREAKDOWN, REPAIRED)
DAY_DRIVER_INTS = (AT_ZONE, D_WHEELCHAIR, D_EMERGENCY)


class DayTables(NamedTuple):
    """D real days, in the blocks' own order of fields."""

    num_bookings: IntArray  # (D,)
    bookings: FloatArray  # (D, B, INPUT_FLOATS)
    booking_ints: IntArray  # (D, B, INPUT_INTS)
    drivers: FloatArray  # (D, len(DAY_DRIVER_FIELDS), N)
    driver_ints: IntArray  # (D, len(DAY_DRIVER_INTS), N)


class Setup(NamedTuple):
    """Everything constant during a run."""

    travel: TravelTables
    rules: RulesTable
    weights: Weights
    demand: DemandTables
    days: DayTables
    sampled: bool  # days by seed (else from the tables)
    training_seeds: int
    visible: int
    kind: int  # of observation, `observation.KIND_NUMBER`
    max_steps: int  # an episode is truncated here


class Outputs(NamedTuple):
    """What a step writes, for E environments."""

    observation: npt.NDArray[np.float32]  # (E, size)
    mask: npt.NDArray[np.int8]  # (E, N * M + 1)
    reward: FloatArray  # (E,)
    terminated: npt.NDArray[np.bool_]  # (E,)
    truncated: npt.NDArray[np.bool_]  # (E,)
    epochs: FloatArray  # (E,) time passed: 1 after WAIT, else 0
    terms: FloatArray  # (E, TERMS) reward terms of the step
    final_observation: npt.NDArray[np.float32]  # (E, size), where an episode ended
    final_kpis: FloatArray  # (E, len(KPIS))
    day: IntArray  # (E,) seed or table row of the running day
