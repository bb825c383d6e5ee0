"""Ablations of the learner: small budgets, several seeds, paired differences to the base.

Each variant changes one thing of its base: production as it is, where a teacher holds the learner
close, or reinforcement learning from nothing, where its own parts show. Finished runs are kept and
not repeated, so that a killed ablation goes on where it stopped. Models are compared on validation
days that selected none of them. The interval is over days, given these trainings: how much another
seed would change is seen in the differences by seed beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.rl.command import (
    command_parser,
    finite,
    make_folder,
    positive_int,
    progress,
    provenance,
    run,
    write_json,
)
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import estimate
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.simulation.scenarios import Split, load_scenario

EXAMPLES = """
ablate.py --scenario geneva_overload --seeds 2 --timesteps 48000
ablate.py --variants untaught,1-step,dueling --seeds 3
"""
_FIRST_DAY = 1_000  # of validation: training judges itself on the first ones

TAUGHT, UNTAUGHT = "taught", "untaught"
"""Bases: production as it is, and reinforcement learning from nothing, where its parts show."""

_FROM_NOTHING: dict[str, Any] = {
    "warm_start": {"teacher": None},
    "hyperparameters": {
        "learning_rate": 5e-4,
        "exploration_initial_eps": 0.3,
        "exploration_final_eps": 0.03,
    },
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    TAUGHT: (TAUGHT, {}),
    "teacher alone": (TAUGHT, {"total_timesteps": 1}),
    "teacher matching": (TAUGHT, {"warm_start": {"teacher": "matching"}}),
    "imitation kept at 0.1": (TAUGHT, {"warm_start": {"keep_weight": 0.1}}),
    "imitation not kept": (TAUGHT, {"warm_start": {"keep_weight": 0.0}}),
    "no value phase": (TAUGHT, {"warm_start": {"keep_weight": 0.0, "value_updates": 0}}),
    UNTAUGHT: (UNTAUGHT, {}),
    "reward planned_pickup": (UNTAUGHT, {"environment": {"reward_timing": "planned_pickup"}}),
    "reward at commitment": (UNTAUGHT, {"environment": {"reward_timing": "commitment"}}),
    "reward at events": (UNTAUGHT, {"environment": {"reward_timing": "event"}}),
    "target not masked": (UNTAUGHT, {"hyperparameters": {"masked_target": False}}),
    "1-step": (UNTAUGHT, {"hyperparameters": {"n_step": 1}}),
    "prioritised": (UNTAUGHT, {"hyperparameters": {"prioritised": True}}),
    "dueling": (UNTAUGHT, {"hyperparameters": {"dueling": True}}),
    "not double": (UNTAUGHT, {"hyperparameters": {"double": False}}),
    "no edge features": (UNTAUGHT, {"hyperparameters": {"edge_features": False}}),
    "gamma 0.97": (UNTAUGHT, {"hyperparameters": {"gamma": 0.97}}),
}
"""Name: its base, and what differs from it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train every variant with every seed, compare, print a table."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva_overload", help="name or YAML file")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--seeds", type=positive_int, default=2, help="training seeds 0, 1, ...")
    parser.add_argument("--timesteps", type=positive_int, default=48_000)
    parser.add_argument("--days", type=positive_int, default=200)
    parser.add_argument(
        "--only-seed",
        type=int,
        help="train this seed alone and compare nothing (for two processes)",
    )
    arguments = parser.parse_args(argv)
    origin = provenance()
    names = [name.strip() for name in arguments.variants.split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UsageError(f"unknown variant {unknown[0]!r}: choose among {', '.join(VARIANTS)}")
    make_folder(arguments.json and arguments.json.parent)
    scenario = load_scenario(arguments.scenario)
    if open_source(scenario, None) is not None:
        raise UsageError(
            f"scenario {scenario.name!r} replays real days: too few validation days are left that "
            "no training judged itself on"
        )
    book = day_book(scenario, None, Split.VALIDATION, arguments.days, _FIRST_DAY)
    seeds = [arguments.only_seed] if arguments.only_seed is not None else range(arguments.seeds)
    jobs = [(name, seed) for seed in seeds for name in names]
    for name, seed in progress(jobs, label="runs", quiet=arguments.quiet, total=len(jobs)):
        _train(name, seed, arguments.scenario, arguments.timesteps)
    if arguments.only_seed is not None:
        return 0
    rows = _compare(names, list(seeds), arguments.scenario, arguments.timesteps, book)
    if not arguments.quiet:
        _show(rows, arguments)
    if arguments.json is not None:
        write_json(arguments.json, {"rows": rows, "seeds": list(seeds), **origin})
    return 0


def _folder(name: str, seed: int, scenario: str, timesteps: int) -> Path:
    label = name.replace(" ", "-")
    return paths.results_dir() / f"ablate_{Path(scenario).stem}_{timesteps}_{label}_s{seed}"


def _train(name: str, seed: int, scenario: str, timesteps: int) -> None:
    from services.rl.training.config import production_config
    from services.rl.training.trainer import Trainer

    folder = _folder(name, seed, scenario, timesteps)
    if (folder / "dqn_model_final").exists():
        return
    config = production_config().changed(
        experiment_name=folder.name,
        seed=seed,
        total_timesteps=timesteps,
        checkpoints={"save_replay_buffer": False, "min_interval_s": 600.0},
        polish={"generations": 0},
    )
    base, fields = VARIANTS[name]
    if base == UNTAUGHT:
        config = config.changed(**_FROM_NOTHING)
    result = Trainer(scenario, config.changed(**fields)).train()
    if result.stopped == "interrupted":  # the trainer leaves cleanly; the ablation must end as well
        raise KeyboardInterrupt


def _compare(
    names: list[str], seeds: list[int], scenario: str, timesteps: int, book: DayBook
) -> list[dict[str, Any]]:
    found: dict[str, Any] = {}
    for reference in ("matching", "matching_linear"):
        found[reference] = evaluate_policy(reference, book).kpi("reward")[None]
    for name in names:
        models = [_folder(name, s, scenario, timesteps) / "dqn_model_final" for s in seeds]
        found[name] = np.array(
            [evaluate_policy("dqn_matching", book, model=m).kpi("reward") for m in models]
        )
    rows = []
    for name, rewards in found.items():
        base = VARIANTS[name][0] if name in VARIANTS else TAUGHT
        row: dict[str, Any] = {"variant": name, "base": base, "reward": float(np.mean(rewards))}
        if name != base and base in found:
            by_seed = rewards - found[base]
            difference = estimate(by_seed.mean(axis=0))
            row |= {
                "difference": difference.mean,
                "half_width": finite(difference.half_width),
                "by_seed": by_seed.mean(axis=1).tolist(),
            }
        rows.append(row)
    return rows


def _show(rows: list[dict[str, Any]], arguments: Any) -> None:
    print(
        f"{arguments.scenario}: {arguments.timesteps:,} steps, {arguments.seeds} seeds, "
        f"{arguments.days} validation days"
    )
    print("| variant | base | reward/day | difference to base | by seed |")
    print("|---|---|---|---|---|")
    for row in rows:
        shown = by_seed = ""
        if "difference" in row:
            shown = f"{row['difference']:+.1f}"
            if row["half_width"] is not None:
                shown += f" ± {row['half_width']:.1f}"
            by_seed = ", ".join(f"{d:+.1f}" for d in row["by_seed"])
        print(f"| {row['variant']} | {row['base']} | {row['reward']:.1f} | {shown} | {by_seed} |")


if __name__ == "__main__":
    run(main)
