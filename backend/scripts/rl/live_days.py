"""Live days as production does, where no patient is written off: what the simulator cannot show.

The simulator loses a booking whose grace has run out; a real patient goes on waiting, and the
backlog makes others late. Here the real dispatcher lives whole days tick by tick in a database,
once with the tuned heuristic and once with the learned policy, on the same bookings and the same
streets; nobody gives up, and what is left at night is driven the next day. Waits count from the
promised time, up to four hours; who was never fetched counts as four hours.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import select

from extensions import Database
from models import Assignment, Base, Booking
from scripts.rl.command import (
    command_parser,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.dispatching.demo_company import DemoCompany
from services.dispatching.operating_day import day_of
from services.rl.errors import UsageError
from services.rl.evaluation.paired import paired_difference
from services.rl.serving.bundle import MATCHING, NETWORK, PLANNER, Bundle, write_bundle
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
live_days.py --days 10
live_days.py --scenario geneva_overload --days 3 --first 2026-03-02
live_days.py --model results/network/checkpoints/best --kind dqn_matching
"""

ZONE: Final = ZoneInfo("Europe/Zurich")
MOST_MIN: Final = 240.0
URGENT: Final = 4
COLUMNS: Final = {
    "bookings": "bookings",
    "never_pct": "never fetched %",
    "wait_mean_min": "wait mean min",
    "within_15_pct": "<= 15 min %",
    "over_30_pct": "> 30 min %",
    "over_60_pct": "> 60 min %",
    "urgent_over_30_pct": "urgent > 30 min %",
}


@dataclass(frozen=True)
class OneChampion:
    """A registry of one version, every company's champion."""

    bundle: Bundle

    def alias(self, company: int | None, name: Any) -> str | None:  # noqa: ARG002 - the protocol's
        """That version."""
        return self.bundle.version

    def get(self, version: str) -> Bundle:  # noqa: ARG002 - the protocol's
        """Its bundle."""
        return self.bundle


def live(
    scenario: Scenario, bundle: Bundle | None, dates: Sequence[date], seed: int, quiet: bool
) -> list[dict[str, float]]:
    """Figures of each day, lived one after another by one arm.

    Args:
        scenario: The world.
        bundle: Of the learned arm; None: the tuned heuristic decides.
        dates: One after another.
        seed: Of days and streets.
        quiet: No progress bar.
    """
    with tempfile.TemporaryDirectory() as scratch:
        database = Database(f"sqlite:///{Path(scratch) / 'days.sqlite'}")
        Base.metadata.create_all(database.engine)
        company = DemoCompany(
            database, scenario, ZONE, None if bundle is None else OneChampion(bundle),
            seed=seed, given_up_after=None,
        )  # fmt: skip
        if bundle is not None:
            first = day_of(dates[0], scenario.rules, ZONE).start
            company.open_experiment(first, mode="ab", unit="booking", rl_share=1.0)
        name = "heuristic" if bundle is None else bundle.manifest.kind
        for local in progress(dates, label=name, quiet=quiet, total=len(dates)):
            company.live(local, day_of(local, scenario.rules, ZONE).start + timedelta(days=1))
        try:
            return [_figures(database, scenario, local) for local in dates]
        finally:
            database.dispose()


def _figures(database: Database, scenario: Scenario, local: date) -> dict[str, float]:
    begin = day_of(local, scenario.rules, ZONE).start
    with database.reading() as session:
        bookings = session.scalars(
            select(Booking).where(
                Booking.scheduled_time >= begin,
                Booking.scheduled_time < begin + timedelta(days=1),
                Booking.status != "NO_SHOW",
            )
        ).all()
        fetched = {
            row.booking_id: row.actual_pickup_at
            for row in session.scalars(
                select(Assignment).where(Assignment.actual_pickup_at.is_not(None))
            )
        }
    waits = np.array(
        [
            min(MOST_MIN, (fetched[b.id] - b.scheduled_time).total_seconds() / 60.0)
            if b.id in fetched
            else MOST_MIN
            for b in bookings
        ]
    )
    urgent = np.array([b.priority >= URGENT for b in bookings])
    return {
        "bookings": float(len(bookings)),
        "never_pct": 100.0 * float(np.mean([b.id not in fetched for b in bookings])),
        "wait_mean_min": float(waits.mean()),
        "within_15_pct": 100.0 * float(np.mean(waits <= 15.0)),
        "over_30_pct": 100.0 * float(np.mean(waits > 30.0)),
        "over_60_pct": 100.0 * float(np.mean(waits > 60.0)),
        "urgent_over_30_pct": 100.0 * float(np.mean(waits[urgent] > 30.0)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva")
    parser.add_argument("--kind", choices=(PLANNER, NETWORK, MATCHING), default=PLANNER)
    parser.add_argument("--model", type=Path, help="of the learned arm; default: filed values")
    parser.add_argument("--days", type=positive_int, default=10)
    parser.add_argument("--first", default="2026-05-04", metavar="YYYY-MM-DD")
    parser.add_argument("--seed", type=seed_number, default=1_000_000)
    arguments = parser.parse_args(argv)
    try:
        first = date.fromisoformat(arguments.first)
    except ValueError:
        raise UsageError(f"--first {arguments.first!r} is no date such as 2026-05-04") from None
    if arguments.days < 2:
        raise UsageError("--days must be at least 2: intervals need two days")
    scenario = load_scenario(arguments.scenario)
    dates = [first + timedelta(days=n) for n in range(arguments.days)]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(
            Path(scratch) / "bundle", arguments.kind, scenario, model=arguments.model
        )
        arms = {
            "heuristic": live(scenario, None, dates, arguments.seed, arguments.quiet),
            arguments.kind: live(scenario, bundle, dates, arguments.seed, arguments.quiet),
        }
    table = _table(arms)
    if not arguments.quiet:
        print(table)
    if arguments.json is not None:
        write_json(arguments.json, {"provenance": provenance(), "arms": arms, "table": table})
    return 0


def _table(arms: dict[str, list[dict[str, float]]]) -> str:
    """Means over days, and the paired difference with its 95 % interval."""
    columns = {
        arm: {n: np.array([d[n] for d in days]) for n in COLUMNS} for arm, days in arms.items()
    }
    lines = [
        "| arm | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for arm, found in columns.items():
        lines.append(f"| {arm} | " + " | ".join(f"{v.mean():.1f}" for v in found.values()) + " |")
    heuristic, learned = columns.values()
    cells = []
    for name in COLUMNS:
        by = paired_difference(learned[name], heuristic[name])
        cells.append(f"{by.mean:+.1f} ± {by.half_width:.1f}")
    lines.append("| difference | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
