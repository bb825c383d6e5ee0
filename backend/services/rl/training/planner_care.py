"""Care for what the reward does not weigh: how many patients wait, the urgent ones above all.

The reward counts a late minute of every patient alike and forgives lateness for one more patient
served; the fitted search follows it, and can be late more often than today's matching. So the
prices of late minutes (`late`, and `late_urgent` for priorities 4 and 5) are raised step by step:
the first step is taken that is no worse than `matching` for patients, on the days that decide what
is kept. Not the one that earns most: the steps differ in reward by less than a hundred days tell.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from services.rl.evaluation.outcomes import FIELDS, GROUPS, group_outcomes
from services.rl.policies.planner import SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.registry import make_policy
from services.rl.policies.route_clock import TERM
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import IntArray

Step = tuple[float, float]
STEPS: Final[tuple[Step, ...]] = (
    (0.0, 0.0),
    (0.1, 0.1),
    (0.1, 0.2),
    (0.1, 0.3),
    (0.15, 0.4),
    (0.2, 0.5),
)
"""Reward per minute added to the prices of all late minutes, and of those of urgent patients."""

_MARGIN = 0.95  # of matching's late urgent pickups: other days differ from those of the check
_AFFORDED = 0.02  # of the reward; more is not given for care
_URGENT = tuple(GROUPS.index(f"priority {p}") for p in (4, 5))


@dataclass(frozen=True)
class Danger:
    """What a policy does to patients, means of a day.

    Attributes:
        reward: Of the day.
        late: Pickups more than 15 min after the promised time.
        late_urgent: The same, of priorities 4 and 5.
        unserved_urgent: Bookings of priorities 4 and 5 that nobody served.
    """

    reward: float
    late: float
    late_urgent: float
    unserved_urgent: float

    def no_worse_than(self, other: "Danger") -> bool:
        """Whether it is at least as good for patients, with a margin for late urgent pickups."""
        return (
            self.late <= other.late
            and self.late_urgent <= _MARGIN * other.late_urgent
            and self.unserved_urgent <= other.unserved_urgent
        )


def with_care(
    scenario: Scenario,
    values: PlannerValues,
    steps: Sequence[Step],
    judge: Callable[[], Engine],
    days: IntArray,
    *,
    moves: int,
    threads: int,
    source: DaySource | None = None,
) -> PlannerValues:
    """The values with the prices of late minutes that care asks for; see the module.

    Args:
        scenario: The world.
        values: As fitted.
        steps: Prices to try, the present ones (zeros) first; none: the values as they are.
        judge: Makes an engine with as many environments as there are days.
        days: Labels of the days that decide.
        moves: Of the search.
        threads: Steps tried at once.
        source: Where real days come from.
    """
    if not steps:
        return values

    def tried(step: Step) -> Danger:
        policy = SearchPolicy("planner", scenario, values=raised(values, step), moves=moves,
                              source=source)  # fmt: skip
        return _played(policy, judge(), days)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(tried, steps))
    matching = _played(make_policy("matching", scenario, source=source), judge(), days)
    chosen = choice(found, matching)
    story = {
        "matching": _shown(matching),
        "steps": [
            {"late": late, "late_urgent": urgent, **_shown(danger)}
            for (late, urgent), danger in zip(steps, found, strict=True)
        ],
        "chosen": chosen,
        "no_worse_than_matching": found[chosen].no_worse_than(matching),
    }
    careful = raised(values, steps[chosen])
    return replace(careful, provenance={**values.provenance, "care": story})


def choice(found: Sequence[Danger], matching: Danger) -> int:
    """Which step: the first that is no worse than `matching`; else that of fewest late urgent ones.

    The first of all is the fit as it is; one that earns 2 % less than that is not taken.
    """
    floor = found[0].reward - _AFFORDED * abs(found[0].reward)
    within = [i for i, danger in enumerate(found) if danger.reward >= floor]
    safe = [i for i in within if found[i].no_worse_than(matching)]
    if safe:
        return safe[0]
    return min(within, key=lambda i: found[i].late_urgent)


def raised(values: PlannerValues, step: Step) -> PlannerValues:
    """The same values with higher prices of late minutes."""
    weights = list(values.weights)
    for name, more in zip(("late", "late_urgent"), step, strict=True):
        weights[TERM.index(name)] = round(weights[TERM.index(name)] + more, 6)
    return replace(values, weights=tuple(weights))


def _played(policy: Any, engine: Engine, days: IntArray) -> Danger:
    engine.start(days)
    policy.play(engine)
    sums = np.mean([group_outcomes(engine, e) for e in range(engine.num_envs)], axis=0)
    due, served, late = (sums[:, FIELDS.index(n)] for n in ("due", "served", "late_pickups"))
    urgent = list(_URGENT)
    return Danger(
        reward=float(engine.world.totals.sum(axis=1).mean()),
        late=float(late[0]),
        late_urgent=float(late[urgent].sum()),
        unserved_urgent=float((due - served)[urgent].sum()),
    )


def _shown(danger: Danger) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(danger).items()}
