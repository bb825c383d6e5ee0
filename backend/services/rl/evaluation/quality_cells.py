"""Cells of the quality benchmark: one policy on a few days, kept under the hash of what shaped it.

A benchmark of hours is a set of cells of seconds or minutes. Each finished one is a file, so that a
killed run goes on where it stopped, and a run where nothing changed recomputes nothing. The key
covers the scenario, the days, the policy with its amount, seed and model, and the code.
"""

import hashlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.policies.base import DecisionSet, Policy
from services.rl.policies.hindsight import hindsight
from services.rl.policies.model_files import file_sha256
from services.rl.policies.registry import make_policy
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from .caveats import load_average
from .outcomes import FIELDS, GROUPS, group_outcomes
from .runner import DayBook, evaluate_policy, play_day

logger = logging.getLogger(__name__)

CELL_SCHEMA: Final = 1
HINDSIGHT: Final = "hindsight"

_SERVICES = Path(__file__).parents[1]
_CODE = ("simulation", "policies", "data")
_OWN_CODE = ("runner.py", "outcomes.py", "quality_cells.py")
_LIBRARIES = ("numba", "numpy", "scipy", "pyvrp")


@dataclass(frozen=True)
class Cell:
    """What is played.

    Attributes:
        scenario: The world, as the policy knows it.
        policy: As on the command line, or ``hindsight``.
        labels: Days: ``seed:N``, or dates of real days.
        seed: Of policies that draw or search.
        model: Folder of the trained model.
        model_sha: Hash of that folder's files.
        drawn_from: Another scenario whose demand the days have, unknown to the policy.
        transfer: Admit planner values that were fitted on another scenario.
        epochs: Note open bookings and time of every decision instead of what was achieved.
        hindsight_seconds: Search time per day.
        data_dir: Folder of real trips.
        days_sha: Hash of real days, which another folder may have under the same dates.
    """

    scenario: Scenario
    policy: str
    labels: tuple[str, ...]
    seed: int = 0
    model: Path | None = None
    model_sha: str | None = None
    drawn_from: Scenario | None = None
    transfer: bool = False
    epochs: bool = False
    hindsight_seconds: float = 10.0
    data_dir: str | None = None
    days_sha: str | None = None

    def spec(self) -> dict[str, Any]:
        """All that shapes the result, but the code."""
        return {
            "schema": CELL_SCHEMA,
            "scenario": self.scenario.name,
            "scenario_hash": _scenario_sha256(self.scenario),
            "drawn_from": None if self.drawn_from is None else _scenario_sha256(self.drawn_from),
            "policy": self.policy,
            "model_sha": self.model_sha,
            "transfer": self.transfer,
            "days": list(self.labels),
            "days_sha": self.days_sha,
            "seed": self.seed,
            "epochs": self.epochs,
            "hindsight_seconds": self.hindsight_seconds if self.policy == HINDSIGHT else None,
            "kpis": list(KPIS),
            "groups": [list(GROUPS), list(FIELDS)],
        }

    def key(self, fingerprint: str) -> str:
        """Name of the cell's file."""
        return _sha256({**self.spec(), "code": fingerprint})

    def book(self) -> DayBook:
        """The days.

        Raises:
            DataError: If real days cannot be read.
        """
        source = open_source(self.scenario, self.data_dir)
        if source is not None:
            days = tuple(source.day(label) for label in self.labels)
            return DayBook(self.scenario, self.labels, days=days, source=source)
        seeds = tuple(int(label.removeprefix("seed:")) for label in self.labels)
        if self.drawn_from is None:
            return DayBook(self.scenario, self.labels, seeds=seeds)
        engine = Engine(self.drawn_from, len(seeds))
        engine.start(np.array(seeds))
        days = tuple(engine.day(e) for e in range(len(seeds)))
        return DayBook(self.scenario, self.labels, days=days)


_hashes: dict[int, tuple[Scenario, str]] = {}


def _scenario_sha256(scenario: Scenario) -> str:
    """The scenario's hash, which takes a millisecond and is asked for a thousand times."""
    known = _hashes.get(id(scenario))
    if known is None or known[0] is not scenario:
        known = _hashes[id(scenario)] = (scenario, scenario.sha256)
    return known[1]


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def days_sha256(source: DaySource, labels: Sequence[str]) -> str:
    """Hash of real days, and of the travel between zones where they bring any."""
    digest = hashlib.sha256()
    for label in labels:
        day = source.day(label)
        digest.update(day.bookings.tobytes())
        digest.update(day.drivers.tobytes())
    tables = getattr(source, "tables", None)
    if tables is not None:
        digest.update(tables.minutes.tobytes())
        digest.update(tables.km.tobytes())
    return digest.hexdigest()


def model_sha256(folder: Path) -> str:
    """Hash of a model folder's files.

    Raises:
        UsageError: If there is none.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.is_file())
        hashes = [[f.name, file_sha256(f)] for f in files]
    except OSError as error:
        raise UsageError(f"model {folder} cannot be read: {error.strerror}") from error
    if not hashes:
        raise UsageError(f"model {folder} is an empty folder")
    return _sha256(hashes)


@cache
def code_fingerprint() -> str:
    """Hash of the code that plays days, of its tuned weights, and of the libraries' versions."""
    found = [f for room in _CODE for f in (_SERVICES / room).glob("*.py")]
    found += [_SERVICES / "evaluation" / name for name in _OWN_CODE]
    found += (_SERVICES / "policies" / "weights").glob("*.json")
    parts = [[str(f.relative_to(_SERVICES)), file_sha256(f)] for f in sorted(found)]
    own = sorted((paths.data_dir() / "weights").glob("*.json"))  # tuned here: they come first
    parts += [[f.name, file_sha256(f)] for f in own]
    for name in _LIBRARIES:
        try:
            parts.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            parts.append([name, "none"])
    return _sha256(parts)


# --- playing -------------------------------------------------------------------------------------


def play_cell(cell: Cell) -> dict[str, Any]:
    """Play a cell's days; the result is plain JSON."""
    begun, load = time.perf_counter(), load_average()
    if cell.policy == HINDSIGHT:
        body = _yardstick(cell)
    elif cell.epochs:
        body = _epochs(cell)
    else:
        body = _days(cell)
    return {**body, "load": round(load, 2), "seconds": round(time.perf_counter() - begun, 3)}


def _days(cell: Cell) -> dict[str, Any]:
    result = evaluate_policy(
        cell.policy,
        cell.book(),
        seed=cell.seed,
        model=cell.model,
        transfer=cell.transfer,
        cached=False,
        data_dir=cell.data_dir,
        observe=group_outcomes,
    )
    return {
        "kpis": result.kpis.tolist(),
        "groups": [np.round(day, 6).tolist() for day in result.seen],
        "decision_ms": np.round(result.decision_ms, 5).tolist(),
        "refused": result.refused,
        "fallbacks": result.fallbacks,
        "note": result.note,
    }


def _yardstick(cell: Cell) -> dict[str, Any]:
    book = cell.book()
    engine = book.engine(range(len(book)))
    found = [
        hindsight(
            engine.day(e),
            cell.scenario,
            getattr(book.source, "tables", None),
            seconds=cell.hindsight_seconds,
        )
        for e in range(len(book))
    ]
    return {"values": [f.value for f in found], "kind": found[0].kind}


class _Watched:
    """A policy, and how many bookings were open at each decision."""

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self.open: list[int] = []
        self._policy = policy

    def decide(self, state: DispatchState, **more: Any) -> DecisionSet:
        self.open.append(len(state.booking_ids))
        return self._policy.decide(state, **more)


def _epochs(cell: Cell) -> dict[str, Any]:
    """Every decision of some days: bookings open, milliseconds. The first of a day is cold."""
    book = cell.book()
    days = []
    warm_up = True
    for row in range(len(book)):
        policy = make_policy(
            cell.policy,
            book.scenario,
            source=book.source,
            seed=cell.seed,
            model=cell.model,
            transfer=cell.transfer,
        )
        if warm_up:  # compiled code is loaded once per process, not once per day
            policy.decide(book.engine([row]).state())
            warm_up = False
        watched = _Watched(policy)
        times, _ = play_day(watched, book.engine([row]), seed=cell.seed)
        days.append([[n, round(ms, 4)] for n, ms in zip(watched.open, times, strict=True)])
    return {"epochs": days}


# --- keeping -------------------------------------------------------------------------------------


@dataclass
class CellStore:
    """Finished cells in a folder.

    Attributes:
        folder: One file per cell.
        reused: Cells found.
        played: Cells played and kept.
        damaged: Files that could not be used and were played again.
    """

    folder: Path
    reused: int = 0
    played: int = 0
    damaged: int = 0

    def read(self, key: str) -> dict[str, Any] | None:
        """A finished cell; None where there is none, or a damaged one."""
        path = self.folder / f"{key}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            body = document["body"]
            if document["key"] != key or document["sha256"] != _sha256(body):
                raise ValueError("its hash differs")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.damaged += 1
            logger.warning("cell %s is damaged and is played again: %s", path, error)
            return None
        found: dict[str, Any] = body
        return found

    def write(self, key: str, cell: Cell, body: dict[str, Any]) -> None:
        """Keep a finished cell, atomically.

        Raises:
            UsageError: If the folder cannot be written.
        """
        path = self.folder / f"{key}.json"
        document = {"key": key, "sha256": _sha256(body), "spec": cell.spec(), "body": body}
        temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def finished(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    jobs: int = 1,
    on_cell: Callable[[Cell, bool], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """All cells' results by key: those kept, and those played now, kept as soon as they are done.

    Args:
        cells: To have; several may be the same.
        store: Where they are kept.
        jobs: Processes; more than there are idle cores makes measured times too long.
        on_cell: Called with each cell, and whether it was played.
    """
    fingerprint = code_fingerprint()
    wanted = {cell.key(fingerprint): cell for cell in cells}
    results: dict[str, dict[str, Any]] = {}
    missing: list[tuple[str, Cell]] = []
    for key, cell in wanted.items():
        body = store.read(key)
        if body is None:
            missing.append((key, cell))
            continue
        store.reused += 1
        results[key] = body
        if on_cell:
            on_cell(cell, False)
    for key, body in _played(missing, jobs):
        store.write(key, wanted[key], body)
        store.played += 1
        results[key] = body
        if on_cell:
            on_cell(wanted[key], True)
    return results


def _played(missing: Sequence[tuple[str, Cell]], jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if jobs <= 1 or len(missing) <= 1:
        for key, cell in missing:
            yield key, play_cell(cell)
        return
    # Spawned, not forked: compiled code and BLAS threads do not survive a fork.
    workers = min(jobs, len(missing))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_let_parent_stop) as pool:
        futures = {pool.submit(play_cell, cell): key for key, cell in missing}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UsageError(
                "a worker process was killed (is there too little memory?): the same command goes "
                "on, perhaps with fewer --jobs"
            ) from error
        except BaseException:  # Ctrl-C too: what is being played is lost, what is finished is kept
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _let_parent_stop() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
