"""KPIs, recomputed from the event log and the bookings by a second hand."""

import numpy as np
import pytest

from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import load_scenario

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from .worlds import changed, disturbed, play_random


def recomputed(scenario, day, events):
    """From the log alone: who was picked up when, and what was driven."""
    pickup, fate, weight = {}, {}, scenario.reward.priority
    empty = loaded = 0.0
    for event in events:
        b, kind = event["booking"], event["kind"]
        if kind == "picked_up":
            pickup[b] = event["time_min"]
        if kind in ("completed", "unserved", "no_show", "called_off"):
            fate[b] = kind
        if kind in ("picked_up", "no_show", "released", "called_off"):
            empty += event["km"]
        if kind == "completed":
            loaded += event["km"]
    rows = range(len(day.bookings))
    assert sorted(fate) == list(rows)
    served = [b for b in rows if fate[b] == "completed"]
    unserved = [b for b in rows if fate[b] == "unserved"]
    due = len(served) + len(unserved)
    waits, scores, late_total = [], [1.0] * len(unserved), 0.0
    for b in served:
        row = day.bookings[b]
        since = row["created_min"] if row["immediate"] else row["promised_min"]
        wait = max(0.0, pickup[b] - since)
        late = max(0.0, pickup[b] - row["window_end_min"])
        waits.append(wait)
        late_total += late
        scores.append(float(np.clip(5 - late / 7.5 - max(0.0, wait - 15) / 15, 1, 5)))
    on_time = sum(wait <= 15 + 1e-9 for wait in waits)
    priority = day.bookings["priority"]
    # Drivers are paid for lateness of those aboard at the end of the log only: all completed.
    reward = (
        10 * sum(weight[priority[b] - 1] for b in served)
        - 10 * sum(weight[priority[b] - 1] for b in unserved)
        - 0.3 * late_total
        - 0.5 * empty
    )
    hours = (day.drivers["shift_end_min"] - day.drivers["shift_start_min"]).sum() / 60
    trips = max(1, len(served))
    return {
        "reward": reward,
        "bookings_due": due,
        "completed": len(served),
        "completion_pct": 100 * len(served) / due,
        "on_time_pct": 100 * on_time / due,
        "late_pct": 100 * (len(served) - on_time) / due,
        "unserved": len(unserved),
        **{f"unserved_p{p}": sum(int(priority[b]) == p for b in unserved) for p in range(1, 6)},
        "deadhead_km_per_trip": empty / trips,
        "total_km_per_trip": (empty + loaded) / trips,
        "deadhead_km": empty,
        "total_km": empty + loaded,
        "wait_mean_min": sum(waits) / trips,
        "wait_p95_min": float(np.percentile(waits, 95)) if waits else 0.0,
        "trips_per_vehicle_hour": len(served) / hours,
        "satisfaction": sum(scores) / due,
        "no_shows": sum(f == "no_show" for f in fate.values()),
        "called_off": sum(f == "called_off" for f in fate.values()),
        "released": sum(event["kind"] == "released" for event in events),
    }


@pytest.mark.parametrize("make", [lambda: load_scenario("geneva_overload"), disturbed])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kpis_can_be_recomputed_from_the_event_log(make, seed):
    scenario = make()
    engine = Engine(scenario, record_events=True, max_bookings=40)
    play = play_random(engine, seed, seed=seed)
    kpis = engine.kpis()
    assert set(kpis) == set(KPIS)
    expected = recomputed(scenario, engine.day(), engine.events())
    for name, value in expected.items():
        assert kpis[name] == pytest.approx(value, abs=1e-6), name
    assert kpis["steps"] == len(play.steps)
    assert kpis["reward_per_step"] == pytest.approx(kpis["reward"] / len(play.steps))
    busy = _busy(engine)
    spread = np.abs(busy[:, None] - busy[None, :]).sum()
    gini = spread / (2 * len(busy) * busy.sum())
    if not scenario.disturbances.breakdowns_per_driver_day:
        assert kpis["workload_gini"] == pytest.approx(gini)


def _busy(engine):
    history, busy = engine.history(), np.zeros(engine.num_drivers)
    for job in history[history["driver"] >= 0]:
        busy[job["driver"]] += (
            (job["arrive_min"] - job["depart_min"])
            + (job["leave_min"] - job["pickup_min"])
            + (job["done_min"] - job["leave_min"])
        )
    return busy


def test_a_day_on_which_nothing_was_due_has_no_failure():
    engine = Engine(changed("geneva", demand={"bookings_per_day": 0}))
    engine.start([0])
    while not engine.wait(0):
        pass
    kpis = engine.kpis()
    assert kpis["bookings_due"] == kpis["unserved"] == kpis["reward"] == 0
    assert kpis["completion_pct"] == kpis["on_time_pct"] == 100.0
    assert kpis["late_pct"] == 0.0
    assert kpis["satisfaction"] == 5.0
    assert all(np.isfinite(list(kpis.values())))


def test_a_day_that_fails_completely_scores_zero():
    engine = Engine(even_scenario(), days=[day_of([booking(50, 1, 2)], [driver()])])
    engine.start([0])
    while not engine.wait(0):
        pass
    kpis = engine.kpis()
    assert kpis["completion_pct"] == kpis["on_time_pct"] == 0.0
    assert kpis["satisfaction"] == 1.0


def test_nothing_counts_after_the_end_of_the_day():
    """Stepped in a batch with longer days, a finished one keeps its figures."""
    engine = Engine(changed("geneva_small", reward={"balance": 3.0, "idle_per_min": 0.01}))
    play = play_random(engine, 4)
    kpis, terms = engine.kpis(), engine.reward_terms()
    for action in (0, 0, 7):
        out = engine.step(np.array([action]))
        assert out.terminated[0]
        assert out.reward[0] == 0.0
    engine.wait(0)
    assert engine.kpis() == kpis
    assert engine.reward_terms() == terms
    assert kpis["steps"] == len(play.steps)
