"""The day source that a scenario needs: none for sampled days, a data set or folder for real ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.rl.errors import UsageError
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import (
    FIRST_SEED,
    SEEDS_PER_SPLIT,
    ManhattanDemand,
    ReplayDemand,
    Scenario,
    Split,
)
from services.rl.simulation.types import IntArray

from .dataset import HistoryDays
from .manhattan import ManhattanDays


def open_source(scenario: Scenario, data_dir: str | Path | None = None) -> DaySource | None:
    """Open the real days that a scenario replays; None where days are sampled by seed.

    Raises:
        DataError: If the data set or folder is missing or damaged.
    """
    if isinstance(scenario.demand, ManhattanDemand):
        return ManhattanDays.open(data_dir, scenario)
    if isinstance(scenario.demand, ReplayDemand):
        return HistoryDays.open(Path(scenario.demand.dataset), scenario.demand.dataset_sha256)
    return None


def split_seeds(split: Split, count: int, offset: int = 0) -> IntArray:
    """The first ``count`` seeds of a split, after ``offset``.

    Raises:
        UsageError: If they would leave the split.
    """
    if count < 1 or offset < 0 or offset + count > SEEDS_PER_SPLIT:
        raise UsageError(f"days must lie within the split's {SEEDS_PER_SPLIT:,} seeds")
    return FIRST_SEED[split] + offset + np.arange(count, dtype=np.int64)


def split_labels(source: DaySource, split: Split, count: int | None, offset: int = 0) -> list[str]:
    """The first ``count`` real days of a split (all of them if None), after ``offset``.

    Raises:
        UsageError: If the split has fewer days.
    """
    labels: Sequence[str] = source.labels(split)
    wanted = len(labels) if count is None else count
    if offset < 0 or wanted < 1 or offset + wanted > len(labels):
        raise UsageError(
            f"the {split} split has {len(labels)} days; {wanted} from number {offset} were asked"
        )
    return list(labels[offset : offset + wanted])
