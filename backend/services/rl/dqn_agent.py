"""`DQNAgent`: deep Q-learning on masked, semi-Markov decisions.

The target of a transition that took ``dt`` epochs is

    reward * reward_scale + gamma ** dt * (1 - done) * Q_target(s', a*)

where ``a*`` is the best *valid* action of s' by the online network (double DQN, van Hasselt et
al. 2016) or by the target network. An assignment takes no time (dt = 0) and is not discounted.
Rewards are scaled here and nowhere else.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import PolicyError, UsageError
from .q_networks import FLOOR, QFunction, QNetwork
from .replay_buffer import Batch, ReplayBuffer

Exploration = Literal["epsilon", "noise"]


@dataclass(frozen=True)
class AgentOptions:
    """Switches and numbers of the algorithm; `training.config` says what each is good for."""

    learning_rate: float = 3e-4
    gamma: float = 0.99
    batch_size: int = 256
    tau: float = 1.0
    target_update_interval: int = 500
    double: bool = True
    masked_target: bool = True
    reward_scale: float = 0.1
    gradient_clip: float = 10.0
    exploration: Exploration = "epsilon"
    exploration_initial_eps: float = 1.0
    exploration_final_eps: float = 0.05
    exploration_steps: int = 10_000
    noise_scale: float = 5.0
    priority_beta: float = 0.4


class DQNAgent:
    """Acts, stores and learns; one agent for both networks.

    Args:
        state_dim: Length of an observation.
        action_dim: Number of actions.
        network: Any `QFunction`; default `QNetwork` of these sizes.
        buffer: Default: uniform, 100,000 transitions, one lane.
        options: The algorithm.
        device: ``"cpu"`` or ``"cuda"``.
        seed: Of exploration.

    Attributes:
        steps: Environment steps so far; the exploration schedule hangs on it.
        updates: Gradient steps so far.
        also_minimise: A further loss, added to every update (imitation beside learning).
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *,
        network: QFunction | None = None,
        buffer: ReplayBuffer | None = None,
        options: AgentOptions | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.options = options or AgentOptions()
        if not 0.0 < self.options.gamma <= 1.0:
            raise UsageError(f"gamma must lie in (0, 1], got {self.options.gamma}")
        if network is None:
            torch.manual_seed(seed)
            network = QNetwork(state_dim, action_dim)
        if network.num_actions != action_dim:
            raise PolicyError(
                f"the network has {network.num_actions} actions, the environment {action_dim}"
            )
        self.state_dim, self.action_dim = state_dim, action_dim
        self.device = torch.device(device)
        self.online = network.to(self.device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        if buffer is None:  # an empty one is false
            buffer = ReplayBuffer(
                100_000, state_dim, action_dim, gamma=self.options.gamma, seed=seed
            )
        self.buffer = buffer
        self.optimizer = torch.optim.Adam(
            self.online.parameters(), lr=self.options.learning_rate, fused=True
        )
        self.random = np.random.default_rng([seed, 1])
        self.steps = 0
        self.updates = 0
        # Walking a module tree for its parameters costs as much as a small layer.
        self._fast = list(self.online.parameters())
        self._slow = list(self.target.parameters())
        self._last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.also_minimise: Callable[[], Tensor] | None = None

    # --- acting ----------------------------------------------------------------------------------

    @property
    def epsilon(self) -> float:
        """Present exploration, from the step counter alone."""
        o = self.options
        share = min(1.0, self.steps / max(1, o.exploration_steps))
        return o.exploration_initial_eps + share * (
            o.exploration_final_eps - o.exploration_initial_eps
        )

    def decay_epsilon(self, steps: int = 1) -> None:
        """Advance the exploration schedule by environment steps."""
        self.steps += steps

    def q_values(
        self, states: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Q of every action ``(B, A)`` in reward units; those not considered are at `FLOOR`."""
        values = self._scores(states, masks)
        considered = ~(values < 0.5 * FLOOR)  # not "above": a NaN must stay one, to be seen
        values[considered] /= np.float32(self.options.reward_scale)
        return values

    def select_actions(
        self,
        states: npt.NDArray[np.float32],
        masks: npt.NDArray[np.bool_],
        epsilon: float | None = None,
    ) -> npt.NDArray[np.int64]:
        """One valid action per state, ``(B,)``.

        Args:
            states: ``(B, S)``.
            masks: ``(B, A)``.
            epsilon: Exploration; None: the schedule's, 0: greedy.

        Raises:
            UsageError: If a state has no valid action.
            PolicyError: If the network's values are not numbers.
        """
        if not masks.any(axis=1).all():
            raise UsageError("a state has no valid action: WAIT is always one")
        e = self.epsilon if epsilon is None else epsilon
        q = self._scores(states, masks)
        if not np.isfinite(q).all():
            broken = np.flatnonzero(~np.isfinite(states).all(axis=1))
            if broken.size:
                raise PolicyError(f"the observation of row {int(broken[0])} is not finite")
            raise PolicyError("a value is not finite: the network is broken")
        if e > 0.0 and self.options.exploration == "noise":
            noise: npt.NDArray[np.float32] = self.random.standard_normal(q.shape, dtype=np.float32)
            scale = e * self.options.noise_scale * self.options.reward_scale
            q += noise * np.float32(scale)  # FLOOR stays far below
        actions: npt.NDArray[np.int64] = np.argmax(q, axis=1)
        if e > 0.0 and self.options.exploration == "epsilon":
            explore = self.random.random(len(states)) < e
            if explore.any():
                actions[explore] = self._random(q[explore] > 0.5 * FLOOR)
        return actions

    def _scores(
        self, states: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Q of every action ``(B, A)`` as the network gives it, scaled."""
        with torch.inference_mode():
            q = self.online.values(self.online.prepare(states, masks))
        values: npt.NDArray[np.float32] = q.cpu().numpy()
        return values

    def select_action(
        self,
        state: npt.NDArray[np.float32],
        mask: npt.NDArray[Any] | None = None,
        epsilon: float | None = None,
    ) -> int:
        """One valid action; see `select_actions`."""
        valid = np.ones(self.action_dim, dtype=np.bool_) if mask is None else mask.astype(np.bool_)
        return int(
            self.select_actions(np.asarray(state, dtype=np.float32)[None], valid[None], epsilon)[0]
        )

    def _random(self, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        counts = masks.cumsum(axis=1)
        pick = (self.random.random(len(masks)) * counts[:, -1]).astype(np.int64)
        chosen: npt.NDArray[np.int64] = (counts > pick[:, None]).argmax(axis=1)
        return chosen

    # --- learning --------------------------------------------------------------------------------

    def store_transition(
        self,
        state: npt.ArrayLike,
        action: int,
        next_state: npt.ArrayLike,
        reward: float,
        done: bool,
        *,
        mask: npt.ArrayLike | None = None,
        next_mask: npt.ArrayLike | None = None,
        dt: float = 1.0,
    ) -> None:
        """Keep one transition; see `ReplayBuffer.push`."""
        self.buffer.push(
            state, action, next_state, reward, done, mask=mask, next_mask=next_mask, dt=dt
        )

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """Numbers of the last gradient step, as tensors: reading one waits for the device."""
        if self._last is None:
            return {}
        loss, q, errors, norm = self._last
        scale = self.options.reward_scale
        return {
            "loss": loss,
            "q_mean": q.mean() / scale,
            "q_max": q.max() / scale,
            "td_error": errors.abs().mean() / scale,
            "gradient_norm": norm,
        }

    def train_step(self) -> dict[str, Tensor]:
        """Sample a batch and learn from it; returns `diagnostics`."""
        batch = self.buffer.sample(self.options.batch_size, beta=self.options.priority_beta)
        errors = self.train_on_batch(batch)
        if self.buffer.tree is not None:
            self.buffer.update_priorities(batch.index, errors.cpu().numpy())
        return self.diagnostics

    def train_on_batch(self, batch: Batch) -> Tensor:
        """One gradient step; returns the errors ``(B,)`` in scaled units, without gradient."""
        o = self.options
        target = self.targets(batch)
        action = torch.from_numpy(batch.action).to(self.device)
        weight = torch.from_numpy(batch.weight).to(self.device)
        q = self.online.values_of(
            self.online.prepare(batch.state, batch.mask, batch.action), action
        )
        error = q - target
        # Huber, the importance weight outside: it must reach the loss in both branches.
        loss = (weight * torch.nn.functional.smooth_l1_loss(q, target, reduction="none")).mean()
        total = loss if self.also_minimise is None else loss + self.also_minimise()
        for parameter in self._fast:
            parameter.grad = None
        total.backward()  # type: ignore[no-untyped-call]
        norm = self._clip_gradient()
        self.optimizer.step()
        self.updates += 1
        if self.updates % o.target_update_interval == 0:
            self.update_target_network()
        errors = error.detach()
        self._last = loss.detach(), q.detach(), errors, norm
        return errors

    def _clip_gradient(self) -> Tensor:
        """Bring the gradient's norm down to the limit; the norm before."""
        limit = self.options.gradient_clip
        if self.device.type != "cpu":  # where looking at the norm would wait for the device
            whole: Tensor = torch.nn.utils.clip_grad_norm_(self._fast, limit)
            return whole.detach()
        gradients = [p.grad for p in self._fast if p.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g) for g in gradients])
        )
        if not norm <= limit:  # NaN passes on, to be found in the loss
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))
        return norm

    def targets(self, batch: Batch) -> Tensor:
        """What Q of the taken actions should be, ``(B,)``, in scaled units."""
        o = self.options
        # Without masking, a forbidden action's value leaks into the target: for ablation only.
        next_mask = batch.next_mask if o.masked_target else np.ones_like(batch.next_mask)
        with torch.no_grad():
            following = self.target.prepare(batch.next_state, next_mask)
            if o.double:
                best = self.online.values(following).argmax(1)
                value = self.target.values_of(following, best)
            else:
                value = self.target.values(following).amax(1)
            reward = torch.from_numpy(batch.reward).to(self.device)
            dt = torch.from_numpy(batch.dt).to(self.device)
            going = 1.0 - torch.from_numpy(batch.done).to(self.device)
            discount = torch.pow(torch.full_like(dt, o.gamma), dt)
            return reward * o.reward_scale + discount * going * value

    def update_target_network(self) -> None:
        """Move the target network towards the online one by ``tau`` (1: copy)."""
        with torch.no_grad():
            for slow, fast in zip(self._slow, self._fast, strict=True):
                slow.lerp_(fast, self.options.tau)
