"""Screening finds candidates; only this may claim a gain.

The best K configurations of a study and the default are trained at a full budget with several
fresh seeds each. One candidate is chosen on validation days that the study did not play; it alone
is then compared with the default on test days, so that nothing is chosen by them. Seeds and days
both vary: the interval takes both as random (crossed effects).
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna

from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import AtmrError, TrainingError, UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.simulation.days import DaySource
from services.rl.simulation.kpis import HIGHER_IS_BETTER, KPIS
from services.rl.simulation.scenarios import Scenario, Split, load_scenario
from services.rl.simulation.types import FloatArray

from ..evolution_run import write_document
from .crossed import Gain, crossed_difference, crossed_gain, rank_correlation
from .dotted_names import plain
from .objective import MOST_DAYS
from .search_space import document_sha256
from .study import best_trials, default_trial, standing
from .trainings import Job, train_all
from .worker import Order, folder_of

FEWEST_SEEDS: Final = 3
FIRST_SEED: Final = 1_000
"""Of a confirmation: the study trained with small ones."""
COMPARED: Final = (
    "reward", "on_time_pct", "completion_pct", "unserved", "unserved_p4", "unserved_p5",
    "wait_mean_min", "wait_p95_min", "deadhead_km_per_trip",
)  # fmt: skip
PATIENTS: Final = tuple(kpi for kpi in COMPARED if kpi not in ("reward", "deadhead_km_per_trip"))
"""Numbers that patients feel: a gain in reward that makes one of them worse is said to."""
DEFAULT: Final = "default"
CONFIRMED_FILE: Final = "confirmed.json"
CANDIDATE_FILE: Final = "candidate.json"
WINNER_FILE: Final = "winner.json"
MARKS: Final = ("id", "policy", "scenario_hash", "space_hash", "budget_hash")
"""Study attributes that tell it from another of its name."""


@dataclass(frozen=True)
class ConfirmPlan:
    """How much is trained and played.

    Attributes:
        top: Candidates beside the default.
        seeds: Trainings of each.
        mode: Their budget.
        steps: See `objective_of`; None: the mode's own.
        choice_days: Fresh validation days that choose a candidate.
        test_days: Test days that compare it with the default.
        transfer: Another scenario on which both are played as they are.
        workers: Trainings at once.
    """

    top: int = 3
    seeds: int = FEWEST_SEEDS
    mode: str = "production"
    steps: int | None = None
    choice_days: int = 200
    test_days: int = 200
    transfer: Scenario | None = None
    workers: int = 1

    def checked(self, order: Order) -> "ConfirmPlan":
        """Itself, before anything is trained.

        Raises:
            UsageError: If there is too little to say anything, or the transfer cannot be played.
            DataError: If its real days are missing.
        """
        if self.seeds < FEWEST_SEEDS:
            raise UsageError(f"--seeds {self.seeds}: a confirmation needs at least {FEWEST_SEEDS}")
        for name, days in (("choice", self.choice_days), ("test", self.test_days)):
            if days < 2:
                raise UsageError(f"--{name}-days {days}: there is no interval from fewer than two")
        if self.transfer is not None:
            open_source(self.transfer, order.data_dir)
            fleets = [s.fleet.num_drivers for s in (self.transfer, order.scenario)]
            if order.policy == "qnetwork" and fleets[0] != fleets[1]:
                raise UsageError(
                    f"--transfer {self.transfer.name}: it has {fleets[0]} drivers, and the flat "
                    f"network is made for {fleets[1]}"
                )
        return self


def confirm(
    study: optuna.Study,
    order: Order,
    plan: ConfirmPlan,
    on_message: Callable[[str], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, choose, compare; trainings that are finished are not repeated.

    Args:
        study: A study with complete trials.
        order: The study's.
        plan: How much.
        on_message: Told what is going on.
        provenance: Command, commit and machine, for the document.

    Returns:
        The document that is also written to ``results/<study>/confirmed.json``. Beside it, for
        ``train_dqn.py --config``, stand ``candidate.json``, what was chosen, and ``winner.json``,
        the same if its gain is confirmed, else the default.

    Raises:
        UsageError: If there are too few seeds, days or trials, or the transfer cannot be played.
        TrainingError: If the default, or every candidate, cannot be trained.
    """
    say = on_message or (lambda _: None)
    plan.checked(order)
    best = best_trials(study, plan.top)
    if not best:
        raise UsageError(
            f"--study {study.study_name}: no trial beside the default was played to the end; "
            "there is nothing to confirm"
        )
    full = replace(order, mode=plan.mode, steps=plan.steps).setup().objective
    fields = full.fields()
    candidates = {DEFAULT: {p.name: fields[p.name] for p in order.space.parameters}}
    screened = {f"trial_{t.number:04d}": t for t in best}
    candidates |= {name: order.space.fields(t.params) for name, t in screened.items()}
    source = open_source(order.scenario, order.data_dir)
    models, failed = _trained(order, plan, candidates, source, say)
    choice, fresh = _choice_book(order, plan, source)
    chosen_by = {name: _played(full.plays_as, choice, models[name]) for name in models}
    means = {name: float(t["reward"].mean()) for name, t in chosen_by.items()}
    chosen = max((n for n in means if n != DEFAULT), key=lambda n: means[n])
    behind = "" if means[chosen] > means[DEFAULT] else "; the default is better on these days"
    say(f"chosen on {'fresh ' if fresh else ''}validation days: {chosen} ({means[chosen]:.1f}, "
        f"default {means[DEFAULT]:.1f}{behind})")  # fmt: skip
    test = day_book(order.scenario, source, Split.TEST, None if source else plan.test_days)
    pair = (chosen, DEFAULT)
    tables = {name: _played(full.plays_as, test, models[name]) for name in pair}
    found = _comparison(tables[chosen], tables[DEFAULT])
    document = {
        "study": study.study_name,
        "marks": study_marks(study),
        "trials": standing(study).finished,
        "policy": full.policy,
        "scenario": order.scenario.name,
        "scenario_hash": order.scenario.sha256,
        "drivers": order.scenario.fleet.num_drivers,
        "plan": {
            **{k: v for k, v in asdict(plan).items() if k not in ("transfer", "workers")},
            "first_seed": FIRST_SEED,
            "fresh_choice_days": fresh,
            "choice_days": [choice.labels[0], choice.labels[-1], len(choice)],
            "test_days": [test.labels[0], test.labels[-1], len(test)],
        },
        "candidates": [
            {
                "name": name,
                "values": candidates[name],
                "screening": _screening(study, order, screened.get(name)),
                "full_budget": means.get(name),
                "by_seed": chosen_by[name]["reward"].mean(axis=1).tolist() if name in means else [],
                "failed": failed.get(name),
            }
            for name in candidates
        ],
        "rank_correlation": _ranks(study, order, candidates, screened, means),
        "candidate": chosen,
        "winner": chosen if found["claimed"] else DEFAULT,
        "test": found,
        "earlier": [],
        "transfer": None,
        "provenance": dict(provenance or {}),
    }
    folder = folder_of(order.name)
    document["earlier"] = _earlier_looks(folder / CONFIRMED_FILE, document, say)
    write_document(folder / CANDIDATE_FILE, full.document(candidates[chosen]))
    write_document(folder / WINNER_FILE, full.document(candidates[str(document["winner"])]))
    document["train"] = training_command(order, plan, folder / WINNER_FILE)
    write_document(folder / CONFIRMED_FILE, document)  # before the transfer, which may yet fail
    if plan.transfer is not None:
        document["transfer"] = _transfer(full.plays_as, order, plan, pair, models)
        write_document(folder / CONFIRMED_FILE, document)
    return document


def _earlier_looks(
    path: Path, document: Mapping[str, Any], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Other confirmations of this study: each has looked at test days by another plan or choice."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["marks"] != document["marks"]:
            return []
        found = [*before.get("earlier", []), _look(before)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        say(f"{path} cannot be read ({error}): earlier looks at the test days are not known")
        return []
    own, looks = _look(document), []
    for look in found:
        if look != own and look not in looks:
            looks.append(look)
    return looks


def _look(document: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a look at the test days from another, as JSON gives it back."""
    chosen = next(c for c in document["candidates"] if c["name"] == document["candidate"])
    look: dict[str, Any] = json.loads(
        json.dumps(
            {
                "plan": document["plan"],
                "candidate": document["candidate"],
                "values": chosen["values"],
                "reward": document["test"]["kpis"]["reward"]["difference"],
            }
        )
    )
    return look


def study_marks(study: optuna.Study) -> dict[str, Any]:
    """What tells a study from another of its name."""
    return {name: study.user_attrs.get(name) for name in MARKS}


def training_command(order: Order, plan: ConfirmPlan, config: Path) -> str:
    """The command that trains a configuration as the confirmation did, from the root of outputs.

    A report goes to other machines: paths in it are relative to `paths.home`.
    """
    try:
        scenario = order.scenario.name
        same = load_scenario(scenario).sha256 == order.scenario.sha256
    except AtmrError:
        same = False
    if not same:  # resized, or a file: kept beside the configuration
        kept = config.parent / "scenario.yaml"
        write_document(kept, order.scenario.model_dump(mode="json"))
        scenario = _from_home(kept)
    kind = ["--network", "flat"] if order.policy == "qnetwork" else ["--policy", order.policy]
    words = ["train_dqn.py", "--mode", plan.mode, *kind, "--scenario", scenario]
    if order.data_dir is not None:
        words += ["--data-dir", order.data_dir]
    name = f"{order.name[:90]}.winner"  # not the scenario's own: a model may lie there
    return shlex.join([*words, "--config", _from_home(config), "--name", name])


def _from_home(path: Path) -> str:
    return str(path.relative_to(paths.home()) if path.is_relative_to(paths.home()) else path)


# --- training and choosing -----------------------------------------------------------------------


def _trained(
    order: Order, plan: ConfirmPlan, candidates: Mapping[str, dict[str, Any]],
    source: DaySource | None, say: Callable[[str], None],
) -> tuple[dict[str, list[Path]], dict[str, str]]:  # fmt: skip
    """Best models by candidate, one per seed; and why a candidate has none."""
    days = ""
    if source is not None:
        days = document_sha256([list(source.labels(s)) for s in (Split.TRAIN, Split.VALIDATION)])
    jobs = {
        name: [
            Job(order, plan.mode, plan.steps, name, values, FIRST_SEED + s, days)
            for s in range(plan.seeds)
        ]
        for name, values in candidates.items()
    }
    # By seeds: an early stop leaves every candidate some.
    turns = [jobs[name][s] for s in range(plan.seeds) for name in jobs]
    reasons = train_all(turns, plan.workers, say)
    failed = {name: f"seed {seed}: {reason}" for (name, seed), reason in reasons.items()}
    if DEFAULT in failed:
        raise TrainingError(f"the default cannot be trained: {failed[DEFAULT]}")
    models = {name: [j.model for j in jobs[name]] for name in jobs if name not in failed}
    if len(models) < 2:
        raise TrainingError(f"no candidate can be trained: {next(iter(failed.values()))}")
    return models, failed


def _choice_book(order: Order, plan: ConfirmPlan, source: DaySource | None) -> tuple[DayBook, bool]:
    """Days that choose, and whether the study left them alone.

    Real validation days are few: where the study has judged by all of them, they choose again.
    """
    if source is None:
        return day_book(order.scenario, None, Split.VALIDATION, plan.choice_days, MOST_DAYS), True
    fresh = len(source.labels(Split.VALIDATION)) - order.days >= 2
    offset = order.days if fresh else 0
    return day_book(order.scenario, source, Split.VALIDATION, None, offset), fresh


# --- playing ---------------------------------------------------------------------------------


def _played(
    policy: str, book: DayBook, folders: Sequence[Path], *, transfer: bool = False
) -> dict[str, FloatArray]:
    """Every KPI by seed and day, ``(S, D)``."""
    results = [evaluate_policy(policy, book, model=folder, transfer=transfer) for folder in folders]
    return {kpi: np.array([r.kpi(kpi) for r in results]) for kpi in KPIS}


def _transfer(
    policy: str, order: Order, plan: ConfirmPlan, pair: tuple[str, str],
    models: Mapping[str, list[Path]],
) -> dict[str, Any]:  # fmt: skip
    assert plan.transfer is not None
    source = open_source(plan.transfer, order.data_dir)
    book = day_book(plan.transfer, source, Split.TEST, None if source else plan.test_days)
    winner, default = (
        _played(policy, book, models[name], transfer=policy == "planner") for name in pair
    )
    return {
        "scenario": plan.transfer.name,
        "drivers": plan.transfer.fleet.num_drivers,
        **_comparison(winner, default),
    }


def _comparison(a: Mapping[str, FloatArray], b: Mapping[str, FloatArray]) -> dict[str, Any]:
    differences = {kpi: crossed_difference(a[kpi], b[kpi]) for kpi in COMPARED}
    return {
        "gain_pct": _shown(crossed_gain(a["reward"], b["reward"])),
        "claimed": bool(differences["reward"].low > 0),
        "worse": [kpi for kpi in PATIENTS if _is_worse(kpi, differences[kpi])],
        "kpis": {
            kpi: {
                "winner": _known(a[kpi].mean()),
                "default": _known(b[kpi].mean()),
                "difference": _shown(differences[kpi]),
            }
            for kpi in COMPARED
        },
    }


def _is_worse(kpi: str, difference: Estimate) -> bool:
    """Whether the whole interval lies on the bad side."""
    return bool(difference.high < 0 if kpi in HIGHER_IS_BETTER else difference.low > 0)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shown(value: Estimate | Gain) -> dict[str, Any]:
    known = np.isfinite([value.low, value.high]).all()
    return {
        "mean": value.mean if np.isfinite(value.mean) else None,
        "ci95": [value.low, value.high] if known else None,
    }


def _screening(
    study: optuna.Study, order: Order, trial: optuna.trial.FrozenTrial | None
) -> float | None:
    """A candidate's score in the study; the default's (no trial) only if it is today's as well."""
    if trial is None:
        trial = default_trial(study)
        today = order.setup().objective.fields()
        if trial is None or not _same(order.space.fields(trial.params), today):
            return None
    return float(trial.values[0])


def _same(values: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(plain(value) == plain(fields[name]) for name, value in values.items())


def _ranks(
    study: optuna.Study,
    order: Order,
    candidates: Mapping[str, dict[str, Any]],
    screened: Mapping[str, optuna.trial.FrozenTrial],
    means: Mapping[str, float],
) -> dict[str, Any]:
    """Of screening and full-budget scores; the default counts where both played the same values."""
    names = [n for n in means if n != DEFAULT]
    scores = [float(screened[n].values[0]) for n in names]
    default = default_trial(study)
    if default is not None and _same(order.space.fields(default.params), candidates[DEFAULT]):
        names.append(DEFAULT)
        scores.append(float(default.values[0]))
    return rank_correlation(scores, [means[n] for n in names])
