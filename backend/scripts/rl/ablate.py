"""Ablations of the learner: small budgets, several seeds, paired differences to the base.

Each variant changes one thing. Finished runs are kept and not repeated, so that a killed ablation
goes on where it stopped. Models are compared on validation days that selected none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.rl.command import (
    command_parser,
    positive_int,
    progress,
    provenance,
    run,
    write_json,
)
from services.rl import paths
from services.rl.errors import UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import estimate
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.simulation.scenarios import Split, load_scenario

EXAMPLES = """
ablate.py --scenario geneva_overload --seeds 2 --timesteps 64000
ablate.py --variants base,no_warm_start,dueling --seeds 3
"""
_FIRST_DAY = 1_000  # of validation: training judges itself on the first ones

_WITHOUT_TEACHER = {"warm_start": {"teacher": None}}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "imitation only": {"total_timesteps": 1},
    "no warm start": _WITHOUT_TEACHER,
    "teacher matching": {"warm_start": {"teacher": "matching"}},
    "imitation not kept": {"warm_start": {"keep_weight": 0.0}},
    "no value phase": {"warm_start": {"value_updates": 0}},
    "DAgger 100 days": {"warm_start": {"dagger_days": 100}},
    "reward planned_pickup": {"environment": {"reward_timing": "planned_pickup"}},
    "reward at commitment": {"environment": {"reward_timing": "commitment"}},
    "reward at events": {"environment": {"reward_timing": "event"}},
    "target not masked": {"hyperparameters": {"masked_target": False}},
    "1-step": {"hyperparameters": {"n_step": 1}},
    "prioritised": {"hyperparameters": {"prioritised": True}},
    "dueling": {"hyperparameters": {"dueling": True}},
    "not double": {"hyperparameters": {"double": False}},
    "epsilon exploration": {
        "hyperparameters": {
            "exploration": "epsilon",
            "exploration_initial_eps": 0.05,
            "exploration_final_eps": 0.01,
        }
    },
    "no edge features": {"hyperparameters": {"edge_features": False}},
    "gamma 0.97": {"hyperparameters": {"gamma": 0.97}},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train every variant with every seed, compare, print a table."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva_overload", help="name or YAML file")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--seeds", type=positive_int, default=2, help="training seeds 0, 1, ...")
    parser.add_argument("--timesteps", type=positive_int, default=96_000)
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
    seeds = [arguments.only_seed] if arguments.only_seed is not None else range(arguments.seeds)
    jobs = [(name, seed) for seed in seeds for name in names]
    for name, seed in progress(jobs, label="runs", quiet=arguments.quiet, total=len(jobs)):
        _train(name, seed, arguments.scenario, arguments.timesteps)
    if arguments.only_seed is not None:
        return 0
    book = day_book(
        load_scenario(arguments.scenario), None, Split.VALIDATION, arguments.days, _FIRST_DAY
    )
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
    Trainer(scenario, config.changed(**VARIANTS[name])).train()


def _compare(
    names: list[str], seeds: list[int], scenario: str, timesteps: int, book: DayBook
) -> list[dict[str, Any]]:
    found: dict[str, Any] = {}
    for reference in ("matching", "matching_linear"):
        found[reference] = evaluate_policy(reference, book).kpi("reward")
    for name in names:
        models = [_folder(name, s, scenario, timesteps) / "dqn_model_final" for s in seeds]
        found[name] = np.mean(
            [evaluate_policy("dqn_matching", book, model=m).kpi("reward") for m in models], axis=0
        )
    base = found[names[0]]
    rows = []
    for name, rewards in found.items():
        difference = estimate(rewards - base)
        rows.append(
            {
                "variant": name,
                "reward": float(np.mean(rewards)),
                "difference": difference.mean,
                "half_width": difference.half_width if name != names[0] else 0.0,
            }
        )
    return rows


def _show(rows: list[dict[str, Any]], arguments: Any) -> None:
    print(
        f"{arguments.scenario}: {arguments.timesteps:,} steps, {arguments.seeds} seeds, "
        f"{arguments.days} validation days"
    )
    print("| variant | reward/day | difference to base |")
    print("|---|---|---|")
    for row in rows:
        print(
            f"| {row['variant']} | {row['reward']:.1f} | {row['difference']:+.1f} ± "
            f"{row['half_width']:.1f} |"
        )


if __name__ == "__main__":
    run(main)
