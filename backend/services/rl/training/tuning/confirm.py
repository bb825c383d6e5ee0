"""Screening finds candidates; only this may claim a gain.

The best K configurations of a study and the default are trained at a full budget with several
fresh seeds each. The winner is chosen on validation days that the study did not play; it alone is
then compared with the default on test days, so that nothing is chosen by them. Seeds and days both
vary: the interval takes both as random (crossed effects).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from math import factorial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from scipy import stats

from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import FloatArray

from ..evolution_run import write_document
from .search_space import document_sha256
from .study import best_trials, code_sha256, default_trial
from .worker import Order, folder_of

FEWEST_SEEDS: Final = 3
FIRST_SEED: Final = 1_000
"""Of a confirmation: the study trained with small ones."""
FIRST_DAY: Final = 10_000
"""Validation days from this one on choose the winner; a study plays the first few dozen."""
COMPARED: Final = (
    "reward", "on_time_pct", "completion_pct", "unserved", "unserved_p4", "unserved_p5",
    "wait_mean_min", "wait_p95_min", "deadhead_km_per_trip",
)  # fmt: skip
DEFAULT: Final = "default"
CONFIRMED_FILE: Final = "confirmed.json"
WINNER_FILE: Final = "winner.json"
_EXACT = 7  # candidates up to which every order is counted


@dataclass(frozen=True)
class ConfirmPlan:
    """How much is trained and played.

    Attributes:
        top: Candidates beside the default.
        seeds: Trainings of each.
        mode: Their budget.
        steps: See `objective_of`; None: the mode's own.
        choice_days: Fresh validation days that choose the winner.
        test_days: Test days that compare it with the default.
        transfer: Name of another scenario on which both are played as they are.
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


@dataclass(frozen=True)
class _Job:
    """One training, as processes hand it to each other."""

    order: Order
    plan: ConfirmPlan
    candidate: str
    values: dict[str, Any]
    seed: int


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
        The document that is also written to ``results/<study>/confirmed.json``; the winner's
        configuration is in ``winner.json`` beside it, for ``train_dqn.py --config``.

    Raises:
        UsageError: If there are too few seeds or trials.
    """
    say = on_message or (lambda _: None)
    if plan.seeds < FEWEST_SEEDS:
        raise UsageError(f"--seeds {plan.seeds}: a confirmation needs at least {FEWEST_SEEDS}")
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
    folders = _train_all(order, plan, candidates, say)
    source = open_source(order.scenario, order.data_dir)
    first = 0 if source else FIRST_DAY
    choice = day_book(
        order.scenario, source, Split.VALIDATION, None if source else plan.choice_days, first
    )
    chosen_by = {name: _played(full.plays_as, choice, folders[name]) for name in candidates}
    means = {name: float(t["reward"].mean()) for name, t in chosen_by.items()}
    winner = max((n for n in candidates if n != DEFAULT), key=lambda n: means[n])
    say(f"chosen on fresh validation days: {winner} ({means[winner]:.1f}, default "
        f"{means[DEFAULT]:.1f})")  # fmt: skip
    test = day_book(order.scenario, source, Split.TEST, None if source else plan.test_days)
    pair = (winner, DEFAULT)
    tables = {name: _played(full.plays_as, test, folders[name]) for name in pair}
    document = {
        "study": study.study_name,
        "policy": full.policy,
        "scenario": order.scenario.name,
        "scenario_hash": order.scenario.sha256,
        "drivers": order.scenario.fleet.num_drivers,
        "plan": {
            **{k: v for k, v in asdict(plan).items() if k not in ("transfer", "workers")},
            "first_seed": FIRST_SEED,
            "choice_days": [choice.labels[0], choice.labels[-1], len(choice)],
            "test_days": [test.labels[0], test.labels[-1], len(test)],
        },
        "candidates": [
            {
                "name": name,
                "values": candidates[name],
                "screening": _screening(study, screened.get(name)),
                "full_budget": means[name],
                "by_seed": chosen_by[name]["reward"].mean(axis=1).tolist(),
            }
            for name in candidates
        ],
        "rank_correlation": _ranks(study, screened, means),
        "winner": winner,
        "test": _comparison(tables[winner], tables[DEFAULT]),
        "transfer": _transfer(full.plays_as, plan, pair, folders),
        "provenance": dict(provenance or {}),
    }
    folder = folder_of(order.name)
    write_document(folder / WINNER_FILE, full.document(candidates[winner]))
    write_document(folder / CONFIRMED_FILE, document)
    return document


# --- training --------------------------------------------------------------------------------


def _train_all(
    order: Order,
    plan: ConfirmPlan,
    candidates: Mapping[str, dict[str, Any]],
    say: Callable[[str], None],
) -> dict[str, list[Path]]:
    """Folders of the best models, by candidate and seed."""
    jobs = [
        _Job(order, plan, name, values, FIRST_SEED + s)
        for s in range(plan.seeds)
        for name, values in candidates.items()
    ]
    left = [job for job in jobs if not _is_done(job)]
    say(f"{len(jobs)} trainings, {len(jobs) - len(left)} of them done before")
    if plan.workers <= 1 or len(left) <= 1:
        for job in left:
            say(_train(job))
    else:
        pool = ProcessPoolExecutor(plan.workers, mp_context=get_context("spawn"))
        with pool:
            futures = [pool.submit(_train, job) for job in left]
            try:
                for future in as_completed(futures):
                    say(future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return {
        name: [_folder(job) / "checkpoints" / "best" for job in jobs if job.candidate == name]
        for name in candidates
    }


def _train(job: _Job) -> str:
    """One training; returns what was done."""
    order = replace(job.order, mode=job.plan.mode, steps=job.plan.steps)
    folder = _folder(job)
    order.setup().objective.train(job.values, job.seed, folder)
    write_document(folder / "done.json", {"job": _mark(job)})
    return f"{job.candidate}, seed {job.seed}: trained"


def _folder(job: _Job) -> Path:
    return folder_of(job.order.name) / "confirm" / f"{job.candidate}-seed_{job.seed}"


def _is_done(job: _Job) -> bool:
    try:
        done = json.loads((_folder(job) / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(done.get("job") == _mark(job))


def _mark(job: _Job) -> str:
    """What the training was: another budget or code makes it another."""
    objective = replace(job.order, mode=job.plan.mode, steps=job.plan.steps).setup().objective
    return document_sha256(
        [objective.identity(), objective.document(job.values), job.seed, code_sha256()]
    )


# --- playing ---------------------------------------------------------------------------------


def _played(
    policy: str, book: DayBook, folders: Sequence[Path], *, transfer: bool = False
) -> dict[str, FloatArray]:
    """Every KPI by seed and day, ``(S, D)``."""
    results = [evaluate_policy(policy, book, model=folder, transfer=transfer) for folder in folders]
    return {kpi: np.array([r.kpi(kpi) for r in results]) for kpi in KPIS}


def _transfer(
    policy: str, plan: ConfirmPlan, pair: tuple[str, str], folders: Mapping[str, list[Path]]
) -> dict[str, Any] | None:
    if plan.transfer is None:
        return None
    book = day_book(plan.transfer, open_source(plan.transfer), Split.TEST, plan.test_days)
    winner, default = (
        _played(policy, book, folders[name], transfer=policy == "planner") for name in pair
    )
    return {
        "scenario": plan.transfer.name,
        "drivers": plan.transfer.fleet.num_drivers,
        **_comparison(winner, default),
    }


def _comparison(a: Mapping[str, FloatArray], b: Mapping[str, FloatArray]) -> dict[str, Any]:
    gain = crossed_gain(a["reward"], b["reward"])
    return {
        "gain_pct": _shown(gain),
        "claimed": bool(crossed_difference(a["reward"], b["reward"]).low > 0),
        "kpis": {
            kpi: {
                "winner": float(a[kpi].mean()),
                "default": float(b[kpi].mean()),
                "difference": _shown(crossed_difference(a[kpi], b[kpi])),
            }
            for kpi in COMPARED
        },
    }


def _shown(value: Estimate) -> dict[str, Any]:
    known = np.isfinite(value.half_width)
    return {
        "mean": value.mean if np.isfinite(value.mean) else None,
        "ci95": [value.low, value.high] if known else None,
    }


# --- statistics ------------------------------------------------------------------------------


def crossed_difference(a: FloatArray, b: FloatArray) -> Estimate:
    """Mean of ``a - b`` with the interval for other seeds *and* other days.

    Args:
        a: ``(S, D)`` by seed and day.
        b: The same seeds' and days'.

    The variance of the mean of crossed random effects is (MS_seeds + MS_days - MS_rest) / SD.
    Seeds are few: what they show is never diminished, and the degrees of freedom are theirs, S - 1.
    Satterthwaite's (1946), estimated from three or four seeds, covered too little (92.9 % of 800).
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    seeds, days = difference.shape
    mean = float(difference.mean())
    if seeds < 2 or days < 2:
        return Estimate(mean, float("inf"))
    by_seed, by_day = difference.mean(axis=1), difference.mean(axis=0)
    of_seeds = days * float(by_seed.var(ddof=1))
    of_days = seeds * float(by_day.var(ddof=1))
    rest = difference - by_seed[:, None] - by_day[None] + mean
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (days - 1))
    more = max(0.0, of_days - of_rest)  # what days add to what seeds show already
    squares = max(of_seeds + more, of_days)
    half = float(stats.t.ppf(0.975, seeds - 1)) * float(np.sqrt(squares / (seeds * days)))
    return Estimate(mean, half)


def crossed_gain(a: FloatArray, b: FloatArray) -> Estimate:
    """How much more ``a`` is than ``b``, in percent of the mean of ``b``; see `crossed_difference`.

    By the delta method for a ratio of means. Unknown where the mean of ``b`` is not above 0.
    """
    base = float(np.mean(b))
    if not base > 0:
        return Estimate(float("nan"), float("inf"))
    ratio = float(np.mean(a)) / base
    residual = (np.asarray(a, float) - ratio * np.asarray(b, float)) / base
    spread = crossed_difference(residual, np.zeros_like(residual))
    return Estimate(100 * (ratio - 1), 100 * spread.half_width)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Spearman's rho, and the share of orders that correlate as much by chance (exact to 7)."""
    count = len(a)
    if count < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return {"n": count, "rho": None, "p": None}
    x, y = stats.rankdata(a), stats.rankdata(b)
    rho = float(np.corrcoef(x, y)[0, 1])
    if count <= _EXACT:
        as_high = sum(
            np.corrcoef(x, y[list(order)])[0, 1] >= rho - 1e-12
            for order in permutations(range(count))
        )
        p = as_high / factorial(count)
    else:
        p = float(stats.spearmanr(a, b, alternative="greater").pvalue)
    return {"n": count, "rho": rho, "p": float(p)}


def _screening(study: optuna.Study, trial: optuna.trial.FrozenTrial | None) -> float | None:
    trial = trial or default_trial(study)
    return None if trial is None else float(trial.values[0])


def _ranks(
    study: optuna.Study,
    screened: Mapping[str, optuna.trial.FrozenTrial],
    means: Mapping[str, float],
) -> dict[str, Any]:
    both = [
        (score, means[name])
        for name in means
        if (score := _screening(study, screened.get(name))) is not None
    ]
    return rank_correlation([s for s, _ in both], [f for _, f in both])
