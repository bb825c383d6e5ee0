"""Weeks of an experiment without a fleet: outcomes drawn, guardrails real.

Bookings come by company, zone and hour; a day, an hour and a company have their own luck (the
log odds of a bad outcome get a normal term each), so outcomes bunch as real ones do. Arms come
from the real hash of the real unit. In an A/A week the arm changes nothing; otherwise the learned
arm's probabilities are multiplied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from scipy import stats

from services.rl.simulation.types import FloatArray

from .config import RL, ExperimentConfig, Guardrails, MemoryExperiment, Mode, UnitKind
from .guardrails import Breach, GuardrailMonitor
from .units import MemoryUnits, arm_of, unit_of

MONDAY = datetime(2026, 1, 5, 8, tzinfo=UTC)
SERVICE_H = 8.0
_EPOCHS_PER_DAY = 96
DAY_SIGMA, HOUR_SIGMA, COMPANY_SIGMA = 0.7, 0.5, 0.4
"""Of a day's, an hour's and a company's luck: what is added to the log odds of a bad outcome."""


@dataclass(frozen=True)
class Demand:
    """Who takes part in an experiment.

    Attributes:
        companies: How many.
        bookings_per_day: Of each, on average.
        zones: Of each.
        late_rate: Usual probability that a booking is late.
        unserved_rate: Usual probability that it is not served.
    """

    companies: int
    bookings_per_day: float
    zones: int = 1
    late_rate: float = 0.10
    unserved_rate: float = 0.03


@dataclass(frozen=True)
class Harm:
    """What the learned arm multiplies."""

    late: float = 1.0
    unserved: float = 1.0


@dataclass(frozen=True)
class WeekResult:
    """How a week went.

    Attributes:
        breach: Why the arm was stopped; None: it was not.
        service_h: Hours of service until then (or all).
        bookings: Outcomes until then.
    """

    breach: Breach | None
    service_h: float
    bookings: int


def play_week(
    demand: Demand,
    unit: UnitKind,
    seed: int,
    *,
    harm: Harm | None = None,
    days: int = 7,
    guardrails: Guardrails | None = None,
) -> WeekResult:
    """Feed a monitor with the days of a seed, until it stops the arm or the days are over."""
    rng = np.random.default_rng(seed)
    config = ExperimentConfig(
        name="simulated",
        mode=Mode.AB,
        unit=unit,
        salt=f"week-{seed}",
        guardrails=guardrails or Guardrails(),
    )
    experiment = MemoryExperiment(config)
    monitor = GuardrailMonitor(experiment)
    units = MemoryUnits()
    company_luck = rng.normal(0, COMPANY_SIGMA, demand.companies)
    outcomes = 0
    for day in range(days):
        for event in _day(demand, harm or Harm(), rng, day, company_luck, config, units):
            at, values = event
            if "arm" in values:
                outcomes += 1
                breach = monitor.record_outcome(at, **values)
            else:
                breach = monitor.record_decision(at, **values)
            if breach is not None:
                hours = min(SERVICE_H, _hours(breach.at, day))
                return WeekResult(breach, day * SERVICE_H + hours, outcomes)
    breach = monitor.check(MONDAY + timedelta(days=days))
    return WeekResult(breach, days * SERVICE_H, outcomes)


def _hours(at: datetime, day: int) -> float:
    return (at - MONDAY - timedelta(days=day)) / timedelta(hours=1)


Event = tuple[datetime, dict[str, Any]]


def _day(
    demand: Demand,
    harm: Harm,
    rng: np.random.Generator,
    day: int,
    company_luck: FloatArray,
    config: ExperimentConfig,
    units: MemoryUnits,
) -> Iterator[Event]:
    """A day's events in the order of time."""
    begin = MONDAY + timedelta(days=day)
    events: list[Event] = []
    common = rng.normal(0, DAY_SIGMA)
    for company in range(demand.companies):
        hours = rng.normal(0, HOUR_SIGMA, int(SERVICE_H))
        times = np.sort(rng.uniform(0, SERVICE_H, rng.poisson(demand.bookings_per_day)))
        lag = rng.uniform(20, 80, times.size)  # minutes from the decision to what became of it
        zones = rng.integers(0, demand.zones, times.size)
        luck = common + company_luck[company] + hours[times.astype(int)]
        late = shifted_odds(demand.late_rate, luck)
        unserved = shifted_odds(demand.unserved_rate, luck)
        dice = rng.random(times.size)
        for i in range(times.size):
            decided = begin + timedelta(hours=float(times[i]))
            name = f"{day}-{company}-{i}"
            unit = unit_of(
                config, booking_id=name, company_id=company, zone=int(zones[i]), at=decided
            )
            arm = arm_of(config, unit, units, decided).arm
            factor = (harm.unserved, harm.late) if arm == RL else (1.0, 1.0)
            lost = min(1.0, factor[0] * unserved[i])
            known = decided + timedelta(minutes=float(lag[i]))
            is_late = lost <= dice[i] < lost + min(1.0, factor[1] * late[i])
            values = {"booking_id": name, "unit": unit, "arm": arm, "late": bool(is_late)}
            events.append((known, {**values, "unserved": bool(dice[i] < lost)}))
        events += _decisions(rng, begin)
    events.sort(key=lambda event: event[0])
    return iter(events)


def shifted_odds(rate: float, luck: FloatArray) -> FloatArray:
    """Probabilities around a rate whose log odds are shifted."""
    odds = rate / (1 - rate) * np.exp(luck)
    return np.asarray(odds / (1 + odds))


def _decisions(rng: np.random.Generator, begin: datetime) -> list[Event]:
    """One company's epochs: rare fallbacks, and now and then ten minutes with a slow machine."""
    slow = np.full(_EPOCHS_PER_DAY, 0.005)
    if rng.random() < 0.3:
        first = rng.integers(0, _EPOCHS_PER_DAY - 2)
        slow[first : first + 2] = 0.6
    return [
        (
            begin + timedelta(minutes=5 * epoch + 0.5),
            {
                "fallback": bool(rng.random() < slow[epoch] / 2),
                "infeasible": bool(rng.random() < 0.0005),
                "latency_ms": 80.0 if rng.random() < slow[epoch] else 3.0,
            },
        )
        for epoch in range(_EPOCHS_PER_DAY)
    ]


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of a probability (Clopper and Pearson 1934)."""
    if events >= trials:
        return 1.0
    return float(stats.beta.ppf(confidence, events + 1, trials - events))
