"""Bundles and limits that the gate's tests share: a quick planner on geneva, few days."""

from dataclasses import replace

from services.rl.evaluation.gate_lines import GateLimits
from services.rl.evaluation.planted import planted_bundle
from services.rl.serving.bundle import write_bundle
from services.rl.simulation.scenarios import load_scenario

GENEVA = load_scenario("geneva")
MOVES = 1_500


def made(folder):
    """A planner with the filed values, ``matching``, and what is planted beside them."""
    planner = write_bundle(folder / "planner", "planner", GENEVA, policy={"moves": MOVES})
    matching = write_bundle(folder / "matching", "matching", GENEVA)
    return {
        "planner": planner,
        "matching": matching,
        "shuffled": planted_bundle("shuffled", planner, folder / "shuffled"),
        "far": planted_bundle("far", planner, folder / "far"),
    }


def wide(days, stress_days):
    """Margins for few days: as much wider as the intervals are."""
    limits = GateLimits()
    factor, stress = (400 / days) ** 0.5, (100 / stress_days) ** 0.5
    return replace(
        limits,
        **{
            name: getattr(limits, name) * factor
            for name in (
                "reward_pct",
                "on_time_points",
                "unserved_points",
                "urgent_unserved_points",
                "urgent_late_15_points",
                "urgent_late_30_points",
            )
        },
        stress_reward_pct=limits.stress_reward_pct * stress,
        stress_urgent_points=limits.stress_urgent_points * stress,
    )
