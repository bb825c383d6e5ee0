"""Compare policies on the same days: KPIs with intervals, paired differences, gap closed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.rl.command import (
    command_parser,
    make_folder,
    positive_float,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.evaluation.evaluation import day_book, run_evaluation
from services.rl.evaluation.report import text, write_report
from services.rl.simulation.scenarios import Split, load_scenario

EXAMPLES = """
evaluate.py --scenario geneva --policies random,nearest,cheapest,matching --days 200
evaluate.py --scenario geneva_overload --policies nearest,matching,rolling,hindsight --days 20
evaluate.py --scenario manhattan_11 --data-dir DIR --policies nearest,matching,hindsight
evaluate.py --scenario data/rl/history/demo/replay.yaml --policies nearest,matching
evaluate.py --scenario geneva --policies nearest,matching,dqn_matching --model DIR
evaluate.py --scenario geneva --policies nearest,my_module:MyPolicy --report results/mine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the tables, write what was asked for."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva", help="name or YAML file (default geneva)")
    parser.add_argument(
        "--policies",
        default="random,nearest,cheapest,matching",
        help="comma-separated; hindsight adds the yardstick; module:Class a policy of your own",
    )
    parser.add_argument("--days", type=positive_int, help="default 20; real days: all of the split")
    parser.add_argument(
        "--split", choices=[str(s) for s in Split], default="validation",
        help="which days (default validation; report on test once, at the end)",
    )  # fmt: skip
    parser.add_argument("--first-day", type=int, default=0, help="skip so many days of the split")
    parser.add_argument(
        "--seed", type=seed_number, default=0, help="of policies that draw or search"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR",
        help="what train_dqn.py trained, such as results/NAME/checkpoints/best",
    )  # fmt: skip
    parser.add_argument(
        "--transfer", action="store_true",
        help="admit values (planner, matching_values) fitted on another scenario",
    )  # fmt: skip
    parser.add_argument("--reference", help="policy to compare with (default matching)")
    parser.add_argument("--drivers", type=positive_int, help="another fleet size, demand in ratio")
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.md and plots here")
    parser.add_argument(
        "--budget-ms", type=positive_float, default=200.0, help="of rolling, per epoch"
    )
    parser.add_argument(
        "--hindsight-seconds", type=positive_float, default=10.0, help="clairvoyant search per day"
    )
    parser.add_argument("--jobs", type=positive_int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--no-cache", action="store_true", help="play and solve every day again")
    arguments = parser.parse_args(argv)
    origin = provenance()  # now: the working tree may have moved on when the last day is played
    if arguments.first_day < 0:
        raise UsageError(f"--first-day must be at least 0, got {arguments.first_day}")
    scenario = load_scenario(arguments.scenario).resized(num_drivers=arguments.drivers)
    source = open_source(scenario, arguments.data_dir)
    split = Split(arguments.split)
    for target in (arguments.report, arguments.json and arguments.json.parent):
        make_folder(target)
    policies = [name.strip() for name in arguments.policies.split(",") if name.strip()]
    evaluation = run_evaluation(
        day_book(scenario, source, split, arguments.days, arguments.first_day),
        split,
        policies,
        reference=arguments.reference,
        seed=arguments.seed,
        budget_ms=arguments.budget_ms,
        model=arguments.model,
        transfer=arguments.transfer,
        hindsight_seconds=arguments.hindsight_seconds,
        jobs=arguments.jobs,
        cached=not arguments.no_cache,
        data_dir=arguments.data_dir,
        progress=_bar(arguments.quiet),
    )
    if not arguments.quiet:
        print(text(evaluation))
    if arguments.report is not None:
        files = write_report(evaluation, arguments.report, origin)
        if not arguments.quiet:
            print("Written: " + ", ".join(str(file) for file in files))
    if arguments.json is not None:
        write_json(arguments.json, {**evaluation.to_json(), **origin})
    return 0


def _bar(quiet: bool) -> Callable[[str, int], Callable[[], None]]:
    def begin(label: str, total: int) -> Callable[[], None]:
        steps = iter(progress(range(total), label=label, quiet=quiet, total=total))
        return lambda: next(steps, None)

    return begin


if __name__ == "__main__":
    run(main)
