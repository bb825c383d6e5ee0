"""Ranked drivers for one booking, in plain words. Nothing is decided or written here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

from .dispatcher import Dispatcher
from .fates import DispatchError
from .reach import may_serve
from .schedule import Planned, Schedule

Language = Literal["fr", "en"]

_CLEAR: Final = 2.0
"""Reward between two drivers at which the choice is fairly clear (the softmax's temperature)."""

_WORDS: Final[dict[Language, dict[str, str]]] = {
    "fr": {
        "away": "à {0:.0f} min de route du patient",
        "on_time": "prise en charge à l'heure",
        "late": "{0:.0f} min de retard prévu",
        "busy": "libre dans {0:.0f} min",
        "late_avoided": "{0:.0f} min de retard évitées par rapport à l'heuristique",
        "late_more": "{0:.0f} min de retard de plus que l'heuristique",
        "km_saved": "{0:.1f} km à vide économisés par rapport à l'heuristique",
        "km_more": "{0:.1f} km à vide de plus que l'heuristique",
        "same": "même choix que l'heuristique",
        "plan": "choisi dans le plan d'ensemble des tournées",
        "later": "la politique préfère attendre avant d'engager un chauffeur",
    },
    "en": {
        "away": "{0:.0f} min drive from the patient",
        "on_time": "pickup on time",
        "late": "{0:.0f} min late by plan",
        "busy": "free in {0:.0f} min",
        "late_avoided": "{0:.0f} min less late than the heuristic's choice",
        "late_more": "{0:.0f} min later than the heuristic's choice",
        "km_saved": "{0:.1f} empty km less than the heuristic's choice",
        "km_more": "{0:.1f} empty km more than the heuristic's choice",
        "same": "the heuristic's choice too",
        "plan": "chosen in the plan of all routes",
        "later": "the policy prefers to wait before committing a driver",
    },
}


@dataclass(frozen=True)
class Suggestion:
    """One driver for the booking.

    Attributes:
        driver_id: Whom.
        chosen: Whom the policy would send now.
        minutes_away: Empty drive.
        planned_pickup_at: When.
        late_min: After the window's end.
        deadhead_km: Empty way.
        gain: Planned reward of this choice minus that of the heuristic's.
        confidence: How clearly this driver is the best by planned reward alone: a softmax over all
            drivers who can, 0 to 1. No probability of success.
        explanation: Sentences.
    """

    driver_id: int
    chosen: bool
    minutes_away: float
    planned_pickup_at: datetime
    late_min: float
    deadhead_km: float
    gain: float
    confidence: float
    explanation: tuple[str, ...]


@dataclass(frozen=True)
class Suggested:
    """What is suggested for a booking.

    Attributes:
        action: What the policy would do now.
        policy: Who was asked.
        heuristic_driver_id: Whom the heuristic would send (now, or the nearest if it would wait).
        must_decide_by: See `dispatcher.Fate`.
        drivers: The best first.
    """

    action: Literal["assign", "defer"]
    policy: str
    heuristic_driver_id: int | None
    must_decide_by: datetime | None
    drivers: tuple[Suggestion, ...]


def suggest(
    dispatcher: Dispatcher, company_id: int, booking_id: int, limit: int, language: Language
) -> Suggested:
    """Rank the drivers who can take a booking.

    Raises:
        DispatchError: If the booking is not open, or there is no active driver.
    """
    fleet, limits = dispatcher.look(company_id)
    b = next((i for i, each in enumerate(fleet.bookings) if each.id == booking_id), None)
    if b is None:
        raise DispatchError(f"booking {booking_id} is not open on this operating day")
    desk = dispatcher.desk
    engine = desk.engine_for(company_id)
    learned = engine.decide(fleet.state, plan=None, use="rl")
    heuristic = engine.decide(fleet.state, use="heuristic")
    chosen = next((d.driver for d in learned.decisions.decisions if d.booking == b), None)
    usual = next((d.driver for d in heuristic.decisions.decisions if d.booking == b), None)

    capacity = 1 + desk.scenario.rules.queue
    fits = may_serve(fleet.state.bookings, fleet.state.drivers, desk.scenario)[:, b]
    able = fits & (fleet.state.drivers["committed"] < capacity)
    schedule = Schedule(fleet, desk.tables)
    jobs = {int(d): schedule.planned(int(d), b) for d in np.flatnonzero(able)}
    last = float(fleet.state.bookings["window_end_min"][b]) + desk.scenario.rules.grace_min
    jobs = {d: job for d, job in jobs.items() if job.pickup_min <= last or d == chosen}
    if not jobs:
        return Suggested("defer", learned.policy, None, limits[b][0], ())
    worth = {d: _worth(dispatcher, fleet.state.bookings[b], job) for d, job in jobs.items()}
    if usual not in jobs:
        usual = min(jobs, key=lambda d: (jobs[d].pickup_min, jobs[d].deadhead_km))
    share = np.exp((np.array(list(worth.values())) - max(worth.values())) / _CLEAR)
    confidence = dict(zip(worth, share / share.sum(), strict=True))
    order = sorted(jobs, key=lambda d: (d != chosen, -worth[d], d))
    return Suggested(
        "assign" if chosen is not None else "defer",
        learned.policy,
        fleet.drivers[usual].id,
        limits[b][0],
        tuple(
            Suggestion(
                driver_id=fleet.drivers[d].id,
                chosen=d == chosen,
                minutes_away=jobs[d].drive_min,
                planned_pickup_at=fleet.day.instant(jobs[d].pickup_min),
                late_min=jobs[d].late_min,
                deadhead_km=jobs[d].deadhead_km,
                gain=worth[d] - worth[usual],
                confidence=float(confidence[d]),
                explanation=_explained(
                    jobs[d],
                    jobs[usual],
                    fleet.state.now_min,
                    float(fleet.state.drivers["free_at_min"][d]),
                    language,
                    same=d == usual,
                    chosen=d == chosen,
                    waits=chosen is None,
                ),
            )
            for d in order[:limit]
        ),
    )


def _worth(dispatcher: Dispatcher, booking: Any, job: Planned) -> float:
    """Planned reward of the job, by the scenario's weights."""
    weights = dispatcher.desk.scenario.reward
    return (
        weights.completion * weights.priority[int(booking["priority"]) - 1]
        - weights.late_per_min * job.late_min
        - weights.deadhead_per_km * job.deadhead_km
    )


def _explained(
    job: Planned,
    usual: Planned,
    now_min: float,
    free_min: float,
    language: Language,
    *,
    same: bool,
    chosen: bool,
    waits: bool,
) -> tuple[str, ...]:
    words = _WORDS[language]
    told = [words["away"].format(job.drive_min)]
    if free_min > now_min + 1.0:
        told.append(words["busy"].format(free_min - now_min))
    told.append(words["late"].format(job.late_min) if job.late_min >= 1 else words["on_time"])
    if same:
        told.append(words["same"])
    else:
        late, km = usual.late_min - job.late_min, usual.deadhead_km - job.deadhead_km
        if abs(late) >= 1:
            told.append(words["late_avoided" if late > 0 else "late_more"].format(abs(late)))
        if abs(km) >= 0.1:
            told.append(words["km_saved" if km > 0 else "km_more"].format(abs(km)))
        if chosen and late < 1 and km < 0.1:
            told.append(words["plan"])
    if waits:
        told.append(words["later"])
    return tuple(told)
