"""What a trial does, by policy kind: train with the trial's values and look on validation days.

Every trial of a study trains with the same seed and is judged on the same validation days (common
random numbers), `RUNGS` times, evenly over its budget; the study's pruner decides at these rungs.
Days of the test split are never played here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Scenario

from ..task import Score

RUNGS: Final = 8
"""Looks at validation days per trial."""

STUDY_DAYS: Final = 64
"""Validation days of a study."""
MOST_DAYS: Final = 10_000
"""Validation days that a study may play; those from this one on choose in a confirmation."""

Report = Callable[[int, Score, int], None]
"""Told a rung (1 to `RUNGS`), the best score so far and the steps spent; may end the trial."""


class Objective(Protocol):
    """One policy kind on one scenario.

    Attributes:
        policy: The kind, as `search_space.POLICIES` names it.
        plays_as: The policy's name for an evaluation.
        unit: What a step is.
    """

    policy: str
    plays_as: str
    unit: str

    def fields(self) -> dict[str, Any]:
        """The default configuration by dotted field, at this budget."""
        ...

    def identity(self) -> dict[str, Any]:
        """What makes scores comparable beside space, scenario and code: budget, seed, days."""
        ...

    def steps(self, values: Mapping[str, Any]) -> int:
        """Steps of a whole trial."""
        ...

    def run(self, values: Mapping[str, Any], name: str, report: Report) -> Score:
        """Train with these fields and judge; ``name`` is the folder's, which is gone afterwards.

        Raises:
            TrainingError: If the values do not go together, or the training diverges.
            KeyboardInterrupt: If it was interrupted.
        """
        ...

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What ``train_dqn.py --config`` takes to train by these fields, at this budget.

        With the mode's name it gives what `train` trains, but for the seed.
        """
        ...

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        """A whole training, into a folder that keeps its best model.

        Raises:
            TrainingError: If it diverges.
            KeyboardInterrupt: If it was interrupted.
        """
        ...


def objective_of(
    policy: str,
    scenario: Scenario,
    *,
    mode: str = "quick",
    seed: int = 0,
    steps: int | None = None,
    days: int = STUDY_DAYS,
    data_dir: str | None = None,
) -> Objective:
    """The objective of a policy kind.

    Args:
        policy: One of `search_space.POLICIES`.
        scenario: The world.
        mode: Budget of a trial.
        seed: Of every trial's training.
        steps: Another number of environment steps (networks), or of generations (planner).
        days: Validation days.
        data_dir: Folder of real days.

    Raises:
        UsageError: If the policy is unknown, or there are too many days.
        TrainingError: If the mode is unknown.
    """
    if days > MOST_DAYS:
        raise UsageError(f"--days {days:,}: at most {MOST_DAYS:,}, the others choose and prove")
    from .network_objective import NetworkObjective  # they implement what stands above
    from .planner_objective import PlannerObjective

    if policy == "planner":
        return PlannerObjective(scenario, mode, seed, steps, days, data_dir)
    if policy in ("dqn_matching", "qnetwork"):
        return NetworkObjective(policy, scenario, mode, seed, steps, days, data_dir)
    raise UsageError(f"--policy {policy}: unknown; choose among dqn_matching, planner and qnetwork")


def rung_of(steps: int, total: int) -> int:
    """The rung reached after so many steps: 0 before the first, `RUNGS` at the end."""
    return min(RUNGS, steps * RUNGS // total)
