"""Playing policies on days: compiled batches where a policy has them, epoch by epoch otherwise."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.data.sources import open_source
from services.rl.errors import PolicyError
from services.rl.paths import cache_dir
from services.rl.policies.base import DecisionSet, Policy
from services.rl.policies.registry import make_policy
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day, FloatArray

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Raise it when a change alters what cached policies do or how days are played."""

LATENCY_DAYS = 2
"""Days of which every decision is timed singly, for policies that play compiled batches."""

Observer = Callable[[Engine, int], Any]
"""Looks at a finished day (engine, environment); a function of a module, for other processes."""


@dataclass
class DayResults:
    """A policy's results on D days.

    Attributes:
        policy: Its name.
        kpis: ``(D, len(KPIS))``.
        decision_ms: Time of single decisions, all epochs of the timed days.
        refused: Assignments that were not allowed (a defect of the policy), over all days.
        fallbacks: Epochs at which the policy had to fall back on something simpler.
        note: Where its numbers come from.
        model_sha: SHA-256 of the trained network that decided, if one did.
        seen: What ``observe`` returned, one per day; empty where none was asked.
    """

    policy: str
    kpis: FloatArray
    decision_ms: FloatArray
    refused: int = 0
    fallbacks: int = 0
    note: str = ""
    model_sha: str | None = None
    seen: list[Any] = field(default_factory=list)

    def kpi(self, name: str) -> FloatArray:
        """One KPI of every day, ``(D,)``."""
        return self.kpis[:, KPIS.index(name)]


@dataclass(frozen=True)
class DayBook:
    """The days of an evaluation, the same for every policy.

    Attributes:
        scenario: The world.
        labels: What each day is called in reports.
        seeds: Seeds of sampled days; empty where days are real.
        days: Real days; empty where they are sampled.
        source: Where real days came from.
    """

    scenario: Scenario
    labels: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    days: tuple[Day, ...] = ()
    source: DaySource | None = None

    def __len__(self) -> int:
        """Number of days."""
        return len(self.labels)

    def engine(self, rows: Sequence[int], *, record_events: bool = False) -> Engine:
        """An engine with the given days begun, one per environment."""
        if self.days:
            chosen = [self.days[row] for row in rows]
            engine = Engine(
                self.scenario,
                len(rows),
                days=chosen,
                source=self.source,
                record_events=record_events,
            )
            engine.start(np.arange(len(rows)))
        else:
            engine = Engine(self.scenario, len(rows), record_events=record_events)
            engine.start(np.array([self.seeds[row] for row in rows], dtype=np.int64))
        return engine


def play_day(
    policy: Policy, engine: Engine, env: int = 0, *, seed: int = 0
) -> tuple[list[float], int]:
    """Play one environment to the end of its day; returns decision times (ms) and refusals."""
    rng = np.random.default_rng([seed, int(engine.out.day[env])])
    plan: Any = None
    times: list[float] = []
    refused = 0
    while not engine.ended(env):
        rows = engine.open_rows(env)
        state = engine.state(env)
        begin = time.perf_counter()
        answer: DecisionSet = policy.decide(state, plan=plan, rng=rng)
        times.append((time.perf_counter() - begin) * 1e3)
        plan = answer.plan
        for decision in answer.decisions:
            if decision.driver is None:
                continue
            if not 0 <= decision.booking < len(rows):
                raise PolicyError(
                    f"policy {policy.name!r} decided on booking {decision.booking} of a state "
                    f"with {len(rows)} open bookings"
                )
            if not engine.commit(env, decision.driver, int(rows[decision.booking])):
                refused += 1
        engine.wait(env)
    return times, refused


@dataclass(frozen=True)
class Ask:
    """Which policy to play, as processes hand it to each other.

    Attributes:
        name: As on the command line.
        seed: Of policies that draw or search.
        budget_ms: Time per epoch of ``rolling``.
        model: Folder of a trained network.
        transfer: Admit values that were fitted on another scenario.
    """

    name: str
    seed: int
    budget_ms: float
    model: Path | None
    transfer: bool = False

    def policy(self, book: "DayBook") -> Policy:
        """A fresh policy."""
        return make_policy(
            self.name,
            book.scenario,
            source=book.source,
            seed=self.seed,
            budget_ms=self.budget_ms,
            model=self.model,
            transfer=self.transfer,
        )


def evaluate_policy(
    name: str,
    book: DayBook,
    *,
    seed: int = 0,
    budget_ms: float = 200.0,
    model: Path | None = None,
    transfer: bool = False,
    jobs: int = 1,
    cached: bool = True,
    data_dir: str | None = None,
    on_day: Any = None,
    observe: Observer | None = None,
) -> DayResults:
    """Play a policy on every day of a book.

    Compiled policies play all days at once, and the first `LATENCY_DAYS` again, decision by
    decision, for the latency (and as a check: both ways must agree). Others play day by day,
    ``jobs`` processes at once; ``rolling`` keeps finished days in the cache, unless ``observe``
    asks for more of a finished day than the cache holds.
    """
    ask = Ask(name, seed, budget_ms, model, transfer)
    policy = ask.policy(book)
    play = getattr(policy, "play", None)
    if play is not None:
        engine = book.engine(range(len(book)))
        play(engine)
        kpis = np.array([list(engine.kpis(e).values()) for e in range(len(book))])
        times = _time_decisions(policy, book, kpis, seed)
        return DayResults(
            policy.name,
            kpis,
            times,
            note=getattr(policy, "note", ""),
            model_sha=getattr(policy, "model_sha", None),
            seen=[observe(engine, e) for e in range(len(book))] if observe else [],
        )
    return _play_one_by_one(ask, policy, book, jobs, cached, data_dir, on_day, observe)


def _time_decisions(policy: Policy, book: DayBook, kpis: FloatArray, seed: int) -> FloatArray:
    timed = list(range(min(LATENCY_DAYS, len(book))))
    engine = book.engine(timed)
    policy.decide(engine.state(0), rng=np.random.default_rng(0))  # compile before timing
    times: list[float] = []
    for e in timed:
        spent, _ = play_day(policy, engine, e, seed=seed)
        times += spent
        single = np.array(list(engine.kpis(e).values()))
        # Random draws differ by construction; every other policy must agree with its batch.
        if policy.name != "random" and not np.allclose(single, kpis[e], rtol=1e-9, atol=1e-9):
            raise PolicyError(
                f"policy {policy.name!r} decides differently one by one and in a batch"
            )
    return np.array(times)


# --- day by day, in processes, with a cache -------------------------------------------------


def _play_one_by_one(
    ask: Ask,
    policy: Policy,
    book: DayBook,
    jobs: int,
    cached: bool,
    data_dir: str | None,
    on_day: Any,
    observe: Observer | None,
) -> DayResults:
    results: dict[int, dict[str, Any]] = {}
    keys = {row: _key(ask, book, row) for row in range(len(book))}
    keep = (
        cached and ask.name == "rolling" and observe is None
    )  # foreign code may change under the same name
    for row, key in keys.items():
        found = _read_cache(key) if keep else None
        if found is not None:
            results[row] = found
            if on_day:
                on_day()
    missing = [row for row in keys if row not in results]
    for row, result in _run_all(ask, book, missing, jobs, data_dir, observe):
        results[row] = result
        if keep:
            _write_cache(keys[row], result)
        if on_day:
            on_day()
    ordered = [results[row] for row in range(len(book))]
    return DayResults(
        policy.name,
        np.array([r["kpis"] for r in ordered]),
        np.concatenate([r["decision_ms"] for r in ordered]),
        refused=sum(r["refused"] for r in ordered),
        fallbacks=sum(r["fallbacks"] for r in ordered),
        note=getattr(
            policy, "note", f"{ask.budget_ms:g} ms per epoch" if ask.name == "rolling" else ""
        ),
        model_sha=getattr(policy, "model_sha", None),
        seen=[r["seen"] for r in ordered] if observe else [],
    )


def _run_all(
    ask: Ask,
    book: DayBook,
    rows: Sequence[int],
    jobs: int,
    data_dir: str | None,
    observe: Observer | None,
) -> Any:
    if jobs <= 1 or len(rows) <= 1:
        for row in rows:
            yield row, _play_row(ask, book, row, observe)
        return
    # Spawned, not forked: compiled code and BLAS threads do not survive a fork.
    with ProcessPoolExecutor(min(jobs, len(rows)), mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(
                _play_remote,
                ask,
                book.scenario,
                book.labels[row],
                book.seeds[row] if book.seeds else None,
                data_dir,
                observe,
            ): row
            for row in rows
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _play_remote(
    ask: Ask,
    scenario: Scenario,
    label: str,
    day_seed: int | None,
    data_dir: str | None,
    observe: Observer | None,
) -> dict[str, Any]:
    if day_seed is not None:
        book = DayBook(scenario, (label,), seeds=(day_seed,))
    else:
        source = open_source(scenario, data_dir)
        assert source is not None
        book = DayBook(scenario, (label,), days=(source.day(label),), source=source)
    return _play_row(ask, book, 0, observe)


def _play_row(ask: Ask, book: DayBook, row: int, observe: Observer | None) -> dict[str, Any]:
    # A fresh policy per day: a day's result must not depend on which days ran before it.
    policy = ask.policy(book)
    engine = book.engine([row])
    times, refused = play_day(policy, engine, 0, seed=ask.seed)
    return {
        "kpis": list(engine.kpis(0).values()),
        "decision_ms": times,
        "refused": refused,
        "fallbacks": int(getattr(policy, "fallbacks", 0)),
        "seen": None if observe is None else observe(engine, 0),
    }


def _key(ask: Ask, book: DayBook, row: int) -> str:
    digest = hashlib.sha256()
    parts = [
        CACHE_VERSION,
        ask.name,
        book.scenario.sha256,
        book.labels[row],
        ask.seed,
        ask.budget_ms,
        KPIS,
    ]
    digest.update(json.dumps(parts).encode())
    if book.days:
        digest.update(book.days[row].bookings.tobytes())
        digest.update(book.days[row].drivers.tobytes())
    return digest.hexdigest()


def _read_cache(key: str) -> dict[str, Any] | None:
    path = cache_dir() / "days" / f"{key}.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("cached day %s cannot be read and is played again: %s", path, error)
        return None
    return stored


def _write_cache(key: str, result: dict[str, Any]) -> None:
    path = cache_dir() / "days" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(path)
