"""A bad model past the gate: how soon do the guardrails stop it, and what did it cost until then?

Companies live a day in a database, half of their time decided by a planted bad model that a person
promoted by hand; guardrails are looked at as in production, at every epoch. The same day is also
lived without the model, so that harm is a difference. Exits with 1 if it was not stopped within
half of the operating day.
"""

import logging
import tempfile
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from extensions import Database
from models import Base, Experiment
from scripts.rl.command import (
    command_parser,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from scripts.rl.live_days import OneChampion
from services.dispatching.demo_company import DemoCompany
from services.dispatching.experiments import DISPATCH
from services.dispatching.operating_day import OperatingDay, day_of
from services.dispatching.outcomes import read_outcomes
from services.dispatching.watch import Watches
from services.rl.errors import UsageError
from services.rl.evaluation.planted import PLANTED, planted_bundle
from services.rl.experiments.guardrails import Breach
from services.rl.serving.bundle import KINDS, PLANNER, Bundle, write_bundle
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
slip_past.py --plant far
slip_past.py --plant shuffled --scenario geneva_overload --companies 20 --seed 5000000
slip_past.py --plant none --companies 20          # the model as it is: is it stopped, too?
"""
ZONE = ZoneInfo("Europe/Zurich")
DAY = date(2026, 5, 4)


def live(
    scenario: Scenario,
    bundle: Bundle | None,
    companies: int,
    seed: int,
    until_min: float,
    *,
    block_min: int,
    quiet: bool,
) -> tuple[Breach | None, dict[str, float], OperatingDay]:
    """Live a day with all companies until a minute, or until the learned arm is stopped.

    Returns:
        The breach; what became of the bookings promised until then; the day.
    """
    day = day_of(DAY, scenario.rules, ZONE)
    with tempfile.TemporaryDirectory() as scratch:
        database = Database(f"sqlite:///{Path(scratch) / 'companies.sqlite'}")
        Base.metadata.create_all(database.engine)
        if bundle is not None:
            with database.writing() as session:
                session.add(
                    Experiment(
                        company_id=None, name=DISPATCH, mode="ab", unit="switchback",
                        salt=str(seed), rl_share=0.5, block_min=block_min, epsilon=0.0,
                        guardrails={}, created_at=day.start, updated_at=day.start,
                    )
                )  # fmt: skip
        crowd = [
            DemoCompany(
                database, scenario, ZONE, None if bundle is None else OneChampion(bundle),
                company_id=1 + n, first_id=1 + 10_000 * n, seed=seed + 1_000 * n,
            )
            for n in range(companies)
        ]  # fmt: skip
        ids = [company.company_id for company in crowd]
        for company in crowd:
            company.live(DAY, day.start)
        watches, breach = Watches(database, scenario.rules), None
        now = day.start
        for _ in progress(
            range(int(until_min / scenario.rules.epoch_min)), label="epochs", quiet=quiet
        ):
            now += timedelta(minutes=scenario.rules.epoch_min)
            for company in crowd:
                company.go_on(now)
            if bundle is not None:
                breach = next(iter(watches.look(ids, now).values()), None)
                if breach is not None:
                    break
        figures = _figures(database, ids, day, now, scenario)
        database.dispose()
    return breach, figures, day


def _figures(
    database: Database, ids: Sequence[int], day: OperatingDay, now: datetime, scenario: Scenario
) -> dict[str, float]:
    """Bookings promised so long ago that their fate is known, of all companies."""
    rules = scenario.rules
    known = now - timedelta(minutes=rules.window_min + rules.grace_min)
    total: dict[str, float] = {"due": 0, "on_time": 0, "late": 0, "unserved": 0, "by_learned": 0}
    with database.reading() as session:
        for company_id in ids:
            begin = day.start - timedelta(hours=1)
            found = read_outcomes(session, company_id, begin, known, now, rules)
            for row in found.rows:
                if row.fate in total:
                    total["due"] += 1
                    total[row.fate] += 1
                    total["by_learned"] += row.arm == "rl"
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Plant, live, tell."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva_overload")
    parser.add_argument("--plant", choices=(*PLANTED, "none"), required=True)
    parser.add_argument("--kind", choices=KINDS, default=PLANNER, help="of the spoilt model")
    parser.add_argument("--model", type=Path, help="its folder; default: filed values")
    parser.add_argument("--companies", type=positive_int, default=20)
    parser.add_argument("--block-min", type=positive_int, default=30)
    parser.add_argument("--seed", type=seed_number, default=5_000_000)
    arguments = parser.parse_args(argv)
    if 1440 % arguments.block_min:
        raise UsageError(f"--block-min {arguments.block_min} does not divide a day")
    logging.getLogger().setLevel(logging.ERROR)  # overdue patients of a bad model, by the thousand
    scenario = load_scenario(arguments.scenario)
    half = scenario.rules.horizon_min / 2
    with tempfile.TemporaryDirectory() as scratch:
        good = write_bundle(Path(scratch) / "good", arguments.kind, scenario, model=arguments.model)
        bundle = good
        if arguments.plant != "none":
            bundle = planted_bundle(arguments.plant, good, Path(scratch) / "bad")
        many, seed, block = arguments.companies, arguments.seed, arguments.block_min
        breach, with_it, day = live(
            scenario, bundle, many, seed, scenario.rules.horizon_min, block_min=block,
            quiet=arguments.quiet,
        )  # fmt: skip
        at = scenario.rules.horizon_min if breach is None else day.minute(breach.at)
        _, without, _ = live(
            scenario, None, many, seed, at, block_min=block, quiet=arguments.quiet
        )  # fmt: skip
    stopped = breach is not None
    result = {
        "provenance": provenance(),
        "plant": arguments.plant,
        "companies": many,
        "stopped_after_min": at if stopped else None,
        "guardrail": None if breach is None else breach.metric,
        "why": None if breach is None else breach.words,
        "half_day_min": half,
        "with_model": with_it,
        "heuristic_alone": without,
    }
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not arguments.quiet:
        told = f"stopped after {at:.0f} min: {breach.words}" if breach else "not stopped"
        print(f"{arguments.plant}: {told}")
        for name, found in (("with the model", with_it), ("heuristic alone", without)):
            bad = found["late"] + found["unserved"]
            print(
                f"  {name}: {found['due']:.0f} due, {found['on_time']:.0f} on time, "
                f"{found['late']:.0f} late, {found['unserved']:.0f} unserved "
                f"({bad / max(1.0, found['due']):.1%} not on time)"
            )
    good_end = not stopped if arguments.plant == "none" else stopped and at <= half
    return 0 if good_end else 1


if __name__ == "__main__":
    run(main)
