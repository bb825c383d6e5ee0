"""Polish: evolution of the pair network's last layer on whole training days.

Temporal differences see one decision at a time, through noise twenty times its advantage; whole
days played by all candidates alike (common random numbers) see what matters. CMA-ES (Hansen 2016)
moves the last layer of the pair score: the weights of the linear score over edges and those of the
hidden features that imitation and reinforcement learning have found. The mean of the search
distribution is kept, and judged on validation days like every other model.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from cmaes import CMA

from services.rl.dqn_agent import DQNAgent
from services.rl.errors import TrainingError
from services.rl.policies.edge_matching import NETWORK, NETWORK_ONE_BY_ONE, play_edge_matching
from services.rl.policies.pair_network import PairWeights, pair_weights
from services.rl.q_networks import PairQNetwork
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split
from services.rl.simulation.types import FloatArray, IntArray

from .config import TrainingConfig
from .run_log import RunLog
from .task import DispatchTask, Task

_SEEDS = 900_000  # of the training range; its end is left to checks, as in `policies.tuning`
_THREADS = 2


def polish(
    task: Task,
    agent: DQNAgent,
    config: TrainingConfig,
    log: RunLog,
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Evolve the last layer, in place; False if interrupted, the network is as before then.

    What evolution ends with is kept if it beats the network as it was on training days drawn anew:
    among 900,000 seeds hardly one of the search's, among few real days the same ones.

    Raises:
        TrainingError: If the network has no such layer or the task no days.
    """
    network = agent.online
    if not isinstance(task, DispatchTask) or not isinstance(network, PairQNetwork):
        raise TrainingError("polish: only the pair network on a scenario has a part to polish")
    plan = config.polish
    rng = np.random.default_rng([config.seed, 3])
    days = task.days(Split.TRAIN)
    batch = plan.days if days is None else min(plan.days, len(days))
    engines = [Engine(task.scenario, batch, days=days, source=task.source) for _ in range(_THREADS)]
    layer = _LastLayer(network, 1.0 / agent.options.reward_scale)
    kind = NETWORK if config.evaluation.policy == "dqn_matching" else NETWORK_ONE_BY_ONE
    hold_back = config.hyperparameters.hold_back_min

    def play(engine: Engine, labels: IntArray, points: list[FloatArray]) -> list[float]:
        scores = []
        for point in points:
            engine.start(labels)
            linear, weights = layer.at(point)
            play_edge_matching(*engine.memory, kind, linear, weights, hold_back)
            scores.append(float(engine.world.totals.sum(axis=1).mean()))
        return scores

    search = CMA(
        mean=np.zeros(layer.size),
        sigma=plan.sigma,
        population_size=plan.population,
        seed=config.seed,
    )

    def some_days() -> IntArray:
        labels: IntArray = (
            rng.integers(0, _SEEDS, batch)
            if days is None
            else rng.choice(len(days), batch, replace=False)
        )
        return labels

    with ThreadPoolExecutor(_THREADS) as pool:  # compiled code runs without the GIL
        for generation in range(plan.generations):
            if interrupted():
                return False
            labels = some_days()
            points = [search.ask() for _ in range(search.population_size)]
            parts = [points[i::_THREADS] for i in range(_THREADS)]
            results = list(pool.map(play, engines, [labels] * _THREADS, parts))
            told = [
                (point, -score)
                for part, scores in zip(parts, results, strict=True)
                for point, score in zip(part, scores, strict=True)
            ]
            search.tell(told)
            mean = -float(np.mean([score for _, score in told]))
            log.metrics(agent.steps, "polish", {"generation": generation, "reward": mean})
    before, after = play(engines[0], some_days(), [np.zeros(layer.size), search.mean])
    log.metrics(agent.steps, "polish", {"before": before, "after": after})
    if after > before:
        layer.write(network, search.mean)
    log.say(
        f"polish: {plan.generations} generations of {plan.population} on {batch} days each; "
        f"{before:.2f} became {after:.2f}" + ("" if after > before else ", not kept")
    )
    return True


class _LastLayer:
    """The last layer as a point of the search space: 0 is where it stands.

    A unit is one reward unit per unit of an edge feature, and the mean size of the layer's own
    weights on hidden features.
    """

    def __init__(self, network: PairQNetwork, scale: float) -> None:
        weights = pair_weights(
            {k: v.detach().cpu().numpy() for k, v in network.state_dict().items()}, scale=scale
        )
        self._scale = scale
        self._edge = weights.edge_score.astype(np.float64)
        self._hidden = weights.pair_score.astype(np.float64)
        self._unit = max(0.05, float(np.abs(self._hidden).mean()))
        self._weights = weights._replace(edge_score=np.zeros_like(weights.edge_score))
        self.size = NUM_EDGE + len(self._hidden)

    def at(self, point: FloatArray) -> tuple[FloatArray, PairWeights]:
        """Linear weights and network of a point."""
        hidden = self._hidden + self._unit * point[NUM_EDGE:]
        return self._edge + point[:NUM_EDGE], self._weights._replace(
            pair_score=hidden.astype(np.float32)
        )

    def write(self, network: PairQNetwork, point: FloatArray) -> None:
        """Put a point into the network."""
        linear, weights = self.at(point)
        with torch.no_grad():
            for parameter, values in (
                (network.edge_score.weight, linear),
                (network.pair_score.weight, weights.pair_score),
            ):
                parameter.copy_(torch.from_numpy((values / self._scale).astype(np.float32))[None])
