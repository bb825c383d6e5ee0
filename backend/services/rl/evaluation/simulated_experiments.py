"""Experiments without a fleet, looked at after every block: does the verdict keep its word?

Outcomes are drawn as in `services.rl.experiments.simulated_weeks` (a day, an hour of a company and
a company have their own luck), arms come from the real hash of the real unit, and each look is
answered by the report's own `call`. In an A/A experiment the arms are equal and every call is
false; otherwise the learned arm has fewer bad outcomes, by a known number of points.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np

from services.rl.experiments.config import ExperimentConfig, Mode, UnitKind
from services.rl.experiments.simulated_weeks import (
    COMPANY_SIGMA,
    DAY_SIGMA,
    HOUR_SIGMA,
    MONDAY,
    SERVICE_H,
    Demand,
    shifted_odds,
)
from services.rl.experiments.units import BUCKETS, bucket, unit_of
from services.rl.simulation.types import BoolArray, FloatArray, IntArray

from .arm_ratios import Moments
from .experiments import ReportConfig, call
from .intervals import Z95
from .sequential import RATIO_P, look_day, looks_until, ratio_p

SETTLE_MIN: Final = 80
"""Until what became of a block's last booking is known."""

_SERVICE_MIN: Final = 60.0 * SERVICE_H


@dataclass(frozen=True)
class Trial:
    """What is simulated.

    Attributes:
        demand: Who takes part.
        unit: What is randomised.
        days: That it may run.
        block_min: Of switchback blocks; looks are at the ends of blocks.
        share: Of units that go to the learned arm.
        gain: Points of the learned arm's share on time above the heuristic's; 0: A/A.
    """

    demand: Demand
    unit: UnitKind
    days: int
    block_min: int = 60
    share: float = 0.5
    gain: float = 0.0


@dataclass(frozen=True)
class Result:
    """How one experiment went.

    Attributes:
        called_on: Day (a fraction) of the first look that said better or worse; None: none did.
        answer: What that look said, else what the last one said.
        naive: Whether an ordinary 95 % interval excluded zero at any of the looks.
        blocked: Whether the sample-ratio check blocked the verdict at any time.
        covered: Whether the last interval contains the truth; None: there was no interval.
    """

    called_on: float | None
    answer: str
    naive: bool
    blocked: bool
    covered: bool | None


def play_experiment(trial: Trial, seed: int) -> Result:
    """Run one experiment to its end, looking all the time; it does not stop at a call."""
    units = _units(trial, seed)
    config = ReportConfig(trial.unit, trial.share, days=float(trial.days))
    blocked = ratio_p(units.drawn, trial.share) < RATIO_P
    called_on, answer, last, naive, covered = None, "no_data", "no_data", False, None
    for day, look, control, learned in _looks(trial, units):
        settings = config if look is None else ReportConfig(trial.unit, trial.share, look=look)
        last, difference = call(control, learned, settings)
        if difference is None or difference.low is None or difference.high is None:
            continue
        error = np.sqrt(control.error2 + learned.error2)
        naive = naive or abs(difference.value) > Z95 * error
        covered = difference.low <= trial.gain <= difference.high
        if called_on is None and last in ("better", "worse"):
            called_on, answer = day, last
    if called_on is None:
        answer = last
    return Result(called_on, answer, bool(naive), blocked, covered)


def history(trial: Trial, seed: int) -> Moments:
    """On time over bookings by unit, of the same companies' days before, without an effect."""
    units = _units(replace(trial, gain=0.0), seed, before=True)
    if trial.unit == UnitKind.COMPANY:
        good = np.bincount(units.company, units.good)
        return Moments.of(good, np.bincount(units.company, units.bookings))
    return Moments.of(units.good, units.bookings)


@dataclass(frozen=True)
class _Units:
    """Units in the order drawn (companies: by day); each array ``(U,)``."""

    good: FloatArray
    bookings: FloatArray
    learned: BoolArray
    look: IntArray  # at which block's end it counts
    company: IntArray
    drawn: BoolArray  # by unit: of companies one each


def _units(trial: Trial, seed: int, *, before: bool = False) -> _Units:
    """Draw the bookings of all days and count them by unit.

    Companies are the seed's; ``before`` gives other days of theirs.
    """
    rng = np.random.default_rng([seed, 1 + before])
    config = ExperimentConfig(
        name="simulated", mode=Mode.AB, unit=trial.unit, salt=f"trial-{seed}",
        block_min=trial.block_min, rl_share=trial.share,
    )  # fmt: skip
    demand = trial.demand
    company_luck = np.random.default_rng([seed, 0]).normal(0, COMPANY_SIGMA, demand.companies)
    per_day = int(_SERVICE_MIN) // trial.block_min
    rows: list[FloatArray] = []
    for day in range(trial.days):
        hours = rng.normal(0, HOUR_SIGMA, (demand.companies, int(SERVICE_H)))
        hours += rng.normal(0, DAY_SIGMA) + company_luck[:, None]
        counts = rng.poisson(demand.bookings_per_day, demand.companies)
        count, company = int(counts.sum()), np.repeat(np.arange(demand.companies), counts)
        minute = rng.uniform(0, _SERVICE_MIN, count)
        luck = hours[company, (minute / 60).astype(np.int64)]
        bad = _bad(demand, luck)
        zone = rng.integers(0, demand.zones, count)
        lag, dice = rng.uniform(20, SETTLE_MIN, count), rng.random(count)
        key = np.arange(count), zone, company, np.full(count, day)
        rows.append(np.stack([minute, bad, lag, dice, *key], axis=1))
    table = np.concatenate(rows)
    minute, bad, lag, dice = table[:, :4].T
    index, zone, company_of, day_of = table[:, 4:].astype(np.int64).T
    block = day_of * per_day + (minute // trial.block_min).astype(np.int64)
    learned = _arms(config, index, zone, company_of, day_of, minute, trial)
    # Each company gains the same number of points, whatever its own usual share.
    factor = np.maximum(0.0, 1 - trial.gain / _usual_bad(demand, company_luck))
    good = dice >= bad * np.where(learned, factor[company_of], 1.0)
    if trial.unit == UnitKind.BOOKING:
        known = np.minimum(minute + lag, _SERVICE_MIN - 1e-6)  # the day's last look is its end
        look = day_of * per_day + (known // trial.block_min).astype(np.int64)
        ones = np.ones(len(good))
        return _Units(good.astype(float), ones, learned, look, company_of, learned)
    if trial.unit == UnitKind.COMPANY:
        unit = day_of * demand.companies + company_of
        block, settle = day_of * per_day + per_day - 1, 0
    else:
        unit = (block * demand.companies + company_of) * demand.zones + zone
        settle = -(-SETTLE_MIN // trial.block_min)
    _names, first, code = np.unique(unit, return_index=True, return_inverse=True)
    arm = learned[first]
    drawn = arm
    if trial.unit == UnitKind.COMPANY:
        drawn = np.array([learned[company_of == c][0] for c in np.unique(company_of)])
    on_time: FloatArray = np.bincount(code, good).astype(np.float64)
    size: FloatArray = np.bincount(code).astype(np.float64)
    return _Units(
        on_time,
        size,
        arm,
        block[first] + settle,
        company_of[first],
        drawn,
    )


def _arms(
    config: ExperimentConfig,
    index: IntArray,
    zone: IntArray,
    company: IntArray,
    day: IntArray,
    minute: FloatArray,
    trial: Trial,
) -> BoolArray:
    """The arm of each booking, by the real hash of its real unit."""
    limit = round(trial.share * BUCKETS)
    if trial.unit == UnitKind.BOOKING:
        keys = np.stack([day, company, index], axis=1)
    elif trial.unit == UnitKind.COMPANY:
        keys = np.stack([np.zeros_like(company), company, np.zeros_like(company)], axis=1)
    else:
        block = (minute // trial.block_min).astype(np.int64)
        keys = np.stack([day * 1000 + block, company, zone], axis=1)
    _keys, first, code = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    arms = np.empty(len(first), dtype=np.bool_)
    for n, i in enumerate(first.tolist()):
        at = MONDAY + timedelta(days=int(day[i]), minutes=float(minute[i]))
        name = unit_of(
            config, booking_id=f"{day[i]}-{company[i]}-{index[i]}",
            company_id=int(company[i]), zone=int(zone[i]), at=at,
        )  # fmt: skip
        arms[n] = bucket(config.salt, config.name, name) < limit
    return arms[code.reshape(-1)]


def _looks(trial: Trial, units: _Units) -> Iterator[tuple[float, int | None, Moments, Moments]]:
    """Each look: day, its number where units stay, sums of the heuristic and the learned arm."""
    per_day = int(_SERVICE_MIN) // trial.block_min
    if trial.unit == UnitKind.COMPANY:
        for look in range(1, looks_until(trial.days) + 1):
            seen = units.look < look_day(look) * per_day
            size = int(units.company.max()) + 1
            good = np.bincount(units.company[seen], units.good[seen], size)
            bookings = np.bincount(units.company[seen], units.bookings[seen], size)
            learned = np.zeros(size, dtype=np.bool_)
            learned[units.company] = units.learned
            yield (
                float(look_day(look)), look,
                Moments.of(good[~learned], bookings[~learned]),
                Moments.of(good[learned], bookings[learned]),
            )  # fmt: skip
        return
    order = np.argsort(units.look, kind="stable")
    at = units.look[order]
    y, d, learned = units.good[order], units.bookings[order], units.learned[order]
    parts = np.stack([np.ones_like(y), y, d, y * y, y * d, d * d], axis=1)
    sums = [np.cumsum(parts * arm[:, None], axis=0) for arm in (~learned, learned)]
    last = np.flatnonzero(np.append(np.diff(at) > 0, True))
    for i in last:
        control, treated = (
            Moments(int(s[i, 0]), *(float(v) for v in s[i, 1:])) for s in sums
        )  # fmt: skip
        yield (float(at[i]) + 1) / per_day, None, control, treated


def _bad(demand: Demand, luck: FloatArray) -> FloatArray:
    """Probability of being late or unserved."""
    both = shifted_odds(demand.late_rate, luck) + shifted_odds(demand.unserved_rate, luck)
    return np.minimum(1.0, both)


def _usual_bad(demand: Demand, company_luck: FloatArray) -> FloatArray:
    """Mean of it over a company's days and hours, ``(C,)``: luck moves log odds, so the mean."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    luck = company_luck[:, None] + nodes * np.hypot(DAY_SIGMA, HOUR_SIGMA)
    usual: FloatArray = _bad(demand, luck) @ weights / weights.sum()
    return usual
