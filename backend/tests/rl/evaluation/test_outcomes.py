"""Outcomes by group of patients add up to what the engine says of the whole day."""

import numpy as np
import pytest

from services.rl.evaluation.outcomes import FIELDS, GROUPS, PARTITIONS, group_outcomes
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario, parse_scenario


def worlds():
    calm = load_scenario("geneva_overload")
    raw = calm.model_dump(mode="json")
    raw["disturbances"] |= {
        "travel_noise_cv": 0.2,
        "no_show_share": 0.1,
        "late_cancellation_share": 0.1,
        "breakdowns_per_driver_day": 0.2,
    }
    return [calm, parse_scenario(raw, source="disturbed")]


@pytest.mark.parametrize("scenario", worlds(), ids=["calm", "disturbed"])
def test_groups_add_up_to_the_engines_totals(scenario):
    engine = Engine(scenario, 3)
    engine.start(np.array([2_000_000, 2_000_001, 2_000_002]))
    make_policy("matching", scenario).play(engine)
    for env in range(3):
        sums, kpis = group_outcomes(engine, env), engine.kpis(env)
        total = dict(zip(FIELDS, sums[GROUPS.index("all")], strict=True))
        assert total["due"] == kpis["bookings_due"]
        assert total["served"] == kpis["completed"]
        assert 100 * total["on_time"] / total["due"] == pytest.approx(kpis["on_time_pct"])
        assert total["wait_min"] / total["served"] == pytest.approx(kpis["wait_mean_min"])
        assert total["late_pickups"] == total["served"] - total["on_time"]
        for part in PARTITIONS:
            assert sums[part].sum(axis=0) == pytest.approx(sums[0])
        for p in range(1, 6):
            due, served = sums[GROUPS.index(f"priority {p}"), :2]
            assert due - served == kpis[f"unserved_p{p}"]
