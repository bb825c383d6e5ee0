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
    "matching_tuned",
    "matching_linear_tuned",
    "matching_values",
    "rolling",
    "rolling_search",
    "planner",
    "dqn",
    "dqn_matching",
)
"""Built-in policies; networks, ``matching_values`` and the ``_tuned`` ones need a model folder.

``hindsight`` is a yardstick, not a policy: it sees the future.
"""

_MOST_MOVES = 10_000_000
_MOST_DIGITS = 20


def make_policy(
    name: str,
    scenario: Scenario,
    *,
    source: DaySource | None = None,
    seed: int = 0,
    budget_ms: float = 200.0,
    model: Path | None = None,
    transfer: bool = False,
) -> Policy:
    """A policy by name, or a foreign one as ``module:Class``.

    ``model`` is the folder of a trained network, for ``dqn`` and ``dqn_matching``, or of fitted
    values, for ``planner`` and ``matching_values``, or of tuned weights; ``transfer`` admits values
    that were fitted on another scenario. What a search may spend per epoch can stand behind the
    name: ``planner@1500`` (moves), ``rolling@50`` (milliseconds).

    A foreign class is called with the scenario, and needs ``name`` and ``decide``.

    Raises:
        PolicyError: If the name is unknown, or the class cannot be imported or is no policy.
    """
    from .baselines import make_baseline

    if ":" in name:
        return _foreign(name, scenario)
    name, amount = _amount(name)
    if name in ("rolling_search", "planner"):
        return _search(name, amount, model, scenario, source, seed, transfer)
    if amount is not None and name == "rolling":
        budget_ms = float(amount)
    baseline = make_baseline(name, scenario, source=source, seed=seed)
    if baseline is not None:
        return baseline
    if name == "matching_linear":
        from .edge_policies import linear_policy

        return linear_policy(scenario, source)
    if name in ("matching_tuned", "matching_linear_tuned"):
        from .tuned_matching import tuned_policy

        return tuned_policy(name, model, scenario, source)
    if name == "matching_values":
        from .edge_values import edge_policy

        return edge_policy(scenario, source, model, transfer=transfer)
    if name in ("dqn", "dqn_matching"):
        return _learned(name, model, scenario, source)
    if name == "rolling":
        from .rolling import RollingPolicy

        tables = getattr(source, "tables", None)
        rolling = RollingPolicy(scenario, tables, budget_ms=budget_ms, seed=seed)
        if amount is not None:
            rolling.name = f"rolling@{amount}"
        return rolling
    raise PolicyError(
        f"unknown policy {name!r}: choose among {', '.join(POLICIES)}, hindsight, or module:Class"
    )


def _amount(name: str) -> tuple[str, int | None]:
    """The name and the number after ``@``.

    Raises:
        PolicyError: If the number is none, or the policy takes none.
    """
    name, at, text = name.partition("@")
    if not at:
        return name, None
    if name not in ("rolling", "rolling_search", "planner"):
        raise PolicyError(f"policy {name!r} takes no amount after '@'")
    # The length first: Python converts no thousands of digits.
    if len(text) > _MOST_DIGITS or not text.isdecimal() or not 0 < int(text) <= _MOST_MOVES:
        shown = text if len(text) <= _MOST_DIGITS else f"{text[:_MOST_DIGITS]}..."
        raise PolicyError(f"{name}@{shown}: expected a whole number from 1 to {_MOST_MOVES}")
    return name, int(text)


def _search(
    name: str,
    moves: int | None,
    model: Path | None,
    scenario: Scenario,
    source: DaySource | None,
    seed: int,
    transfer: bool,
) -> Policy:
    from .planner import DEFAULT_MOVES, SearchPolicy
    from .planner_values import planner_values

    values, note, sha = None, "the plan's own reward", None
    if name == "planner":
        values, note, sha = planner_values(scenario, model, transfer=transfer)
    moves = DEFAULT_MOVES if moves is None else moves
    return SearchPolicy(
        name if moves == DEFAULT_MOVES else f"{name}@{moves}",
        scenario,
        source=source,
        values=values,
        moves=moves,
        seed=seed,
        note=f"{note}; {moves} moves per epoch",
        model_sha=sha,
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
