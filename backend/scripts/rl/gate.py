"""Judge a candidate before it comes near patients: GO or NO-GO, line by line.

Candidate, champion and the tuned heuristic play the same fresh days (new ones for every date), and
the last real days where a data set is given. Exit code 1: NO-GO.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from clock import SystemClock
from config import Config
from scripts.rl.command import (
    FAILED,
    SUCCESS,
    command_parser,
    make_folder,
    positive_int,
    provenance,
    run,
    write_json,
)
from services.model_registry import open_registry
from services.rl import paths
from services.rl.data.dataset import HistoryDays
from services.rl.errors import UsageError
from services.rl.evaluation.gate import DAYS, STRESS_DAYS, GateReport, limits_of, run_gate
from services.rl.evaluation.gate_lines import FAIL, Line
from services.rl.evaluation.gate_report import REPORT_MARKDOWN
from services.rl.serving.bundle import MANIFEST, Bundle, read_bundle
from services.rl.serving.registry import CANDIDATE, CHAMPION, Registry
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.types import Day

EXAMPLES = """
gate.py                                  # the registered candidate against the champion
gate.py 4bcc0b7efdd9 --report results/gate
gate.py models/new --champion models/old --date 2026-03-02
gate.py models/new --dataset data/rl/history/demo --real-days 14
gate.py models/new --days 800 --limit reward_pct=0.5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, write the report, say what was found."""
    arguments = _arguments(argv)
    make_folder(arguments.report)
    limits = limits_of(dict(arguments.limit))
    with ExitStack() as stack:
        candidate, champion = _bundles(arguments, stack)
        scenario = (
            candidate.scenario if arguments.scenario is None else load_scenario(arguments.scenario)
        )
        report = run_gate(
            candidate,
            champion,
            scenario,
            on=arguments.date or _today(scenario),
            days=arguments.days,
            stress_days=arguments.stress_days,
            real_days=_real_days(arguments.dataset, arguments.real_days, scenario),
            limits=limits,
            threads=arguments.threads,
            say=(lambda _: None) if arguments.quiet else (lambda text: print(text, flush=True)),
        )
        if arguments.report is not None:
            report.write(arguments.report)
    if arguments.json is not None:
        write_json(arguments.json, {**report.to_json(), **provenance()})
    if not arguments.quiet:
        _show(report, arguments.report)
    return SUCCESS if report.go else FAILED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "candidate", nargs="?", help="bundle folder or registered version (default: the candidate)"
    )
    parser.add_argument(
        "--champion", help="the same (default: the registered champion; 'none': the heuristic)"
    )
    parser.add_argument("--scenario", help="served world (default: the candidate's)")
    parser.add_argument("--date", type=_date, help="draws the fresh days (default: today)")
    parser.add_argument("--days", type=positive_int, default=DAYS, help=f"default {DAYS}")
    parser.add_argument(
        "--stress-days", type=positive_int, default=STRESS_DAYS,
        help=f"days in each worse world (default {STRESS_DAYS})",
    )  # fmt: skip
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="history with real days")
    parser.add_argument(
        "--real-days", type=positive_int, default=14, help="how many of its last days (default 14)"
    )
    parser.add_argument(
        "--limit", type=_limit, action="append", default=[], metavar="NAME=X",
        help="another limit (see GateLimits)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report and figures")
    parser.add_argument(
        "--threads", type=positive_int, default=max(1, os.cpu_count() or 1),
        help="batches of days played at once (default: one per processor)",
    )  # fmt: skip
    parser.add_argument("--registry", type=Path, help="home of another registry (files + SQLite)")
    return parser.parse_args(argv)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date (YYYY-MM-DD)") from error


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER") from error


def _today(scenario: Scenario) -> date:
    now: datetime = SystemClock().now()
    return now.astimezone(ZoneInfo(scenario.place.timezone)).date()


def _bundles(arguments: argparse.Namespace, stack: ExitStack) -> tuple[Bundle, Bundle | None]:
    """The registry is opened only where something is asked of it."""
    opened: list[Registry] = []

    def registry() -> Registry:
        if not opened:
            home: Path | None = arguments.registry
            config = Config.from_environment()
            if home is not None:
                home = home.resolve()
                config = Config.from_environment(
                    ATMR_DATABASE_URL=f"sqlite:///{home / 'atmr.sqlite'}"
                )
            opened.append(stack.enter_context(open_registry(config, home=home)))
        return opened[0]

    def bundle(name: str) -> Bundle:
        if (Path(name) / MANIFEST).is_file():
            return read_bundle(Path(name))
        if (paths.home() / name / MANIFEST).is_file():
            return read_bundle(paths.home() / name)
        return registry().get(name)

    asked: str | None = arguments.candidate
    if asked is None:
        asked = registry().alias(None, CANDIDATE)
        if asked is None:
            raise UsageError("no candidate is registered: name a bundle folder or a version")
    candidate = bundle(asked)
    if arguments.champion == "none":
        return candidate, None
    named = arguments.champion
    if named is None:
        named = registry().alias(None, CHAMPION)
    return candidate, None if named is None else bundle(named)


def _real_days(folder: Path | None, count: int, scenario: Scenario) -> list[Day]:
    if folder is None:
        return []
    history = HistoryDays.open(folder)
    rules = scenario.rules
    if (history.day_start, history.horizon_min) != (rules.day_start, rules.horizon_min):
        raise UsageError(
            f"{folder}: its days begin at {history.day_start} and last {history.horizon_min:g} "
            f"min, those of scenario {scenario.name!r} at {rules.day_start} and "
            f"{rules.horizon_min:g} min"
        )
    return [history.day(label) for label in history.dates[-count:]]


def _show(report: GateReport, folder: Path | None) -> None:
    for line in report.lines:
        print(_words(line))
    for note in report.notes:
        print(f"({note})")
    if folder is not None:
        print(f"report: {folder / REPORT_MARKDOWN}")
    print(f"{'GO' if report.go else 'NO-GO'} in {report.seconds:.0f} s")
    for line in report.failed:
        print(f"  {line.name}: {line.advice}")


def _words(line: Line) -> str:
    value = "" if line.value is None else f"{line.value:+.2f} {line.unit}"
    interval = ""
    if line.low is not None and line.high is not None:
        interval = f"({line.low:+.2f} to {line.high:+.2f})"
    threshold = "" if line.threshold is None else f"asked {line.threshold:+.2f}"
    verdict = line.verdict.upper() if line.verdict == FAIL else line.verdict
    return f"{verdict:14s}{line.name:34s}{value:>22s} {interval:20s} {threshold}".rstrip()


if __name__ == "__main__":
    run(main)
