"""Everything in one run: history, data set, demand model, a trained network, policies compared.

Invents 90 days of a company's history in SQLite, collects them into a data set, fits a demand
model, tunes the matcher and trains the pair network on it, and plays the policies on the history's
validation days and on simulated days.
"""

import time
from collections.abc import Sequence

from scripts.rl import (
    collect_historical_data,
    evaluate,
    generate_history,
    train_dqn,
    tune_matching,
)
from scripts.rl.command import command_parser, positive_int, run, seed_number, write_json
from services.rl import paths

EXAMPLES = """
demo.py
demo.py --days 60 --seed 3
"""


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
    trained = paths.results_dir() / "demo_dqn"
    model = trained / "checkpoints" / "best"
    seed = ["--seed", str(arguments.seed)]
    steps = (
        (
            f"1/6  A company's history: {arguments.days} days in SQLite",
            generate_history.main,
            ["--days", str(arguments.days), "--out", str(history), *seed],
        ),
        (
            "2/6  Read it, check every row, keep days, fit the demand",
            collect_historical_data.main,
            ["--days", str(arguments.days), "--database-url", f"sqlite:///{history}",
             "--out", str(folder), "--name", "demo", *seed],
        ),
        (
            "3/6  Tune the matcher on simulated training days (the first run compiles)",
            tune_matching.main,
            ["--scenario", str(folder / "scenario.yaml"), "--generations", "30",
             "--population", "16", "--days", "32", *seed],
        ),
        (
            "4/6  Train the pair network on simulated training days, a minute",
            train_dqn.main,
            ["--mode", "quick", "--scenario", str(folder / "scenario.yaml"), "--name", "demo_dqn",
             "--timesteps", "32000", *seed],
        ),
        (
            "5/6  Real days: policies on the history's validation days",
            evaluate.main,
            ["--scenario", str(folder / "replay.yaml"), "--days", "6",
             "--policies",
             "random,nearest,cheapest,matching,matching_linear,rolling,dqn_matching,hindsight",
             "--model", str(model),
             "--budget-ms", "100", "--hindsight-seconds", "4",
             "--report", str(results / "real_days"),
             "--json", str(results / "real_days" / "evaluation.json"), *seed],
        ),
        (
            "6/6  Simulated days: the same on 200 days drawn from the fitted demand",
            evaluate.main,
            ["--scenario", str(folder / "scenario.yaml"), "--days", "200",
             "--policies", "random,nearest,cheapest,matching,matching_linear,dqn,dqn_matching",
             "--model", str(model),
             "--report", str(results / "simulated_days"),
             "--json", str(results / "simulated_days" / "evaluation.json"), *seed],
        ),
    )  # fmt: skip
    for title, step, options in steps:
        if not arguments.quiet:
            print(f"\n== {title}", flush=True)
        code = step([*options, *quiet])
        if code:
            return code
    spent = time.perf_counter() - begin
    if arguments.json is not None:
        write_json(
            arguments.json,
            {"seconds": spent, "history": str(folder), "results": str(results)},
        )
    if not arguments.quiet:
        print(f"\nDone in {spent:.0f} s. Where the results lie:")
        print(f"  {folder / 'report.md'}  (the history: rows, demand, map, fit)")
        print(f"  {trained / 'learning_curve.png'}  (what the network learned)")
        print(f"  {results / 'real_days' / 'report.md'}  (policies on real days)")
        print(f"  {results / 'simulated_days' / 'report.md'}  (policies on simulated days)")
    return 0


if __name__ == "__main__":
    run(main)
