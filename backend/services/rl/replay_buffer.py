"""`ReplayBuffer`: a preallocated ring of transitions, uniform or prioritised, with n-step returns.

One contiguous array per field. Observations are stored as they come (for the pair network: driver
and booking rows, from which pair features are computed again), masks as bits. At N = 10, M = 20
a transition of the pair network takes 4,049 bytes, of the flat compact network 1,041 bytes
(`ReplayBuffer.bytes_per_transition`); prioritised sampling adds 21 at a capacity of 100,000.

Every transition knows how many decision epochs it took (``dt``): an assignment takes none, a WAIT
one, and an n-step transition the sum. The discount is gamma to that power.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, UsageError
from .sum_tree import SumTree

BUFFER_SCHEMA = 1
_PRIORITY_FLOOR = 1e-3  # no transition is ever forgotten altogether

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B transitions.

    Attributes:
        state: ``(B, S)``.
        mask: ``(B, A)``, valid actions in ``state``.
        action: ``(B,)``.
        reward: ``(B,)``, discounted sum over the n steps.
        next_state: ``(B, S)``.
        next_mask: ``(B, A)``.
        done: ``(B,)``, no value after this transition (terminated, not truncated).
        dt: ``(B,)``, decision epochs passed.
        weight: ``(B,)``, importance weights; ones under uniform sampling.
        index: ``(B,)``, places in the ring, for `ReplayBuffer.update_priorities`.
    """

    state: Floats
    mask: Bools
    action: Indices
    reward: Floats
    next_state: Floats
    next_mask: Bools
    done: Floats
    dt: Floats
    weight: Floats
    index: Indices


class ReplayBuffer:
    """The last ``capacity`` transitions.

    Args:
        capacity: How many are kept; the oldest is overwritten.
        state_dim: S.
        action_dim: A.
        n_step: Rewards summed per transition.
        gamma: Discount per epoch, for n-step sums.
        prioritised: Sample in proportion to the last error to the power ``alpha``.
        alpha: How strongly errors matter; 0 is uniform.
        num_lanes: Streams that `push_batch` feeds in parallel (environments).
        seed: Of the sampling.
    """

    def __init__(
        self,
        capacity: int = 100_000,
        state_dim: int = 122,
        action_dim: int = 201,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        prioritised: bool = False,
        alpha: float = 0.6,
        num_lanes: int = 1,
        seed: int = 0,
    ) -> None:
        for name, value in {
            "capacity": capacity,
            "state_dim": state_dim,
            "action_dim": action_dim,
            "n_step": n_step,
            "num_lanes": num_lanes,
        }.items():
            if value < 1:
                raise UsageError(f"replay buffer: {name} must be at least 1, got {value}")
        self.capacity, self.state_dim, self.action_dim = capacity, state_dim, action_dim
        self.n_step, self.gamma, self.alpha = n_step, gamma, alpha
        self.size = 0
        self.position = 0
        self.pushed = 0
        self.random = np.random.default_rng(seed)
        self.tree = SumTree(capacity) if prioritised else None
        self._highest = 1.0
        packed = (action_dim + 7) // 8
        self._ring: dict[str, npt.NDArray[Any]] = {
            "state": np.zeros((capacity, state_dim), dtype=np.float32),
            "next_state": np.zeros((capacity, state_dim), dtype=np.float32),
            "mask": np.zeros((capacity, packed), dtype=np.uint8),
            "next_mask": np.zeros((capacity, packed), dtype=np.uint8),
            "action": np.zeros(capacity, dtype=np.int32),
            "reward": np.zeros(capacity, dtype=np.float32),
            "dt": np.zeros(capacity, dtype=np.float32),
            "done": np.zeros(capacity, dtype=np.bool_),
        }
        # Starts that wait for their n-th reward, a small ring per lane.
        self._lanes: dict[str, npt.NDArray[Any]] = {
            "state": np.zeros((n_step, num_lanes, state_dim), dtype=np.float32),
            "mask": np.zeros((n_step, num_lanes, packed), dtype=np.uint8),
            "action": np.zeros((n_step, num_lanes), dtype=np.int32),
            "reward": np.zeros((n_step, num_lanes)),
            "dt": np.zeros((n_step, num_lanes)),
            "pending": np.zeros((n_step, num_lanes), dtype=np.bool_),
        }
        self._turn = 0

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self.size

    @property
    def bytes_per_transition(self) -> int:
        """Memory of one stored transition."""
        return sum(a.nbytes for a in self._ring.values()) // self.capacity

    # --- writing ---------------------------------------------------------------------------------

    def push(
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
        ended: bool | None = None,
    ) -> None:
        """One transition of lane 0; see `push_batch`."""
        everything = np.ones(self.action_dim, dtype=np.bool_)
        self.push_batch(
            np.asarray(state, dtype=np.float32)[None],
            np.array([action]),
            np.asarray(next_state, dtype=np.float32)[None],
            np.array([reward]),
            np.array([done]),
            mask=np.asarray(everything if mask is None else mask)[None],
            next_mask=np.asarray(everything if next_mask is None else next_mask)[None],
            dt=np.array([dt]),
            ended=None if ended is None else np.array([ended]),
        )

    def push_batch(
        self,
        state: Floats,
        action: npt.NDArray[Any],
        next_state: Floats,
        reward: npt.NDArray[Any],
        done: Bools,
        *,
        mask: npt.NDArray[Any],
        next_mask: npt.NDArray[Any],
        dt: npt.NDArray[Any],
        ended: Bools | None = None,
    ) -> None:
        """One transition of each lane.

        With n-step returns a transition is stored once its n-th reward is there; where an episode
        ends, all pending starts are stored with the rewards they have.

        Args:
            state: ``(E, S)``.
            action: ``(E,)``.
            next_state: ``(E, S)``; where an episode ended, its last observation.
            reward: ``(E,)``.
            done: ``(E,)``: terminated, so that no value follows.
            mask: ``(E, A)`` of ``state``.
            next_mask: ``(E, A)`` of ``next_state``; WAIT or another action must be valid.
            dt: ``(E,)`` epochs passed.
            ended: ``(E,)``: terminated or truncated; default ``done``.

        Raises:
            DataError: If a reward, a duration or an observation is not finite, a duration is
                negative, there is no such action, or a next state that is not final has no valid
                action; nothing is stored then.
        """
        _check_finite("reward", reward)
        _check_finite("dt", dt)
        if (dt < 0).any():  # the discount would grow instead of shrink
            lane = int(np.flatnonzero(dt < 0)[0])
            raise DataError(f"replay buffer: dt of row {lane} is negative ({dt[lane]:g})")
        _check_finite("observation", state)
        _check_finite("observation", next_state)
        unknown = (action < 0) | (action >= self.action_dim)
        if unknown.any():
            lane = int(np.flatnonzero(unknown)[0])
            raise DataError(
                f"replay buffer: action {action[lane]} of lane {lane} is not among "
                f"0..{self.action_dim - 1}"
            )
        valid_next = next_mask.any(axis=1)
        if not (valid_next | done).all():
            lane = int(np.flatnonzero(~(valid_next | done))[0])
            raise DataError(f"replay buffer: the next state of lane {lane} has no valid action")
        packed = np.packbits(mask.astype(np.bool_), axis=1)
        packed_next = np.packbits(next_mask.astype(np.bool_), axis=1)
        over = done if ended is None else ended
        if self.n_step == 1:
            self._store(state, packed, action, reward, dt, next_state, packed_next, done)
            return
        lanes = self._lanes
        n, turn = self.n_step, self._turn
        lanes["state"][turn], lanes["mask"][turn] = state, packed
        lanes["action"][turn] = action
        lanes["reward"][turn], lanes["dt"][turn] = 0.0, 0.0
        lanes["pending"][turn] = True
        pending = lanes["pending"]
        lanes["reward"] += np.where(pending, self.gamma ** lanes["dt"] * reward, 0.0)
        lanes["dt"] += np.where(pending, dt, 0.0)
        self._turn = (turn + 1) % n
        for age in range(n):  # the oldest first
            k = (turn + 1 + age) % n
            ready = pending[k] & (over if age else np.ones_like(over))
            where = np.flatnonzero(ready)
            if where.size:
                self._store(
                    lanes["state"][k, where],
                    lanes["mask"][k, where],
                    lanes["action"][k, where],
                    lanes["reward"][k, where],
                    lanes["dt"][k, where],
                    next_state[where],
                    packed_next[where],
                    done[where],
                )
                pending[k, where] = False

    def _store(self, *fields: npt.NDArray[Any]) -> None:
        names = ("state", "mask", "action", "reward", "dt", "next_state", "next_mask", "done")
        count = len(fields[0])
        if count > self.capacity:
            fields = tuple(f[-self.capacity :] for f in fields)
            count = self.capacity
        index = (self.position + np.arange(count)) % self.capacity
        for name, values in zip(names, fields, strict=True):
            self._ring[name][index] = values
        if self.tree is not None:
            self.tree.set(index, np.full(count, self._highest))
        self.position = int((self.position + count) % self.capacity)
        self.size = min(self.capacity, self.size + count)
        self.pushed += count

    # --- reading ---------------------------------------------------------------------------------

    def sample(self, batch_size: int, *, beta: float = 0.4) -> Batch:
        """Draw transitions with replacement.

        Args:
            batch_size: B.
            beta: Strength of the correction for prioritised sampling (1: full).

        Raises:
            UsageError: If the buffer is empty.
        """
        if self.size == 0:
            raise UsageError("replay buffer: nothing to sample, it is empty")
        weight = np.ones(batch_size, dtype=np.float32)
        if self.tree is None:
            index = self.random.integers(0, self.size, batch_size)
        else:
            # Stratified: one draw from each of B equal slices of the total.
            slices = (np.arange(batch_size) + self.random.random(batch_size)) / batch_size
            index = np.minimum(self.tree.find(slices * self.tree.total), self.size - 1)
            share = self.tree.get(index) / self.tree.total
            raw = (self.size * share) ** -beta
            weight = (raw / raw.max()).astype(np.float32)
        return self._rows(index, weight)

    def _rows(self, index: Indices, weight: Floats) -> Batch:
        ring, actions = self._ring, self.action_dim

        def bits(name: str) -> Bools:
            return np.unpackbits(ring[name][index], axis=1, count=actions).view(np.bool_)

        return Batch(
            state=ring["state"][index],
            mask=bits("mask"),
            action=ring["action"][index].astype(np.int64),
            reward=ring["reward"][index],
            next_state=ring["next_state"][index],
            next_mask=bits("next_mask"),
            done=ring["done"][index].astype(np.float32),
            dt=ring["dt"][index],
            weight=weight,
            index=index,
        )

    def update_priorities(self, index: Indices, error: npt.NDArray[Any]) -> None:
        """Give sampled transitions the priority of their new error; nothing if uniform.

        Raises:
            DataError: If an error is not finite.
        """
        if self.tree is None:
            return
        _check_finite("error", error)
        priority = (np.abs(error).astype(np.float64) + _PRIORITY_FLOOR) ** self.alpha
        self._highest = max(self._highest, float(priority.max()))
        self.tree.set(index, priority)

    # --- saving ----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the filled part as ``.npy`` files and ``buffer.json`` into an existing folder."""
        for name, array in self._ring.items():
            np.save(folder / f"ring_{name}.npy", array[: self.size])
        for name, array in self._lanes.items():
            np.save(folder / f"lanes_{name}.npy", array)
        if self.tree is not None:
            np.save(folder / "tree.npy", self.tree.nodes)
        document = {
            **self._identity(),
            "gamma": self.gamma,
            "alpha": self.alpha,
            "size": self.size,
            "position": self.position,
            "pushed": self.pushed,
            "turn": self._turn,
            "highest": self._highest,
            "random": self.random.bit_generator.state,
        }
        (folder / "buffer.json").write_text(json.dumps(document, indent=2), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take over what `save` wrote; the buffer must have been built with the same sizes.

        Raises:
            DataError: If files are missing or damaged, or are of another buffer.
        """
        where = f"replay buffer in {folder}"
        tree = {} if self.tree is None else {"tree": self.tree.nodes}
        lanes = {f"lanes_{name}": array for name, array in self._lanes.items()}
        try:
            document = dict(json.loads((folder / "buffer.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{where} cannot be read: {error}") from error
        for name, value in self._identity().items():
            if document.get(name) != value:
                raise DataError(
                    f"{where}: {name} is {document.get(name)!r}, this run has {value!r}"
                )
        random = np.random.default_rng()
        try:
            counts = {name: int(document[name]) for name in ("size", "position", "pushed", "turn")}
            highest = float(document["highest"])
            random.bit_generator.state = document["random"]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{where}: buffer.json is damaged: {error}") from error
        size = counts["size"]
        if not (
            0 <= size <= self.capacity
            and 0 <= counts["position"] < self.capacity
            and 0 <= counts["turn"] < self.n_step
        ):
            raise DataError(f"{where}: buffer.json is damaged: {counts} do not fit together")
        ring = {f"ring_{name}": array[:size] for name, array in self._ring.items()}
        # Everything is read and checked before anything is taken over.
        loaded = {n: _load_like(folder, n, own) for n, own in (ring | lanes | tree).items()}
        for name, own in (ring | lanes | tree).items():
            own[...] = loaded[name]
        self.size, self.position = size, counts["position"]
        self.pushed, self._turn = counts["pushed"], counts["turn"]
        self._highest = highest
        self.random = random

    def _identity(self) -> dict[str, Any]:
        """What a saved buffer must share with this one."""
        return {
            "schema": BUFFER_SCHEMA,
            "capacity": self.capacity,
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "n_step": self.n_step,
            "num_lanes": self._lanes["pending"].shape[1],
            "prioritised": self.tree is not None,
        }


def _load_like(folder: Path, name: str, own: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One array of a saved buffer, which must have the shape and type of ``own``."""
    try:
        array: npt.NDArray[Any] = np.load(folder / f"{name}.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"replay buffer in {folder} cannot be read: {error}") from error
    if array.shape != own.shape or array.dtype != own.dtype:
        raise DataError(
            f"replay buffer in {folder}: {name}.npy is {array.dtype} of shape {array.shape}, "
            f"expected {own.dtype} of shape {own.shape}"
        )
    return array


def _check_finite(name: str, values: npt.NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DataError(f"replay buffer: {name} of row {row} is not finite")
