"""``train_dqn.py --policy matching_values``: learn edge values, where each epoch decides."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.rl.command import INTERRUPTED, progress, provenance, resuming, write_json
from scripts.rl.train_planner import refuse_network_options
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.policies.edge_values import require_zones
from services.rl.simulation.scenarios import load_scenario


def train(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Fit, and say what came out and what to do next.

    Args:
        arguments: As parsed.
        argv: As given, for the command that goes on after an interruption.

    Raises:
        UsageError: If an option of the network is given.
    """
    from services.rl.training.config import TrainingConfig
    from services.rl.training.edge_run import edge_fit_of, train_edges

    refuse_network_options(arguments)
    plan = edge_fit_of(arguments.mode)
    plan = replace(
        plan,
        seed=arguments.seed or 0,
        generations=arguments.generations or plan.generations,
    )
    shown = arguments.scenario or "geneva"
    scenario = load_scenario(shown)
    require_zones(scenario)
    source = open_source(scenario, arguments.data_dir)
    name = arguments.name or f"{Path(shown).stem}_matching_values_{arguments.mode}"
    TrainingConfig().changed(experiment_name=name)  # the same names are allowed
    folder = paths.results_dir() / name
    quiet = arguments.quiet
    solved = iter(progress(range(plan.worth_days), label="clairvoyant days", quiet=quiet))
    bar = iter(progress(range(plan.generations), label="generations", quiet=quiet))
    try:
        result = train_edges(
            scenario,
            plan,
            folder,
            source=source,
            resume=arguments.resume,
            provenance=provenance(),
            on_worth_day=lambda: next(solved, None),
            on_generation=lambda *_: next(bar, None),
        )
    except KeyboardInterrupt:
        again = resuming(argv, name)
        print(f"interrupted; finished work is kept: go on with {again}", file=sys.stderr)
        return INTERRUPTED
    gain, reference = result.over_matching, result.reference
    if arguments.json is not None:
        document: dict[str, Any] = {
            "folder": str(folder),
            "score": result.score,
            "matching_profit": reference,
            "minus_matching_profit": vars(gain),
            "values": result.values.provenance,
            "seconds": result.seconds,
        }
        write_json(arguments.json, {**document, **provenance()})
    if not quiet:
        share = f" ({100 * gain.mean / reference:+.1f} %)" if reference > 0 else ""
        print(
            f"{plan.generations} generations in {result.seconds:.0f} s; validation days: "
            f"{result.score:.2f} reward a day, {gain.mean:+.2f} ± {gain.half_width:.2f}{share} "
            f"over matching_profit"
        )
        where = f" --data-dir {arguments.data_dir}" if arguments.data_dir else ""
        print(
            f"evaluate it: evaluate.py --scenario {shown}{where} --policies "
            f"matching_profit,matching_values,hindsight --model {folder}/checkpoints/best"
        )
    return 0
