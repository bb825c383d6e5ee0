"""`DispatchEnv`: one company's day as a Gymnasium environment.

    env = DispatchEnv(num_drivers=10, max_bookings=20, simulation_hours=8)
    observation, info = env.reset(seed=1_000_000)  # the first validation day
    action = env.action_space.sample(info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(action)

Action 0 waits for the next decision epoch; action ``1 + d · M + b`` commits the b-th booking shown
to driver d, at once and irrevocably. Time moves only with WAIT. A day is a seed: ``reset(seed=s)``
plays day ``s`` of the scenario, whichever environment plays it, and seeds the stream of days that
later resets without a seed draw from the training days. `DispatchVectorEnv` plays many at once.
"""

import operator
from typing import Any, ClassVar, SupportsIndex, Unpack

import gymnasium
import numpy as np
import numpy.typing as npt

from .dispatch_vector_env import DispatchVectorEnv
from .errors import UsageError
from .simulation import world
from .simulation.action_space import DispatchActions
from .simulation.construction import RENDER_MODES, WorldOptions, build_engine, checked_render_mode
from .simulation.day_choice import day_name, day_row, day_row_of_seed, start_stream
from .simulation.kpis import KPIS
from .simulation.observation import CLIP
from .simulation.render import render_ansi, render_rgb
from .simulation.types import BoolArray, DispatchState
from .simulation.world import REWARD_TERMS

__all__ = ["DispatchEnv", "DispatchVectorEnv"]

Observation = npt.NDArray[np.float32]
Mask = npt.NDArray[np.int8]

_OUT_OF_RANGE = -1  # an action that the engine refuses, whatever the sizes


class DispatchEnv(gymnasium.Env[Observation, np.int64]):
    """Dispatch a day's bookings to a fleet of drivers.

    ``info`` holds after every step: ``action_mask`` ``(N · M + 1,)`` int8, ``dt`` (epochs passed:
    1 after WAIT, else 0), ``now_min``, ``reward_terms`` (what happened in this step, by name),
    ``day`` (the seed, or a real day's label), ``invalid`` (the action was refused: penalised and
    counted, nothing else changed). When an episode ends also ``kpis`` and
    ``episode_reward_terms``, whose sum is the KPI reward. After a reset it holds ``action_mask``,
    ``now_min`` and ``day``.

    Args:
        num_drivers: N. None keeps the scenario's fleet: 10 in ``geneva``.
        max_bookings: M, the open bookings shown; those behind them are counted in the context.
        simulation_hours: Length of the day. None keeps the scenario's: 8 in ``geneva``.
        render_mode: None, ``"ansi"`` (text) or ``"rgb_array"`` (a map).
        **options: ``scenario``, ``observation``, ``reward_timing``, ``gamma``,
            ``bookings_per_day``, ``days``, ``source``, ``record_events``, ``max_steps``:
            see `build_engine`.

    Raises:
        UsageError: If an argument is of the wrong kind or size; the sentence names it.
        ScenarioError: If the scenario is unknown or does not fit the arguments.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 12,
    }

    def __init__(
        self,
        num_drivers: int | None = None,
        max_bookings: int = 20,
        simulation_hours: float | None = None,
        *,
        render_mode: str | None = None,
        **options: Unpack[WorldOptions],
    ) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.engine = build_engine(1, num_drivers, max_bookings, simulation_hours, **options)
        self.layout = self.engine.layout
        self.observation_space = gymnasium.spaces.Box(
            -CLIP, CLIP, (self.layout.size,), dtype=np.float32
        )
        self.action_space = DispatchActions(self.layout.num_actions)
        self._num_actions = self.layout.num_actions
        self._playing = False
        self._streaming = False  # whether the stream of later days has begun
        self._look_into_engine()

    def _look_into_engine(self) -> None:
        """Keep views of the engine's memory: the step writes, nothing needs to be fetched."""
        engine = self.engine
        self._action = np.zeros(1, dtype=np.int64)
        self._observation = engine.out.observation[0]
        self._mask = engine.out.mask[0]
        self._terms = engine.out.terms[0]
        self._counters = engine.world.counters[0]
        self._clock = engine.world.clock[0]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._look_into_engine()

    # --- the Gymnasium interface -----------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a day.

        Args:
            seed: The day to play; also seeds the stream of later days. With real days: day
                ``seed`` modulo their number.
            options: ``{"day": ...}`` plays a day (a seed, or a real day's row or label) without
                touching the stream.

        Raises:
            UsageError: If there is no such day.
        """
        if seed is not None:
            row = day_row_of_seed(self.engine, seed)
        super().reset(seed=seed)
        start_stream(self.engine, 0, seed, self.np_random, self._streaming)
        self._streaming = True
        wanted = (options or {}).get("day")
        if wanted is not None:
            row = day_row(self.engine, wanted)
        elif seed is None:
            row = self.engine.next_training_day(0)
        self.engine.start(row)
        self._playing = True
        self._day = day_name(self.engine, row)
        return self._observation.copy(), {
            "action_mask": self._mask.copy(),
            "now_min": 0.0,
            "day": self._day,
        }

    def step(self, action: SupportsIndex) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        An action that the mask forbids, or outside the action space, is refused, not an error.

        Raises:
            UsageError: If the action is not an integer, or no day is running.
        """
        if not self._playing:
            raise UsageError("no day is running: call reset() before step()")
        counters = self._counters
        refused = counters[world.INVALID]
        self._action[0] = self._checked(action)
        out = self.engine.step(self._action)
        terminated, truncated = bool(out.terminated[0]), bool(out.truncated[0])
        info: dict[str, Any] = {
            "action_mask": self._mask.copy(),
            "dt": float(out.epochs[0]),
            "now_min": float(self._clock[world.NOW]),
            "reward_terms": dict(zip(REWARD_TERMS, self._terms.tolist(), strict=True)),
            "day": self._day,
            "invalid": bool(counters[world.INVALID] != refused),
        }
        if terminated or truncated:
            self._playing = False
            info["kpis"] = dict(zip(KPIS, out.final_kpis[0].tolist(), strict=True))
            info["episode_reward_terms"] = self.engine.reward_terms()
        return self._observation.copy(), float(out.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """The present moment as text (``ansi``) or ``(720, 960, 3)`` uint8 (``rgb_array``)."""
        if self.render_mode == "ansi":
            return render_ansi(self.engine)
        if self.render_mode == "rgb_array":
            return render_rgb(self.engine)
        gymnasium.logger.warn(
            'render() shows nothing without a render_mode: give "ansi" or "rgb_array"'
        )
        return None

    # --- beyond Gymnasium ------------------------------------------------------------------------

    def action_masks(self) -> BoolArray:
        """The mask as ``(N · M + 1,)`` bool: the name that sb3-contrib's MaskablePPO looks for."""
        masks: BoolArray = self._mask != 0
        return masks

    def state(self) -> DispatchState:
        """What a dispatcher knows now; row i of its bookings is slot i of the action."""
        return self.engine.state()

    def encode_action(self, driver: int, slot: int) -> int:
        """The action that commits the booking shown in ``slot`` to ``driver``.

        Raises:
            UsageError: If there is no such driver or slot.
        """
        drivers, slots = self.layout.num_drivers, self.layout.max_bookings
        if not (0 <= driver < drivers and 0 <= slot < slots):
            raise UsageError(
                f"driver {driver}, slot {slot}: drivers are 0..{drivers - 1}, slots 0..{slots - 1}"
            )
        return 1 + driver * slots + slot

    def decode_action(self, action: SupportsIndex) -> tuple[int, int] | None:
        """``(driver, slot)`` of an action; None for WAIT.

        Raises:
            UsageError: If the action lies outside the action space.
        """
        number = self._checked(action)
        if number == _OUT_OF_RANGE:
            raise UsageError(f"action {action} lies outside 0..{self._num_actions - 1}")
        return divmod(number - 1, self.layout.max_bookings) if number else None

    def _checked(self, action: SupportsIndex) -> int:
        try:
            number = operator.index(action)
        except TypeError:
            number = None
        if number is None or action is True or action is False:
            raise UsageError(f"an action is one integer, got {action!r} ({type(action).__name__})")
        return number if 0 <= number < self._num_actions else _OUT_OF_RANGE
