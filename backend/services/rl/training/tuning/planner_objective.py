"""A trial of the planner: a fit with looks at validation days at every rung."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.data.sources import open_source
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.runner import DayBook
from services.rl.policies.planner import DEFAULT_MOVES, SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import FloatArray

from ..planner_config import changed_plan, plan_fields
from ..planner_fit import PlannerFit, Stage, fit_planner, weighted
from ..planner_run import planner_fit_of, train_planner
from ..task import Score
from .dotted_names import difference, laid_over, nested, plain
from .objective import RUNGS, Report

_SANITY_FIT: dict[str, Any] = {
    "busy": {"days": 8, "moves": 200}, "own": {"days": 8, "moves": 400}, "population": 6,
}  # fmt: skip
"""As `_SANITY`."""


class PlannerObjective:
    """The planner: its search's temperature and horizon, its value terms, and how they are fitted.

    Every trial plays the same number of moves while it fits: what its candidates, days or moves
    cost more, it has less of generations. In use every planner searches the same number of moves.
    """

    policy = plays_as = "planner"
    unit = "moves of the search"

    def __init__(
        self,
        scenario: Scenario,
        mode: str,
        seed: int,
        steps: int | None,
        days: int,
        data_dir: str | None,
    ) -> None:
        self.scenario = scenario
        self.mode = mode
        self.source = open_source(scenario, data_dir)
        plan = planner_fit_of(mode)
        if mode == "sanity":
            plan = changed_plan(plan, _SANITY_FIT)
        if steps is not None:
            plan = plan.lasting(max(2, steps))
        self.base = replace(plan, seed=seed, threads=1, repeats=1)
        self.book: DayBook | None = None
        self._days = days

    def plan(self, values: Mapping[str, Any]) -> PlannerFit:
        """The plan with these fields, and as many generations as the budget gives."""
        plan = changed_plan(self.base, plain(nested(values)))
        return replace(
            plan,
            busy=_afforded(plan.busy, plan.population, self.base.busy, self.base.population),
            own=_afforded(plan.own, plan.population, self.base.own, self.base.population),
        )

    def fields(self) -> dict[str, Any]:
        """See `Objective`."""
        return plan_fields(self.base)

    def identity(self) -> dict[str, Any]:
        """See `Objective`."""
        fit = {k: v for k, v in asdict(self.base).items() if k not in ("threads", "care")}
        return {"fit": fit, "days": self._days, "moves": DEFAULT_MOVES, "rungs": RUNGS}

    def steps(self, values: Mapping[str, Any]) -> int:
        """See `Objective`."""
        plan = self.plan(values)
        return sum(
            stage.generations * _moves(stage, plan.population) for stage in (plan.busy, plan.own)
        )

    def run(self, values: Mapping[str, Any], name: str, report: Report) -> Score:  # noqa: ARG002
        """See `Objective`; nothing is written."""
        plan = replace(self.plan(values), care=())
        total, told = self.steps(values), [0]
        in_busy = plan.busy.generations

        def look(done: int, weights: FloatArray) -> None:
            spent = min(done, in_busy) * _moves(plan.busy, plan.population)
            spent += max(0, done - in_busy) * _moves(plan.own, plan.population)
            rung = min(RUNGS - 1, spent * RUNGS // total)  # the last is that of the values kept
            if rung > told[0]:
                told[0] = rung
                report(rung, self._judge(weighted(self.scenario, weights, plan)), spent)

        days = [self.source.day(n) for n in self.source.labels(Split.TRAIN)] if self.source else []
        values_found = fit_planner(
            self.scenario, plan, days=days, source=self.source, on_weights=look
        )
        score = self._judge(values_found)
        report(RUNGS, score, total)
        return score

    def _judge(self, values: PlannerValues) -> Score:
        if self.book is None:
            self.book = day_book(self.scenario, self.source, Split.VALIDATION, self._days, 0)
        engine = self.book.engine(range(len(self.book)))
        SearchPolicy("planner", self.scenario, source=self.source, values=values).play(engine)
        table = np.array([list(engine.kpis(e).values()) for e in range(engine.num_envs)])
        rewards = table[:, KPIS.index("reward")]
        means = dict(zip(KPIS, table.mean(axis=0).tolist(), strict=True))
        return Score(float(rewards.mean()), rewards, means)

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Objective`: the moved fields, the generations that they leave, and what else."""
        plan = self.plan(values)
        mine = nested(plan_fields(plan))
        for name in ("seed", "threads"):
            mine.pop(name)
        document = difference(mine, nested(plan_fields(planner_fit_of(self.mode))))
        document = laid_over(document, nested(values))
        for name in ("busy", "own"):
            document.setdefault(name, {})["generations"] = getattr(plan, name).generations
        return document

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,  # noqa: ARG002 - as the protocol
    ) -> None:
        """See `Objective`; goes on from the fit's journal, if there is one."""
        plan = replace(self.plan(values), seed=seed)
        begun = any((folder / "checkpoints" / "latest").glob("evolution*.jsonl"))
        train_planner(self.scenario, plan, folder, source=self.source, resume=begun)


def _moves(stage: Stage, population: int) -> int:
    """Moves per epoch, summed over the days of a generation; mean and start are played too."""
    return (population + 2) * stage.days * stage.moves


def _afforded(stage: Stage, population: int, base: Stage, base_population: int) -> Stage:
    """The stage with the generations that cost as many moves as the base's."""
    if not base.generations:
        return replace(stage, generations=0)
    room = base.generations * _moves(base, base_population) / max(1, _moves(stage, population))
    return replace(stage, generations=max(1, round(room)))
