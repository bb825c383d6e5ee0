"""Tune `matching` or `matching_linear` on a scenario's training days (CMA-ES)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.rl.command import (
    command_parser,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.policies.tuning import UNTUNED_OF, TuningPlan, tune_matching
from services.rl.simulation.scenarios import Split, load_scenario

EXAMPLES = """
tune_matching.py --scenario data/rl/history/demo/scenario.yaml
tune_matching.py --scenario geneva --generations 100 --out my_weights.json
tune_matching.py --scenario geneva --policy matching_linear
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, write the weights where `matching` finds them, say what was gained."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva", help="name or YAML file (default geneva)")
    parser.add_argument(
        "--policy", choices=sorted(UNTUNED_OF), default="matching", help="default matching"
    )
    parser.add_argument("--num-drivers", type=positive_int, help="resize the fleet, demand with it")
    parser.add_argument("--generations", type=positive_int, default=TuningPlan.generations)
    parser.add_argument("--population", type=positive_int, default=TuningPlan.population)
    parser.add_argument(
        "--days", type=positive_int, default=TuningPlan.days_per_generation,
        help="training days that every candidate of a generation plays",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    parser.add_argument("--out", type=Path, help="default data/rl/weights/<policy>_<scenario>.json")
    arguments = parser.parse_args(argv)
    if arguments.population < 4:
        raise UsageError(f"--population must be at least 4, got {arguments.population}")
    scenario = load_scenario(arguments.scenario)
    if arguments.num_drivers is not None:
        scenario = scenario.resized(num_drivers=arguments.num_drivers)
    source = open_source(scenario, arguments.data_dir)
    days = [source.day(label) for label in source.labels(Split.TRAIN)] if source else []
    plan = TuningPlan(arguments.generations, arguments.population, arguments.days, arguments.seed)
    bar = iter(progress(range(plan.generations), label="generations", quiet=arguments.quiet))
    weights = tune_matching(
        scenario,
        plan,
        policy=arguments.policy,
        days=days,
        source=source,
        on_generation=lambda *_: next(bar, None),
    )
    weights = replace(weights, provenance={**weights.provenance, **provenance()})
    out = arguments.out or paths.data_dir() / "weights" / f"{arguments.policy}_{scenario.name}.json"
    try:
        weights.save(out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error
    if not arguments.quiet:
        before, after = (weights.provenance[k] for k in ("reward_untuned", "reward_tuned"))
        print(f"{scenario.name}: {before:.1f} reward a day untuned, {after:.1f} tuned; {out}")
    if arguments.json is not None:
        write_json(arguments.json, weights.provenance)
    return 0


if __name__ == "__main__":
    run(main)
