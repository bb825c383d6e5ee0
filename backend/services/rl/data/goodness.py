"""Does a fitted demand model draw days like the real ones it never saw?

Each figure compares real held-out days with days drawn from the model. What chance alone would
give is measured, not assumed: the same figure is computed for many sets of drawn days, as many
days as the real set has (a parametric bootstrap), so bookings of one day may depend on each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError
from services.rl.simulation.demand import DemandModel
from services.rl.simulation.types import Day, FloatArray

from .demand_fit import demanded, regular_days
from .sampling import sample_days
from .validation import great_circle
from .zones import Zones

REPLICATES = 60
_REFERENCE_BOOKINGS = 27_000
_MOST_REAL_BOOKINGS = 6_000
"""Of a large company's held-out days, evenly spaced ones are compared."""

_PAIR_ZONES = 12
"""Zone pairs are compared among this many groups of zones: finer cells would hold no bookings."""

Bookings = npt.NDArray[np.void]


@dataclass(frozen=True)
class Comparison:
    """One aspect of the days, real against drawn.

    Attributes:
        aspect: What is compared.
        statistic: "KS" (largest gap between distributions, 0..1), "TV" (total variation, 0..1),
            "difference" (of shares), or "relative difference" (of mean daily counts).
        observed: Real held-out days against drawn days.
        by_chance: 95 % of sets of drawn days score at most this.
        real: The aspect's mean on the real days, in its unit.
        drawn: The same on drawn days.
        verdict: "like the model's own days", "close", or "differs".
    """

    aspect: str
    statistic: str
    observed: float
    by_chance: float
    real: float
    drawn: float
    verdict: str

    def sentence(self) -> str:
        """The verdict in plain words."""
        meaning = {
            "like the model's own days": "no more than chance explains",
            "close": "more than chance, but small in practice",
            "differs": "a real difference: days drawn from the model are not like these",
        }[self.verdict]
        return (
            f"{self.aspect}: {self.statistic} {self.observed:.3f} "
            f"(chance gives up to {self.by_chance:.3f}): {meaning}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


_SMALL = {"KS": 0.08, "TV": 0.10, "difference": 0.03, "relative difference": 0.10}
"""Beyond chance, but still called close: what would not change a dispatcher's day."""


def goodness_of_fit(model: DemandModel, days: Sequence[Day], seed: int = 0) -> list[Comparison]:
    """Compare held-out days with drawn ones, aspect by aspect.

    Args:
        model: Fitted on other days.
        days: Held-out days; light ones are left out, as in the fit.
        seed: Of the drawn days.

    Raises:
        DataError: If there is no regular held-out day.
    """
    held_out = [demanded(day) for day in regular_days(days)]
    total = sum(map(len, held_out))
    if total == 0:
        raise DataError("goodness of fit: there is no held-out day with bookings")
    step = -(-total // _MOST_REAL_BOOKINGS)
    days_kept = held_out[::step]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x464954]))
    usual = max(model.bookings_mean, 1.0)
    reference_days = int(np.clip(_REFERENCE_BOOKINGS / usual, 2 * len(days_kept), 1_000))
    real = _Sample(np.concatenate(days_kept), len(days_kept))
    reference = _drawn(model, rng, reference_days)
    replicates = [_drawn(model, rng, len(days_kept)) for _ in range(REPLICATES)]
    results = []
    for aspect, statistic, measure, summary in _aspects(model):
        expected = measure(reference)
        observed = _distance(statistic, measure(real), expected)
        chance = [_distance(statistic, measure(sample), expected) for sample in replicates]
        by_chance = float(np.quantile(chance, 0.95))
        if observed <= by_chance:
            verdict = "like the model's own days"
        else:
            verdict = "close" if observed <= max(_SMALL[statistic], by_chance * 1.1) else "differs"
        results.append(
            Comparison(
                aspect, statistic, observed, by_chance, summary(real), summary(reference), verdict
            )
        )
    return results


def trip_km(bookings: Bookings) -> FloatArray:
    """Great-circle length of each trip."""
    return great_circle(
        bookings["pickup_lat"],
        bookings["pickup_lon"],
        bookings["dropoff_lat"],
        bookings["dropoff_lon"],
    )


def prebooked_lead_min(bookings: Bookings) -> FloatArray:
    """Promised less created, of the pre-booked."""
    before = bookings[~bookings["immediate"]]
    lead: FloatArray = before["promised_min"] - before["created_min"]
    return lead


class _Sample(NamedTuple):
    """The bookings of some days, in one table."""

    bookings: Bookings
    days: int


def _drawn(model: DemandModel, rng: np.random.Generator, days: int) -> _Sample:
    return _Sample(sample_days(model, rng, days)[0], days)


_Measure = Callable[[_Sample], FloatArray]
_Summary = Callable[[_Sample], float]


def _aspects(model: DemandModel) -> list[tuple[str, str, _Measure, _Summary]]:
    """Name, statistic, what is compared, and its mean."""
    groups = zone_groups(model)

    def column(values: Callable[[Bookings], FloatArray]) -> tuple[_Measure, _Summary]:
        def measure(sample: _Sample) -> FloatArray:
            return np.sort(values(sample.bookings))

        return measure, lambda sample: _mean(values(sample.bookings))

    def share(name: str) -> tuple[_Measure, _Summary]:
        def summary(sample: _Sample) -> float:
            return _mean(sample.bookings[name].astype(np.float64))

        return lambda sample: np.array([summary(sample)]), summary

    def pairs(sample: _Sample) -> FloatArray:
        return _shares(np.bincount(groups(sample.bookings), minlength=_PAIR_ZONES**2))

    def priorities(sample: _Sample) -> FloatArray:
        return _shares(np.bincount(sample.bookings["priority"], minlength=6)[1:])

    def per_day(sample: _Sample) -> float:
        return len(sample.bookings) / sample.days

    return [
        ("promised time (min)", "KS", *column(lambda day: day["promised_min"])),
        ("trip length (km)", "KS", *column(trip_km)),
        ("lead time of the pre-booked (min)", "KS", *column(prebooked_lead_min)),
        ("pickup service (min)", "KS", *column(lambda day: day["pickup_service_min"])),
        ("pairs of zones", "TV", pairs, lambda sample: float((pairs(sample) > 0).sum())),
        ("priorities", "TV", priorities, lambda s: float(priorities(s) @ np.arange(1, 6))),
        ("immediate", "difference", *share("immediate")),
        ("wheelchair", "difference", *share("wheelchair")),
        ("returns", "difference", *share("is_return")),
        ("bookings a day", "relative difference", lambda s: np.array([per_day(s)]), per_day),
    ]


def zone_groups(model: DemandModel) -> Callable[[Bookings], npt.NDArray[np.int64]]:
    """A function from bookings to cells of a coarse origin-destination table."""
    weight = (model.stream_share[:, None, None] * model.od_share).sum(axis=0)
    busy = np.argsort(-(weight.sum(axis=0) + weight.sum(axis=1)), kind="stable")[:_PAIR_ZONES]
    origin = np.array([np.median(model.site_lat), np.median(model.site_lon)])
    area = Zones(model.site_lat[busy], model.site_lon[busy], model.site_spread_km[busy], origin)

    def cells(day: Bookings) -> npt.NDArray[np.int64]:
        begin = area.nearest(day["pickup_lat"], day["pickup_lon"])
        end = area.nearest(day["dropoff_lat"], day["dropoff_lon"])
        return _PAIR_ZONES * begin + end

    return cells


def _distance(statistic: str, a: FloatArray, b: FloatArray) -> float:
    if statistic == "KS":
        if len(a) == 0 or len(b) == 0:
            return 0.0 if len(a) == len(b) else 1.0
        both = np.concatenate([a, b])
        gap = np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(
            b
        )
        return float(np.abs(gap).max())
    if statistic == "TV":
        return 0.5 * float(np.abs(a - b).sum())
    apart = abs(float(a[0]) - float(b[0]))
    return apart / max(abs(float(b[0])), 1e-9) if statistic == "relative difference" else apart


def _shares(counts: npt.NDArray[np.int64]) -> FloatArray:
    return counts / max(int(counts.sum()), 1)


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else 0.0
