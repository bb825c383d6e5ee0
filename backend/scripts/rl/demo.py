"""Everything in one run: history, data set, demand model, a trained planner, compared, then served.

Invents 90 days of a company's history in SQLite, collects them into a data set, fits a demand
model, tunes the matcher and fits the planner's values on it, and plays the policies on
the history's validation days, replayed, and on simulated days. Then the planner is exported,
checked, registered and promoted for a demonstration company, which `make demo-serve` shows.
"""

import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from scripts.rl import (
    collect_historical_data,
    demo_serve,
    evaluate,
    generate_history,
    train_dqn,
    tune_matching,
)
from scripts.rl.command import (
    FAILED,
    command_parser,
    positive_int,
    run,
    seed_number,
    write_json,
)
from services.rl import paths
from services.rl.evaluation.paired import Estimate, estimate, paired_difference
from services.rl.simulation.types import FloatArray

EXAMPLES = """
demo.py
demo.py --days 60 --seed 3
"""


JUDGED = 64
"""Validation days on which step 4 says what it achieved; step 6 plays the days after them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps as a user would, and say where the results lie."""
    parser = command_parser((__doc__ or "").splitlines()[0], EXAMPLES)
    parser.add_argument("--days", type=positive_int, default=90, help="days of history")
    parser.add_argument("--seed", type=seed_number, default=0)
    arguments = parser.parse_args(argv)
    begin = time.perf_counter()
    quiet = ["--quiet"] if arguments.quiet else []
    history = paths.data_dir() / "demo_history.sqlite"
    folder = paths.data_dir() / "history" / "demo"
    results = paths.results_dir() / "demo"
    replayed, simulated = results / "replayed_days", results / "simulated_days"
    trained = paths.results_dir() / "demo_planner"
    model = trained / "checkpoints" / "best"
    seed = ["--seed", str(arguments.seed)]
    steps = (
        (
            f"1/7  An invented company's history: {arguments.days} days in SQLite",
            generate_history.main,
            ["--days", str(arguments.days), "--out", str(history), *seed],
        ),
        (
            "2/7  Read it, check every row, keep days, fit the demand",
            collect_historical_data.main,
            ["--days", str(arguments.days), "--database-url", f"sqlite:///{history}",
             "--out", str(folder), "--name", "demo", *seed],
        ),
        (
            "3/7  Tune the matcher on simulated training days; the first run compiles for minutes",
            tune_matching.main,
            ["--scenario", str(folder / "scenario.yaml"), "--generations", "30",
             "--population", "16", "--days", "32", *seed],
        ),
        (
            "4/7  Fit the planner's values on simulated training days: a minute or two",
            train_dqn.main,
            ["--mode", "quick", "--policy", "planner", "--scenario", str(folder / "scenario.yaml"),
             "--name", "demo_planner", *seed],
        ),
        (
            "5/7  Replayed days: policies on the last days of that history",
            evaluate.main,
            ["--scenario", str(folder / "replay.yaml"), "--days", "6",
             "--policies",
             "random,nearest,cheapest,matching,matching_linear,rolling,rolling_search,planner,"
             "hindsight",
             "--model", str(model), "--transfer",  # fitted on the simulated days of this history
             "--budget-ms", "100", "--hindsight-seconds", "4",
             "--report", str(replayed),
             "--json", str(replayed / "evaluation.json"), *seed],
        ),
        (
            "6/7  Simulated days: the same on 200 days drawn from the fitted demand",
            evaluate.main,
            ["--scenario", str(folder / "scenario.yaml"), "--days", "200",
             "--first-day", str(JUDGED),
             "--policies",
             "random,nearest,cheapest,matching,matching_linear,rolling_search,planner",
             "--model", str(model),
             "--report", str(simulated),
             "--json", str(simulated / "evaluation.json"), *seed],
        ),
    )  # fmt: skip
    for title, step, options in steps:
        if not arguments.quiet:
            print(f"\n== {title}", flush=True)
        code = _unprompted(step, [*options, *quiet])
        if code:
            return code
    if not arguments.quiet:
        print("\n== 7/7  Export, check and promote the planner; its company lives up to this day")
    shown = demo_serve.prepare(folder / "scenario.yaml", model, quiet=arguments.quiet)
    if shown is None:
        return FAILED
    spent = time.perf_counter() - begin
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "seconds": spent,
                "history": str(folder),
                "results": str(results),
                "champion": shown["champion"],
                "demonstration": str(demo_serve.demo_folder()),
            },
        )
    if not arguments.quiet:
        print(f"\nDone in {spent:.0f} s. Where the results lie:")
        print(f"  {folder / 'report.md'}  (the history: rows, demand, map, fit)")
        print(f"  {trained / 'eval' / 'validation.json'}  (what the planner's values gain)")
        print(f"  {replayed / 'report.md'}  (policies on replayed days)")
        print(f"  {simulated / 'report.md'}  (policies on simulated days)")
        print(f"\n{conclusion(_read(simulated), _read(replayed))}")
        print(f"\n{invitation(shown)}")
    return 0


def invitation(shown: dict[str, Any]) -> str:
    """How to look at the demonstration company.

    Args:
        shown: What `demo_serve.prepare` made.
    """
    return (
        f"Now look at it: {shown['days']} days with {shown['bookings']} bookings were dispatched, "
        "the planner against the heuristic.\n"
        "  make demo-serve      (PORT=8001 if 8000 is taken); then open in a browser:\n"
        "    dashboard          http://127.0.0.1:8000/dashboard   (log in with the manager's key)\n"
        "    API documentation  http://127.0.0.1:8000/docs\n"
        f"  manager's key: {shown['manager_key']}\n"
        f"  reader's key:  {shown['reader_key']}\n"
        "  They are shown this once. A new one: "
        ".venv/bin/python backend/scripts/rl/demo_serve.py --new-key"
    )


def conclusion(simulated: dict[str, Any], replayed: dict[str, Any]) -> str:
    """What the demonstration found, in a few sentences.

    Args:
        simulated: Document of the evaluation on simulated days.
        replayed: The same of the replayed days.
    """
    rewards = _rewards(simulated)
    ranked = sorted(rewards, key=lambda name: float(rewards[name].mean()), reverse=True)
    winner, second = ranked[0], ranked[1]
    leads = [
        f"{_shown(d := paired_difference(rewards[winner], rewards[name]))} more than {name} "
        f"({_certainty(d)})"
        for name in dict.fromkeys(("matching", "nearest", second))
        if name != winner
    ]
    days, few = len(rewards[winner]), len(next(iter(_rewards(replayed).values())))
    wide = estimate(_rewards(replayed)["matching"]).half_width
    narrow = estimate(rewards["matching"]).half_width
    return (
        f"On {days} simulated days that nothing was fitted on, {winner} earned most, "
        f"{rewards[winner].mean():.1f} a day: {'; '.join(leads)}.\n"
        f"{few} replayed days cannot rank the policies: a mean there is known to ± {wide:.0f}, "
        f"on the simulated days to ± {narrow:.0f}.\n"
        "The company is invented: on your own history the order may differ."
    )


def _rewards(document: dict[str, Any]) -> dict[str, FloatArray]:
    return {p["name"]: np.array(p["per_day"]["reward"]) for p in document["policies"]}


def _shown(difference: Estimate) -> str:
    return f"{difference.mean:.1f} ± {difference.half_width:.1f}"


def _certainty(difference: Estimate) -> str:
    return "certain at 95 %" if difference.excludes_zero else "not certain: it may be 0"


def _read(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return document


def _unprompted(step: Callable[[Sequence[str] | None], int], options: list[str]) -> int:
    """Run a step; training's advice on what to run next would stand in the way here."""
    if step is not train_dqn.main:
        return step(options)
    held = io.StringIO()
    try:
        with redirect_stdout(held):
            return step(options)
    finally:
        for line in held.getvalue().splitlines():
            if not line.startswith("evaluate it: "):
                print(line)


if __name__ == "__main__":
    run(main)
