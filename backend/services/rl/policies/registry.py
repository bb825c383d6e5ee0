"""Policies by name, for command lines and configuration."""

import importlib
from pathlib import Path
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
    "matching_linear",
    "rolling",
    "dqn",
    "dqn_matching",
)
"""Built-in policies; ``dqn`` and ``dqn_matching`` need a model folder.

``hindsight`` is a yardstick, not a policy: it sees the future.
"""


def make_policy(
    name: str,
    scenario: Scenario,
    *,
    source: DaySource | None = None,
    seed: int = 0,
    budget_ms: float = 200.0,
    model: Path | None = None,
) -> Policy:
    """A policy by name, or a foreign one as ``module:Class``.

    ``model`` is the folder of a trained network, for ``dqn`` and ``dqn_matching``.

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
    if name == "matching_linear":
        from .edge_policies import linear_policy

        return linear_policy(scenario, source)
    if name in ("dqn", "dqn_matching"):
        return _learned(name, model, scenario, source)
    if name == "rolling":
        from .rolling import RollingPolicy

        tables = getattr(source, "tables", None)
        return RollingPolicy(scenario, tables, budget_ms=budget_ms, seed=seed)
    raise PolicyError(
        f"unknown policy {name!r}: choose among {', '.join(POLICIES)}, hindsight, or module:Class"
    )


def _learned(name: str, model: Path | None, scenario: Scenario, source: DaySource | None) -> Policy:
    from .model_files import read_manifest

    if model is None:
        raise PolicyError(
            f"policy {name!r} needs a trained network: --model results/<name>/checkpoints/best"
        )
    manifest = read_manifest(model)
    if manifest.network.get("network") == "pair":
        from .edge_policies import pair_policy

        return pair_policy(name, model, scenario, source)
    if name == "dqn_matching":
        raise PolicyError(f"{model} holds a flat network: evaluate it as policy 'dqn'")
    from .flat_network import FlatPolicy

    return FlatPolicy(model, manifest, scenario, source)


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
