"""Who gains and who loses, and whom a policy fails: group by group against another policy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from services.rl.simulation.types import FloatArray

from .outcomes import FIELDS, GROUPS
from .paired import Estimate, paired_difference, rate_difference, relative_gain
from .quality import Played

Numbers = dict[str, Any]


def as_json(value: Estimate) -> Numbers | None:
    """Mean and half-width of the 95 % interval; None where there is no mean."""
    if not np.isfinite(value.mean):
        return None
    half = value.half_width if np.isfinite(value.half_width) else None
    return {"mean": value.mean, "half": half}


def by_group(a: Played, b: Played) -> dict[str, Numbers]:
    """Per group of patients: what ``a`` changes against ``b``, paired by day."""
    days = min(a.days, b.days)
    first, second = a.groups[:, :days].mean(axis=0), b.groups[:, :days].mean(axis=0)
    found = {}
    for g, group in enumerate(GROUPS):
        x = {name: first[:, g, k] for k, name in enumerate(FIELDS)}
        y = {name: second[:, g, k] for k, name in enumerate(FIELDS)}
        late = rate_difference(x["late_min"], x["served"], y["late_min"], y["served"])
        found[group] = {
            "due_per_day": float(x["due"].mean()),
            "served_pct": as_json(rate_difference(x["served"], x["due"], y["served"], y["due"])),
            "on_time_pct": as_json(rate_difference(x["on_time"], x["due"], y["on_time"], y["due"])),
            "late_min": as_json(Estimate(late.mean / 100, late.half_width / 100)),
            "levels": {"a": _levels(x), "b": _levels(y)},
        }
    return found


def _levels(sums: Mapping[str, FloatArray]) -> Numbers:
    due, served = float(sums["due"].sum()), float(sums["served"].sum())
    return {
        "served_pct": 100 * served / due if due else None,
        "on_time_pct": 100 * float(sums["on_time"].sum()) / due if due else None,
        "late_min": float(sums["late_min"].sum()) / served if served else None,
    }


def dangers(a: Played, b: Played) -> Numbers:
    """Patients a day whom a dispatcher must not fail, against another policy."""
    days = min(a.days, b.days)
    urgent = [GROUPS.index("priority 4"), GROUPS.index("priority 5")]
    everyone = [GROUPS.index("all")]

    def count(played: Played, groups: list[int], of: str) -> FloatArray:
        sums = played.groups[:, :days].mean(axis=0)[:, groups].sum(axis=1)
        if of == "unserved":
            missing: FloatArray = sums[:, FIELDS.index("due")] - sums[:, FIELDS.index("served")]
            return missing
        late: FloatArray = sums[:, FIELDS.index("late_pickups")]
        return late

    found: Numbers = {"days": days}
    for name, groups, of in (
        ("unserved_urgent", urgent, "unserved"),
        ("late_urgent", urgent, "late"),
        ("late_all", everyone, "late"),
    ):
        x, y = count(a, groups, of), count(b, groups, of)
        found[name] = {
            "per_day": float(x.mean()),
            "matching_per_day": float(y.mean()),
            "diff": as_json(paired_difference(x, y)),
            "relative_pct": as_json(relative_gain(x, y)),
        }
    return found
