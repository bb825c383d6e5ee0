"""Hand-made experiences: simulated days played and logged as production would, with exploration."""

from datetime import UTC, date, datetime, timedelta

import numpy as np

from services.rl.data.experience import Ending, Experience, RewardTerms, Rows
from services.rl.experiments.epoch_world import EpochWorld
from services.rl.experiments.exploration import explore
from services.rl.simulation.engine import Engine
from services.rl.simulation.reward import planned_value, weights_table
from services.rl.simulation.types import BookingStatus

FIRST = date(2026, 3, 2)


def logged_days(scenario, policy, days, *, epsilon=0.1, company=1, seed=0):
    """Experiences of each assignment on the days, in order."""
    engine = Engine(scenario, len(days), days=days)
    engine.start(np.arange(len(days)))
    tried, rng = EpochWorld(scenario), np.random.default_rng(seed)
    found = []
    for e in range(len(days)):
        pending = []
        while not engine.ended(e):
            rows, state = engine.open_rows(e), engine.state(e)
            planned = [d for d in policy.decide(state).decisions if d.driver is not None]
            order, choices = explore(tried, state, planned, epsilon, lambda _row: rng.random())
            prior = []
            for row in order:
                choice = choices[row]
                assert engine.commit(e, choice.driver, int(rows[row]))
                pending.append((state, tuple(prior), row, choice, int(rows[row])))
                prior.append((choice.driver, row))
            engine.wait(e)
        found += _told(scenario, engine, e, pending, company)
    return found


def _told(scenario, engine, e, pending, company):
    weights, history = weights_table(scenario.reward), engine.history(e)
    day = FIRST + timedelta(days=e)
    start = datetime(day.year, day.month, day.day, 7, tzinfo=UTC)
    for number, (state, prior, row, choice, booking) in enumerate(pending):
        h, served = history[booking], history["status"][booking] == BookingStatus.COMPLETED
        worth = weights.completion * weights.priority[h["priority"] - 1]
        late = max(0.0, h["pickup_min"] - h["window_end_min"]) if served else 0.0
        planned_late = max(0.0, h["planned_pickup_min"] - h["window_end_min"])
        terms = RewardTerms(
            completion=worth if served else 0.0,
            lateness=-weights.late * late,
            deadhead=-weights.deadhead * h["deadhead_km"],
            cancellation=0.0 if served else -worth,
        )
        yield Experience(
            id=f"{company}-{e}-{number}",
            company_id=company,
            day=day,
            at=start + timedelta(minutes=state.now_min),
            scenario_hash=scenario.sha256,
            state=Rows(state.now_min, state.drivers, state.bookings),
            prior=prior,
            action=(choice.driver, row),
            dt=0.0,
            next_state=None,
            done=False,
            terms=terms,
            loss=worth,
            pickup_in_min=float(h["pickup_min"] - state.now_min) if served else None,
            planned_pickup_in_min=float(h["planned_pickup_min"] - state.now_min),
            planned_reward=float(
                planned_value.py_func(weights, worth, planned_late, h["deadhead_km"], h["trip_km"])
            ),
            ending=Ending.COMPLETED if served else Ending.UNSERVED,
            propensity=choice.propensity,
            k=choice.k,
            arm="rl",
            unit=f"booking-{number}",
            model="m",
            source="policy",
        )
