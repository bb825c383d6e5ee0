"""A simulator brought up to date: the served world with the demand of recent days.

Travel, rules, reward weights and fleet stay those of the served scenario: its hash is the bundle's.
What is fitted anew is demand, in three steps.

1. **How fast to forget.** A day of age a counts 2^(-a / half-life). The half-life is the one, among
   `HALF_LIVES`, that would have predicted each of the last `_JUDGED` days best from the days before
   it (level and places). While nothing changes that is a long one; two days after a clinic has
   moved it is a short one.
2. **Fit.** Days are drawn by those weights (systematically, without chance) and fitted like any
   history (`fit_demand`); copies of a day are left out together.
3. **Blend.** Few days say little: the model is a mixture of the fitted streams and of the served
   scenario's, which count as `PRIOR_DAYS` days; the level likewise. Without a single day it is the
   served scenario's demand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.scenarios import (
    FittedDemand,
    HaversineTravel,
    Scenario,
    SyntheticDemand,
    file_sha256,
)
from services.rl.simulation.types import Day, FloatArray, IntArray

from .demand_fit import LIGHT_DAY_SHARE, demanded, fit_demand
from .sampling import KM_PER_DEGREE, sample_days
from .zones import MAX_ZONES, Zones

HALF_LIVES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Days after which a day counts half; the longest is taken until others predict better."""

PRIOR_DAYS: Final = 0.25
"""What the served scenario's demand counts for, in days of history."""

REPLAYED_DAYS: Final = 7
"""The last real days, which nightly updates and the gate play again."""

_JUDGED = 3
_MOST_DAYS = 60
_FEWEST_BOOKINGS = 20  # of all recent days: fewer are no demand to fit
_USUAL_CV = 0.1
_COMPARED_DAYS = 100  # sampled from the served scenario, for the comparison
_ELSEWHERE_KM = 1.5


@dataclass(frozen=True)
class Simulator:
    """What a nightly update plays on.

    Attributes:
        scenario: The served world; its hash is that of bundles.
        training_scenario: The same world with recent demand; the same object where nothing could
            be fitted.
        days: At most `REPLAYED_DAYS` real recent days, the oldest first.
        changes: What has changed, in numbers; see `recalibrated`.
    """

    scenario: Scenario
    training_scenario: Scenario
    days: tuple[Day, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def expected_demand(self) -> Path | None:
        """The file of recent demand; None where the served scenario's is all there is."""
        demand = self.training_scenario.demand
        if self.training_scenario is self.scenario or not isinstance(demand, FittedDemand):
            return None
        return Path(demand.model)

    @property
    def demand_sha256(self) -> str | None:
        """Hash of that file."""
        demand = self.training_scenario.demand
        return demand.model_sha256 if isinstance(demand, FittedDemand) else None


def recalibrated(
    served: Scenario,
    days: Sequence[Day],
    folder: Path,
    *,
    half_lives: Sequence[float] = HALF_LIVES,
    prior_days: float = PRIOR_DAYS,
    seed: int = 0,
) -> Simulator:
    """The simulator after these days.

    Args:
        served: The served scenario. Where it replays real days it has no demand to blend with,
            and the fit stands alone.
        days: Real days, the oldest first, one apart; light ones are left out.
        folder: Where ``demand.npz`` is written.
        half_lives: To choose among.
        prior_days: See `PRIOR_DAYS`.
        seed: Of the zones.

    Returns:
        With ``changes``: ``bookings_per_day``, ``half_life_days``, ``served_share`` (of the
        mixture), places, lead times and service minutes, each ``then`` (served) and ``now``.
    """
    modelled = isinstance(served.demand, SyntheticDemand | FittedDemand)
    if not isinstance(served.travel, HaversineTravel):
        return Simulator(served, served, (), {"fitted": False, "why": "travel is by zones"})
    recent, ages = _regular(list(days)[-_MOST_DAYS:])
    replayed = tuple(recent[-REPLAYED_DAYS:])
    bookings = sum(len(demanded(day)) for day in recent)
    if bookings < _FEWEST_BOOKINGS:
        why = f"{len(recent)} regular days with {bookings} bookings are too few to fit"
        return Simulator(served, served, replayed, {"fitted": False, "why": why})
    scores = {half: _foresight(recent, ages, half) for half in half_lives}
    half_life = max(sorted(half_lives, reverse=True), key=lambda half: scores[half])
    weights = 2.0 ** (-ages / half_life)
    drawn = _drawn(weights)
    number = int(np.clip(round(np.sqrt(bookings)), 2, MAX_ZONES))
    model = fit_demand(
        [recent[i] for i in drawn],
        horizon_min=served.rules.horizon_min,
        seed=seed,
        zones=number,
        groups=drawn.tolist(),
    )
    known = float(weights.sum())
    share = prior_days / (prior_days + known) if modelled else 0.0
    counts = np.array([len(demanded(day)) for day in recent], dtype=np.float64)
    level = float((weights * counts).sum() / known)
    if modelled:
        before = served.demand_model()
        level = (1.0 - share) * level + share * before.bookings_mean
        # A few days do not tell how much days differ.
        model = replace(blended(before, model, share), bookings_cv=before.bookings_cv)
    model = replace(model, bookings_mean=level)
    path = folder / "demand.npz"
    model.save(path)
    demand = FittedDemand(model=str(path.resolve()), model_sha256=file_sha256(path))
    # Under the same name: numbers filed for the served world are found for this one.
    training = served.model_copy(
        update={"demand": demand, "description": f"{served.name} with the demand of recent days."}
    )
    changes: dict[str, Any] = {
        "fitted": True,
        "days": [day.label for day in recent],
        "half_life_days": half_life,
        "foresight": {str(half): round(score, 2) for half, score in scores.items()},
        "effective_days": round(known, 2),
        "served_share": round(share, 3),
        "bookings_per_day": {
            "then": round(float(served.demand_model().bookings_mean), 1) if modelled else None,
            "now": round(level, 1),
            "by_day": counts.astype(int).tolist(),
        },
        "demand_sha256": demand.model_sha256,
    }
    if modelled:
        changes |= _compared(served, [recent[i] for i in drawn])
    return Simulator(served, training, replayed, changes)


def _regular(days: list[Day]) -> tuple[list[Day], FloatArray]:
    """Days that are not light, by the median of the last week, and their ages in days."""
    counts = np.array([len(day.bookings) for day in days], dtype=np.float64)
    if not len(counts):
        return [], np.zeros(0)
    usual = float(np.median(counts[-7:]))
    kept = [i for i, n in enumerate(counts) if n >= LIGHT_DAY_SHARE * usual and n > 0]
    # Ages by position: of a company that rests on Sundays, Friday is two days before Monday.
    ages = np.arange(len(kept) - 1, -1, -1, dtype=np.float64)
    return [days[i] for i in kept], ages


def _drawn(weights: FloatArray) -> IntArray:
    """Rows drawn by weight, systematically: twice as many as there are days, at least 4."""
    count = min(_MOST_DAYS, max(4, 2 * len(weights)))
    edges = np.cumsum(weights) / weights.sum()
    points = (np.arange(count) + 0.5) / count
    rows: IntArray = np.minimum(np.searchsorted(edges, points), len(weights) - 1).astype(np.int64)
    return rows


# --- how fast to forget --------------------------------------------------------------------------


def _foresight(days: Sequence[Day], ages: FloatArray, half_life: float) -> float:
    """Mean log likelihood per day of the last days, each from those before it."""
    if len(days) < 2:
        return 0.0
    ends = [_ends(demanded(day)) for day in days]
    cells = _cells(ends)
    scores = []
    for judged in range(max(1, len(days) - _JUDGED), len(days)):
        weights = 2.0 ** (-(ages[:judged] - ages[judged - 1]) / half_life)
        mean = float((weights * [len(e) for e in ends[:judged]]).sum() / weights.sum()) / 2.0
        seen = (weights[:, None] * cells[:judged]).sum(axis=0) / weights.sum()
        share = (seen + 0.5) / (seen + 0.5).sum()
        count = len(ends[judged]) / 2.0
        variance = mean * (1.0 + 1.0 / weights.sum()) + (_USUAL_CV * mean) ** 2
        level = -0.5 * ((count - mean) ** 2 / variance + np.log(variance))
        scores.append(level + float((cells[judged] * np.log(share)).sum()))
    return float(np.mean(scores))


def _ends(bookings: npt.NDArray[np.void]) -> FloatArray:
    """Where trips begin and end, ``(2 B, 2)`` degrees."""
    return np.concatenate(
        [
            np.stack([bookings[f"{end}_lat"], bookings[f"{end}_lon"]], axis=1)
            for end in ("pickup", "dropoff")
        ]
    )


def _cells(ends: Sequence[FloatArray]) -> FloatArray:
    """Ends of each day by square kilometre, ``(D, cells)``."""
    every = np.concatenate(ends)
    shrink = np.cos(np.radians(np.median(every[:, 0])))
    rows = [np.floor(e * KM_PER_DEGREE * np.array([1.0, shrink])).astype(np.int64) for e in ends]
    _, index = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    cuts = np.cumsum([len(r) for r in rows])[:-1]
    size = int(index.max()) + 1
    return np.stack(
        [np.bincount(part, minlength=size).astype(np.float64) for part in np.split(index, cuts)]
    )


# --- the mixture ---------------------------------------------------------------------------------


def blended(a: DemandModel, b: DemandModel, share: float) -> DemandModel:
    """The mixture of two models: ``share`` of the bookings are of ``a``. Exact, no sampling.

    Sites stand side by side, each model's streams use its own; time bins are cut finely enough
    for both.
    """
    if share <= 0.0:
        return b
    edges = np.union1d(a.time_edges_min, b.time_edges_min)
    edges = edges[np.insert(np.diff(edges) > 1e-6, 0, True)]
    pa, pb = len(a.site_name), len(b.site_name)
    od = np.zeros((len(a.stream_name) + len(b.stream_name), pa + pb, pa + pb))
    od[: len(a.stream_name), :pa, :pa] = a.od_share
    od[len(a.stream_name) :, pa:, pa:] = b.od_share
    stacked = {
        name: np.concatenate([getattr(a, name), getattr(b, name)])
        for name in (
            *("site_lat", "site_lon", "site_spread_km", "stream_is_return", "immediate_share"),
            *("lead_quantiles_min", "priority_share", "wheelchair_share"),
            *("pickup_service_quantiles_min", "dropoff_service_quantiles_min"),
        )
    }
    return DemandModel(
        site_name=(*a.site_name, *(f"recent {name}" for name in b.site_name)),
        bookings_mean=share * a.bookings_mean + (1.0 - share) * b.bookings_mean,
        bookings_cv=share * a.bookings_cv + (1.0 - share) * b.bookings_cv,
        stream_name=(*a.stream_name, *(f"recent {name}" for name in b.stream_name)),
        stream_share=np.concatenate([share * a.stream_share, (1.0 - share) * b.stream_share]),
        time_edges_min=edges,
        time_share=np.concatenate([_rebinned(a, edges), _rebinned(b, edges)]),
        od_share=od,
        **stacked,
    )


def _rebinned(model: DemandModel, edges: FloatArray) -> FloatArray:
    """Shares of finer bins; uniform within the model's own."""
    cumulative = np.concatenate(
        [np.zeros((len(model.time_share), 1)), np.cumsum(model.time_share, axis=1)], axis=1
    )
    at = np.stack([np.interp(edges, model.time_edges_min, row) for row in cumulative])
    share = np.diff(at, axis=1)
    normal: FloatArray = share / share.sum(axis=1, keepdims=True)
    return normal


# --- what has changed ----------------------------------------------------------------------------


def _compared(served: Scenario, days: Sequence[Day]) -> dict[str, Any]:
    """Places, lead times and service minutes: the served scenario's, and those of recent days."""
    rng = np.random.default_rng(0)
    then, _ = sample_days(served.demand_model(), rng, _COMPARED_DAYS)
    now = np.concatenate([demanded(day) for day in days])
    return {
        "places": _places(served, then, now),
        "lead_min": _both(then, now, _lead),
        "immediate_share": _both(then, now, lambda b: float(np.mean(b["immediate"]))),
        "wheelchair_share": _both(then, now, lambda b: float(np.mean(b["wheelchair"]))),
        "urgent_share": _both(then, now, lambda b: float(np.mean(b["priority"] >= 4))),
        "pickup_service_min": _both(then, now, lambda b: float(np.mean(b["pickup_service_min"]))),
        "dropoff_service_min": _both(then, now, lambda b: float(np.mean(b["dropoff_service_min"]))),
    }


def _lead(bookings: npt.NDArray[np.void]) -> float:
    """Median minutes from booking to promise, of the pre-booked."""
    ahead = bookings[~bookings["immediate"]]
    if not len(ahead):
        return 0.0
    return float(np.median(ahead["promised_min"] - ahead["created_min"]))


def _both(then: npt.NDArray[np.void], now: npt.NDArray[np.void], number: Any) -> dict[str, float]:
    return {"then": round(number(then), 3), "now": round(number(now), 3)}


def _places(
    served: Scenario, then: npt.NDArray[np.void], now: npt.NDArray[np.void]
) -> list[dict[str, Any]]:
    """Share of trips' ends near each site, in percent; those that changed most first.

    Ends far from every site are "elsewhere", with their middle: there a new place may have opened.
    """
    model = served.demand_model()
    zones = Zones(
        model.site_lat,
        model.site_lon,
        model.site_spread_km,
        np.array([np.median(model.site_lat), np.median(model.site_lon)]),
    )
    shares, middle = [], None
    for bookings in (then, now):
        ends = _ends(bookings)
        site = zones.nearest(ends[:, 0], ends[:, 1])
        shrink = np.cos(np.radians(ends[:, 0]))
        away = KM_PER_DEGREE * np.hypot(
            ends[:, 0] - model.site_lat[site], (ends[:, 1] - model.site_lon[site]) * shrink
        )
        far = away > _ELSEWHERE_KM + 2.0 * model.site_spread_km[site]
        site = np.where(far, len(model.site_name), site)
        shares.append(100.0 * np.bincount(site, minlength=len(model.site_name) + 1) / len(site))
        middle = np.median(ends[far], axis=0).round(4).tolist() if far.any() else None
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:8]
    names = (*model.site_name, "elsewhere")
    return [
        {
            "place": names[i],
            "then_percent": round(float(shares[0][i]), 2),
            "now_percent": round(float(shares[1][i]), 2),
            **({"middle": middle} if i == len(model.site_name) and middle else {}),
        }
        for i in order.tolist()
    ]
