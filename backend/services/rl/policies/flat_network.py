"""`dqn` on the roadmap's flat network: argmax of masked Q, again and again until WAIT. No Torch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.observation import LAYOUT_VERSION, ObservationLayout
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from .base import Decision, DecisionSet
from .model_files import MODEL_FILE, ModelManifest, read_arrays, trained_as

Array = npt.NDArray[np.float32]
Forward = Callable[[Array, npt.NDArray[np.bool_]], Array]
"""Q ``(B, A)`` from states ``(B, S)`` and masks ``(B, A)``."""


class FlatForward:
    """The flat network's forward pass in NumPy.

    Args:
        arrays: Parameters by their Torch names; views of live Torch weights serve as well.
        dueling: Whether a value stream is added and the mean advantage taken off.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], *, dueling: bool) -> None:
        count = len([n for n in arrays if n.startswith("body.") and n.endswith(".weight")])
        self._body = [
            (arrays[f"body.{2 * i}.weight"].T, arrays[f"body.{2 * i}.bias"]) for i in range(count)
        ]
        self._head = (arrays["head.weight"].T, arrays["head.bias"])
        self._value = (arrays["value.weight"].T, arrays["value.bias"]) if dueling else None

    def __call__(self, states: Array, masks: npt.NDArray[np.bool_]) -> Array:
        """Q ``(B, A)`` of states ``(B, S)``; forbidden actions are not marked."""
        x = states
        for weight, bias in self._body:
            x = np.maximum(x @ weight + bias, 0.0)
        q: Array = x @ self._head[0] + self._head[1]
        if self._value is not None:
            valid = masks.astype(np.float32)
            mean = (q * valid).sum(axis=1, keepdims=True) / valid.sum(axis=1, keepdims=True)
            q = q - mean + x @ self._value[0] + self._value[1]
        return q


class FlatPolicy:
    """Decides by the flat network, for fleets of exactly the size it was trained on.

    Attributes:
        name: ``dqn``.
        note: Where its numbers come from.
        model_sha: SHA-256 of the network's file.
    """

    def __init__(
        self,
        folder: Path,
        manifest: ModelManifest,
        scenario: Scenario,
        source: DaySource | None = None,
    ) -> None:
        environment = manifest.environment
        if "num_drivers" not in environment:
            raise PolicyError(f"{folder}: the network was trained on another kind of environment")
        self.name = "dqn"
        self.note = f"{trained_as(folder, manifest)}, flat network"
        self.model_sha = manifest.files[MODEL_FILE]
        self._layout = ObservationLayout(
            environment["observation"], environment["num_drivers"], environment["max_bookings"]
        )
        if environment["layout_version"] != LAYOUT_VERSION:
            raise PolicyError(
                f"{folder}: the network reads layout version {environment['layout_version']}, "
                f"this code writes {LAYOUT_VERSION}; train again"
            )
        drivers = scenario.fleet.num_drivers
        if drivers != self._layout.num_drivers:
            raise PolicyError(
                f"{folder}: the flat network was trained for {self._layout.num_drivers} drivers, "
                f"scenario {scenario.name!r} has {drivers}; a pair network serves any fleet"
            )
        arrays = read_arrays(folder)
        try:
            self._forward: Forward = FlatForward(
                arrays, dueling=bool(manifest.network.get("dueling"))
            )
        except KeyError as error:
            raise PolicyError(f"{folder}: the flat network has no parameter {error}") from error
        self._scenario, self._source = scenario, source
        self._host: HostWorld | None = None
        # Batches of days are played on engines of the standard layout; others one by one.
        standard = ObservationLayout("compact", drivers, 20)
        self.play = self._play if self._layout == standard else None

    def running(self, forward: Forward) -> "FlatPolicy":
        """The same policy with its network run by something else; for comparing backends."""
        other = copy.copy(self)
        other._forward, other._host = forward, None
        other.play = other._play if self.play is not None else None
        return other

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Decide one epoch."""
        if self._host is None:
            self._host = HostWorld(
                self._scenario,
                max_bookings=self._layout.max_bookings,
                observation=self._layout.kind,
                source=self._source,
            )
        host = self._host
        host.load(state)
        decisions: list[Decision] = []
        while True:
            out = host.engine.out
            mask = out.mask[:1] != 0
            q = np.where(mask, self._forward(out.observation[:1], mask), -np.inf)[0]
            action = int(q.argmax())
            if action == 0:
                return DecisionSet(tuple(decisions), plan=None)
            driver, slot = divmod(action - 1, self._layout.max_bookings)
            row = int(host.open_rows()[slot])
            decisions.append(Decision(row, driver, float(q[action] - q[0])))
            host.engine.commit(0, driver, row)
            host.engine.observe(0)

    def _play(self, engine: Engine) -> None:
        """Play every environment of an engine to the end of its day, all at once."""
        if engine.layout != self._layout:
            raise PolicyError(
                f"the engine observes {engine.layout}, the network reads {self._layout}"
            )
        out = engine.out
        playing = np.array([not engine.ended(e) for e in range(engine.num_envs)])
        while playing.any():
            mask = out.mask != 0
            q = np.where(mask, self._forward(out.observation, mask), -np.inf)
            actions = q.argmax(axis=1)
            actions[~playing] = 0
            engine.step(actions)
            playing &= ~out.terminated
