"""Policies by name, for command lines and configuration."""

import importlib
from typing import Any

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario

from .base import Policy

POLICIES = (
    "random",
    "nearest",
    "cheapest",
    "matching",
    "matching_profit",
    "rolling",
)
"""Built-in policies. ``hindsight`` is a yardstick, not a policy: it sees the future."""


def make_policy(
    name: str,
    scenario: Scenario,
    *,
    source: DaySource | None = None,
    seed: int = 0,
    budget_ms: float = 200.0,
) -> Policy:
    """A policy by name, or a foreign one as ``module:Class``.

    A foreign class is called with the scenario, and needs ``name`` and ``decide``.

    Raises:
        PolicyError: If the name is unknown, or the class cannot be imported or is no policy.
    """
    from .baselines import make_baseline

    if ":" in name:
        return _foreign(name, scenario)
    baseline = make_baseline(name, scenario, source=source, seed=seed)
    if baseline is not None:
        return baseline
    if name == "rolling":
        from .rolling import RollingPolicy

        tables = getattr(source, "tables", None)
        return RollingPolicy(scenario, tables, budget_ms=budget_ms, seed=seed)
    raise PolicyError(
        f"unknown policy {name!r}: choose among {', '.join(POLICIES)}, hindsight, or module:Class"
    )


def _foreign(name: str, scenario: Scenario) -> Policy:
    module_name, _, class_name = name.partition(":")
    try:
        cls: Any = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PolicyError(f"policy {name!r} cannot be imported: {error}") from error
    try:
        policy = cls(scenario)
    except TypeError as error:
        raise PolicyError(
            f"policy {name!r} must be a class called with the scenario: {error}"
        ) from error
    if not isinstance(policy, Policy):
        raise PolicyError(f"policy {name!r} needs an attribute 'name' and a method 'decide'")
    return policy
