"""Do the guardrails keep their word? False alarms in A/A weeks, and how soon harm is stopped.

An A/A week has two equal arms: every stop is a false alarm, and their rate must be at most that
of the guardrails (1 % per week), by a one-sided 95 % bound. Then weeks in which the learned arm
doubles the late rate, or trebles the bookings left unserved: hours of service and bookings until
it is stopped. Exits with 1 if a bound is missed.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

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
from services.rl.experiments.config import Guardrails, UnitKind
from services.rl.experiments.simulated_weeks import Demand, Harm, play_week, upper_bound

EXAMPLES = """
check_guardrails.py --weeks 1000 --json results/guardrails.json
check_guardrails.py --weeks 400 --cells 10-drivers-booking,20-companies-company
check_guardrails.py --weeks 20 --harmful 5
"""

SMALL = Demand(1, 25)
COMPANY = Demand(1, 85)
MANY = Demand(20, 85)
OVERLOADED = Demand(20, 130, late_rate=0.2, unserved_rate=0.1)
CITY = Demand(1, 1700, zones=8)

CELLS: dict[str, tuple[Demand, UnitKind]] = {
    "3-drivers-booking": (SMALL, UnitKind.BOOKING),
    "10-drivers-booking": (COMPANY, UnitKind.BOOKING),
    "10-drivers-switchback": (COMPANY, UnitKind.SWITCHBACK),
    "20-companies-booking": (MANY, UnitKind.BOOKING),
    "20-companies-switchback": (MANY, UnitKind.SWITCHBACK),
    "20-companies-company": (MANY, UnitKind.COMPANY),
    "20-overloaded-switchback": (OVERLOADED, UnitKind.SWITCHBACK),
    "city-switchback": (CITY, UnitKind.SWITCHBACK),
}
HARMS = {"late x2": Harm(late=2.0), "unserved x3": Harm(unserved=3.0)}


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print, judge."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "--weeks", type=positive_int, default=1000, help="A/A weeks per cell (default 1000)"
    )
    parser.add_argument(
        "--harmful", type=positive_int, default=40, help="weeks per kind of harm (default 40)"
    )
    parser.add_argument(
        "--cells", default=",".join(CELLS), metavar="A,B", help=f"of {', '.join(CELLS)}"
    )
    parser.add_argument("--seed", type=seed_number, default=0)
    arguments = parser.parse_args(argv)
    names = [name.strip() for name in arguments.cells.split(",") if name.strip()]
    unknown = [name for name in names if name not in CELLS]
    if unknown or not names:
        raise UsageError(f"--cells {arguments.cells!r}: choose among {', '.join(CELLS)}")
    allowed = Guardrails().false_alarm_per_week
    cells = []
    for name in names:
        cell = _cell(name, arguments.weeks, arguments.harmful, arguments.seed, arguments.quiet)
        cells.append(cell)
        if not arguments.quiet:
            print(_line(cell), flush=True)
    missed = [cell["cell"] for cell in cells if cell["upper_bound"] > allowed]
    if arguments.json is not None:
        write_json(arguments.json, {"allowed": allowed, "cells": cells, **provenance()})
    if not arguments.quiet:
        words = f"MISSED by {', '.join(missed)}" if missed else "kept by every cell"
        print(f"At most {allowed:.1%} false alarms per A/A week: {words}")
    return 1 if missed else 0


def _cell(name: str, weeks: int, harmful: int, seed: int, quiet: bool) -> dict[str, Any]:
    demand, unit = CELLS[name]
    begun = time.perf_counter()
    alarms = []
    for week in progress(range(weeks), label=name, quiet=quiet, total=weeks):
        result = play_week(demand, unit, seed * 1_000_003 + week)
        if result.breach is not None:
            alarms.append(result.breach.metric)
    return {
        "cell": name,
        "weeks": weeks,
        "false_alarms": len(alarms),
        "by_metric": {metric: alarms.count(metric) for metric in sorted(set(alarms))},
        "upper_bound": upper_bound(len(alarms), weeks),
        "power": {kind: _power(demand, unit, harm, harmful, seed) for kind, harm in HARMS.items()},
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _power(demand: Demand, unit: UnitKind, harm: Harm, weeks: int, seed: int) -> dict[str, Any]:
    """Share stopped within two weeks, and when (None: less than that share was stopped)."""
    hours, bookings = [], []
    for week in range(weeks):
        result = play_week(demand, unit, seed * 1_000_003 + 500_000 + week, harm=harm, days=14)
        stopped = result.breach is not None
        hours.append(result.service_h if stopped else np.inf)
        bookings.append(float(result.bookings) if stopped else np.inf)

    def at(values: list[float], percent: float) -> float | None:
        value = float(np.percentile(values, percent, method="inverted_cdf"))
        return round(value, 1) if np.isfinite(value) else None

    return {
        "weeks": weeks,
        "stopped": float(np.isfinite(hours).mean()),
        "service_h_p50": at(hours, 50),
        "service_h_p90": at(hours, 90),
        "bookings_p50": at(bookings, 50),
        "bookings_p90": at(bookings, 90),
    }


def _line(cell: dict[str, Any]) -> str:
    words = [
        f"{cell['cell']:26s} {cell['false_alarms']}/{cell['weeks']} false alarms "
        f"(upper bound {cell['upper_bound']:.2%})"
    ]
    for kind, power in cell["power"].items():
        when = f"half within {power['service_h_p50']} h, {power['bookings_p50']} bookings"
        if power["service_h_p50"] is None:
            when = "half: not within two weeks"
        words.append(f"{kind}: {power['stopped']:.0%} stopped, {when}")
    return "; ".join(words)


if __name__ == "__main__":
    run(main)
