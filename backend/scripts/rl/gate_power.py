"""How often does the gate err? False NO-GOs of equals and of better ones, false GOs of worse ones.

A planner plays many days twice with different seeds of its search (equal in truth, different in
every decision that matters) and once with fewer moves (worse in truth). Gates of D days are then
drawn from these days. Equals: on each day a coin says which of the two runs is the candidate's.
Worse (better) by x %: the candidate's (the champion's) day is replaced by the heuristic's, which
is worse by all measures, with the probability that makes the mean reward x % less; in a last row by
the weaker planner's, which leaves more patients and is late less often. Judged are the lines
against champion and heuristic; those of worse worlds are insurance, far from their margins here.
"""

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from scripts.rl.command import (
    command_parser,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl.errors import UsageError
from services.rl.evaluation.gate import DAYS
from services.rl.evaluation.gate_days import MOST_DAYS, fresh_days
from services.rl.evaluation.gate_lines import FAIL, GateLimits, comparison
from services.rl.evaluation.gate_play import TALLY, Played, play_days
from services.rl.policies.planner import SearchPolicy
from services.rl.policies.planner_values import planner_values
from services.rl.policies.registry import make_policy
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.types import FloatArray, IntArray

EXAMPLES = """
gate_power.py --scenario geneva --played results/gate_power_geneva.npz
gate_power.py --scenario geneva --days 100,200,400 --gates 4000 --json power.json
gate_power.py --pool 100 --gates 50 --days 50
"""

WEAK_MOVES = 600
FIRST_DAY = date(2026, 1, 1)
PLAYS = ("matching", "first", "second", "weak")

CELLS = (
    (0.0, "matching"),
    (1.0, "matching"),
    (-1.0, "matching"),
    (-2.0, "matching"),
    (-2.0, "weak"),
)
"""Gain of the candidate in percent of reward, and who makes the difference."""

Sums = dict[str, FloatArray]


def main(argv: Sequence[str] | None = None) -> int:
    """Play (or read) the pool of days, draw gates from it, print rates."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva")
    parser.add_argument("--pool", type=positive_int, default=1000, help="days played (1000)")
    parser.add_argument("--played", type=Path, metavar="NPZ", help="read from, or kept in")
    parser.add_argument("--days", default=f"{DAYS // 4},{DAYS // 2},{DAYS}", metavar="D,D")
    parser.add_argument("--gates", type=positive_int, default=2000, help="per cell (2000)")
    parser.add_argument("--seed", type=seed_number, default=0)
    arguments = parser.parse_args(argv)
    try:
        counts = [positive_int(text) for text in arguments.days.split(",")]
    except ArgumentTypeError as error:
        raise UsageError(f"--days {arguments.days!r} is no list of numbers") from error
    sums = _pool(load_scenario(arguments.scenario), arguments.pool, arguments.played)
    cells = []
    for count in counts:
        for gain_pct, by in CELLS:
            cell = _cell(sums, by, gain_pct, count, arguments.gates, arguments.seed,
                         arguments.quiet)  # fmt: skip
            cells.append(cell)
            if not arguments.quiet:
                print(_words(cell), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"scenario": arguments.scenario, "pool": len(sums["first"]),
                                    "cells": cells, **provenance()})  # fmt: skip
    return 0


def _pool(scenario: Scenario, count: int, kept: Path | None) -> Sums:
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            if "columns" not in stored or tuple(stored["columns"].tolist()) != TALLY:
                raise UsageError(f"--played {kept} is of other columns: delete it")
            return {name: stored[name] for name in PLAYS}
    dates = [FIRST_DAY + timedelta(days=k) for k in range(-(-count // MOST_DAYS))]
    days = [
        day
        for k, on in enumerate(dates)
        for day in fresh_days(scenario, on, min(MOST_DAYS, count - k * MOST_DAYS))
    ]
    values, _, _ = planner_values(scenario)
    policies: dict[str, Any] = {
        "matching": make_policy("matching", scenario),
        "first": SearchPolicy("planner", scenario, values=values, seed=0),
        "second": SearchPolicy("planner", scenario, values=values, seed=1),
        "weak": SearchPolicy("planner", scenario, values=values, seed=2, moves=WEAK_MOVES),
    }
    threads = max(1, os.cpu_count() or 1)
    sums = {
        name: play_days(policy, scenario, days, threads=threads).sums
        for name, policy in policies.items()
    }
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(kept.name + ".partial.npz")
        np.savez_compressed(partial, columns=np.array(TALLY), **sums)  # type: ignore[arg-type]
        partial.replace(kept)
    return sums


def _cell(
    sums: Sums, by: str, gain_pct: float, days: int, gates: int, seed: int, quiet: bool
) -> dict[str, Any]:
    rng = np.random.default_rng([seed, days, int(gain_pct * 100) + 1000])
    share = _share(sums, by, gain_pct)
    stopped: dict[str, int] = {}
    go = 0
    label = f"{gain_pct:+g} % ({by}) on {days} days"
    for _ in progress(range(gates), label=label, quiet=quiet, total=gates):
        failed = _gate(sums, by, gain_pct, share, rng.integers(len(sums["first"]), size=days), rng)
        go += not failed
        for line in failed:
            stopped[line] = stopped.get(line, 0) + 1
    low, high = stats.binomtest(go, gates).proportion_ci(method="wilson")
    return {
        "weaker": by if gain_pct else "",
        "gain_pct": gain_pct,
        "days": days,
        "gates": gates,
        "go": go / gates,
        "ci95": [float(low), float(high)],
        "stopped_by": {k: v / gates for k, v in sorted(stopped.items(), key=lambda i: -i[1])},
    }


def _share(sums: Sums, by: str, gain_pct: float) -> float:
    """Share of days of the weaker policy that costs so much reward."""
    best = float((sums["first"][:, 0].mean() + sums["second"][:, 0].mean()) / 2.0)
    lost = best - float(sums[by][:, 0].mean())
    share = abs(gain_pct) / 100.0 * best / lost
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"{by!r} is only {100 * lost / best:.1f} % worse")
    return share


def _gate(
    sums: Sums, by: str, gain_pct: float, share: float, rows: IntArray, rng: np.random.Generator
) -> list[str]:
    """Names of failed lines of one gate on the given days of the pool."""
    swap = (rng.random(len(rows)) < 0.5)[:, None]
    first, second = sums["first"][rows], sums["second"][rows]
    candidate, champion = np.where(swap, second, first), np.where(swap, first, second)
    weaker: npt.NDArray[np.bool_] = (rng.random(len(rows)) < share)[:, None]
    if gain_pct > 0.0:
        champion = np.where(weaker, sums[by][rows], champion)
    elif gain_pct < 0.0:
        candidate = np.where(weaker, sums[by][rows], candidate)
    a, limits = Played("candidate", candidate), GateLimits()
    lines = comparison("champion", a, Played("champion", champion), limits)
    lines += comparison("heuristic", a, Played("matching", sums["matching"][rows]), limits)
    return [line.name for line in lines if line.verdict == FAIL]


def _words(cell: dict[str, Any]) -> str:
    by = ", ".join(f"{name} {share:.1%}" for name, share in list(cell["stopped_by"].items())[:3])
    return (
        f"{cell['days']:4d} days, candidate {cell['gain_pct']:+g} % reward {cell['weaker']:8s}: "
        f"GO {cell['go']:.1%} ({cell['ci95'][0]:.1%} to {cell['ci95'][1]:.1%})"
        + (f"; stopped by {by}" if by else "")
    )


if __name__ == "__main__":
    run(main)
