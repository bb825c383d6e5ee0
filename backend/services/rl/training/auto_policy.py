"""``--policy auto``: train the candidates within a time, keep the best, say what was gained.

The order of a run: measure what a day costs and choose how many days decide; play what needs no
training; train the others, cheapest first, each within its share of the time left; choose on
validation days (`auto_choice`); play the winner and today's heuristic on test days, which nothing
else has seen; write ``checkpoints/best``, ``choice.json``, ``report.md`` and a chart.

Every finished step is kept in ``auto_state.json``: ``--resume`` repeats none of them.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.rl.data.sources import split_labels
from services.rl.errors import AtmrError, DataError, TrainingError, UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate, paired_difference
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.policies.model_files import TRAINING_CONFIG
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario, Split

from .auto_candidates import CANDIDATES, REFERENCE, Candidate, World
from .auto_choice import Choice, Judged, choose
from .auto_state import (
    AutoState,
    Entry,
    document_sha256,
    judged_json,
    judged_of,
    write_json,
)
from .checkpoints import disk_reason, sole_writer

CHOICE_SCHEMA: Final = 1
CHOICE_FILE: Final = "choice.json"
POLICY_FILE: Final = "policy.json"
TOO_LITTLE_TIME: Final = "too little time"

_DAYS = 200
_LEAST_DAYS = 20
_TRAINED_ON_VALIDATION = 64
"""Sampled validation days on which the network's training keeps its best model: they would
flatter it, so the choice is made on the days after them."""
_PLAYING_SHARE = 0.35  # of the time, at most, for playing days of searches
_MOST_RESERVED, _CHEAP = 0.6, 0.02  # of the time left, when the training begins
_SPARE = 1.15  # what is measured in seconds is a little more in minutes
_END_S = 2.0  # files and chart


@dataclass(frozen=True)
class AutoResult:
    """What a run found.

    Attributes:
        folder: ``results/<name>``.
        choice: The decision.
        judged: The candidates on validation days, simplest first.
        tested: The winner and the reference on test days; empty where there are none.
        state: How each candidate fared.
        document: What ``choice.json`` holds.
    """

    folder: Path
    choice: Choice
    judged: list[Judged]
    tested: dict[str, Judged]
    state: AutoState
    document: dict[str, Any]

    def test_gain(self) -> Estimate | None:
        """Reward a day over the reference on test days."""
        if REFERENCE not in self.tested or self.choice.winner not in self.tested:
            return None
        own, today = self.tested[self.choice.winner], self.tested[REFERENCE]
        return paired_difference(own.reward, today.reward)


def run_auto(
    scenario: Scenario,
    folder: Path,
    *,
    minutes: float,
    source: DaySource | None = None,
    seed: int = 0,
    resume: bool = False,
    provenance: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
    candidates: Sequence[Candidate] = CANDIDATES,
) -> AutoResult:
    """Train, choose, test, and write everything but the report.

    Args:
        scenario: The world.
        folder: ``results/<name>``.
        minutes: For all of it, those of interrupted processes included.
        source: Where real days come from.
        seed: Of everything random.
        resume: Go on from the folder's state.
        provenance: What results should say about their origin.
        say: Told one line per step.
        candidates: Simplest first, the reference among them.

    Raises:
        UsageError: If the time is none.
        DataError: If the history has no validation or training day.
        TrainingError: If the name is taken by another kind of run, there is nothing to resume, it
            is of another scenario or seed, or a file cannot be written.
    """
    if not minutes > 0:
        raise UsageError(f"--minutes must be above 0, got {minutes:g}")
    begun = time.monotonic()
    labels = split_labels(source, Split.TRAIN, None) if source else []
    if source is not None:
        split_labels(source, Split.VALIDATION, None)  # a history too short is refused at once
    world = World(
        scenario, source, [source.day(d) for d in labels] if source else [], seed, provenance or {}
    )
    chosen = [c for c in candidates if c.applies(scenario)]
    state = _opened(folder, world, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder):
            if not resume:
                _cleared(folder, world)
            run = _Run(world, folder, state, minutes * 60.0, begun, say, chosen)
            try:
                return run.all()
            finally:
                run.keep()
    except OSError as error:
        where = error.filename or folder
        raise TrainingError(f"{where} cannot be written: {disk_reason(error)}") from error


# --- the folder ------------------------------------------------------------------------------


def _opened(folder: Path, world: World, resume: bool) -> AutoState:
    """The state to go on from, or a fresh one."""
    _refuse_other_kinds(folder)
    fresh = AutoState(world.scenario.name, world.scenario.sha256, world.seed)
    if not resume:
        return fresh
    state = AutoState.load(folder)
    if state.scenario_hash != fresh.scenario_hash:
        raise TrainingError(
            f"--resume: {folder} is of scenario {state.scenario} "
            f"({state.scenario_hash[:12]}), not of {fresh.scenario} ({fresh.scenario_hash[:12]})"
        )
    if state.seed != fresh.seed:
        raise TrainingError(f"--resume: {folder} was begun with --seed {state.seed}")
    return state


def _refuse_other_kinds(folder: Path) -> None:
    path = folder / TRAINING_CONFIG
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("policy", "dqn_matching")
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read: {error}; choose another --name") from error
    if kind != "auto":
        raise TrainingError(
            f"{folder} holds a run of --policy {kind}, which auto would erase; choose another "
            "--name"
        )


def _cleared(folder: Path, world: World) -> None:
    """Forget an earlier run of the same name: its models must not pass for this one's."""
    for part in ("candidates", "checkpoints"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for part in (CHOICE_FILE, "report.md", "gains.png"):
        (folder / part).unlink(missing_ok=True)
    write_json(
        folder / TRAINING_CONFIG,
        {
            "policy": "auto",
            "scenario": world.scenario.name,
            "scenario_hash": world.scenario.sha256,
            "seed": world.seed,
            **world.provenance,
        },
    )


# --- the run ---------------------------------------------------------------------------------


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        world: World,
        folder: Path,
        state: AutoState,
        budget_s: float,
        begun: float,
        say: Callable[[str], None],
        candidates: Sequence[Candidate],
    ) -> None:
        self.world, self.folder, self.state = world, folder, state
        self.candidates, self.say = candidates, say
        self.budget_s = budget_s
        self.begun, self.before_s = begun, state.spent_s
        for candidate in candidates:
            state.entries.setdefault(candidate.name, Entry())

    def spent_s(self) -> float:
        return self.before_s + time.monotonic() - self.begun

    def left_s(self) -> float:
        return self.budget_s - self.spent_s()

    def keep(self) -> None:
        self.state.spent_s = round(self.spent_s(), 2)
        self.state.save(self.folder)

    def all(self) -> AutoResult:
        self.measure()
        for candidate in self.candidates:
            if candidate.stage is None:
                self.judge(candidate)
        self.train_all()
        judged = [
            judged_of(c.name, played)
            for c in self.candidates
            if (played := self.state.entries[c.name].played) is not None
        ]
        choice = choose(judged, REFERENCE)
        self.test(choice.winner)
        tested = {name: judged_of(name, played) for name, played in self.state.tested.items()}
        tested = {n: tested[n] for n in dict.fromkeys((REFERENCE, choice.winner)) if n in tested}
        return self.conclude(choice, judged, tested)

    # --- measuring ---------------------------------------------------------------------------

    def measure(self) -> None:
        """What a day costs, and how many days decide."""
        state = self.state
        for name in ("matching", *(c.name for c in self.candidates if c.stage is None)):
            if name not in state.day_s:
                state.day_s[name] = self.world.seconds_per_day(name)
        if not state.validation:
            self._choose_days()
        self.keep()
        self.say(
            f"{len(state.validation)} validation days decide, {len(state.test)} test days report"
        )

    def _choose_days(self) -> None:
        source, state = self.world.source, self.state
        if source is not None:
            state.validation = split_labels(source, Split.VALIDATION, None)
            try:
                state.test = split_labels(source, Split.TEST, None)
            except DataError:  # such as Manhattan's, which are kept elsewhere
                state.test = []
            return
        # Searches are played at most three times: without values, with them, and in the test.
        dear = 3 * max(state.day_s.values()) * _SPARE
        days = int(min(_DAYS, _PLAYING_SHARE * self.left_s() / max(dear, 1e-9)))
        if days < _LEAST_DAYS:  # then the searches are left out
            cheap = [s for n, s in state.day_s.items() if not self._searches(n)]
            dear = 2 * len(self.candidates) * max(cheap) * _SPARE
            days = int(min(_DAYS, max(_LEAST_DAYS, _PLAYING_SHARE * self.left_s() / dear)))
        state.validation = [f"seed:{s}" for s in self._book(Split.VALIDATION, days).seeds]
        state.test = [f"seed:{s}" for s in self._book(Split.TEST, days).seeds]

    def _book(self, split: Split, count: int) -> DayBook:
        source = self.world.source
        first = _TRAINED_ON_VALIDATION if split is Split.VALIDATION and source is None else 0
        return day_book(self.world.scenario, source, split, count, first)

    def _searches(self, name: str) -> bool:
        return any(c.searches for c in self.candidates if c.name == name)

    def _day_s(self, candidate: Candidate) -> float:
        """Of playing it; what is not trained yet is taken to be like its kind."""
        known = self.state.day_s
        searches = [s for n, s in known.items() if self._searches(n)]
        cheap = [s for n, s in known.items() if not self._searches(n)]
        if candidate.name in known:
            return known[candidate.name]
        return max(searches) if candidate.searches and searches else 2.0 * max(cheap)

    def _playing_s(self, candidate: Candidate) -> float:
        """Of its validation days (the runner plays two days more, decision by decision)."""
        return (len(self.state.validation) + 6) * self._day_s(candidate) * _SPARE

    def _testing_s(self, candidates: Sequence[Candidate]) -> float:
        """Of the dearest possible winner's test days, and of the files."""
        dearest = max([self._day_s(c) for c in candidates], default=0.0)
        return (len(self.state.test) + 6) * dearest * _SPARE + _END_S

    # --- judging -----------------------------------------------------------------------------

    def model(self, candidate: Candidate) -> Path | None:
        """Folder of what was trained."""
        if candidate.stage is None:
            return None
        return self.folder / "candidates" / candidate.name / "checkpoints" / "best"

    def judge(self, candidate: Candidate) -> None:
        """Play the validation days, once."""
        entry = self.state.entries[candidate.name]
        if entry.played is not None:
            return
        needed = self._playing_s(candidate) + self._testing_s([candidate])
        if candidate.stage is None and candidate.searches and needed > self.left_s():
            self._not_tried(candidate, needed)
            return
        begun = time.monotonic()
        if candidate.stage is None:
            entry.estimate_s = round(self._playing_s(candidate), 2)
        results = evaluate_policy(
            candidate.name,
            self._book(Split.VALIDATION, len(self.state.validation)),
            seed=self.world.seed,
            model=self.model(candidate),
        )
        entry.played = judged_json(results, candidate.stage is not None)
        entry.status, entry.why = "done", ""
        # What it really took: the machine may be busier than when it was measured.
        self.state.day_s[candidate.name] = (time.monotonic() - begun) / (
            len(self.state.validation) + 6
        )
        entry.seconds = round(entry.seconds + time.monotonic() - begun, 2)
        self.keep()
        self.say(
            f"{candidate.name}: {float(results.kpi('reward').mean()):.1f} reward a day "
            f"({entry.seconds:.0f} s)"
        )

    def _not_tried(self, candidate: Candidate, needed: float | None) -> None:
        entry = self.state.entries[candidate.name]
        entry.status, entry.why = "not tried", TOO_LITTLE_TIME
        entry.estimate_s = None if needed is None else round(needed, 2)
        self.keep()
        self.say(f"{candidate.name}: not tried, {TOO_LITTLE_TIME}")

    # --- training ----------------------------------------------------------------------------

    def train_all(self) -> None:
        """Each within its share of what is left when its turn comes."""
        waiting = [
            c for c in self.candidates
            if c.stage is not None and self.state.entries[c.name].played is None
        ]  # fmt: skip
        while waiting:
            dearest = max(waiting, key=self._day_s)
            own = self._playing_s(dearest)
            if (
                self._reserved_s(waiting) > _MOST_RESERVED * self.left_s()
                and own > _CHEAP * self.left_s()
            ):  # playing it would leave nobody any time to train
                self._not_tried(dearest, own)
                waiting.remove(dearest)
                continue
            free = self.left_s() - self._reserved_s(waiting)
            share = waiting[0].share / sum(c.share for c in waiting)
            self._train(waiting.pop(0), share * free)

    def _reserved_s(self, waiting: Sequence[Candidate]) -> float:
        """For playing those who wait, then a winner's test days."""
        names = {c.name for c in waiting}
        winners = [
            c for c in self.candidates
            if c.name in names or self.state.entries[c.name].played is not None
        ]  # fmt: skip
        return sum(self._playing_s(c) for c in waiting) + self._testing_s(winners)

    def _train(self, candidate: Candidate, seconds: float) -> None:
        assert candidate.stage is not None
        entry = self.state.entries[candidate.name]
        folder = self.folder / "candidates" / candidate.name
        begun = time.monotonic()
        try:
            if entry.status not in ("training", "trained"):
                plan = candidate.stage.plan(self.world, seconds, folder) if seconds > 0 else None
                if plan is None:
                    self._not_tried(candidate, None)
                    return
                entry.plan, entry.status, entry.why = plan, "training", ""
                entry.estimate_s = round(plan["estimate_s"] + self._playing_s(candidate), 2)
                self.keep()
                self.say(
                    f"{candidate.name}: {plan['words']}, about {plan['estimate_s']:.0f} s of "
                    f"{seconds:.0f} s"
                )
            if entry.status == "training":
                until = begun + max(seconds - float(entry.plan.get("judging_s", 0.0)), 0.0)
                candidate.stage.train(
                    self.world, entry.plan, folder, lambda: time.monotonic() > until
                )
                entry.status = "trained"
        except AtmrError as error:
            entry.status, entry.why = "failed", str(error)
            self.say(f"{candidate.name}: failed: {error}")
            return
        finally:
            entry.seconds = round(entry.seconds + time.monotonic() - begun, 2)
            self.keep()
        self.judge(candidate)

    # --- the end -----------------------------------------------------------------------------

    def test(self, winner: str) -> None:
        """Play today's heuristic and the winner on days that nothing has seen."""
        if not self.state.test:
            return
        if not self.state.tested and self.world.source is None:
            room = int((self.left_s() - _END_S) / max(self.state.day_s[winner], 1e-9)) - 6
            self.state.test = self.state.test[: max(_LEAST_DAYS, room)]
        book = self._book(Split.TEST, len(self.state.test))
        for name in dict.fromkeys((REFERENCE, winner)):
            candidate = next(c for c in self.candidates if c.name == name)
            sha = (self.state.entries[name].played or {}).get("model_sha")
            known = self.state.tested.get(name)
            if known is not None and known["model_sha"] == sha:
                continue
            results = evaluate_policy(
                name, book, seed=self.world.seed, model=self.model(candidate)
            )  # fmt: skip
            self.state.tested[name] = judged_json(results, candidate.stage is not None)
            self.keep()

    def conclude(
        self, choice: Choice, judged: list[Judged], tested: dict[str, Judged]
    ) -> AutoResult:
        """Copy the winner's files and write ``choice.json``."""
        candidate = next(c for c in self.candidates if c.name == choice.winner)
        document = self._document(choice)
        self._copy(candidate)
        self.keep()
        write_json(self.folder / CHOICE_FILE, document)
        return AutoResult(self.folder, choice, judged, tested, self.state, document)

    def _copy(self, winner: Candidate) -> None:
        best = self.folder / "checkpoints" / "best"
        hidden = best.with_name(".best.partial")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        model = self.model(winner)
        if model is not None:
            shutil.copytree(model, hidden, dirs_exist_ok=True)
        write_json(
            hidden / POLICY_FILE,
            {
                "schema": CHOICE_SCHEMA,
                "policy": winner.name,
                "needs_model": model is not None,
                "scenario": self.world.scenario.name,
                "scenario_hash": self.world.scenario.sha256,
            },
        )
        old = best.with_name(".best.old")
        shutil.rmtree(old, ignore_errors=True)
        if best.exists():
            best.rename(old)
        hidden.rename(best)
        shutil.rmtree(old, ignore_errors=True)

    def _document(self, choice: Choice) -> dict[str, Any]:
        state, world = self.state, self.world
        rows = {}
        for candidate in self.candidates:
            entry = state.entries[candidate.name]
            gain = choice.gain.get(candidate.name)
            rows[candidate.name] = {
                "status": entry.status,
                "why": entry.why,
                "trained": candidate.stage is not None,
                "plan": entry.plan,
                "estimate_s": entry.estimate_s,
                "seconds": entry.seconds,
                "validation": entry.played,
                "minus_matching": None if gain is None else interval(gain),
                "unsafe": {
                    name: interval(more)
                    for name, more in choice.unsafe.get(candidate.name, {}).items()
                },
            }
        document = {
            "schema": CHOICE_SCHEMA,
            "scenario": world.scenario.name,
            "scenario_hash": world.scenario.sha256,
            "seed": world.seed,
            "minutes": round(self.budget_s / 60.0, 3),
            "spent_s": round(self.spent_s(), 1),
            "winner": choice.winner,
            "best_mean": choice.best,
            "tied": list(choice.tied),
            "reference": REFERENCE,
            "validation_days": state.validation,
            "test_days": state.test,
            "candidates": rows,
            "test": state.tested,
            **world.provenance,
        }
        return {**document, "sha256": document_sha256(document)}


def interval(value: Estimate) -> dict[str, float | None]:
    """An estimate as plain data; no interval is None."""
    known = value.half_width != float("inf")
    return {
        "mean": round(value.mean, 4),
        "low": round(value.low, 4) if known else None,
        "high": round(value.high, 4) if known else None,
    }
