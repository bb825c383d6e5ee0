"""Teachers: a warm start from what another policy would do.

Any policy can teach (`policies.base.Policy`): it is asked at every epoch of training days, and its
commitments become actions of the environment. The network learns to rank them above waiting by
cross-entropy, with every commitment still outstanding equally right: their order means nothing.
With ``dagger_days`` the learner then acts itself while the teacher says what it would have done
(DAgger, Ross et al. 2011): the network learns to come back from its own states. A linear matcher
needs no imitation: it is a special case of the network, which takes its weights over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.rl.dqn_agent import DQNAgent
from services.rl.errors import TrainingError
from services.rl.policies.base import Policy
from services.rl.policies.registry import make_policy
from services.rl.q_networks import FLOOR, PairQNetwork
from services.rl.simulation.engine import Engine
from services.rl.simulation.types import FloatArray, IntArray

from .config import TrainingConfig
from .run_log import RunLog
from .streams import EngineStream
from .task import DispatchTask, Task

_ENVS = 16
_SCALE_STATES = 4_096


@dataclass
class Demonstrations:
    """States of training days and what the teacher would do there.

    Attributes:
        state: ``(K, S)`` rows.
        mask: ``(K, A)``.
        right: ``(K, A)``, the teacher's outstanding commitments; WAIT if there is none.
    """

    state: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of states."""
        return len(self.state)

    def save(self, path: Path) -> None:
        """Write an ``.npz``, under a temporary name first."""
        hidden = path.with_name(f".{path.stem}.partial.npz")
        np.savez(
            hidden,
            state=self.state,
            mask=np.packbits(self.mask, axis=1),
            right=np.packbits(self.right, axis=1),
            actions=np.array(self.mask.shape[1]),
        )
        hidden.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Demonstrations":
        """Read what `save` wrote.

        Raises:
            TrainingError: If the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                count = int(stored["actions"])
                mask, right = (
                    np.unpackbits(stored[name], axis=1, count=count).view(np.bool_)
                    for name in ("mask", "right")
                )
                return cls(stored["state"], mask, right)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise TrainingError(f"demonstrations {path} cannot be read: {error}") from error


def demonstrate(
    teacher: Policy, stream: EngineStream, days: int, *, learner: DQNAgent | None = None
) -> Demonstrations:
    """Play training days and note at every step what the teacher would do.

    Args:
        teacher: Asked at the beginning of every epoch.
        stream: Its environments are stepped; begin it first.
        days: Ends once so many days have ended.
        learner: Acts instead of the teacher, greedily, where given.
    """
    engine = stream.engine
    states, masks, rights = [], [], []
    count = engine.num_envs
    wanted: list[set[tuple[int, int]]] = [set() for _ in range(count)]
    adviser = _adviser(teacher, engine)
    fresh = np.ones(count, dtype=np.bool_)
    ended = 0
    state, mask = engine.out.observation.copy(), engine.out.mask != 0
    while ended < days:
        asked = np.flatnonzero(fresh)
        for env, answer in zip(asked.tolist(), adviser.commitments(asked), strict=True):
            wanted[env] = answer
        right = np.zeros_like(mask)
        for e in range(count):
            _mark(engine, e, wanted[e], mask[e], right[e])
        states.append(state)
        masks.append(mask)
        rights.append(right)
        if learner is None:
            actions = right.argmax(axis=1)
        else:
            actions = learner.select_actions(state, mask, 0.0)
        step = stream.step(actions.astype(np.int64))
        ended += len(step.episodes)
        fresh = step.ended | (actions == 0)
        adviser.forget(np.flatnonzero(step.ended))
        state, mask = step.state, step.mask
    return Demonstrations(np.concatenate(states), np.concatenate(masks), np.concatenate(rights))


class Adviser(Protocol):
    """Says what a teacher would commit in environments that somebody else plays."""

    def commitments(self, envs: IntArray) -> list[set[tuple[int, int]]]:
        """(driver, booking row of the day) of each commitment, per environment asked for."""
        ...

    def forget(self, envs: IntArray) -> None:
        """A new day begins there."""
        ...


class _Asked:
    """A policy as an adviser: it decides on each environment's state, from its last plan."""

    def __init__(self, teacher: Policy, engine: Engine) -> None:
        self._teacher, self._engine = teacher, engine
        self._plans: list[Any] = [None] * engine.num_envs

    def commitments(self, envs: IntArray) -> list[set[tuple[int, int]]]:
        return [self._ask(e) for e in envs.tolist()]

    def _ask(self, e: int) -> set[tuple[int, int]]:
        engine = self._engine
        rows = engine.open_rows(e)
        answer = self._teacher.decide(
            engine.state(e),
            plan=self._plans[e],
            rng=np.random.default_rng(int(engine.out.day[e])),
        )
        self._plans[e] = answer.plan
        return {
            (decision.driver, int(rows[decision.booking]))
            for decision in answer.decisions
            if decision.driver is not None
        }

    def forget(self, envs: IntArray) -> None:
        for e in envs.tolist():
            self._plans[e] = None


def _adviser(teacher: Policy, engine: Engine) -> Adviser:
    """The teacher's own adviser, compiled, where it has one."""
    own = getattr(teacher, "advise", None)
    adviser: Adviser = _Asked(teacher, engine) if own is None else own(engine)
    return adviser


def _mark(
    engine: Engine,
    e: int,
    wanted: set[tuple[int, int]],
    mask: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
) -> None:
    shown = engine.layout.max_bookings
    if wanted:
        slots = {int(row): slot for slot, row in enumerate(engine.open_rows(e)[:shown])}
        for driver, row in wanted:
            slot = slots.get(row)
            if slot is not None and mask[1 + driver * shown + slot]:
                right[1 + driver * shown + slot] = True
    if not right.any():
        right[0] = True


def imitate(
    agent: DQNAgent,
    shown: Demonstrations,
    epochs: int,
    rng: np.random.Generator,
    *,
    learning_rate: float = 1e-3,
) -> float:
    """Cross-entropy passes over demonstrations; returns the last pass's mean loss.

    Scores are in reward units: a commitment the teacher makes becomes worth a few units more
    than waiting, which is the order of a decision's true advantage.
    """
    network = agent.online
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    size = agent.options.batch_size
    mean = float("nan")
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1.0 - epoch / max(1, epochs)) ** 0.5
        order = rng.permutation(len(shown))
        total = torch.zeros(())
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            loss = policy_loss(agent, shown.state[rows], shown.mask[rows], shown.right[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), agent.options.gradient_clip)
            optimizer.step()
            total += loss.detach().cpu() * len(rows)
        mean = float(total) / len(order)
    return mean


def take_over(agent: DQNAgent, weights: FloatArray, shown: Demonstrations) -> float:
    """Make the network equal a linear matcher, exactly; returns the cross-entropy.

    The matcher's weights become the network's linear part, in the scale (a matcher has none) that
    makes the demonstrations most likely; the hidden part begins with no say.
    """
    network = agent.online
    assert isinstance(network, PairQNetwork)
    rows = np.linspace(0, len(shown) - 1, min(len(shown), _SCALE_STATES)).astype(np.int64)
    with torch.no_grad():
        for last in (network.pair_score, network.wait_score):
            last.weight.zero_()
            last.bias.zero_()
        unit = torch.from_numpy(weights.astype(np.float32))[None] * agent.options.reward_scale

        def loss(scale: float) -> float:
            network.edge_score.weight.copy_(unit * scale)
            part = (shown.state[rows], shown.mask[rows], shown.right[rows])
            return float(policy_loss(agent, *part))

        scales = np.geomspace(0.05, 20.0, 25)
        losses = [loss(float(scale)) for scale in scales]
        return loss(float(scales[int(np.argmin(losses))]))


def policy_loss(
    agent: DQNAgent,
    state: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
) -> Tensor:
    """Mean cross-entropy of the teacher's actions under a softmax of Q in reward units."""
    network = agent.online
    prepared = network.prepare(state, mask)
    considered = network.considered(prepared)
    wanted = torch.from_numpy(right).to(considered.device) & considered
    # A teacher who commits only what the network does not consider: waiting is right for it.
    nothing = ~wanted.any(1)
    wanted[:, 0] |= nothing
    q = network.values(prepared)
    logits = torch.where(considered, q / agent.options.reward_scale, torch.full_like(q, FLOOR))
    log_share = torch.log_softmax(logits, dim=1)
    target = wanted.to(q.dtype) / wanted.sum(1, keepdim=True)
    return -(target * log_share.masked_fill(~wanted, 0.0)).sum(1).mean()


def keep_imitating(
    agent: DQNAgent, shown: Demonstrations, weight: float, batch_size: int
) -> Callable[[], Tensor]:
    """An imitation loss on random demonstrations, for `DQNAgent.also_minimise`."""

    def loss() -> Tensor:
        rows = agent.random.integers(0, len(shown), batch_size)
        return weight * policy_loss(agent, shown.state[rows], shown.mask[rows], shown.right[rows])

    return loss


def teacher_of(task: Task, agent: DQNAgent, config: TrainingConfig) -> Policy:
    """The configured teacher.

    Raises:
        TrainingError: If the task has no teachers, or the network cannot be taught.
        PolicyError: If there is no such policy.
    """
    if not isinstance(task, DispatchTask) or not isinstance(agent.online, PairQNetwork):
        raise TrainingError("warm_start.teacher: only the pair network on a scenario can be taught")
    assert config.warm_start.teacher is not None
    if task.teacher is not None:
        return task.teacher
    return make_policy(
        config.warm_start.teacher, task.scenario, source=task.source, seed=config.seed
    )


def warm_start(task: Task, agent: DQNAgent, config: TrainingConfig, log: RunLog) -> Demonstrations:
    """Demonstrations, imitation and DAgger; returns all demonstrations.

    Raises:
        TrainingError: If the task has no teachers, or the network cannot be taught.
    """
    plan = config.warm_start
    teacher = teacher_of(task, agent, config)
    assert isinstance(agent.online, PairQNetwork)
    rng = np.random.default_rng([config.seed, 2])
    stream = task.stream(
        config.changed(seed=(config.seed + 1_000_003) % 2**32, hyperparameters={"num_envs": _ENVS})
    )
    assert isinstance(stream, EngineStream)
    stream.reset()
    shown = demonstrate(teacher, stream, plan.days)
    linear = getattr(teacher, "linear_weights", None)
    if linear is not None and agent.online.shape.edges:
        loss = take_over(agent, linear, shown)
    else:
        loss = imitate(agent, shown, plan.epochs, rng)
    log.say(f"warm start: {len(shown)} steps of {plan.teacher}, cross-entropy {loss:.3f}")
    if plan.dagger_days:
        more = demonstrate(teacher, stream, plan.dagger_days, learner=agent)
        shown = Demonstrations(
            np.concatenate([shown.state, more.state]),
            np.concatenate([shown.mask, more.mask]),
            np.concatenate([shown.right, more.right]),
        )
        loss = imitate(agent, shown, plan.epochs, rng)
        log.say(f"DAgger: {len(more)} further steps, cross-entropy {loss:.3f}")
    agent.target.load_state_dict(agent.online.state_dict())
    return shown
