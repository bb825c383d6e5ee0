"""What a reader of an evaluation must know: days that chose the model, a busy machine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from services.rl.data.sources import split_labels, split_seeds
from services.rl.policies.model_files import (
    MANIFEST,
    TRAINING_CONFIG,
    experiment_folder,
    file_sha256,
    read_manifest,
    settled,
)
from services.rl.simulation.scenarios import Split

from .runner import DayBook, DayResults


def caveats(
    book: DayBook, split: Split, results: Sequence[DayResults], model: Path | None, load: float
) -> list[str]:
    """One sentence for each thing that limits what the results say.

    Args:
        book: The days played.
        split: Which split they belong to.
        results: Of the policies.
        model: Folder given with ``--model``.
        load: Load average of the machine before the first policy played.
    """
    found = []
    if model is not None:
        if {r.model_sha for r in results} & _hashes(model):
            found += _chosen_by(book, split, model)
        else:
            found.append(
                f"--model {model} was not used: none of the policies decides by what it holds"
            )
    cores = os.cpu_count() or 1
    if load > cores:
        found.append(
            f"latencies were timed on a busy machine (load average {load:.1f} on {cores} cores): "
            "the p99 above all may be too long"
        )
    return found


def _hashes(model: Path) -> set[str | None]:
    """Of the folder's files: a planner may have used other values than those of ``--model``."""
    place = settled(model)
    return {file_sha256(f) for f in place.iterdir() if f.is_file()} if place.is_dir() else set()


def load_average() -> float:
    """Processes that want a core, mean of the last minute; 0 where it is not known."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # not every system keeps it
        return 0.0


def _chosen_by(book: DayBook, split: Split, model: Path) -> list[str]:
    """Whether training looked at these days when it chose its best model.

    Training judges on the first validation days (`training.task.DispatchTask.evaluate`).
    """
    if split is not Split.VALIDATION:
        return []
    if not (settled(model) / MANIFEST).is_file():
        return []  # fitted values: training days alone shaped them
    path = experiment_folder(model) / TRAINING_CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        count = int(document["config"]["evaluation"]["n_eval_episodes"])
    except FileNotFoundError:
        return []  # a model that was copied away from its training
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{path} cannot be read: these days may have chosen the model"]
    trained_on = read_manifest(model).environment
    scenario = book.scenario
    # Another version of the same scenario draws nearly the same days from the same seeds.
    known = (trained_on.get("scenario"), trained_on.get("scenario_hash"))
    if scenario.name != known[0] and scenario.sha256 != known[1]:
        return []
    if book.source is None:
        judged = {f"seed:{seed}" for seed in split_seeds(split, count)}
        unseen = f"use --split test or --first-day {count}"
    else:
        labels = split_labels(book.source, split, None)
        judged = set(labels[:count])
        left = len(labels) > count
        unseen = "use --split test" + (f" or --first-day {count}" if left else "")
    seen = sum(label in judged for label in book.labels)
    if not seen:
        return []
    which = "these days" if seen == len(book) else f"{seen} of these {len(book)} days"
    return [f"{which} chose the model: the first {len(judged)} validation days; {unseen}"]
