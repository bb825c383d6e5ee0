"""`DispatchVectorEnv`: E days side by side, stepped by one compiled call.

The same rules, days and rewards as `DispatchEnv`: environment i, seeded with ``seed + i``, plays
what a single environment seeded with ``seed + i`` plays, now and in all later days. It follows
Gymnasium's VectorEnv interface with SAME_STEP autoreset: where a day ends, the step returns the
next day's first observation, and ``infos["final_obs"]`` and ``infos["final_info"]`` hold the last
of the old one.

Trainers that want no dictionaries at all use the engine below, which does the same::

    env.reset(seed=0)
    out = env.engine.step(actions, autoreset=True)  # out.observation, out.mask, out.reward, ...

Its arrays are overwritten by the next step; `simulation.setup.Outputs` lists them.
"""

from typing import Any, ClassVar, Unpack

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .errors import UsageError
from .simulation import world
from .simulation.action_space import DispatchActions
from .simulation.construction import (
    RENDER_MODES,
    WorldOptions,
    build_engine,
    checked_render_mode,
)
from .simulation.day_choice import (
    day_name,
    day_row,
    day_row_of_seed,
    start_stream,
    whole_seed,
)
from .simulation.kpis import KPIS
from .simulation.observation import CLIP
from .simulation.render import render_ansi, render_rgb
from .simulation.types import BoolArray, DispatchState, FloatArray, IntArray
from .simulation.world import REWARD_TERMS

Observations = npt.NDArray[np.float32]


class DispatchVectorEnv(VectorEnv[Observations, IntArray, npt.NDArray[Any]]):
    """E `DispatchEnv` in one.

    ``infos`` holds ``action_mask`` ``(E, N · M + 1)`` int8 of the observations returned, and
    ``dt`` ``(E,)``, the epochs that the transition took (also where a day ended). Where any day
    ended also ``final_obs`` ``(E,)`` object, ``final_info`` (the single environment's last
    ``info``, as a dictionary of arrays) and their masks ``_final_obs``, ``_final_info``.

    Args:
        num_envs: E.
        num_drivers: N. None keeps the scenario's fleet: 10 in ``geneva``.
        max_bookings: M, the open bookings shown.
        simulation_hours: Length of the day. None keeps the scenario's: 8 in ``geneva``.
        copy: Return copies of observations and masks; False returns the engine's own arrays,
            which the next step overwrites.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        **options: As for `DispatchEnv`.

    Raises:
        UsageError: If an argument is of the wrong kind or size; the sentence names it.
        ScenarioError: If the scenario is unknown or does not fit the arguments.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 12,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        num_drivers: int | None = None,
        max_bookings: int = 20,
        simulation_hours: float | None = None,
        *,
        copy: bool = True,
        render_mode: str | None = None,
        **options: Unpack[WorldOptions],
    ) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.engine = build_engine(num_envs, num_drivers, max_bookings, simulation_hours, **options)
        self.num_envs = self.engine.num_envs
        self.layout = self.engine.layout
        self.copy = copy
        self.single_observation_space = gymnasium.spaces.Box(
            -CLIP, CLIP, (self.layout.size,), dtype=np.float32
        )
        self.single_action_space = DispatchActions(self.layout.num_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._playing = np.zeros(self.num_envs, dtype=np.bool_)
        self._streaming = np.zeros(self.num_envs, dtype=np.bool_)  # whose later days have begun

    # --- the Gymnasium interface -----------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin a day in every environment.

        Args:
            seed: Environment i plays day ``seed + i`` (or ``seed[i]``), which also seeds its
                stream of later days; None continues the streams.
            options: ``{"day": ...}``: one day for all, or a list of E, without touching the
                streams; ``{"reset_mask": (E,) bool}``: reset only these.

        Raises:
            UsageError: If there is no such day, or a list has not E entries.
        """
        seeds = self._per_env("seed", seed)
        if isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
            super().reset(seed=whole_seed(seed))
        chosen = options or {}
        days = self._per_env("options['day']", chosen.get("day"))
        envs = self._reset_envs(chosen.get("reset_mask"))
        rows = [
            day_row(self.engine, days[e])
            if days[e] is not None
            else (-1 if seeds[e] is None else day_row_of_seed(self.engine, seeds[e]))
            for e in envs
        ]
        for k, e in enumerate(envs):
            start_stream(self.engine, e, seeds[e], self.np_random, bool(self._streaming[e]))
            self._streaming[e] = True
            if rows[k] < 0:
                rows[k] = self.engine.next_training_day(e)
        self.engine.start(rows, envs)
        self._playing[envs] = True
        out = self.engine.out
        present = np.zeros(self.num_envs, dtype=np.bool_)
        present[envs] = True
        infos = {
            "action_mask": self._returned(out.mask),
            "now_min": self.engine.world.clock[:, world.NOW].copy(),
            "day": self._day_names(),
        }
        for name in list(infos):
            infos[f"_{name}"] = present.copy()
        return self._returned(out.observation), infos

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[Observations, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Carry out one action in every environment; where a day ends, begin the next.

        Raises:
            UsageError: If the actions are not E integers, or an environment was never reset.
        """
        engine, out = self.engine, self.engine.out
        if not self._playing.all():
            raise UsageError("no day is running: call reset() before step()")
        refused = engine.world.counters[:, world.INVALID].copy()
        engine.step(self._checked(actions))
        infos: dict[str, Any] = {"dt": out.epochs.copy(), "_dt": self._everywhere()}
        terminated, truncated = out.terminated.copy(), out.truncated.copy()
        ended = terminated | truncated
        if ended.any():
            self._add_final(infos, ended, refused)
            envs = np.flatnonzero(ended)
            rows = [engine.next_training_day(int(e)) for e in envs]
            engine.start(rows, envs)
        infos["action_mask"] = self._returned(out.mask)
        infos["_action_mask"] = self._everywhere()
        return self._returned(out.observation), out.reward.copy(), terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """One frame per environment; see `DispatchEnv.render`."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render() shows nothing without a render_mode: give "ansi" or "rgb_array"'
            )
            return None
        draw = render_ansi if self.render_mode == "ansi" else render_rgb
        return tuple(draw(self.engine, e) for e in range(self.num_envs))

    # --- beyond Gymnasium ------------------------------------------------------------------------

    def action_masks(self) -> BoolArray:
        """The masks as ``(E, N · M + 1)`` bool."""
        masks: BoolArray = self.engine.out.mask != 0
        return masks

    def state(self, env: int = 0) -> DispatchState:
        """What the dispatcher of one environment knows now."""
        return self.engine.state(env)

    # --- pieces ----------------------------------------------------------------------------------

    def _add_final(self, infos: dict[str, Any], ended: BoolArray, refused: IntArray) -> None:
        """Add what the ended days leave behind, in the form of Gymnasium's SyncVectorEnv."""
        engine, out = self.engine, self.engine.out
        last = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(ended):
            last[e] = out.observation[e].copy()
        final: dict[str, Any] = {
            "action_mask": out.mask,
            "dt": out.epochs,
            "now_min": engine.world.clock[:, world.NOW],
            "reward_terms": (REWARD_TERMS, out.terms),
            "day": self._day_names(),
            "invalid": engine.world.counters[:, world.INVALID] != refused,
            "kpis": (KPIS, out.final_kpis),
            "episode_reward_terms": (REWARD_TERMS, engine.world.totals),
        }
        infos["final_obs"], infos["_final_obs"] = last, ended
        infos["final_info"], infos["_final_info"] = _of_ended(final, ended), ended

    def _checked(self, actions: npt.ArrayLike) -> IntArray:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise UsageError(
                f"actions must be {self.num_envs} integers, got an array of {array.dtype} of "
                f"shape {array.shape}"
            )
        return np.ascontiguousarray(array, dtype=np.int64)

    def _per_env(self, name: str, value: Any) -> list[Any]:
        if value is None or np.ndim(value) == 0:
            return [value] * self.num_envs
        if len(value) != self.num_envs:
            raise UsageError(f"{name} has {len(value)} entries for {self.num_envs} environments")
        return list(value)

    def _reset_envs(self, mask: Any) -> IntArray:
        if mask is None:
            return np.arange(self.num_envs)
        if not (
            isinstance(mask, np.ndarray)
            and mask.dtype == np.bool_
            and mask.shape == (self.num_envs,)
            and mask.any()
        ):
            raise UsageError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at "
                "least one True"
            )
        return np.flatnonzero(mask)

    def _day_names(self) -> npt.NDArray[Any]:
        if not self.engine.days:
            return self.engine.out.day.copy()
        return np.array([day_name(self.engine, int(row)) for row in self.engine.out.day], object)

    def _returned(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.copy() if self.copy else array

    def _everywhere(self) -> BoolArray:
        return np.ones(self.num_envs, dtype=np.bool_)


def _of_ended(values: dict[str, Any], ended: BoolArray) -> dict[str, Any]:
    """The rows of ended days (elsewhere zeros, None for objects), with Gymnasium's ``_name`` masks.

    A pair of names and an ``(E, K)`` table stands for a dictionary of K columns.
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        names, table = value if isinstance(value, tuple) else (None, value)
        kept = np.full_like(table, None if table.dtype == object else 0)
        kept[ended] = table[ended]
        if names is None:
            result[name] = kept
        else:
            result[name] = dict(zip(names, kept.T, strict=True))
            result[name].update((f"_{column}", ended) for column in names)
        result[f"_{name}"] = ended
    return result
