"""``train_dqn.py --policy planner``: fit the planner's values by evolution."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.rl.command import INTERRUPTED, progress, provenance, resuming, write_json
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario

NETWORK_OPTIONS = (
    "env", "episodes", "timesteps", "device", "config", "network", "teacher", "checkpoint",
)  # fmt: skip
"""What the planner has no use for."""


def refuse_network_options(arguments: argparse.Namespace, *, admitted: Sequence[str] = ()) -> None:
    """Refuse what belongs to networks, where a policy without one is trained.

    Args:
        arguments: As parsed.
        admitted: Options that this policy knows too.

    Raises:
        UsageError: Naming the option.
    """
    for option in NETWORK_OPTIONS:
        if option not in admitted and getattr(arguments, option) is not None:
            raise UsageError(
                f"--{option} is an option of the networks; --policy {arguments.policy} has none"
            )


def train(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Fit, and say what came out and what to do next.

    Args:
        arguments: As parsed.
        argv: As given, for the command that goes on after an interruption.

    Raises:
        UsageError: If an option of the network is given.
    """
    from services.rl.training.config import TrainingConfig
    from services.rl.training.planner_config import load_plan
    from services.rl.training.planner_run import planner_fit_of, train_planner

    refuse_network_options(arguments, admitted=("config",))
    plan = planner_fit_of(arguments.mode)
    if arguments.config is not None:
        plan = load_plan(arguments.config, plan)
    if arguments.seed is not None:
        plan = replace(plan, seed=arguments.seed)
    if arguments.generations is not None:
        plan = plan.lasting(arguments.generations)
    if arguments.repeats is not None:
        plan = replace(plan, repeats=arguments.repeats)
    generations = plan.generations * plan.repeats
    scenario = load_scenario(arguments.scenario or "geneva")
    source = open_source(scenario, arguments.data_dir)
    stem = Path(arguments.scenario or "geneva").stem
    name = arguments.name or f"{stem}_planner_{arguments.mode}"
    TrainingConfig().changed(experiment_name=name)  # the same names are allowed
    folder = paths.results_dir() / name
    bar = iter(progress(range(generations), label="generations", quiet=arguments.quiet))
    try:
        result = train_planner(
            scenario,
            plan,
            folder,
            source=source,
            resume=arguments.resume,
            provenance=provenance(),
            on_generation=lambda *_: next(bar, None),
        )
    except KeyboardInterrupt:
        again = resuming(argv, name)
        print(f"interrupted; finished generations are kept: go on with {again}", file=sys.stderr)
        return INTERRUPTED
    if arguments.json is not None:
        document: dict[str, Any] = {
            "folder": str(folder),
            "score": result.score,
            "minus_rolling_search": vars(result.over_search),
            "minus_matching": vars(result.over_matching),
            "values": result.values.provenance,
            "seconds": result.seconds,
        }
        write_json(arguments.json, {**document, **provenance()})
    if not arguments.quiet:
        search, matching = result.over_search, result.over_matching
        print(
            f"{generations} generations in {result.seconds:.0f} s; validation days: "
            f"{result.score:.1f} reward a day, {search.mean:+.1f} ± {search.half_width:.1f} over "
            f"the same search without values, {matching.mean:+.1f} ± {matching.half_width:.1f} "
            f"over matching"
        )
        print(
            f"evaluate it: evaluate.py --scenario {arguments.scenario or 'geneva'} --policies "
            f"nearest,matching,rolling_search,planner --model {folder}/checkpoints/best "
            f"--split test --days 200"
        )
    return 0
