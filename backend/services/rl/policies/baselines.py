"""The compiled baselines as policies: ``random``, ``nearest``, ``cheapest``, ``matching``.

* ``random`` draws uniformly among the valid actions, WAIT included, until it draws WAIT.
* ``nearest``: first come, nearest car: due bookings in order of creation, each to the driver who
  picks up first, then the one with the shortest deadhead.
* ``cheapest`` commits, among due bookings, the pair of the highest planned reward, again and
  again.
* ``matching`` solves an assignment problem at every epoch, on tuned weights (`tuning`).
* ``matching_profit`` is the same on profit alone: the Manhattan reference.

A booking is *due* when its promise is at most `DUE_LEAD_MIN` away: committed work cannot be
reordered, so taking tomorrow's booking now would block the car.
"""

from typing import Any, Final

import numpy as np

from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from . import kernels
from .base import Decision, DecisionSet
from .tuning import PROFIT, UNTUNED, MatchingWeights
from .weight_files import filed, names_of

DUE_LEAD_MIN: Final = 20.0
"""The same for both, so that they differ in choice alone: of the leads 5, 10, ... 30 each is within
5 % of its best on 200 training days, at both loads."""


class CompiledPolicy:
    """A baseline in compiled code: decides one state, or plays whole batches of days.

    Attributes:
        name: As on the command line.
        note: Where its numbers come from, for reports.
        model_sha: SHA-256 of the weights' file, where they are those of a model folder.
    """

    def __init__(
        self,
        name: str,
        kind: int,
        scenario: Scenario,
        *,
        source: DaySource | None = None,
        weights: MatchingWeights = UNTUNED,
        hold_back_min: float = DUE_LEAD_MIN,
        seed: int = 0,
        note: str = "",
        model_sha: str | None = None,
    ) -> None:
        self.name = name
        self.note = note
        self.model_sha = model_sha
        self._kind = kind
        self._scenario = scenario
        self._source = source
        self._weights = weights.array()
        self._hold_back = hold_back_min
        self._seed = seed
        self._host: HostWorld | None = None

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Decide one epoch; ``plan`` and ``budget_ms`` are not needed (microseconds)."""
        if self._host is None:
            # The shortest observation: these policies read the world itself.
            self._host = HostWorld(self._scenario, observation="compact", source=self._source)
        self._host.load(state)
        bookings = len(state.booking_ids)
        chosen = np.empty((1, max(1, bookings), 3))
        bits = rng.integers(0, 2**63, 1) if rng is not None else np.array([self._seed])
        count = kernels.decide_epoch(
            *self._host.memory,
            self._kind,
            0,
            self._weights,
            self._hold_back,
            bits.astype(np.uint64),
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
        days = engine.out.day.astype(np.uint64)
        kernels.play_days(
            *engine.memory,
            self._kind,
            self._weights,
            self._hold_back,
            # One stream per day, whatever its place in the batch.
            days * np.uint64(2_654_435_761) + np.uint64(self._seed),
        )


def matching_weights(scenario: Scenario) -> tuple[MatchingWeights, str]:
    """Weights tuned for a scenario, and a note that says where they come from.

    Looked for under ``data/rl/weights`` (``tune_matching.py`` writes there), then among the
    shipped ones, by the scenario's name, then by the name before the first hyphen (a resized
    scenario is ``geneva-n5-h8``), and at last ``geneva``'s.
    """
    path = filed("matching", [*names_of(scenario), "geneva"])
    if path is not None:
        weights = MatchingWeights.load(path)
        return weights, _note(weights, scenario)
    return UNTUNED, "untuned weights"


def _note(weights: MatchingWeights, scenario: Scenario) -> str:
    note = f"weights tuned on {weights.scenario}"
    if weights.scenario_hash != scenario.sha256:
        note += " (another scenario, or another version of it)"
    return note


def make_baseline(
    name: str, scenario: Scenario, *, source: DaySource | None = None, seed: int = 0
) -> CompiledPolicy | None:
    """A baseline by name; None if the name is not one of theirs."""
    kinds = {"random": kernels.RANDOM, "nearest": kernels.NEAREST, "cheapest": kernels.CHEAPEST}
    if name in kinds:
        return CompiledPolicy(name, kinds[name], scenario, source=source, seed=seed)
    if name == "matching" and scenario.rules.decide_once:
        name = "matching_profit"  # nothing to hold back for where each epoch decides
    if name == "matching_profit":
        weights, note = PROFIT, "profit alone"
    elif name == "matching":
        weights, note = matching_weights(scenario)
    else:
        return None
    return CompiledPolicy(
        name,
        kernels.MATCHING,
        scenario,
        source=source,
        weights=weights,
        hold_back_min=weights.hold_back_min,
        note=note,
    )
