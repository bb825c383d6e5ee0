"""Streams of experience: E environments stepped at once, behind one small interface.

`EngineStream` runs the dispatch engine without dictionaries; `GymnasiumStream` any registered
environment with discrete actions. Both can be saved and restored, so that a resumed run sees the
same observations as one that was never interrupted.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from services.rl.errors import TrainingError
from services.rl.simulation.construction import RewardTimingName
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.observation import ObservationKind
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Episode:
    """An episode that ended.

    Attributes:
        total: Its undiscounted score: the KPI reward of a day, the return of a foreign episode.
        length: Steps.
        kpis: The day's KPIs; empty for foreign environments.
    """

    total: float
    length: int
    kpis: dict[str, float]


@dataclass(frozen=True)
class StreamStep:
    """One step of every environment.

    Attributes:
        state: ``(E, S)``, where the next action is chosen (a new episode's first, after an end).
        mask: ``(E, A)`` of ``state``.
        next_state: ``(E, S)``, what the action led to (an episode's last observation, at an end).
        next_mask: ``(E, A)`` of ``next_state``; of a day that ended, WAIT alone.
        reward: ``(E,)``.
        terminated: ``(E,)``.
        ended: ``(E,)``, terminated or truncated.
        dt: ``(E,)``, epochs passed.
        episodes: Those that ended, in the order of environments.
    """

    state: Floats
    mask: Bools
    next_state: Floats
    next_mask: Bools
    reward: npt.NDArray[np.float64]
    terminated: Bools
    ended: Bools
    dt: npt.NDArray[np.float64]
    episodes: list[Episode]


class Stream(Protocol):
    """What the trainer steps."""

    num_envs: int
    state_dim: int
    num_actions: int

    def reset(self) -> tuple[Floats, Bools]:
        """Begin; returns states ``(E, S)`` and masks ``(E, A)``."""
        ...

    def step(self, actions: npt.NDArray[np.int64]) -> StreamStep:
        """One action per environment."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `restore` needs into an existing folder."""
        ...

    def restore(self, folder: Path) -> tuple[Floats, Bools]:
        """Go on where `save` was called; returns states and masks."""
        ...


class EngineStream:
    """The dispatch engine; days are drawn from the training seeds (or the given days).

    Args:
        scenario: The world.
        num_envs: E.
        observation: Of the network.
        max_bookings: M.
        timing: When a learner is paid.
        gamma: Discount per epoch.
        seed: Of the stream of days.
        days: Real training days, for scenarios that replay them.
        source: Where they came from.
    """

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int,
        *,
        observation: ObservationKind,
        max_bookings: int,
        timing: RewardTimingName,
        gamma: float,
        seed: int,
        days: list[Day] | None = None,
        source: DaySource | None = None,
    ) -> None:
        self.engine = Engine(
            scenario,
            num_envs,
            max_bookings=max_bookings,
            observation=observation,
            days=days,
            source=source,
            timing=RewardTiming[timing.upper()],
            gamma=gamma,
        )
        self.num_envs = num_envs
        self.state_dim = self.engine.layout.size
        self.num_actions = self.engine.layout.num_actions
        self._seed = seed
        self._length = np.zeros(num_envs, dtype=np.int64)

    def reset(self) -> tuple[Floats, Bools]:
        """See `Stream`."""
        draws = np.random.SeedSequence(self._seed).generate_state(self.num_envs)
        for env, draw in enumerate(draws):
            self.engine.seed_episodes(env, int(draw))
        self.engine.start([self.engine.next_training_day(e) for e in range(self.num_envs)])
        self._length[:] = 0
        return self._now()

    def _now(self) -> tuple[Floats, Bools]:
        out = self.engine.out
        return out.observation.copy(), out.mask != 0

    def step(self, actions: npt.NDArray[np.int64]) -> StreamStep:
        """See `Stream`."""
        before = self.engine.world.totals.sum(axis=1)
        out = self.engine.step(actions, autoreset=True)
        self._length += 1
        state, mask = self._now()
        ended = out.terminated | out.truncated
        next_state, next_mask, episodes = state, mask, []
        if ended.any():
            next_state, next_mask = state.copy(), mask.copy()
            next_state[ended] = out.final_observation[ended]
            next_mask[ended] = False
            next_mask[ended, 0] = True
            for e in np.flatnonzero(ended):
                kpis = dict(zip(KPIS, out.final_kpis[e].tolist(), strict=True))
                # The day's totals were reset with the day: its last step's terms close the sum.
                total = float(before[e] + out.terms[e].sum())
                episodes.append(Episode(total, int(self._length[e]), kpis))
            self._length[ended] = 0
        return StreamStep(
            state,
            mask,
            next_state,
            next_mask,
            out.reward.copy(),
            out.terminated.copy(),
            ended,
            out.epochs.copy(),
            episodes,
        )

    def save(self, folder: Path) -> None:
        """See `Stream`: the engine's whole memory, as bytes."""
        np.save(folder / "engine.npy", self.engine.memory.buffer)
        np.save(folder / "lengths.npy", self._length)

    def restore(self, folder: Path) -> tuple[Floats, Bools]:
        """See `Stream`."""
        stored = _load(folder / "engine.npy")
        if stored.shape != self.engine.memory.buffer.shape or stored.dtype != np.uint8:
            raise TrainingError(
                f"checkpoint {folder.name}: the simulator's state is of another scenario or version"
            )
        self.engine.memory.buffer[...] = stored
        self._length[...] = _load(folder / "lengths.npy")
        return self._now()


class GymnasiumStream:
    """Any Gymnasium environment with a vector observation and discrete actions.

    Every episode is reset with a seed of its own, and its actions are kept: a checkpoint restores
    the running episodes by playing them again, exactly where the environment is deterministic
    given its seed, as Gymnasium's own are.

    Args:
        environment_id: As registered; ``module:Id`` imports a module first.
        num_envs: E.
        seed: Of all episodes.
        options: Keyword arguments of the environment.
    """

    def __init__(
        self,
        environment_id: str,
        num_envs: int,
        *,
        seed: int,
        options: dict[str, Any] | None = None,
    ) -> None:
        try:
            self._envs = [
                gymnasium.make(environment_id, **(options or {})) for _ in range(num_envs)
            ]
        except Exception as error:  # an unknown id, a missing library, or the foreign constructor
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(
                f"environment {environment_id!r} cannot be made: {reason}"
            ) from error
        actions, observations = self._envs[0].action_space, self._envs[0].observation_space
        if not isinstance(actions, gymnasium.spaces.Discrete):
            raise TrainingError(
                f"environment {environment_id!r} has actions {actions}: a DQN needs Discrete ones"
            )
        if not isinstance(observations, gymnasium.spaces.Box) or len(observations.shape) != 1:
            raise TrainingError(
                f"environment {environment_id!r} observes {observations}: a vector is needed; "
                "wrap it (FlattenObservation) and register the wrapped one"
            )
        self.environment_id = environment_id
        self.num_envs = num_envs
        self.num_actions = int(actions.n)
        self.state_dim = int(observations.shape[0])
        self._first = int(actions.start)
        self._seed = seed
        self._episode = [0] * num_envs
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]
        self._total = np.zeros(num_envs)
        self._state = np.zeros((num_envs, self.state_dim), dtype=np.float32)
        self._mask = np.ones((num_envs, self.num_actions), dtype=np.bool_)

    def reset(self) -> tuple[Floats, Bools]:
        """See `Stream`."""
        for e in range(self.num_envs):
            self._begin(e)
        return self._state.copy(), self._mask.copy()

    def _begin(self, e: int) -> None:
        entropy = np.random.SeedSequence([self._seed, e, self._episode[e]])
        with self._blamed("reset"):
            observation, info = self._envs[e].reset(seed=int(entropy.generate_state(1)[0]))
            self._state[e], self._mask[e] = observation, self._valid(e, info)
        self._actions[e] = []
        self._total[e] = 0.0

    def _act(self, e: int, action: int) -> tuple[float, bool, bool, float]:
        """Step one environment; reward, terminated, truncated and epochs passed."""
        with self._blamed("step"):
            observation, reward, terminated, truncated, info = self._envs[e].step(
                self._first + action
            )
            self._state[e], self._mask[e] = observation, self._valid(e, info)
            dt = float(info.get("dt", 1.0))
        self._actions[e].append(action)
        self._total[e] += float(reward)
        return float(reward), bool(terminated), bool(truncated), dt

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        """Foreign code may raise anything: say that it was the environment, and where."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise TrainingError(
                f"environment {self.environment_id!r} failed in {what} "
                f"({type(error).__name__}: {reason})"
            ) from error

    def _valid(self, e: int, info: dict[str, Any]) -> Bools:
        if "action_mask" in info:
            mask = np.asarray(info["action_mask"])
        else:
            masks = getattr(self._envs[e].unwrapped, "action_masks", None)
            if not callable(masks):
                return np.ones(self.num_actions, dtype=np.bool_)
            mask = np.asarray(masks())
        if mask.shape != (self.num_actions,):
            raise ValueError(
                f"the action mask has shape {mask.shape}, there are {self.num_actions} actions"
            )
        return mask.astype(np.bool_)

    def step(self, actions: npt.NDArray[np.int64]) -> StreamStep:
        """See `Stream`; ``dt`` is ``info["dt"]`` where the environment says it, else 1."""
        n = self.num_envs
        reward, dt = np.zeros(n), np.ones(n)
        terminated, truncated = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        for e, action in enumerate(actions.tolist()):
            reward[e], terminated[e], truncated[e], dt[e] = self._act(e, action)
        next_state, next_mask = self._state.copy(), self._mask.copy()
        ended = terminated | truncated
        episodes = []
        for e in np.flatnonzero(ended).tolist():
            episodes.append(Episode(float(self._total[e]), len(self._actions[e]), {}))
            self._episode[e] += 1
            self._begin(e)
        return StreamStep(
            self._state.copy(),
            self._mask.copy(),
            next_state,
            next_mask,
            reward,
            terminated,
            ended,
            dt,
            episodes,
        )

    def save(self, folder: Path) -> None:
        """See `Stream`: which episodes run, and what was done in them."""
        document = {"episode": self._episode, "actions": self._actions}
        (folder / "episodes.json").write_text(json.dumps(document), encoding="utf-8")

    def restore(self, folder: Path) -> tuple[Floats, Bools]:
        """See `Stream`."""
        document = json.loads((folder / "episodes.json").read_text(encoding="utf-8"))
        if len(document["episode"]) != self.num_envs:
            raise TrainingError(
                f"checkpoint {folder.name} was written with {len(document['episode'])} "
                f"environments, this run has {self.num_envs}"
            )
        self._episode = list(document["episode"])
        for e, actions in enumerate(document["actions"]):
            self._begin(e)
            for action in actions:
                self._act(e, action)
        return self._state.copy(), self._mask.copy()


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(f"checkpoint file {path} cannot be read: {error}") from error
    return array
