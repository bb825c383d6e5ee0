"""How far each way of splitting a fleet, and of counting what came of it, is from the truth.

Over the same simulated days (`shared_fleet`): the truth is the difference of the share on time
between days all the learned arm's and the same days all the heuristic's. An estimator's bias is its
difference less that truth; both come from the same days, and so does the interval (linearised
ratios, Student's t over days).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from services.rl.errors import UsageError
from services.rl.experiments.attribution import attributed_at, burns_in
from services.rl.experiments.config import block_start
from services.rl.experiments.units import BUCKETS, bucket, unit_of
from services.rl.simulation.types import BoolArray, FloatArray

from .paired import Estimate, estimate
from .shared_fleet import ARM_OF_DESIGN, COLUMNS, OPENS, ZONE, Design

PROMISED, CREATED, _DECIDED, LEARNED, GOOD, _UNSERVED, _WAIT = range(len(COLUMNS))
MIRRORED: Final = "~"
"""Behind a design's name: the same days with every unit in the other arm."""

DayTables = Mapping[str, FloatArray]
"""A day's tables by design; each ``(B, len(COLUMNS))``."""


@dataclass(frozen=True)
class Bias:
    """What one estimator comes to.

    Attributes:
        design: How days were split.
        counting: How bookings were counted.
        difference: What it says, in points.
        bias: What it says less the truth, in points.
        share: Of the design's bookings that it counts.
    """

    design: str
    counting: str
    difference: float
    bias: Estimate
    share: float


@dataclass(frozen=True)
class BiasReport:
    """The truth and how far each estimator is from it, in points of bookings on time."""

    days: int
    truth: Estimate
    rates: tuple[float, float]
    biases: tuple[Bias, ...]

    def of(self, design: str, counting: str) -> Bias:
        """One estimator's."""
        return next(b for b in self.biases if (b.design, b.counting) == (design, counting))


@dataclass(frozen=True)
class PlayedDay:
    """One day of one design, as it is counted.

    Attributes:
        table: ``(B, len(COLUMNS))``.
        design: How it was split.
        day: Which.
        mirrored: Whether every unit was in the other arm.
        seed: With which arms were drawn.
    """

    table: FloatArray
    design: Design
    day: int
    mirrored: bool
    seed: int

    @property
    def all(self) -> BoolArray:
        """Every booking counts."""
        return np.ones(len(self.table), dtype=np.bool_)

    def attributed(self) -> list[datetime]:
        """The moment to which each booking belongs."""
        return [attributed_at(_moment(row[PROMISED]), _moment(row[CREATED])) for row in self.table]

    def arms(self, times: Sequence[datetime]) -> FloatArray:
        """The arm of the block of each moment, by the hash that drew it, ``(B,)``."""
        config = self.design.config(self.day, self.seed)
        known: dict[datetime, float] = {}
        for at in times:
            begins = block_start(at, config.block_min)
            if begins not in known:
                unit = unit_of(config, booking_id="", company_id=1, zone=ZONE, at=begins)
                drawn = bucket(config.salt, config.name, unit) < round(config.rl_share * BUCKETS)
                known[begins] = float(drawn != self.mirrored)
        return np.array([known[block_start(at, config.block_min)] for at in times])


Counting = Callable[[PlayedDay], tuple[FloatArray, BoolArray]]
"""Each booking's arm (0, 1; `shared_fleet.NOBODY`), and whether it counts."""


def measure_bias(days: Mapping[int, DayTables], seed: int = 0) -> BiasReport:
    """Compare all estimators with the truth.

    Args:
        days: Tables by day.
        seed: With which arms were drawn.

    Raises:
        UsageError: If a design, as it is counted, leaves an arm without bookings.
    """
    order = sorted(days)
    truth_sums = np.array([_truth(days[day]) for day in order])
    value, residual, rates = _difference(truth_sums)
    names = sorted(
        {n for n in days[order[0]] if n not in ARM_OF_DESIGN and not n.endswith(MIRRORED)},
        key=lambda n: (n != "booking", Design(n).block_min),
    )
    found = []
    for name in names:
        design = Design(name)
        countings = SWITCHBACK_COUNTINGS if design.block_min else {"as decided": as_decided}
        for counting, rule in countings.items():
            sums = np.array([_sums(days[day], design, day, rule, seed) for day in order])
            told, told_residual, _rates = _difference(sums)
            spread = estimate(100 * (told_residual - residual)).half_width
            played = sum(len(days[d][n]) for d in order for n in (name, name + MIRRORED))
            found.append(
                Bias(
                    name, counting, 100 * told, Estimate(100 * (told - value), spread),
                    float(sums[:, [1, 3]].sum()) / played,
                )
            )  # fmt: skip
    truth = Estimate(100 * value, estimate(100 * residual).half_width)
    return BiasReport(len(order), truth, rates, tuple(found))


def _truth(tables: DayTables) -> list[float]:
    return [
        value
        for name in ("rl", "heuristic")
        for value in (float(tables[name][:, GOOD].sum()), float(len(tables[name])))
    ]


def _sums(tables: DayTables, design: Design, day: int, rule: Counting, seed: int) -> FloatArray:
    """Good and all bookings of the learned arm, good and all of the heuristic; both mirrors."""
    sums = np.zeros(4)
    for mirrored in (False, True):
        table = tables[design.name + (MIRRORED if mirrored else "")]
        arm, counts = rule(PlayedDay(table, design, day, mirrored, seed))
        for place, which in ((0, 1.0), (2, 0.0)):
            chosen = counts & (arm == which)
            sums[place] += table[chosen, GOOD].sum()
            sums[place + 1] += chosen.sum()
    return sums


def _difference(sums: FloatArray) -> tuple[float, FloatArray, tuple[float, float]]:
    """Difference of two ratios of sums over days, each day's linearised part, the two ratios."""
    total = sums.mean(axis=0)
    if not (total[1] > 0 and total[3] > 0):
        raise UsageError("no booking in one of the arms: play more days")
    learned, control = total[0] / total[1], total[2] / total[3]
    residual = (sums[:, 0] - learned * sums[:, 1]) / total[1]
    residual = residual - (sums[:, 2] - control * sums[:, 3]) / total[3]
    return float(learned - control), residual, (float(control), float(learned))


# --- ways to count -----------------------------------------------------------------------------


def as_decided(played: PlayedDay) -> tuple[FloatArray, BoolArray]:
    """Each booking to the arm that decided it last."""
    return played.table[:, LEARNED], played.all


def as_promised(played: PlayedDay) -> tuple[FloatArray, BoolArray]:
    """Each booking to the block of its promise."""
    return played.arms([_moment(row[PROMISED]) for row in played.table]), played.all


def as_attributed(played: PlayedDay) -> tuple[FloatArray, BoolArray]:
    """By `attribution.attributed_at`, nothing left out."""
    return played.arms(played.attributed()), played.all


def as_reported(played: PlayedDay) -> tuple[FloatArray, BoolArray]:
    """As experiments are reported: by `attribution`, without what burns in."""
    times, block_min = played.attributed(), played.design.block_min or 0
    counts = np.array([not burns_in(at, block_min) for at in times], dtype=np.bool_)
    return played.arms(times), counts


def after_the_same(played: PlayedDay) -> tuple[FloatArray, BoolArray]:
    """By `attribution.attributed_at`, of blocks that follow one of the same arm.

    The estimator for carry-over of one block of Bojinov, Simchi-Levi and Zhao (2023).
    """
    times = played.attributed()
    before = [at - timedelta(minutes=played.design.block_min or 0) for at in times]
    arms = played.arms(times)
    return arms, arms == played.arms(before)


SWITCHBACK_COUNTINGS: Final[dict[str, Counting]] = {
    "as decided": as_decided,
    "as promised": as_promised,
    "as attributed": as_attributed,
    "as reported": as_reported,
    "after the same": after_the_same,
}


def _moment(minute: float) -> datetime:
    return OPENS + timedelta(minutes=float(minute))
