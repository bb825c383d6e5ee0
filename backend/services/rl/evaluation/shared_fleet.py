"""What a split of one fleet measures, against the truth: whole simulated days with two arms.

The truth is what all days decided by the learned arm come to, less what the same days decided by
the heuristic come to. An experiment sees neither: its arms share drivers (per booking), or inherit
each other's queues (switchback). The days are played by the real dispatcher in the real
simulator, each split twice, the second time with every unit in the other arm (antithetic): chance
in who got which booking cancels, what is left is bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from services.rl.ab_dispatcher import ABDispatcher
from services.rl.experiments.arms import PolicyArm
from services.rl.experiments.config import (
    HEURISTIC,
    RL,
    ExperimentConfig,
    MemoryExperiment,
    Mode,
    UnitKind,
)
from services.rl.experiments.units import MemoryUnits, UnitArm
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import BookingStatus, FloatArray

OPENS: Final = datetime(2026, 3, 2, 8, tzinfo=UTC)
"""When the simulated day's minute 0 is; on the boundary of every block length."""

NOBODY: Final = -1.0

ZONE: Final = "0.0"
"""The one zone that there is: within a block one policy has the whole fleet."""

COLUMNS: Final = (
    "promised_min", "created_min", "decided_min", "learned", "good", "unserved", "wait_min",
)  # fmt: skip
"""Of a played day's table: ``decided_min`` is that of the last decision that was acted on,
``learned`` 1, 0 or `NOBODY`; ``wait_min`` NaN where nobody came."""


@dataclass(frozen=True)
class Design:
    """How days are shared between the arms.

    Attributes:
        name: ``rl``, ``heuristic`` (all days one arm's), ``booking``, or ``switchback-30`` with
            the block's minutes.
    """

    name: str

    @property
    def block_min(self) -> int | None:
        """Length of a block; None where days are not cut into blocks."""
        kind, _, minutes = self.name.partition("-")
        return int(minutes) if kind == "switchback" else None

    @property
    def split(self) -> bool:
        """Whether both arms have a part of each day."""
        return self.name not in ARM_OF_DESIGN

    def config(self, day: int, seed: int) -> ExperimentConfig:
        """The experiment of one day; each day draws anew."""
        share = ARM_OF_DESIGN.get(self.name, 0.5)
        unit = UnitKind.BOOKING if self.name == "booking" else UnitKind.SWITCHBACK
        return ExperimentConfig(
            name="shared-fleet",
            company_id=1,
            mode=Mode.AB,
            unit=unit,
            salt=f"{seed}-{day}",
            rl_share=share,
            block_min=self.block_min or 1440,
            zone_km=1000.0,
        )


ARM_OF_DESIGN: Final = {"heuristic": 0.0, "rl": 1.0}


class MirroredUnits(MemoryUnits):
    """Units each in the other arm than the one drawn."""

    def get_or_create(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        """See `UnitStore.get_or_create`."""
        other = {HEURISTIC: RL, RL: HEURISTIC}
        swapped = [UnitArm(u.unit, u.bucket, other[u.arm], u.created_at) for u in proposals]
        return super().get_or_create(experiment, swapped)


class SharedFleet:
    """A fleet whose days two arms share; policies are made once.

    Args:
        scenario: The world.
        heuristic: Policy of the control arm, by name.
        rl: Policy of the learned arm, by name.
        seed: Of the arms' draws.
    """

    def __init__(self, scenario: Scenario, heuristic: str, rl: str, seed: int = 0) -> None:
        self._scenario = scenario
        self._seed = seed
        self._experiment = MemoryExperiment(ExperimentConfig(mode=Mode.AB))
        self._dispatcher = ABDispatcher(
            self._experiment,
            PolicyArm(make_policy(heuristic, scenario)),
            PolicyArm(make_policy(rl, scenario)),
            MemoryUnits(),
            scenario=scenario,
        )

    def play(self, design: Design, day: int, *, mirrored: bool = False) -> FloatArray:
        """Play one day; ``(B, len(COLUMNS))`` of the bookings that were due."""
        self._experiment.replace(design.config(day, self._seed))
        engine = Engine(self._scenario)
        engine.start([day], [0])
        units = MirroredUnits() if mirrored else MemoryUnits()
        decided: dict[int, tuple[float, float, bool]] = {}  # by booking: minute, arm, assigned
        plan: Any = None
        while not engine.ended():
            rows, now = engine.open_rows(), engine.now_min()
            epoch = self._dispatcher.decide(
                engine.state(), plan=plan, at=OPENS + timedelta(minutes=now), units=units
            )
            plan = epoch.plan
            for fate in epoch.decisions:
                row = int(rows[fate.decision.booking])
                driver = fate.decision.driver
                assigned = driver is not None and engine.commit(0, driver, row)
                if assigned or not decided.get(row, (0.0, 0.0, False))[2]:
                    decided[row] = (now, float(fate.arm == RL), assigned)
            engine.wait(0)
        return _table(engine, decided)


def _table(engine: Engine, decided: dict[int, tuple[float, float, bool]]) -> FloatArray:
    """What became of the day's bookings, by the definitions of `simulation.kpis`."""
    history = engine.history()
    status = history["status"]
    due = (status != BookingStatus.NO_SHOW) & (status != BookingStatus.CALLED_OFF)
    served = status == BookingStatus.COMPLETED
    since = np.where(history["immediate"], history["created_min"], history["promised_min"])
    wait = np.where(served, np.maximum(0.0, history["pickup_min"] - since), np.nan)
    good = served & (np.nan_to_num(wait) <= engine.scenario.rules.on_time_min + 1e-9)
    nothing = (np.nan, NOBODY, False)
    last = [decided.get(row, nothing) for row in range(len(history))]
    columns = [
        history["promised_min"], history["created_min"], [d[0] for d in last],
        [d[1] for d in last], good, ~served, wait,
    ]  # fmt: skip
    table: FloatArray = np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
    chosen: FloatArray = table[due]
    return chosen
