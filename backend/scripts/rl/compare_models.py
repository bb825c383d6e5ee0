"""Compare trained models of several seeds with the matchers, on the same days, paired.

A model's difference to a matcher is averaged over the seeds day by day, so that the interval is
that of the mean model over days, given these trainings; the worst seed stands beside it. Sampled
validation days are taken from behind those on which training chose its best model.
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
    provenance,
    run,
    write_json,
)
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import estimate
from services.rl.evaluation.runner import evaluate_policy
from services.rl.policies.model_files import read_manifest
from services.rl.simulation.scenarios import Split, load_scenario

EXAMPLES = """
compare_models.py --scenario geneva_overload --models results/overload_s*/checkpoints/best
compare_models.py --scenario geneva --models results/s*/checkpoints/best --drivers 5 20 40
"""
FIRST_UNSEEN = 1_000
"""Validation day from which on no training judges itself (`EvaluationStrategy` takes the first)."""

REFERENCES = ("nearest", "matching", "matching_linear")


def main(argv: Sequence[str] | None = None) -> int:
    """Play, compare, print one table per fleet size."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--scenario", default="geneva", help="name or YAML file")
    parser.add_argument("--models", nargs="+", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--policies", default="dqn,dqn_matching", help="how the models decide (comma-separated)"
    )
    parser.add_argument("--days", type=positive_int, default=200)
    parser.add_argument("--split", choices=[str(s) for s in Split], default="validation")
    parser.add_argument(
        "--first-day", type=int,
        help=f"skip so many days of the split (default 0; sampled validation: {FIRST_UNSEEN:,})",
    )  # fmt: skip
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    parser.add_argument("--drivers", nargs="+", type=positive_int, help="other fleet sizes")
    arguments = parser.parse_args(argv)
    origin = provenance()
    if arguments.first_day is not None and arguments.first_day < 0:
        raise UsageError(f"--first-day must be at least 0, got {arguments.first_day}")
    make_folder(arguments.json and arguments.json.parent)
    base = load_scenario(arguments.scenario)
    flat = {m: read_manifest(m).network.get("network") == "flat" for m in arguments.models}
    tables: list[dict[str, Any]] = []
    for drivers in arguments.drivers or [None]:
        scenario = base.resized(num_drivers=drivers)
        source = open_source(scenario, arguments.data_dir)
        split = Split(arguments.split)
        first = arguments.first_day
        if first is None:
            first = FIRST_UNSEEN if split == Split.VALIDATION and source is None else 0
        book = day_book(scenario, source, split, arguments.days, first)
        rewards: dict[str, Any] = {}
        notes: dict[str, str] = {}
        for name in REFERENCES:
            result = evaluate_policy(name, book)
            rewards[name], notes[name] = result.kpi("reward"), result.note
        latency: dict[str, list[float]] = {}
        for name in arguments.policies.split(","):
            for model in arguments.models:
                if flat[model] and name == "dqn_matching":
                    continue
                result = evaluate_policy(name, book, model=model)
                label = f"{name} (flat)" if flat[model] else name
                rewards.setdefault(label, {})[str(model)] = result.kpi("reward")
                latency.setdefault(label, []).extend(result.decision_ms.tolist())
        table = {
            "scenario": scenario.name,
            "first_day": first,
            "drivers": scenario.fleet.num_drivers,
            "rows": _rows(rewards, latency),
            "notes": notes,
        }
        tables.append(table)
        if not arguments.quiet:
            _show(table, arguments)
    if arguments.json is not None:
        document = {
            "split": arguments.split,
            "days": arguments.days,
            "models": [str(m) for m in arguments.models],
            "tables": tables,
            **origin,
        }
        write_json(arguments.json, document)
    return 0


def _rows(rewards: dict[str, Any], latency: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, found in rewards.items():
        seeds = found if isinstance(found, dict) else {"": found}
        per_day = np.mean(list(seeds.values()), axis=0)
        row: dict[str, Any] = {"policy": name, "reward": float(per_day.mean())}
        if name in latency:
            row["p50_ms"] = float(np.percentile(latency[name], 50))
            row["p99_ms"] = float(np.percentile(latency[name], 99))
        for reference in REFERENCES:
            if name == reference:
                continue
            difference = estimate(per_day - rewards[reference])
            worst = min(seeds, key=lambda s: float(np.mean(seeds[s] - rewards[reference])))
            lowest = estimate(seeds[worst] - rewards[reference])
            row[reference] = {
                "mean": difference.mean,
                "half": finite(difference.half_width),
                "worst": lowest.mean,
                "worst_half": finite(lowest.half_width),
                "worst_model": worst,
            }
        rows.append(row)
    return rows


def _shown(mean: float, half: float | None) -> str:
    return f"{mean:+.1f}" if half is None else f"{mean:+.1f} ± {half:.1f}"


def _show(table: dict[str, Any], arguments: Any) -> None:
    print(
        f"\n{table['scenario']}: {table['drivers']} drivers, {arguments.days} {arguments.split} "
        f"days from number {table['first_day']}, {len(arguments.models)} models"
    )
    heads = ["policy", "reward/day", "ms p50 / p99"]
    heads += [f"vs {r}: mean (worst seed)" for r in REFERENCES]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in table["rows"]:
        cells = [row["policy"], f"{row['reward']:.1f}"]
        cells.append(f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}" if "p50_ms" in row else "")
        for reference in REFERENCES:
            d = row.get(reference)
            cells.append(
                ""
                if d is None
                else f"{_shown(d['mean'], d['half'])} ({_shown(d['worst'], d['worst_half'])})"
            )
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(main)
