"""Tuning of the matchers' weights by CMA-ES (Hansen 2016) on a scenario's training days.

Every candidate of a generation plays the same fresh days (common random numbers), so that
differences are the weights' and not the days'. The mean of the search distribution is kept, not
the luckiest candidate: it is the better estimate under noise.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day, FloatArray

from . import kernels
from .edge_matching import LINEAR, play_edge_matching
from .pair_network import NO_NETWORK
from .weight_files import save_json

WEIGHTS_SCHEMA = 1


@dataclass(frozen=True)
class MatchingWeights:
    """What a matcher weighs, and where the numbers come from.

    Attributes:
        features: Names: `kernels.PAIR_FEATURES` of `matching`, `EDGE` of `matching_linear`.
        weights: One per feature.
        hold_back_min: A booking is offered once its slack is at most this.
        scenario: Name of the scenario tuned on.
        scenario_hash: Its hash.
        provenance: Command, seed, commit, days and scores of the tuning.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    hold_back_min: float
    scenario: str
    scenario_hash: str
    provenance: dict[str, Any]

    def array(self) -> FloatArray:
        """The weights as the kernels take them."""
        return np.array(self.weights, dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write JSON, atomically."""
        save_json(path, {"schema": WEIGHTS_SCHEMA, **asdict(self)})

    @classmethod
    def load(
        cls, path: Path, features: tuple[str, ...] = kernels.PAIR_FEATURES
    ) -> "MatchingWeights":
        """Read what `save` wrote, for a matcher with the given features.

        Raises:
            PolicyError: If the file is missing, damaged, or for other features.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            schema = raw.pop("schema")
            weights = cls(
                **{**raw, "features": tuple(raw["features"]), "weights": tuple(raw["weights"])}
            )
        except FileNotFoundError as error:
            raise PolicyError(f"weights file {path} does not exist") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PolicyError(f"weights file {path} cannot be read: {error}") from error
        if schema != WEIGHTS_SCHEMA or weights.features != features:
            raise PolicyError(f"weights file {path} was written for other features; tune again")
        return weights


UNTUNED = MatchingWeights(
    features=kernels.PAIR_FEATURES,
    weights=(0.1, -4.0, -2.0, 0.0, -4.0, 0.0, -4.0, 4.0, 0.0, 0.0, 0.0, 6.0),
    hold_back_min=60.0,
    scenario="",
    scenario_hash="",
    provenance={},
)
"""A sensible guess: near, idle drivers first; urgent patients first; not far ahead of time."""

PROFIT = MatchingWeights(
    features=kernels.PAIR_FEATURES,
    # The wait only breaks ties between equal profits: 1e-6 USD a minute.
    weights=(1.0, 0.0, 0.0, -1e-5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    hold_back_min=float("inf"),
    scenario="",
    scenario_hash="",
    provenance={},
)
"""Profit alone, every request offered at once: `matching_profit`, the Manhattan reference."""


_LINEAR_START = {
    "value": 1.0,
    "travel_min": -4.0,
    "late_min": -2.0,
    "idle_min": -4.0,
    "busy_min": -4.0,
    "priority": 4.0,
    "bias": 6.0,
}
UNTUNED_LINEAR = MatchingWeights(
    features=EDGE,
    weights=tuple(_LINEAR_START.get(name, 0.0) for name in EDGE),
    hold_back_min=60.0,
    scenario="",
    scenario_hash="",
    provenance={},
)
"""The same guess on edges; what `matching` does not see starts at 0."""

UNTUNED_OF = {"matching": UNTUNED, "matching_linear": UNTUNED_LINEAR}
"""The matchers that can be tuned, and where the search starts."""


@dataclass(frozen=True)
class TuningPlan:
    """Budget of one tuning run."""

    generations: int = 100
    population: int = 24
    days_per_generation: int = 64
    seed: int = 0
    check_days: int = 400


def tune_matching(
    scenario: Scenario,
    plan: TuningPlan,
    *,
    policy: str = "matching",
    days: Sequence[Day] = (),
    source: DaySource | None = None,
    on_generation: Callable[[int, float], None] | None = None,
    out_of_time: Callable[[], bool] | None = None,
) -> MatchingWeights:
    """Fit a matcher's weights and hold-back on training days.

    ``days`` are real training days, for a scenario that replays them; otherwise training seeds
    are drawn. The last ``check_days`` seeds of the training range (never used for fitting) decide
    whether the result is kept: it never falls below the untuned weights. Once ``out_of_time`` says
    True, before a generation, the search ends with what it has found so far.
    """
    from cmaes import CMA  # brings scipy.stats: 60 MB and seconds that serving does not need

    rng = np.random.default_rng(plan.seed)
    batch = min(plan.days_per_generation, len(days)) if days else plan.days_per_generation
    engine = Engine(scenario, batch, days=days or None, source=source)
    untuned = UNTUNED_OF[policy]
    play = _play_edges if untuned.features == EDGE else _play_pairs
    start = _encode(untuned.array(), untuned.hold_back_min)
    search = CMA(mean=start, sigma=1.0, population_size=plan.population, seed=plan.seed)
    for generation in range(plan.generations):
        if out_of_time is not None and out_of_time():
            break
        labels = (
            rng.choice(len(days), batch, replace=False) if days else rng.integers(0, 900_000, batch)
        )
        told = []
        for _ in range(search.population_size):
            point = search.ask()
            told.append((point, -_mean_reward(play, engine, labels, *_decode(point))))
        search.tell(told)
        if on_generation is not None:
            on_generation(generation, -min(score for _, score in told))
    checks = np.arange(len(days)) if days else 900_000 + np.arange(plan.check_days)
    judge = Engine(scenario, len(checks), days=days or None, source=source)
    tuned, hold_back = _decode(search.mean)
    before = _mean_reward(play, judge, checks, untuned.array(), untuned.hold_back_min)
    after = _mean_reward(play, judge, checks, tuned, hold_back)
    if after < before:
        tuned, hold_back = untuned.array(), untuned.hold_back_min
    return MatchingWeights(
        features=untuned.features,
        weights=tuple(round(float(v), 6) for v in tuned),
        hold_back_min=round(float(hold_back), 4),
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
        provenance={
            **asdict(plan),
            "training_days": [day.label for day in days] if days else "seeds 0..899999",
            "reward_untuned": round(before, 3),
            "reward_tuned": round(after, 3),
        },
    )


def _encode(weights: FloatArray, hold_back: float) -> FloatArray:
    """Search space: weights, and the logarithm of the hold-back."""
    return np.append(weights, 2.0 * np.log(hold_back / 30.0))


def _decode(point: FloatArray) -> tuple[FloatArray, float]:
    return point[:-1].copy(), float(30.0 * np.exp(np.clip(point[-1], -6, 6) / 2.0))


Play = Callable[[Engine, FloatArray, float], None]


def _play_pairs(engine: Engine, weights: FloatArray, hold_back: float) -> None:
    nothing = np.zeros(engine.num_envs, dtype=np.uint64)
    kernels.play_days(*engine.memory, kernels.MATCHING, weights, hold_back, nothing)


def _play_edges(engine: Engine, weights: FloatArray, hold_back: float) -> None:
    play_edge_matching(*engine.memory, LINEAR, weights, NO_NETWORK, hold_back)


def _mean_reward(
    play: Play, engine: Engine, labels: Any, weights: FloatArray, hold_back: float
) -> float:
    engine.start(labels)
    play(engine, weights, hold_back)
    return float(engine.world.totals.sum(axis=1).mean())
