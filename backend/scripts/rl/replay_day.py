"""One day under two policies, side by side: where they part, why, and what it is worth.

Writes replay.md, decisions.csv (every parting with its reason), the reward over the day, maps at
the moments where the two differ most, and a film if asked for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.rl.command import (
    command_parser,
    make_folder,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import DataError, UsageError
from services.rl.evaluation.day_comparison import compare_day
from services.rl.evaluation.day_report import summary, to_json, write_replay
from services.rl.evaluation.runner import DayBook
from services.rl.policies.base import Policy
from services.rl.policies.registry import make_policy
from services.rl.simulation.day_choice import whole_seed
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario, Split, load_scenario

EXAMPLES = """
replay_day.py --scenario geneva_overload --day 1000000 --policies matching,planner
replay_day.py --scenario geneva --day 1000003 --policies matching,rolling_search@1500 --gif
replay_day.py --scenario geneva --day 1000003 --policies matching,dqn_matching --model DIR
replay_day.py --scenario mine/replay.yaml --day 2026-03-02 --policies nearest,matching
replay_day.py --scenario manhattan_11 --data-dir DIR --day 2015-11-02 --policies nearest,matching
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Play the day twice, compare, write."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva_overload", help="name or YAML file")
    parser.add_argument(
        "--day", default="1000000",
        help="a seed, or the label of a real day (default 1000000, the first validation day)",
    )  # fmt: skip
    parser.add_argument(
        "--policies", default="matching,planner", metavar="A,B", help="two names, or module:Class"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="trained network or fitted values"
    )
    parser.add_argument(
        "--transfer", action="store_true", help="admit values fitted on another scenario"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default results/replay")
    parser.add_argument("--gif", action="store_true", help="also a film of the whole day")
    parser.add_argument("--moments", type=positive_int, default=4, help="maps drawn (default 4)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of policies that search")
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    arguments = parser.parse_args(argv)
    origin = provenance()
    out = arguments.out if arguments.out is not None else paths.results_dir() / "replay"
    names = [name.strip() for name in arguments.policies.split(",") if name.strip()]
    if len(names) != 2:
        raise UsageError(f"--policies takes two names, got {arguments.policies!r}")
    if "hindsight" in names:
        raise UsageError("hindsight is a yardstick that decides nothing: name two policies")
    scenario = load_scenario(arguments.scenario)
    source = open_source(scenario, arguments.data_dir)
    book = _one_day(scenario, source, arguments.day)
    one, other = (
        make_policy(
            name, scenario, source=source, seed=arguments.seed, model=arguments.model,
            transfer=arguments.transfer,
        )
        for name in names
    )  # fmt: skip
    pair: tuple[Policy, Policy] = (one, other)
    if one.name == other.name:
        raise UsageError(f"{names[0]} and {names[1]} are the same policy in this scenario")
    for target in (out, arguments.json and arguments.json.parent):
        make_folder(target)
    comparison = compare_day(book, pair, seed=arguments.seed)
    files = write_replay(
        comparison,
        book,
        out,
        origin,
        moments=arguments.moments,
        film=arguments.gif,
        tick=_film_bar(len(comparison.a.epochs), arguments.quiet) if arguments.gif else None,
    )
    if arguments.json is not None:
        write_json(arguments.json, {**to_json(comparison), **origin})
    if not arguments.quiet:
        print(summary(comparison).replace("**", ""))
        print("Written: " + ", ".join(str(file) for file in files))
    return 0


def _one_day(scenario: Scenario, source: DaySource | None, day: str) -> DayBook:
    """The day of a seed or label.

    Raises:
        UsageError: If there is no such day.
    """
    if source is None:
        seed = whole_seed(int(day) if day.isdecimal() else day)
        return DayBook(scenario, (f"seed {seed}",), seeds=(seed,))
    labels = _labels(source)
    if day not in labels:
        raise UsageError(
            f"{scenario.name} has no day {day!r}: they run from {labels[0]} to {labels[-1]}"
        )
    return DayBook(scenario, (day,), days=(source.day(day),), source=source)


def _film_bar(frames: int, quiet: bool) -> Callable[[], None]:
    steps = iter(progress(range(frames), label="film", quiet=quiet, total=frames))

    def tick() -> None:
        next(steps, None)

    return tick


def _labels(source: DaySource) -> list[str]:
    """Labels of all splits that are there."""
    found: list[str] = []
    missing: DataError | None = None
    for split in Split:
        try:
            found += source.labels(split)
        except DataError as error:
            missing = error  # Manhattan's test days are kept elsewhere; a short history lacks some
    if not found and missing is not None:
        raise missing
    return sorted(found)


if __name__ == "__main__":
    run(main)
