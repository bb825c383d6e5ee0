"""A planner's plan of fitting from a file of fields, checked: ``train_dqn.py --policy planner``.

The fields are those of `PlannerFit`; a stage is a mapping of those of `Stage`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from services.rl.errors import TrainingError

from .planner_fit import FEATURES, PlannerFit, Stage

_FIT: TypeAdapter[PlannerFit] = TypeAdapter(PlannerFit)
_LEAST: dict[str, float] = {
    "busy.generations": 0, "busy.days": 1, "busy.moves": 0, "own.generations": 1, "own.days": 1,
    "own.moves": 0, "population": 4, "check_days": 1, "check_moves": 0, "threads": 1, "seed": 0,
    "repeats": 1,
}  # fmt: skip
_ABOVE_ZERO = ("busy.sigma", "own.sigma", "hot", "look_ahead_min")


def load_plan(path: Path, base: PlannerFit) -> PlannerFit:
    """A JSON or YAML file of fields, laid over a plan.

    Raises:
        TrainingError: If the file cannot be read, or a value is unknown or impossible.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise TrainingError(f"--config {path} cannot be read: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"--config {path} is neither JSON nor YAML") from error
    if not isinstance(raw, dict):
        raise TrainingError(f"--config {path} must hold a mapping of fields")
    return changed_plan(base, raw, f"--config {path}")


def changed_plan(base: PlannerFit, raw: Mapping[str, Any], source: str = "plan") -> PlannerFit:
    """A plan with some fields replaced; stages take mappings.

    Raises:
        TrainingError: If a field is unknown or a value impossible; naming it.
    """
    merged = asdict(base)
    for name, value in raw.items():
        _require_field(PlannerFit, str(name), source)
        if name in ("busy", "own"):
            if not isinstance(value, Mapping):
                raise TrainingError(f"{source}: {name} must be a mapping of fields")
            for below in value:
                _require_field(Stage, str(below), source, f"{name}.")
            merged[name] = {**merged[name], **value}
        else:
            merged[name] = value
    try:
        # As JSON, where a list is a tuple and 3.0 is no whole number unless it is one.
        plan = _FIT.validate_json(json.dumps(merged))
    except (ValidationError, TypeError, ValueError) as error:
        raise TrainingError(f"{source}: {_first(error)}") from error
    _check_ranges(plan, source)
    return plan


def plan_fields(plan: PlannerFit) -> dict[str, Any]:
    """The fields by dotted name, such as ``busy.moves``."""
    flat: dict[str, Any] = {}
    for name, value in asdict(plan).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{below}": v for below, v in value.items()})
        else:
            flat[name] = value
    return flat


def _require_field(kind: type, name: str, source: str, prefix: str = "") -> None:
    known = [f.name for f in fields(kind)]
    if name not in known:
        raise TrainingError(
            f"{source}: {prefix}{name} is no field of the planner's fit: {', '.join(known)}"
        )


def _check_ranges(plan: PlannerFit, source: str) -> None:
    flat = plan_fields(plan)
    for name, least in _LEAST.items():
        if flat[name] < least:
            raise TrainingError(f"{source}: {name} is {flat[name]}, expected at least {least}")
    for name in _ABOVE_ZERO:
        if not 0 < flat[name] <= 1e6:
            raise TrainingError(
                f"{source}: {name} is {flat[name]}, expected a number above 0, at most 1,000,000"
            )
    for group in plan.without:
        if group not in FEATURES:
            raise TrainingError(
                f"{source}: without names {group!r}, which is no group of terms: "
                f"{', '.join(FEATURES)}"
            )


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
