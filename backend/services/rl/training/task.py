"""What a run trains on: the dispatch scenario, or a foreign Gymnasium environment.

A task builds streams of experience and networks that fit, judges an agent on validation days, and
says what a model folder must record about its environment.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.rl.data.sources import split_labels, split_seeds
from services.rl.dqn_agent import DQNAgent
from services.rl.errors import TrainingError
from services.rl.policies.base import Policy
from services.rl.policies.edge_matching import NETWORK, NETWORK_ONE_BY_ONE, play_edge_matching
from services.rl.policies.pair_network import pair_weights
from services.rl.policies.registry import make_policy
from services.rl.q_networks import (
    PairArchitecture,
    PairFeatures,
    PairQNetwork,
    QFunction,
    QNetwork,
)
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.observation import LAYOUT_VERSION, ObservationKind
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import Day

from .config import TrainingConfig
from .streams import EngineStream, GymnasiumStream, Stream

_LONGEST_EPISODE = 1_000_000  # of a foreign evaluation: beyond that it would go on for ever


@dataclass(frozen=True)
class Score:
    """An evaluation.

    Attributes:
        mean: What is compared: the mean of ``per_episode``.
        per_episode: ``(D,)`` KPI reward of each validation day, or return of each episode.
        kpis: Mean KPIs; empty for foreign environments.
    """

    mean: float
    per_episode: npt.NDArray[np.float64]
    kpis: dict[str, float]


class Task(Protocol):
    """What the trainer needs to know of its environment."""

    name: str
    judged_on: str  # what a score is the mean of, for people

    def stream(self, config: TrainingConfig) -> Stream:
        """Experience to learn from."""
        ...

    def network(self, config: TrainingConfig, stream: Stream) -> QFunction:
        """A fresh network that fits the stream."""
        ...

    def evaluate(self, agent: DQNAgent, config: TrainingConfig) -> Score:
        """Judge the agent."""
        ...

    def baselines(self, config: TrainingConfig) -> dict[str, float]:
        """Scores of other policies where the agent is judged, by name; for comparison."""
        ...

    def record(self, config: TrainingConfig) -> dict[str, Any]:
        """What a model folder says about the environment."""
        ...


class DispatchTask:
    """Dispatching a scenario.

    Args:
        scenario: The world.
        source: Real days, for scenarios that replay them.
        teacher: Teaches instead of the policy that the configuration names.
    """

    def __init__(
        self, scenario: Scenario, source: DaySource | None = None, teacher: Policy | None = None
    ) -> None:
        self.scenario = scenario
        self.source = source
        self.teacher = teacher
        self.name = scenario.name
        self.judged_on = "validation days"
        self._judge: Engine | None = None

    def days(self, split: Split) -> list[Day] | None:
        """Real days of a split; None where days are sampled."""
        if self.source is None:
            return None
        return [self.source.day(label) for label in split_labels(self.source, split, None)]

    def observation(self, config: TrainingConfig) -> ObservationKind:
        """What the network observes."""
        if config.hyperparameters.network == "pair":
            return "rows"
        return config.environment.observation

    def stream(self, config: TrainingConfig) -> EngineStream:
        """See `Task`."""
        h = config.hyperparameters
        return EngineStream(
            self.scenario,
            h.num_envs,
            observation=self.observation(config),
            max_bookings=config.environment.max_bookings,
            timing=config.environment.reward_timing,
            gamma=h.gamma,
            seed=config.seed,
            days=self.days(Split.TRAIN),
            source=self.source,
        )

    def network(self, config: TrainingConfig, stream: Stream) -> QFunction:
        """See `Task`."""
        h = config.hyperparameters
        if h.network == "flat":
            return QNetwork(stream.state_dim, stream.num_actions, h.hidden, dueling=h.dueling)
        assert isinstance(stream, EngineStream)
        layout = stream.engine.layout
        return PairQNetwork(
            layout.num_drivers,
            layout.max_bookings,
            PairFeatures(stream.engine),
            pair_architecture(config),
        )

    def evaluate(self, agent: DQNAgent, config: TrainingConfig) -> Score:
        """Play the validation days.

        The flat network acts step by step, the pair network as the policy it will be used as.
        """
        engine = self._validation_engine(config)
        if isinstance(agent.online, PairQNetwork):
            network = pair_weights(
                {k: v.detach().cpu().numpy() for k, v in agent.online.state_dict().items()},
                scale=1.0 / agent.options.reward_scale,
            )
            if not agent.online.shape.edges:
                network = network._replace(
                    pair_edge=np.zeros_like(network.pair_edge),
                    edge_score=np.zeros_like(network.edge_score),
                )
            kind = NETWORK if config.evaluation.policy == "dqn_matching" else NETWORK_ONE_BY_ONE
            play_edge_matching(
                *engine.memory,
                kind,
                np.zeros(NUM_EDGE),
                network,
                config.hyperparameters.hold_back_min,
            )
        else:
            _play_flat(agent, engine, _judging_epsilon(config))
        table = np.array([list(engine.kpis(e).values()) for e in range(engine.num_envs)])
        rewards = table[:, KPIS.index("reward")]
        return Score(
            float(rewards.mean()),
            rewards,
            dict(zip(KPIS, table.mean(axis=0).tolist(), strict=True)),
        )

    def _validation_engine(self, config: TrainingConfig) -> Engine:
        count = config.evaluation.n_eval_episodes
        days = self.days(Split.VALIDATION)
        if self._judge is None or self._judge.num_envs != min(count, len(days or range(count))):
            if days is not None:
                days = days[:count]
                if not days:
                    raise TrainingError(f"scenario {self.name!r} has no validation days")
                count = len(days)
            self._judge = Engine(
                self.scenario,
                count,
                max_bookings=config.environment.max_bookings,
                observation=self.observation(config),
                days=days,
                source=self.source,
            )
        if days is not None:
            self._judge.start(np.arange(self._judge.num_envs))
        else:
            self._judge.start(np.array(split_seeds(Split.VALIDATION, count)))
        return self._judge

    def baselines(self, config: TrainingConfig) -> dict[str, float]:
        """The compiled baselines on the same validation days."""
        names = ["nearest", "matching", "matching_linear"]
        if self.scenario.rules.decide_once:
            names = ["nearest", "matching_profit"]
        scores = {}
        for name in names:
            engine = self._validation_engine(config)
            policy: Any = make_policy(name, self.scenario, source=self.source)
            policy.play(engine)
            scores[name] = float(engine.world.totals.sum(axis=1).mean())
        return scores

    def record(self, config: TrainingConfig) -> dict[str, Any]:
        """See `Task`."""
        return {
            "scenario": self.scenario.name,
            "scenario_hash": self.scenario.sha256,
            "observation": self.observation(config),
            "num_drivers": self.scenario.fleet.num_drivers,
            "max_bookings": config.environment.max_bookings,
            "layout_version": LAYOUT_VERSION,
        }


def pair_architecture(config: TrainingConfig) -> PairArchitecture:
    """Sizes of the pair network that a configuration asks for."""
    h = config.hyperparameters
    return PairArchitecture(
        hidden=h.pair_hidden,
        dueling=h.dueling,
        edges=h.edge_features,
        hold_back_min=h.hold_back_min,
    )


def _judging_epsilon(config: TrainingConfig) -> float:
    """Exploration while the agent is judged."""
    if config.evaluation.deterministic:
        return 0.0
    return config.hyperparameters.exploration_final_eps


def _play_flat(agent: DQNAgent, engine: Engine, epsilon: float) -> None:
    out = engine.out
    playing = np.ones(engine.num_envs, dtype=np.bool_)
    while playing.any():
        actions = agent.select_actions(out.observation, out.mask != 0, epsilon)
        actions[~playing] = 0
        engine.step(actions)
        playing &= ~out.terminated


class GymnasiumTask:
    """Any Gymnasium environment with a vector observation and discrete actions.

    Args:
        environment_id: As registered.
    """

    def __init__(self, environment_id: str) -> None:
        self.environment_id = environment_id
        self.name = environment_id
        self.judged_on = "evaluation episodes"

    def stream(self, config: TrainingConfig) -> GymnasiumStream:
        """See `Task`."""
        return GymnasiumStream(
            self.environment_id, config.hyperparameters.num_envs, seed=config.seed
        )

    def network(self, config: TrainingConfig, stream: Stream) -> QFunction:
        """See `Task`."""
        h = config.hyperparameters
        if h.network != "flat":
            raise TrainingError(
                f"environment {self.name!r} has no driver-booking pairs: it needs the flat "
                "network (hyperparameters.network: flat)"
            )
        return QNetwork(stream.state_dim, stream.num_actions, h.hidden, dueling=h.dueling)

    def evaluate(self, agent: DQNAgent, config: TrainingConfig) -> Score:
        """Episodes with seeds of their own, never those trained on."""
        count = config.evaluation.n_eval_episodes
        judge = GymnasiumStream(self.environment_id, count, seed=config.seed + 2**31)
        epsilon = _judging_epsilon(config)
        totals, playing = np.zeros(count), np.ones(count, dtype=np.bool_)
        state, mask = judge.reset()
        for _ in range(_LONGEST_EPISODE):
            step = judge.step(agent.select_actions(state, mask, epsilon))
            for e, episode in zip(np.flatnonzero(step.ended), step.episodes, strict=True):
                if playing[e]:
                    totals[e], playing[e] = episode.total, False
            if not playing.any():
                break
            state, mask = step.state, step.mask
        else:
            raise TrainingError(
                f"environment {self.name!r}: an episode of the evaluation did not end within "
                f"{_LONGEST_EPISODE:,} steps; register it with max_episode_steps"
            )
        return Score(float(totals.mean()), totals, {})

    def baselines(self, config: TrainingConfig) -> dict[str, float]:  # noqa: ARG002
        """None are known."""
        return {}

    def record(self, config: TrainingConfig) -> dict[str, Any]:  # noqa: ARG002 - as the protocol
        """See `Task`."""
        return {"environment": self.environment_id}
