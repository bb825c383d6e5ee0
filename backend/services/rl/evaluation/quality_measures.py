"""Numbers of the quality benchmark from its played days: plain JSON, part by part.

A policy trained several times counts as the mean over its seeds, day by day; the worst seed stands
beside it, with its own paired interval. Two policies of as many seeds are paired seed by seed.
Policies that were played on fewer days are compared on those days.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from services.rl.simulation.types import FloatArray

from .paired import (
    estimate,
    gap_closed,
    paired_difference,
    relative_gain,
)
from .quality import (
    FRONT_MOVES,
    FRONT_MS,
    MANHATTAN,
    NETWORK_POLICIES,
    ROLLING,
    VALIDATION,
    Plan,
    Played,
)
from .quality_cells import HINDSIGHT, code_fingerprint
from .quality_models import MATCHING_VALUES
from .quality_patients import as_json, by_group, dangers

Results = Mapping[tuple[str, str], Played]
Numbers = dict[str, Any]

CITY_OPEN: Final = 500
"""Bookings that must be open for an epoch of the city to count."""

_SHOWN = (
    "reward", "completion_pct", "on_time_pct", "late_pct", "unserved", "wait_mean_min",
    "wait_p95_min", "deadhead_km_per_trip", "workload_gini", "satisfaction",
)  # fmt: skip


def compared(a: Played, b: Played) -> Numbers:
    """Reward of ``a`` minus that of ``b`` on the days that both played."""
    days = min(a.days, b.days)
    first, second = a.rewards[:, :days], b.rewards[:, :days]
    mean_a, mean_b = first.mean(axis=0), second.mean(axis=0)
    by_seed = second if len(first) == len(second) else np.broadcast_to(mean_b, first.shape)
    worst = int(np.argmin((first - by_seed).mean(axis=1)))
    return {
        "days": days,
        "seeds": len(first),
        "diff": as_json(paired_difference(mean_a, mean_b)),
        "relative_pct": as_json(relative_gain(mean_a, mean_b)),
        "worst": {
            "seed": worst,
            "diff": as_json(paired_difference(first[worst], by_seed[worst])),
            "relative_pct": as_json(relative_gain(first[worst], by_seed[worst])),
        },
    }


def latency(played: Played) -> Numbers:
    """Percentiles of single decisions, milliseconds."""
    return {
        "p50_ms": float(np.percentile(played.decision_ms, 50)),
        "p99_ms": float(np.percentile(played.decision_ms, 99)),
    }


class Measures:
    """All tables of a finished plan.

    Args:
        plan: What was played.
        results: Of the series, see `quality.collected`.
        cells: Bodies of all cells by key.
    """

    def __init__(self, plan: Plan, results: Results, cells: Mapping[str, Numbers]) -> None:
        self._plan = plan
        self._results = results
        self._cells = cells
        self._asked = set(plan.options.parts)

    def tables(self) -> Numbers:
        """Every part that was asked for; a part without results is left out."""
        worlds = [v for v in self._plan.variants.values() if v.part == "kpis"]
        found: Numbers = {"networks": {}}
        for world in worlds:
            network = self._network(world.key)
            if network is not None:
                found["networks"][world.key] = network
        for part, measure in (
            ("kpis", self._kpis),
            ("front", self._front),
            ("who", self._who),
            ("safety", self._safety),
        ):
            if part in self._asked:
                found[part] = {w.key: measure(w.key) for w in worlds}
        for part in ("robust", "transfer"):
            if part in self._asked:
                found[part] = self._elsewhere(part)
        if "city" in self._asked:
            found["city"] = self._city()
        if "manhattan" in self._asked:
            found["manhattan"] = {name: self._manhattan(name) for name in MANHATTAN}
        return found

    def _get(self, world: str, policy: str) -> Played | None:
        return self._results.get((world, policy))

    def _network(self, world: str) -> Numbers | None:
        """``dqn`` or ``dqn_matching``: whichever earns more on validation days."""
        scores = {
            policy: float(played.rewards.mean())
            for policy in NETWORK_POLICIES
            if (played := self._get(f"{world}/{VALIDATION}", policy)) is not None
        }
        if not scores:
            return None
        return {"policy": max(scores, key=lambda p: scores[p]), "validation_reward": scores}

    def _network_policy(self, world: str) -> str | None:
        network = self._network(world)
        return None if network is None else str(network["policy"])

    def _learned(self, world: str) -> list[str]:
        """The policies whose gains are broken down: planner, network, search."""
        options = self._plan.options
        named = [options.planner(), self._network_policy(world), options.search()]
        return [p for p in named if p is not None and self._get(world, p) is not None]

    # --- KPIs and the front ----------------------------------------------------------------------

    def _kpis(self, world: str) -> Numbers:
        options = self._plan.options
        order = [
            "nearest", "cheapest", "matching", "matching_linear", *NETWORK_POLICIES, ROLLING,
            options.search(), options.planner(),
        ]  # fmt: skip
        rows = [row for policy in order if (row := self._row(world, policy)) is not None]
        yardstick = self._yardstick(world)
        return {
            "rows": rows,
            "hindsight": None
            if yardstick is None
            else {"days": len(yardstick), "reward": as_json(estimate(yardstick))},
            "pairs": self._pairs(world),
        }

    def _row(self, world: str, policy: str) -> Numbers | None:
        played = self._get(world, policy)
        if played is None:
            return None
        matching = self._get(world, "matching")
        by_seed = played.rewards.mean(axis=1)
        return {
            "policy": policy,
            "days": played.days,
            "seeds": len(by_seed),
            "kpis": {name: as_json(estimate(played.kpi(name))) for name in _SHOWN},
            "worst_seed_reward": float(by_seed.min()),
            "gap_closed_pct": self._gap(world, played),
            "minus_matching": None if matching is None else compared(played, matching),
            "latency": latency(played),
            "load": played.load,
            "fallbacks": played.fallbacks,
            "refused": played.refused,
            "note": played.note,
        }

    def _yardstick(self, world: str) -> FloatArray | None:
        """Best known reward per day: the clairvoyant's, or a policy's where that is more.

        The same policies whatever else was measured: the gap must not depend on what was asked.
        """
        found = self._hindsight(world)
        if found is None:
            return None
        best, kind = found
        options = self._plan.options
        known = {options.search(), options.planner(), "matching", "matching_linear", ROLLING}
        for (where, policy), played in self._results.items():
            if where == world and kind != "bound" and policy in known:
                days = min(len(best), played.days)
                best[:days] = np.maximum(best[:days], played.rewards[:, :days].max(axis=0))
        return best

    def _hindsight(self, world: str) -> tuple[FloatArray, str] | None:
        series = self._plan.series.get((world, HINDSIGHT))
        if series is None:
            return None
        fingerprint = code_fingerprint()
        bodies = [self._cells[cell.key(fingerprint)] for cell in series.runs[0]]
        values = np.array([value for body in bodies for value in body["values"]])
        return values, str(bodies[0]["kind"])

    def _gap(self, world: str, played: Played) -> Numbers | None:
        nearest, best = self._get(world, "nearest"), self._yardstick(world)
        if nearest is None or best is None:
            return None
        n = min(len(best), played.days, nearest.days)
        gap = gap_closed(
            played.rewards[:, :n].mean(axis=0), nearest.rewards[:, :n].mean(axis=0), best[:n]
        )
        known = as_json(gap)
        return None if known is None else {**known, "days": n}

    def _pairs(self, world: str) -> Numbers:
        """The comparisons that the targets are about."""
        options, network = self._plan.options, self._network_policy(world)
        wanted = {
            "planner_rolling": (options.planner(), ROLLING),
            "planner_search": (options.planner(), options.search()),
            "network_linear": (network, "matching_linear"),
            "network_planner": (network, options.planner()),
            "network_rolling": (network, ROLLING),
        }
        found = {}
        for name, (a, b) in wanted.items():
            first = None if a is None else self._get(world, a)
            second = None if b is None else self._get(world, b)
            if first is not None and second is not None:
                found[name] = {"a": a, "b": b, **compared(first, second)}
        return found

    def _front(self, world: str) -> list[Numbers]:
        names = ["nearest", "matching", "matching_linear", *NETWORK_POLICIES]
        names += [f"rolling@{ms}" for ms in FRONT_MS]
        for policy in ("rolling_search", "planner"):
            names += [f"{policy}@{moves}" for moves in FRONT_MOVES]
        rows = [self._row(world, name) for name in names]
        kept = ("policy", "days", "seeds", "gap_closed_pct", "minus_matching", "latency", "load")
        return [{name: row[name] for name in kept} for row in rows if row is not None]

    # --- patients --------------------------------------------------------------------------------

    def _who(self, world: str) -> list[Numbers]:
        matching = self._get(world, "matching")
        if matching is None:
            return []
        return [
            {
                "policy": p,
                "minus": "matching",
                "groups": by_group(self._results[world, p], matching),
            }
            for p in self._learned(world)
        ]

    def _safety(self, world: str) -> list[Numbers]:
        matching = self._get(world, "matching")
        if matching is None:
            return []
        return [
            {"policy": p, **dangers(self._results[world, p], matching)}
            for p in self._learned(world)
        ]

    # --- other worlds ----------------------------------------------------------------------------

    def _elsewhere(self, part: str) -> list[Numbers]:
        """Rewards in changed worlds, and the planner's gains over each other policy."""
        rows = []
        options = self._plan.options
        others = [options.search(), "matching", *([ROLLING] if part == "robust" else [])]
        for variant in self._plan.variants.values():
            if variant.part != part:
                continue
            known = {p: self._get(variant.key, p) for p in (options.planner(), *others)}
            planner = known[options.planner()]
            rows.append(
                {
                    "key": variant.key,
                    "base": variant.base,
                    "title": variant.title,
                    "rewards": {
                        p: {"days": r.days, **(as_json(estimate(r.kpi("reward"))) or {})}
                        for p, r in known.items()
                        if r is not None
                    },
                    "asked": [p for p in others if (variant.key, p) in self._plan.series],
                    "planner_minus": {
                        p: compared(planner, other)
                        for p in others
                        if planner is not None and (other := known[p]) is not None
                    },
                }
            )
        return rows

    def _city(self) -> list[Numbers]:
        rows = []
        fingerprint = code_fingerprint()
        for (world, policy), series in self._plan.series.items():
            if world == "city":
                bodies = [self._cells[cell.key(fingerprint)] for cell in series.runs[0]]
                days = [np.array(day) for body in bodies for day in body["epochs"]]
                warm = np.concatenate([day[1:] for day in days])
                rows.append({"policy": policy, "days": len(days), **_per_epoch(warm),
                             "cold_ms": float(np.max([day[0, 1] for day in days])),
                             "load": max(body["load"] for body in bodies)})  # fmt: skip
        return rows

    def _manhattan(self, name: str) -> list[Numbers]:
        found = self._hindsight(name)
        profit = self._get(name, "matching_profit")
        rows = []
        for policy in ("nearest", "matching_profit", MATCHING_VALUES):
            played = self._get(name, policy)
            if played is None or profit is None:
                continue
            share = None
            if found is not None and found[1] == "bound":
                nothing = np.zeros(played.days)
                share = as_json(gap_closed(played.kpi("reward"), nothing, found[0]))
            rows.append(
                {
                    "policy": policy,
                    "days": played.days,
                    "seeds": len(played.rewards),
                    "reward": as_json(estimate(played.kpi("reward"))),
                    "share_of_bound_pct": share,
                    "minus_profit": compared(played, profit),
                    "latency": latency(played),
                }
            )
        return rows


def _per_epoch(warm: FloatArray) -> Numbers:
    """Percentiles over the warm epochs ``(K, 2)``, and over those with many bookings open."""
    full = warm[warm[:, 0] >= CITY_OPEN]
    return {
        "epochs": len(warm),
        "p50_ms": float(np.percentile(warm[:, 1], 50)),
        "p99_ms": float(np.percentile(warm[:, 1], 99)),
        "most_open": int(warm[:, 0].max()),
        "full_epochs": len(full),
        "full_p50_ms": float(np.percentile(full[:, 1], 50)) if len(full) else None,
        "full_p99_ms": float(np.percentile(full[:, 1], 99)) if len(full) else None,
    }
