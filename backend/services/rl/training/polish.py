"""Polish: evolution of the pair network's linear part on whole training days.

Temporal differences see one decision at a time, through noise twenty times its advantage; whole
days played by all candidates alike (common random numbers) see what matters. CMA-ES (Hansen 2016)
moves the weights of the linear score over edges, the network's other parts stay as learned. The
mean of the search distribution is kept, and judged on validation days like every other model.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from cmaes import CMA

from services.rl.dqn_agent import DQNAgent
from services.rl.errors import TrainingError
from services.rl.policies.edge_matching import NETWORK, NETWORK_ONE_BY_ONE, play_edge_matching
from services.rl.policies.pair_network import pair_weights
from services.rl.q_networks import PairQNetwork
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split
from services.rl.simulation.types import FloatArray

from .config import TrainingConfig
from .run_log import RunLog
from .task import DispatchTask, Task

_SEEDS = 900_000  # of the training range; its end is left to checks, as in `policies.tuning`


def polish(task: Task, agent: DQNAgent, config: TrainingConfig, log: RunLog) -> None:
    """Tune the linear part in place.

    Raises:
        TrainingError: If the network has no linear part or the task no days.
    """
    network = agent.online
    if not isinstance(task, DispatchTask) or not isinstance(network, PairQNetwork):
        raise TrainingError("polish: only the pair network on a scenario has a part to polish")
    plan = config.polish
    rng = np.random.default_rng([config.seed, 3])
    days = task.days(Split.TRAIN)
    batch = plan.days if days is None else min(plan.days, len(days))
    threads = max(1, config.num_threads if config.num_threads > 1 else 2)
    engines = [Engine(task.scenario, batch, days=days, source=task.source) for _ in range(threads)]
    scale = 1.0 / agent.options.reward_scale
    weights = pair_weights(
        {k: v.detach().cpu().numpy() for k, v in network.state_dict().items()}, scale=scale
    )
    kind = NETWORK if config.evaluation.policy == "dqn_matching" else NETWORK_ONE_BY_ONE
    hold_back = config.hyperparameters.hold_back_min
    start = weights.edge_score.astype(np.float64)
    weights = weights._replace(edge_score=np.zeros_like(weights.edge_score))

    def play(engine: Engine, labels: FloatArray, points: list[FloatArray]) -> list[float]:
        scores = []
        for point in points:
            engine.start(labels)
            play_edge_matching(*engine.memory, kind, point, weights, hold_back)
            scores.append(float(engine.world.totals.sum(axis=1).mean()))
        return scores

    search = CMA(
        mean=start, sigma=plan.sigma, population_size=plan.population, seed=config.seed
    )
    assert start.shape == (NUM_EDGE,)
    with ThreadPoolExecutor(threads) as pool:  # compiled code runs without the GIL
        for generation in range(plan.generations):
            labels = (
                rng.integers(0, _SEEDS, batch)
                if days is None
                else rng.choice(len(days), batch, replace=False)
            )
            points = [search.ask() for _ in range(search.population_size)]
            parts = [points[i::threads] for i in range(threads)]
            results = list(pool.map(play, engines, [labels] * threads, parts))
            told = [
                (point, -score)
                for part, scores in zip(parts, results, strict=True)
                for point, score in zip(part, scores, strict=True)
            ]
            search.tell(told)
            mean = -float(np.mean([score for _, score in told]))
            log.metrics(agent.steps, "polish", {"generation": generation, "reward": mean})
    with torch.no_grad():
        final = torch.from_numpy((search.mean / scale).astype(np.float32))
        network.edge_score.weight.copy_(final[None])
    log.say(f"polish: {plan.generations} generations of {plan.population} on {batch} days each")
