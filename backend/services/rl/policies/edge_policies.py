"""Policies that decide on edges: the linear matcher and the trained pair network."""

from pathlib import Path
from typing import Any

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import EDGE, EDGES_VERSION, NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.observation import LAYOUT_VERSION
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState, FloatArray

from .base import Decision, DecisionSet
from .edge_matching import (
    LINEAR,
    NETWORK,
    NETWORK_ONE_BY_ONE,
    decide_edge_matching,
    play_edge_matching,
)
from .model_files import MODEL_FILE, read_arrays, read_manifest, trained_as
from .pair_network import NO_NETWORK, PairWeights, pair_weights
from .tuning import UNTUNED_LINEAR, MatchingWeights
from .weight_files import filed, names_of


class EdgePolicy:
    """Scores edges, linearly or with a pair network, and commits by matching or one by one.

    Attributes:
        name: As on the command line.
        note: Where its numbers come from, for reports.
        model_sha: SHA-256 of the network's file; None for linear weights.
    """

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        kind: int,
        *,
        hold_back_min: float,
        weights: FloatArray | None = None,
        network: PairWeights = NO_NETWORK,
        source: DaySource | None = None,
        note: str = "",
        model_sha: str | None = None,
    ) -> None:
        self.name = name
        self.model_sha = model_sha
        self.note = note
        self._scenario = scenario
        self._kind = kind
        self._hold_back = float(hold_back_min)
        self._weights = np.zeros(NUM_EDGE) if weights is None else weights
        self._network = network
        self._source = source
        self._host: HostWorld | None = None

    @property
    def linear_weights(self) -> FloatArray | None:
        """Weights on edges where the policy is linear, ``(NUM_EDGE,)``; else None."""
        return self._weights if self._kind == LINEAR else None

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Decide one epoch; ``plan``, ``budget_ms`` and ``rng`` are not needed."""
        if self._host is None:
            self._host = HostWorld(self._scenario, observation="rows", source=self._source)
        self._host.load(state)
        chosen = np.empty((1, max(1, len(state.booking_ids)), 3))
        count = decide_edge_matching(
            *self._host.memory,
            0,
            self._kind,
            self._weights,
            self._network,
            self._hold_back,
            chosen,
        )
        return DecisionSet(
            tuple(
                Decision(booking=int(row), driver=int(driver), score=float(score))
                for driver, row, score in chosen[0, :count]
            ),
            plan=None,
        )

    def play(self, engine: Engine) -> None:
        """Play every environment of an engine to the end of its day."""
        play_edge_matching(
            *engine.memory, self._kind, self._weights, self._network, self._hold_back
        )


def linear_weights(scenario: Scenario) -> tuple[MatchingWeights, str]:
    """Tuned weights of `matching_linear` for a scenario, and a note on where they come from.

    Looked for like those of `matching` (`baselines.matching_weights`).
    """
    path = filed("matching_linear", [*names_of(scenario), "geneva"])
    if path is not None:
        weights = MatchingWeights.load(path, EDGE)
        note = f"weights tuned on {weights.scenario}"
        if weights.scenario_hash != scenario.sha256:
            note += " (another scenario, or another version of it)"
        return weights, note
    return UNTUNED_LINEAR, "untuned weights"


def linear_policy(scenario: Scenario, source: DaySource | None = None) -> EdgePolicy:
    """`matching_linear` with the weights tuned for the scenario."""
    weights, note = linear_weights(scenario)
    return EdgePolicy(
        "matching_linear",
        scenario,
        LINEAR,
        hold_back_min=weights.hold_back_min,
        weights=weights.array(),
        source=source,
        note=note,
    )


def pair_policy(
    name: str, folder: Path, scenario: Scenario, source: DaySource | None = None
) -> EdgePolicy:
    """`dqn_matching` or `dqn` with the pair network of a model folder; without Torch.

    Raises:
        PolicyError: If the folder is damaged, or its network reads other features.
    """
    manifest = read_manifest(folder)
    shape = manifest.network
    versions = (shape.get("layout_version"), shape.get("edges_version"))
    if versions != (LAYOUT_VERSION, EDGES_VERSION):
        raise PolicyError(
            f"{folder}: the network reads layout and edges of versions {versions}, this code "
            f"writes {(LAYOUT_VERSION, EDGES_VERSION)}; train again"
        )
    arrays = read_arrays(folder)
    try:
        network = pair_weights(arrays, scale=1.0 / manifest.reward_scale)
    except PolicyError as error:  # such as a saved buffer, which has no network
        raise PolicyError(f"{folder}: {error}") from error
    if network.pair_hidden.shape != (shape["hidden"], shape["hidden"]):
        raise PolicyError(f"{folder}: the parameters are not of the network the manifest names")
    trained_on = manifest.environment.get("scenario", "?")
    note = f"{trained_as(folder, manifest)}, trained on {trained_on}"
    if manifest.environment.get("scenario_hash") != scenario.sha256:
        note += " (another scenario, or another version of it)"
    if not shape.get("edges", True):
        network = network._replace(
            pair_edge=np.zeros_like(network.pair_edge), edge_score=np.zeros_like(network.edge_score)
        )
    return EdgePolicy(
        name,
        scenario,
        NETWORK if name == "dqn_matching" else NETWORK_ONE_BY_ONE,
        hold_back_min=float(shape["hold_back_min"]),
        network=network,
        source=source,
        note=note,
        model_sha=manifest.files[MODEL_FILE],
    )
