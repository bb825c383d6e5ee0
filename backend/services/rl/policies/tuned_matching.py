"""``matching_tuned`` and ``matching_linear_tuned``: the matchers with a model folder's weights.

``matching`` itself takes what is filed under the scenario's name (`baselines.matching_weights`);
these take the weights of one training, so that both can be played on the same days.
"""

from pathlib import Path
from typing import Final

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import EDGE
from services.rl.simulation.scenarios import Scenario

from . import kernels
from .base import Policy
from .baselines import CompiledPolicy
from .edge_matching import LINEAR
from .edge_policies import EdgePolicy
from .model_files import file_sha256
from .tuning import MatchingWeights

WEIGHTS_FILE: Final = {
    "matching_tuned": "matching.json",
    "matching_linear_tuned": "matching_linear.json",
}
"""In a model folder."""


def tuned_policy(
    name: str, folder: Path | None, scenario: Scenario, source: DaySource | None = None
) -> Policy:
    """A matcher with the weights of a model folder.

    Raises:
        PolicyError: If no folder is given, or it holds no such weights, or damaged ones.
    """
    if folder is None:
        raise PolicyError(
            f"policy {name!r} needs tuned weights: --model results/<name>/checkpoints/best"
        )
    path = folder / WEIGHTS_FILE[name]
    linear = name == "matching_linear_tuned"
    weights = MatchingWeights.load(path, EDGE if linear else kernels.PAIR_FEATURES)
    note = f"weights of {folder}, tuned on {weights.scenario}"
    if weights.scenario_hash != scenario.sha256:
        note += " (another scenario, or another version of it)"
    sha = file_sha256(path)
    if linear:
        return EdgePolicy(
            name,
            scenario,
            LINEAR,
            hold_back_min=weights.hold_back_min,
            weights=weights.array(),
            source=source,
            note=note,
            model_sha=sha,
        )
    return CompiledPolicy(
        name,
        kernels.MATCHING,
        scenario,
        source=source,
        weights=weights,
        hold_back_min=weights.hold_back_min,
        note=note,
        model_sha=sha,
    )
